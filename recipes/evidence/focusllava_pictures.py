"""The pictures of FocusLLaVA's page."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from figures import COLOURS, MARKERS
from focusllava import BY_LAYER, FOCUS
from focusllava_found import Point, macs, scaled
from focusllava_guides import Two, scenes_of
from focusllava_looks import by_layer
from focusllava_names import NAMES, PAPER
from focusllava_samples import KINDS
from focusllava_seen import looked, opened
from found import Results
from intervals import Estimate
from making import own_method
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from protocol import TEST_SEED

from foveate import draw
from foveate.keeping import provenance
from foveate.patchqa import PatchQA

CURVES = (FOCUS, "text", "text_untrained", "fastv_untrained")
MARKS = {"vision": "v", "max2": "P", "pool": "*", "random": "X"}
DASHED = {"color": "#9a9a9a", "linewidth": 1, "linestyle": (0, (4, 3))}
COUNTS = {"left": "tokens left in the end, %", "layers": "mean over the decoder layers, %"}
SHADES = ("#003f6b", "#4d94c4", "#cfe3f1")  # fine to coarse


def shares(points: Sequence[Point], level: Estimate, path: Path) -> Path:
    """Accuracy against the share of the tokens, counted in two ways; the paper's share is marked."""
    with sheet(path, 2, sharey=True) as axes:
        for ax, (count, says) in zip(axes, COUNTS.items(), strict=True):
            low, high = (100 * (level.mean + side * level.half) for side in (-1, 1))
            ax.axhspan(low, high, color="#9a9a9a", alpha=0.2, linewidth=0)
            ax.axhline(100 * level.mean, label=NAMES["baseline"], **DASHED)
            ax.axvline(PAPER, color="#444444", linewidth=1, linestyle=":")
            ax.annotate(
                f" {PAPER} %", (PAPER, 0.01), xycoords=("data", "axes fraction"), fontsize=8
            )
            _lines(ax, points, count)
            ax.set_xlabel(says)
            ax.set_xlim(0, 103)
        axes[0].set_ylabel("accuracy, %")
    return path


def _lines(ax: Axes, points: Sequence[Point], count: str) -> None:
    """A line for what has a ρ, a dark mark for what has none. Bars are 95 % intervals."""
    for i, line in enumerate((*CURVES, *MARKS)):
        some = sorted((p for p in points if p.line == line), key=lambda p: getattr(p, count))
        if some:
            x, y, half = zip(*((getattr(p, count), *p.accuracy[:2]) for p in some), strict=True)
            x, y, half = ([100 * value for value in of] for of in (x, y, half))
            look = (
                {"color": COLOURS[i], "marker": MARKERS[i], "linewidth": 1.4}
                if line in CURVES
                else {"color": "#404040", "marker": MARKS[line], "linestyle": "none"}
            )
            ax.errorbar(x, y, yerr=half, capsize=2, markersize=5.5, label=NAMES[line], **look)


def guidance(baseline: Results, path: Path) -> Path:
    """Accuracy by guidance layer, and beside it what the language model computes."""
    layers = {layer: row for row, layer in BY_LAYER.items()}
    found = dict(sorted(by_layer(baseline).items()))
    with sheet(path, 2) as (one, other):
        one.axhline(0, **DASHED)
        y, half = ([100 * far[n] for far in found.values()] for n in (0, 1))
        one.errorbar(list(found), y, yerr=half, capsize=3, color=COLOURS[0], marker="o")
        one.set_ylabel("accuracy beside the baseline, points")
        work = [100 * macs(layers[layer], baseline) for layer in found]
        other.plot(list(found), work, color=COLOURS[1], marker="s")
        other.set_ylim(bottom=0)
        other.set_ylabel("language model's MACs, % of the baseline's")
        for ax in (one, other):
            ax.set_xlabel("guided before layer")
            ax.set_xticks(list(found))
    return path


def scales(path: Path) -> Path:
    """The scales that the router gives to regions, by what they hold."""
    rows = [row for row in (FOCUS, "vision") if scaled(row, "regions", KINDS[0], "1") is not None]
    with sheet(path, max(len(rows), 1), sharey=True) as axes:
        for ax, row in zip(axes, rows, strict=False):
            begin = [0.0] * len(KINDS)
            for shade, scale in zip(SHADES, ("1", "2", "4"), strict=True):
                share = [100 * scaled(row, "regions", kind, scale).mean for kind in KINDS]
                name = f"one token of {scale} × {scale}"
                ax.barh(KINDS, share, left=begin, color=shade, label=name, height=0.6)
                begin = [a + b for a, b in zip(begin, share, strict=True)]
            ax.set_title(NAMES[row], fontsize=10)
            ax.set_xlabel("share of the regions, %")
            ax.grid(visible=False)
        axes[0].invert_yaxis()
    return path


def questions(out: Path, path: Path) -> Path:
    """What a trained model keeps of one scene for two questions, a row a question."""
    two = chosen()
    model, processor = opened(out, own_method(out), "original")
    steps = looked(model, processor, [((two.image,), question) for question in two.questions])
    drawn = draw([two.image, two.image], steps, side=192)
    file = io.BytesIO()
    few = drawn.convert("P", palette=Image.Palette.ADAPTIVE, colors=128)
    few.save(file, path.suffix[1:], optimize=True)
    return provenance.write(path, file.getvalue())


def chosen() -> Two:
    """The scene that is drawn: the first, whatever comes of it."""
    return scenes_of(PatchQA("test", seed=TEST_SEED), 1)[0]


@contextmanager
def sheet(path: Path, n: int, sharey: bool = False) -> Iterator[Sequence[Axes]]:
    """Axes side by side to draw in, their names below, written as the same SVG for the same numbers."""
    style = {"font.size": 10, "font.family": "sans-serif", "svg.hashsalt": "foveate"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        axes = figure.subplots(1, n, sharey=sharey, squeeze=False)[0]
        for ax in axes:
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(axis="y", color="#e8e8e8", linewidth=0.7)
            ax.set_axisbelow(True)
        yield axes
        handles, names = axes[0].get_legend_handles_labels()
        if names:
            figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    provenance.write(path, file.getvalue())
