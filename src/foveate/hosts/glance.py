"""The few attention rows and keys that methods ask for, without ever making a whole attention matrix.

One attention module is given its config in a wrapper, where the name of its attention finds our function.
It runs the model's own function on the same arguments, and beside it computes the rows somebody asked for,
from the exact queries and keys. Who asks travels as a keyword of the call through a language model, and in a
context variable through a vision tower, so threads do not meet.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from foveate.hosts import grids
from foveate.hosts.flow import KEY

if TYPE_CHECKING:
    from foveate.core.compressor import Compressor
    from foveate.hosts.prompted import PromptGlance
    from foveate.hosts.within import Passage

NAME = "foveate_glance"
# What a tower's tokens are given.
ATTENTION = frozenset({"cls_attention", "attentions", "received"})
_looking: ContextVar[TowerGlance | None] = ContextVar("looking", default=None)


@contextmanager
def looking(look: TowerGlance) -> Iterator[None]:
    """What is asked of a vision tower while the block runs: most towers pass no keyword to their blocks."""
    token = _looking.set(look)
    try:
        yield
    finally:
        _looking.reset(token)


def current() -> TowerGlance | None:
    """What is asked of a vision tower here and now."""
    return _looking.get()


@dataclass(eq=False)
class TowerGlance:
    """What a vision tower was asked to show, and showed; letters as in grids.py.

    wants    the Context fields asked for; of those by index each by a name of its own: "features 3"
    within   the compressors that act in the tower, and the names of what they ask for on the way
    ordered  whether a connector inside the tower must say where its outputs go
    shown    by field, what each call of the tapped attention showed: (U, S, …)
    widths   channels behind the connector, by name; taken: what they held, unit by unit
    passages what became of the tokens within, one of each call of a tower
    """

    wants: frozenset[str]
    within: Sequence[Compressor] = ()
    on_the_way: frozenset[str] = frozenset()
    ordered: bool = False
    shown: dict[str, list[Tensor]] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    dtype: torch.dtype | None = None
    taken: dict[str, list[Tensor]] = field(default_factory=dict)
    passages: list[Passage] = field(default_factory=list)

    @torch.no_grad()
    def look(
        self,
        query: Tensor,
        key: Tensor,
        scaling: float,
        mask: Tensor | None,
        shows: Mapping[str, bool],
    ) -> None:
        """Keep what was asked for of what this block shows, as `tap` has it.

        query, key (U, H, S, d); mask (U, 1, S, S) or None.
        """
        asked = self.wants | self.on_the_way
        wanted = {name: every for name, every in shows.items() if name in asked}
        for name in [name for name in wanted if asked_of(name)[0] == "keys"]:
            del wanted[name]
            self.shown.setdefault(name, []).append(key.float().mean(1))
        for rows in {query.shape[2] if every else 1 for every in wanted.values()}:
            given = mean_of_rows(query[:, :, :rows], key, scaling, mask)
            for name, every in wanted.items():
                if rows == (query.shape[2] if every else 1):
                    self.shown.setdefault(name, []).append(given)

    def channels(
        self, features: Tensor | None, patches: Tensor, tower: Any, sizes: Any
    ) -> dict[str, Tensor]:
        """What was shown, brought to the patches a connector made: name → (…, C), like patches (…, D).

        features: what the connector read, (U, S, D) or (L, D); tower: the tower's output.
        """
        found = {}
        for name in sorted(self.wants):
            field, index = asked_of(name)
            if field == "features":
                value = tower.hidden_states[index]
                value = value[None] if value.dim() == 2 else value
            elif name in self.shown:
                value = torch.cat(self.shown[name], dim=1 if patches.dim() == 2 else 0)
            else:
                raise NotImplementedError(f"{name}: the tapped attention of the tower never ran")
            value = value[..., None] if field in ATTENTION else value
            how = "sum" if field in ATTENTION else "mean"
            found[name] = grids.merged(_without_class(value, features), patches, sizes, how)
        return found


def asked_of(name: str) -> tuple[str, int | None]:
    """The Context field and the index that a name in `wants` says: "features 3", or "keys" without one."""
    field, _, index = name.partition(" ")
    return field, int(index) if index else None


def _without_class(value: Tensor, features: Tensor | None) -> Tensor:
    """What tower tokens hold, without the class token that the connector did not read. value (U, S, …)."""
    if features is None or features.dim() == 2:
        return value
    # The connector may read windows of tokens already, but always whole ones: what is left over is no patch.
    return value[:, value.shape[1] % features.shape[1] :]


def is_open(mask: Tensor) -> Tensor:
    """Where a prepared attention mask, bool or additive, lets a row look."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


@dataclass(eq=False)
class MergerAfter:
    """Lets a connector inside the tower say which of its outputs is which, as one more channel."""

    def __call__(self, merger: nn.Module, args: tuple, output: Tensor) -> Tensor:
        """The output (M, D) with its index, where somebody looks."""
        look = _looking.get()
        if look is None or not look.ordered:
            return output
        look.widths = {"x": output.shape[-1], "index": 1}
        look.dtype = output.dtype
        index = torch.arange(len(output), device=output.device, dtype=torch.float32)
        return torch.cat([output, index[:, None]], dim=-1)


def tap(attention: nn.Module, shows: Mapping[str, bool]) -> None:
    """Let this attention module show what is asked for, where somebody looks.

    shows: of a tower's block, the names in `wants` that it answers, and to each whether that is the mean of
    every row, or the first row, the class token's. "keys" has no rows.
    """
    attention.config = _Tapped(attention.config, shows)


def untap(attention: nn.Module) -> None:
    """Give it back the config it had."""
    attention.config = attention.config.tapped


class _Name(str):
    """The name of a model's own attention, by which a table of functions finds ours."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return other == NAME or str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(NAME)


class _Tapped:
    """A config as its attention module sees it: the same in all, but for what its attention's name finds."""

    def __init__(self, config: Any, shows: Mapping[str, bool]):
        self.__dict__.update(tapped=config, shows=shows)

    @property
    def _attn_implementation(self) -> str:
        return _Name(self.tapped._attn_implementation or "eager")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "tapped":  # what copy and pickle ask an empty one
            raise AttributeError(name)
        return getattr(self.tapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.tapped, name, value)


def attention_rows(
    query: Tensor,
    key: Tensor,
    scaling: float,
    closed: Tensor | None = None,
    added: Tensor | None = None,
) -> Tensor:
    """Attention probabilities of some query rows. query (B, H, R, d), key (B, G, S, d) → (B, H, R, S).

    H is a multiple of G; closed (B, 1, R, S) True where a row may not look; added (B, 1, R, S) to the logits.
    In float32.
    """
    B, H, R, d = query.shape
    grouped = query.float().reshape(B, key.shape[1], -1, d)
    logits = (grouped @ key.float().mT * scaling).reshape(B, H, R, -1)
    if added is not None:
        logits = logits + added
    if closed is not None:
        logits = logits.masked_fill(closed, torch.finfo(logits.dtype).min)
    return logits.softmax(-1)


def mean_of_rows(query: Tensor, key: Tensor, scaling: float, mask: Tensor | None) -> Tensor:
    """(U, S) the head mean of these rows, of those that may look at a token; never all rows at once.

    query (U, H, R, d), the first R rows; key (U, H, S, d); mask (U, 1, ≥ R, S) or None.
    """
    total = count = query.new_zeros(1, dtype=torch.float32)
    last = query.shape[2]
    for first in range(0, last, 256):
        rows = slice(first, min(first + 256, last))
        closed = None if mask is None else ~is_open(mask[:, :, rows, : key.shape[2]])
        given = attention_rows(query[:, :, rows], key, scaling, closed).mean(1)
        if closed is None:
            count = count + given.shape[1]
        else:
            count = count + (~closed[:, 0]).sum(1)
            given = given.masked_fill(closed[:, 0], 0)
        total = total + given.sum(1)
    return total / count.clamp(min=1)


def glancing_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The module's own attention; beside it, the rows that the call asks for."""
    prompt: PromptGlance | None = kwargs.pop(KEY, None)
    look, scaling = _looking.get(), kwargs["scaling"]
    if prompt is not None:
        prompt.look(query, key, scaling, attention_mask)
        if not prompt.attends:
            return query.new_zeros(len(query), query.shape[2], query.shape[1], value.shape[3]), None
    elif look is not None:
        for rows in _sequences(query, kwargs.get("cu_seq_lens_q")):
            seen = query[:, :, rows], key[:, :, rows]
            look.look(*seen, scaling, attention_mask, module.config.shows)
    original = module.config.tapped
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    own = AttentionInterface().get_interface(original._attn_implementation, eager)
    return own(_WithConfig(module, original), query, key, value, attention_mask, **kwargs)


def _sequences(query: Tensor, ends: Tensor | None) -> list[slice]:
    """The sequences packed into one call, as flash attention takes them."""
    if ends is None:
        return [slice(None)]
    marks = ends.tolist()
    return [slice(a, b) for a, b in itertools.pairwise(marks)]


class _WithConfig:
    """The attention module seen with its own config: kernels read their name from it."""

    def __init__(self, module: nn.Module, config: Any):
        self.__dict__.update(_module=module, config=config)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


AttentionInterface.register(NAME, glancing_attention)
