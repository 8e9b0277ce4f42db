"""The picture of README.md: what methods keep of the example."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE, QUESTION = ROOT / "examples" / "shop.png", "what does the sign say ?"
INK, GREEN, RED = "#222222", "#00704a", "#b3261e"


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
