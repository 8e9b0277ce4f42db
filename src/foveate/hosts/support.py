"""What a model allows: whether a compressor can act on it, and what is different there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from foveate.core.compressor import Compressor, spans
from foveate.hosts import asked, checks, encode, traits, versions, within
from foveate.hosts.positions import window_of


@dataclass(frozen=True)
class Support:
    """Whether a compressor works on a model.

    sites     where it acts
    works     whether `compress` takes it
    why       what is missing and the way out, where it does not
    notes     what is different on this model, such as a score that stands in for another
    """

    sites: tuple[str, ...]
    works: bool
    why: str | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """In one line: works at language 2; or not, and why."""
        where = f" at {', '.join(self.sites)}" if self.sites else ""
        if not self.works:
            return f"does not work{where}: {self.why}"
        return "; ".join([f"works{where}", *self.notes])


def support(model: nn.Module, method: Compressor) -> Support:
    """What `compress(model, method)` would do, without doing it. The model may be on the meta device."""
    sites = tuple(spans(part.site for part in method.parts()))
    try:
        base = traits.base_of(model)
        checks.check(base, method)
    except (NotImplementedError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        return Support(sites, works=False, why=str(error))
    return Support(sites, works=True, notes=tuple(_notes(base, method.every())))


def _notes(base: nn.Module, parts: list[Compressor]) -> Iterator[str]:
    """What is different on this model, sentence by sentence."""
    needs = frozenset().union(*(part.needs for part in parts))
    kind = base.config.model_type
    if kind not in versions.FAMILIES:
        yield f"models of type {kind!r} were never tested"
    classless = [t for t in traits.towers_of(base) if not traits.has_class_token(base, t)]
    for name in sorted(needs & {"attentions", "cls_attention"} if classless else ()):
        where = "in the selected block" if name == "cls_attention" else "there"
        yield f"no class token: the mean attention that a token receives {where} stands in for {name}"
    if needs & asked.READ:
        without = "is refused" if asked.required(parts) & asked.READ else "is fine"
        yield (
            "reads the instruction: what instruction_mask, instruction_ids or foveate.instruction tell; "
            "else the whole prompt at inference, and all but the answers (labels) in training; an image "
            f"without an instruction {without}"
        )
    if within.of(parts) and (
        traits.whole_view(base) is not None or "video" in traits.modalities(base)
    ):
        yield "in the vision tower every view, such as a tile or a frame, has the whole budget"
    yield from _of_views(base, needs, encode.before_projector(parts))
    yield from _of_windows(base, inside=any(part.site.layer > 0 for part in parts))
    if traits.rows_are_runs(base) and "video" not in traits.modalities(base):
        yield "frames of a video are images of their own, each with the whole budget"


def _of_views(base: nn.Module, needs: frozenset[str], early: bool) -> Iterator[str]:
    mixed = hasattr(base, "apply_pooling") or hasattr(base.config, "vision_aspect_ratio")
    if hasattr(base, "image_newline") and mixed and early:
        yield (
            "large images and videos are interpolated behind the projector, and refused; behind it "
            "(language 0) they are not"
        )
    elif hasattr(base, "image_newline"):
        yield "newline embeddings leave with their row of patches; no budget counts them"
    maps = {
        0: "the tiles of a large image are one map, behind a view that shows the whole image",
        -1: "every tile of a large image is a map of its own, in front of a view that shows the whole image",
        None: "an image is one view, which shows the whole image too",
    }
    if "overview" in needs:
        yield maps[traits.whole_view(base)]


def _of_windows(base: nn.Module, inside: bool) -> Iterator[str]:
    decoder = traits.decoder_of(base)
    windows = {window_of(decoder, i) for i in range(len(decoder.layers))} - {None}
    if windows and inside:
        yield (
            f"sliding windows of {min(windows)} count dropped columns too; with flash attention or a static "
            "cache, prompt and answer may not outgrow one"
        )
    elif windows:
        yield f"sliding windows of {min(windows)} count the columns that are left"
