"""The two pictures of README.md: accuracy against tokens, and what methods keep of the example."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COMPARED = ROOT / "results" / "compare-patchqa.json"
EXAMPLE, QUESTION = ROOT / "examples" / "shop.png", "what does the sign say ?"
INK, GREEN, RED = "#222222", "#00704a", "#b3261e"


def chart() -> bytes:
    """Accuracy against tokens, a line per method: an SVG on white, undated, from the comparison alone."""
    import matplotlib
    from matplotlib.figure import Figure

    from foveate.evaluate.comparison import lower, of_bare, of_trained, series, tokens
    from foveate.evaluate.labels import FAINT, MARKERS, STAR, TRAINED, colour, labels

    document = json.loads(COMPARED.read_text())
    style = {"font.size": 11, "svg.hashsalt": "foveate", "svg.fonttype": "none"}
    style |= {"font.sans-serif": ["DejaVu Sans"]}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.6, 3.6), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        bare = next(run for run in document["runs"] if of_bare(document, run))
        axes.axhline(100 * bare["accuracy"]["overall"], color="#9a9a9a", linestyle=(0, (4, 3)))
        for runs in lower(document).values():
            x, y = [tokens(r) for r in runs], [100 * r["accuracy"]["overall"] for r in runs]
            axes.plot(x, y, color=FAINT, marker=".", linewidth=1, linestyle=(0, (1, 2)))
        lines = [(colour(i), MARKERS[i], runs) for i, runs in enumerate(series(document).values())]
        trained = enumerate(of_trained(document).values())
        lines += [(TRAINED[i % len(TRAINED)], STAR, runs) for i, runs in trained]
        for ink, marker, runs in lines:
            x, y = [tokens(r) for r in runs], [100 * r["accuracy"]["overall"] for r in runs]
            low, high = zip(*(r["interval"]["overall"] for r in runs), strict=True)
            axes.vlines(x, [100 * v for v in low], [100 * v for v in high], color=ink, alpha=0.5)
            size = 14 if marker == STAR else 6
            axes.plot(x, y, color=ink, marker=marker, markersize=size, mew=0)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks := [18, 36, 72, 144], [f"{tick}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlim(11.5, 155)
        axes.set_ylim(20, 106)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e8e8e8")
        axes.set_axisbelow(True)
        labels(axes, document)
        for name in axes.texts:  # as text, and not as the outlines of an effect
            name.set_path_effects([])
        axes.set_xlabel("visual tokens, mean over the decoder layers (logarithmic)", color=INK)
        title = f"accuracy in %: {document['model']} model, PatchQA, {document['n']} questions"
        axes.set_title(title, loc="left", fontsize=11, color=INK)
        figure.savefig(drawn := io.BytesIO(), format="svg", metadata={"Date": None})
    return drawn.getvalue()


def kept() -> bytes:
    """The example and its question; for some methods the patches that stay, and the answer from them."""
    import matplotlib
    from matplotlib.figure import Figure

    shown = asked()
    with matplotlib.rc_context({"font.size": 11}):
        figure = Figure(figsize=(10, 3.75), facecolor="white")
        figure.text(0.012, 0.915, f"“{QUESTION}”", fontsize=18, color=INK)
        for i, (name, image, answer) in enumerate(shown):
            left, right = 0.012 + 0.248 * i, answer == shown[0][2]
            axes = figure.add_axes((left, 0.245, 0.232, 0.62))
            axes.imshow(image, interpolation="antialiased")
            axes.set_axis_off()
            figure.text(left, 0.155, name, fontsize=14, color=INK)
            ink = {"fontweight": "bold", "color": GREEN if right else RED}
            figure.text(left, 0.045, answer, fontsize=18, **ink)
        figure.savefig(drawn := io.BytesIO(), dpi=120, metadata={"Software": None})
    return drawn.getvalue()


def asked() -> list[tuple[str, Any, str]]:
    """With all tokens, with a quarter, and with a sixteenth: what it is called, what stayed, the answer."""
    from foveate import DivPrune, Identity, embedded

    plain, fovea = embedded.load(), embedded.load(name="embedded-fovea")
    tree = fovea[0].model.visual_compressor
    return [
        _answered("all", *plain, Identity()),
        _answered("DivPrune", *plain, DivPrune(keep=36)),
        *(_answered("Fovea", *fovea, tree.but(keep=keep)) for keep in (36, 9)),
    ]


def _answered(name: str, model: Any, processor: Any, method: Any) -> tuple[str, Any, str]:
    from PIL import Image

    from foveate import compressed, restore, trace
    from foveate.draw import panels
    from foveate.evaluate import replies

    with Image.open(EXAMPLE) as file:
        image = file.convert("RGB")
    restore(model)
    with compressed(model, method), trace(model) as seen:
        [reply] = replies(model, processor, [([image], QUESTION)], max_new_tokens=8)
    drawn = panels(image, seen)[0].crop((0, 0, 336, 336))
    return f"{name}: {round(reply.after)} tokens", drawn, reply.text
