"""What a question looks at in every decoder layer: a method that keeps all stands before each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from foveate.cli import pictures, sweeps
from foveate.cli.said import cut
from foveate.cli.wrong import Wrong
from foveate.draw import heatmaps

if TYPE_CHECKING:
    from foveate.core.spec import Spec
    from foveate.evaluate.plans import Loaded
    from foveate.hosts.trace import Step

READS = {"last_attention", "prompt_attention", "own_attention"}  # of methods that go by a look


def look(loaded: Loaded, spec: Spec, layers: Sequence[int]) -> None:
    """Attach the method before each of these layers, keeping all, behind what stays of a saved model.

    Raises Wrong for methods that read no attention inside the language model.
    """
    import foveate

    behind = sweeps.before(loaded.model)
    alone = sweeps.Before([])
    looking = [sweeps.built(sweeps.at(spec, k), 1.0, loaded.model, alone) for k in layers]
    if not READS & looking[0].needs:
        raise Wrong(f"{spec} reads no attention of decoder layers: want fastv or {sweeps.GUIDED}")
    try:
        foveate.compress(loaded.model, foveate.Chain(*behind.parts, *looking), **behind.how)
    except (ValueError, NotImplementedError) as error:
        raise Wrong(str(error)) from error


def seen_by(steps: Sequence[Step], layers: Sequence[int]) -> list[dict[str, Any]]:
    """Of each layer: the share of attention that the image gets, and how few tokens get half of that."""
    return [{"layer": k, **_spread(s)} for k, s in zip(layers, steps[-len(layers) :], strict=True)]


def _spread(step: Step) -> dict[str, Any]:
    """One layer's figures, of the first image of the batch. A token's score stands at each of its patches."""
    owner, score = step.owner[0], step.scores[0]
    each = score.new_zeros(int(owner.max()) + 1).scatter(0, owner[owner >= 0], score[owner >= 0])
    each = each.sort(descending=True).values
    total = float(each.sum())
    half = int((each.cumsum(0) < total / 2).sum()) + 1
    return {"on_image": round(total, 4), "half": half, "tokens": len(each)}


def picture(
    loaded: Loaded, image: Any, asked: dict[str, Any], steps: Sequence[Step], seen: Sequence[Any]
) -> Any:
    """The image, and a heatmap for each layer. asked: the document of the answer."""
    canvas = pictures.canvas(loaded.processor, image, asked["question"], steps[0])
    told = [f"layer {one['layer']}: {100 * one['on_image']:.0f} % on the image" for one in seen]
    above = [f"Question: {cut(asked['question'])}", f"Answer: {cut(asked['answer']) or '(none)'}"]
    return heatmaps(canvas, steps[-len(seen) :], told, above=above)
