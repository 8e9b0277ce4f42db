"""What a model allows: whether a compressor can act on it, and what is different there."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from foveate.core.compressor import Compressor, Tower
from foveate.hosts import asked, checks, traits, versions
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
    sites = tuple(str(part.site) for part in method.parts())
    try:
        base = traits.base_of(model)
        checks.check(base, method)
    except (NotImplementedError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        return Support(sites, works=False, why=str(error))
    needs = frozenset().union(*(part.needs for part in method.every()))
    early = any(part.site.tower < Tower.language for part in method.every())
    inside = any(part.site.layer > 0 for part in method.every())
    notes = [
        _family(base),
        _scores(base, needs),
        _text(method.every()),
        _packed(base, early, needs),
        _views(base, needs),
        _window(base, inside),
        _frames(base),
    ]
    return Support(sites, works=True, notes=tuple(note for note in notes if note))


def _family(base: nn.Module) -> str | None:
    kind = base.config.model_type
    return None if kind in versions.FAMILIES else f"models of type {kind!r} were never tested"


def _scores(base: nn.Module, needs: frozenset[str]) -> str | None:
    without = [t for t in traits.towers_of(base) if not traits.has_class_token(base, t)]
    if "cls_attention" not in needs or not without:
        return None
    return (
        "no class token: the mean attention that a token receives in the selected block stands in "
        "for cls_attention"
    )


def _text(parts: list[Compressor]) -> str | None:
    reads = asked.WORDS | asked.ROWS
    if not any(part.needs & reads for part in parts):
        return None
    without = "is refused" if asked.required(parts) & reads else "is fine"
    return (
        "reads the instruction: what instruction_mask, instruction_ids or foveate.instruction tell; else the "
        "whole prompt at inference, and all but the answers (labels) in training; an image without an "
        f"instruction {without}"
    )


def _packed(base: nn.Module, early: bool, needs: frozenset[str]) -> str | None:
    if not hasattr(base, "image_newline"):
        return None
    mixed = hasattr(base, "apply_pooling") or hasattr(base.config, "vision_aspect_ratio")
    if mixed and early:
        return (
            "large images and videos are interpolated behind the projector, and refused; behind it "
            "(language 0) they are not"
        )
    return "newline embeddings leave with their row of patches; no budget counts them"


def _views(base: nn.Module, needs: frozenset[str]) -> str | None:
    if "overview" not in needs:
        return None
    maps = {
        0: "the tiles of a large image are one map, behind a view that shows the whole image",
        -1: "every tile of a large image is a map of its own, in front of a view that shows the whole image",
    }
    return maps.get(
        traits.whole_view(base), "an image is one view, which shows the whole image too"
    )


def _window(base: nn.Module, inside: bool) -> str | None:
    decoder = traits.decoder_of(base)
    windows = {window_of(decoder, i) for i in range(len(decoder.layers))} - {None}
    if not windows:
        return None
    if not inside:
        return f"sliding windows of {min(windows)} count the columns that are left"
    return (
        f"sliding windows of {min(windows)} count dropped columns too; with flash attention or a static "
        "cache, prompt and answer may not outgrow one"
    )


def _frames(base: nn.Module) -> str | None:
    if traits.rows_are_runs(base) and "video" not in traits.modalities(base):
        return "frames of a video are images of their own, each with the whole budget"
    return None
