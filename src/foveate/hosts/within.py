"""Inside the vision tower: fewer tokens before a block, and back to the width that the model expects.

A tower sees every view by itself: an image, a tile, a frame. Its compressors know patches alone, and a class
token goes round them. From the first of them on, attention counts a token for as many patches as it carries:
the log of its size is added to the logits, as ToMe has it (Bolya et al. 2022, arXiv:2210.09461). What leaves
the tower is stretched: every patch gets the vector of the token that carries it, so that the model may pack
and cut as ever. Once the patches have found their rows, those of a token become one again.

Letters: U views, C class tokens in front (none or one), P patches of a view, N tokens, K compressors in the
tower; I images, and P patches of one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foveate.core import authored
from foveate.core.compressor import Compressor, Context, Tower
from foveate.core.ops import pick
from foveate.core.tokens import DROPPED, VisualTokens
from foveate.hosts import glance, traits
from foveate.hosts.trace import Step

SEEN = frozenset({"keys"})  # what a compressor in the tower may look at
BIASED = ("sdpa", "eager")  # attention that takes a bias on its logits


@dataclass(eq=False)
class Passage:
    """One call of a tower: its tokens in each block, and what each compressor left, without their vectors."""

    blocks: list[VisualTokens] = field(default_factory=list)
    left: list[VisualTokens] = field(default_factory=list)


def of(parts: Sequence[Compressor]) -> list[Compressor]:
    """Those of them that act in the tower."""
    return [part for part in parts if part.site.tower == Tower.vision]


def keys_before(part: Compressor) -> str | None:
    """The name by which the block before a compressor shows it keys; None where it reads none."""
    return f"keys {part.site.layer}" if "keys" in part.needs else None


def check(base: nn.Module, part: Compressor) -> None:
    """Raise NotImplementedError or ValueError where a compressor cannot act in this model's tower."""
    traits.refuse_windows(base)
    if others := part.needs - SEEN:
        raise NotImplementedError(
            f"it needs {sorted(others)}: in the tower, keys of the block before are all there is"
        )
    if (layer := part.site.layer) == 0 and part.needs:
        raise ValueError("it needs the keys of the block before: layer >= 1")
    if layer >= (last := traits.selected_layer(base)):
        raise ValueError(
            f"the features leave the tower behind block {last - 1}: want a block up to it"
        )
    for tower in traits.towers_of(base):
        _refuse_unbiased(traits.block_of(base, layer, tower))


def _refuse_unbiased(block: nn.Module) -> None:
    """Raise NotImplementedError for a block whose attention takes no weights for its tokens."""
    kernel = traits.attention_of(block).config._attn_implementation or "eager"
    if kernel not in BIASED:
        raise NotImplementedError(
            f"{kernel} cannot weigh tokens by the patches they stand for: load the model with "
            'attn_implementation="sdpa"'
        )
    if "attention_mask" not in inspect.signature(type(block).forward).parameters:
        raise NotImplementedError(f"{type(block).__name__} takes no attention_mask")


def register(base: nn.Module) -> list[Any]:
    """Put a hook before every block of the vision towers; returns their handles."""
    return [
        block.register_forward_pre_hook(
            BlockBefore(i, int(traits.has_class_token(base, tower)), _parameters(block)),
            with_kwargs=True,
        )
        for tower in traits.towers_of(base)
        for i, block in enumerate(traits.tower_blocks(base, tower))
    ]


def _parameters(block: nn.Module) -> tuple[str, ...]:
    return tuple(inspect.signature(type(block).forward).parameters)[1:]


@dataclass(eq=False)
class BlockBefore:
    """Leaves fewer tokens before this block of a tower, and lets each count for the patches it carries.

    leading: class tokens in front; names: what the block takes, in order.
    """

    block: int
    leading: int
    names: tuple[str, ...]

    def __call__(self, block: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The block's arguments for the tokens that are left."""
        look = glance.current()
        if look is None or not look.within:
            return args, kwargs
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        states = given.pop(self.names[0])
        front, x = states[:, : self.leading], states[:, self.leading :]
        if self.block == 0:
            look.passages.append(Passage())
        passage = look.passages[-1]
        came = passage.blocks[-1].carry(x) if passage.blocks else VisualTokens.of(x)
        tokens = self._compressed(look, passage, came)
        passage.blocks.append(_bare(tokens))
        if not passage.left:
            return args, kwargs
        if not _complete(tokens):
            _refuse_unbiased(block)
            given["attention_mask"] = self._weights(tokens).to(states.dtype)
        return (torch.cat([front, tokens.x], dim=1),), given

    def _compressed(
        self, look: glance.TowerGlance, passage: Passage, came: VisualTokens
    ) -> VisualTokens:
        tokens = came
        for part in (part for part in look.within if part.site.layer == self.block):
            keys = None
            if (name := keys_before(part)) is not None:
                keys = look.shown[name][-1][:, self.leading :]
                if tokens is not came:
                    keys = tokens.mean(pick(keys, came.owner.clamp(min=0)))
            out = authored.acted(part, tokens, Context(keys=keys), came.x.shape[-1])
            if isinstance(out.penalty, Tensor):
                raise NotImplementedError(
                    f"{type(part).__name__} adds a penalty, which nothing carries out of the vision tower"
                )
            tokens = out
            passage.left.append(_bare(tokens))
        return tokens

    def _weights(self, tokens: VisualTokens) -> Tensor:
        """(U, 1, 1, C + N) what is added to logits: the log of the patches each stands for, −∞ in padding."""
        size = nn.functional.pad(tokens.size.float(), (self.leading, 0), value=1.0)
        return size.log()[:, None, None]


def _bare(tokens: VisualTokens) -> VisualTokens:
    return tokens.carry(tokens.x.new_empty(*tokens.x.shape[:-1], 0))


def _complete(tokens: VisualTokens) -> bool:
    """Whether every patch still is a token of its own."""
    return tokens.valid.shape == tokens.owner.shape and bool(tokens.valid.all())


def stretched(output: Any, passage: Passage, leading: int) -> Any:
    """A tower's output of its uncompressed width: every patch as the token that carries it."""

    def patches(states: Tensor | None, tokens: VisualTokens) -> Tensor | None:
        if states is None or _complete(tokens):
            return states
        back = pick(states[:, leading:], tokens.owner.clamp(min=0))
        return torch.cat([states[:, :leading], back], dim=1)

    blocks = passage.blocks
    output.last_hidden_state = patches(output.last_hidden_state, blocks[-1])
    if (states := getattr(output, "hidden_states", None)) is not None:
        passed = zip(states, [blocks[0], *blocks], strict=True)  # the first is what enters block 0
        output.hidden_states = tuple(patches(state, tokens) for state, tokens in passed)
    return output


def followed(passages: Sequence[Passage], index: Sequence[Tensor], read: int) -> list[Tensor]:
    """Unit by unit, (n, K) a number for the token that carries each patch behind each compressor, or -1.

    Numbers are equal where a token carries both. index (n, 1) the place, among the `read` tokens that the
    projector would read, of each patch that a unit has.
    """
    tables = [torch.stack([_places(t) for t in passage.left], dim=-1) for passage in passages]
    table = torch.cat(tables)
    U, P = table.shape[:2]
    width = read // U  # a class token may be read as a patch
    here = torch.arange(read, device=table.device).reshape(U, width, 1)
    first = here[:, width - P].unsqueeze(1)
    behind = torch.where(table < 0, table, table + first)
    carrier = torch.cat([here[:, : width - P].expand(-1, -1, table.shape[2]), behind], dim=1)
    return [carrier.flatten(0, 1)[places[:, 0].round().long()] for places in index]


def _places(tokens: VisualTokens) -> Tensor:
    """(U, P) the first patch of the token that carries each patch, -1 for a dropped one."""
    return pick(tokens.anchor, tokens.owner.clamp(min=0)).masked_fill(tokens.owner < 0, DROPPED)


def left(
    tokens: VisualTokens,
    carriers: Tensor,
    parts: Sequence[Compressor],
    grid: Tensor | None,
    traced: bool,
) -> tuple[VisualTokens, list[Step]]:
    """The rows as the tower's compressors left them, and where `traced` a note of each.

    tokens: one for each patch, (I, P, D); carriers (I, P, K) as `followed` numbers them.
    """
    now, steps = _bare(tokens), []
    for part, carrier in _noted(parts, carriers, traced):
        before, now = now.counts, _follow(now, carrier)
        steps.append(Step(part.site, now.owner, before, now.counts, None, grid))
    # A mean of equal vectors, but where hidden states are joined and a shallow one was not as short yet.
    return now.carry(now.mean(tokens.x)), steps if traced else []


def _noted(
    parts: Sequence[Compressor], carriers: Tensor, traced: bool
) -> Iterator[tuple[Compressor, Tensor]]:
    every = list(zip(parts, carriers.unbind(-1), strict=True))
    yield from every if traced else every[-1:]


def _follow(tokens: VisualTokens, carrier: Tensor) -> VisualTokens:
    """Tokens whose patches are carried by the same now are one. carrier (I, P), -1 dropped."""
    kept = tokens.where(tokens.of_first(carrier) >= 0)
    into = kept.of_first(carrier)
    order = into.masked_fill(~kept.valid, -1).sort(dim=1)
    rank = (order.values.diff(dim=1, prepend=order.values[:, :1]) != 0).cumsum(1)
    into = torch.empty_like(rank).scatter(1, order.indices, rank)
    return kept.merge(into, into.shape[1])
