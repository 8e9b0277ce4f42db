"""The few attention rows and keys that methods ask for, without ever making a whole attention matrix.

One attention module is given a shallow copy of its config that names our attention function. It runs
the model's own function on the same arguments, and beside it computes the rows somebody asked for, from
the exact queries and keys. Who asks travels as a keyword of the call, so threads do not meet.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from foveate.hosts.flow import KEY, Flow

NAME = "foveate_glance"
TOWER_KEY = "visual_glance"  # the keyword under which a TowerGlance travels through a vision tower


@dataclass(eq=False)
class TowerGlance:
    """What a vision tower was asked to show, and showed.

    attention (images, S) head mean of the class token's row, or of all rows where there is no class
    token; keys (images, S, d) head mean.
    """

    class_token: bool
    wants: frozenset[str]
    seen: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def look(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Keep what was asked for. query, key (images, H, S, d)."""
        if "keys" in self.wants:
            self.seen["keys"] = key.float().mean(1)
        if "cls_attention" in self.wants:
            rows = [query[:, :, :1]] if self.class_token else query.split(256, dim=2)
            total = sum(attention_rows(q, key, scaling).sum(2) for q in rows)
            self.seen["cls_attention"] = total.mean(1) / (1 if self.class_token else query.shape[2])


def tap(attention: nn.Module) -> None:
    """Let this attention module show rows of its attention."""
    shown = copy.copy(attention.config)
    shown.foveate_original = attention.config
    shown._attn_implementation_internal = NAME
    attention.config = shown


def untap(attention: nn.Module) -> None:
    """Give it back the config it had."""
    attention.config = attention.config.foveate_original


def attention_rows(
    query: Tensor, key: Tensor, scaling: float, closed: Tensor | None = None
) -> Tensor:
    """Attention probabilities of some query rows. query (B, H, R, d), key (B, G, S, d) → (B, H, R, S).

    H is a multiple of G; closed (B, 1, R, S) True where a row may not look. In float32.
    """
    B, H, R, d = query.shape
    grouped = query.float().reshape(B, key.shape[1], -1, d)
    logits = (grouped @ key.float().mT * scaling).reshape(B, H, R, -1)
    if closed is not None:
        logits = logits.masked_fill(closed, torch.finfo(logits.dtype).min)
    return logits.softmax(-1)


def glancing_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """The module's own attention; beside it, the rows that the call asks for."""
    flow: Flow | None = kwargs.pop(KEY, None)
    glance: TowerGlance | None = kwargs.pop(TOWER_KEY, None)
    original = module.config.foveate_original
    if glance is not None:
        glance.look(query, key, kwargs["scaling"])
    if flow is not None and flow.prefill:
        flow.scores[module.layer_idx] = _prompt_rows(
            flow, module.layer_idx, query, key, kwargs["scaling"]
        )
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    own = AttentionInterface().get_interface(original._attn_implementation, eager)
    return own(_WithConfig(module, original), query, key, value, mask, **kwargs)


@torch.no_grad()
def _prompt_rows(
    flow: Flow, layer: int, query: Tensor, key: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    """(B, S) what the last prompt row looks at, and the mean over the instruction's rows; head means."""
    stage = flow.stage(layer)
    asking, asked, real = flow.asking, flow.asking & flow.instruction, flow.real
    if stage is not None:
        real = stage.real
        asking, asked = (m.gather(1, stage.columns) & real for m in (asking, asked))
    S = query.shape[2]
    column = torch.arange(S, device=query.device)
    key = key[:, :, :S]
    last = (column * asking).amax(1, keepdim=True)
    wants = {name for part in flow.inside.get(layer + 1, []) for name in part.needs}

    def rows(index: Tensor) -> Tensor:
        closed = ~real[:, None] | (column > index[..., None])
        pick = index[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3])
        return attention_rows(query.gather(2, pick), key, scaling, closed[:, None]).mean(1)

    mean = torch.zeros(len(query), S, device=query.device)
    if "prompt_attention" in wants:
        count = asked.sum(1, keepdim=True).clamp(min=1)
        index = (~asked).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(count.max())]
        counted = asked.gather(1, index)[..., None]
        mean = (rows(index) * counted).sum(1) / count
    return (rows(last)[:, 0] if "last_attention" in wants else mean), mean


class _WithConfig:
    """The attention module seen with its own config: kernels read their name from it."""

    def __init__(self, module: nn.Module, config: Any):
        self.__dict__.update(_module=module, config=config)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


AttentionInterface.register(NAME, glancing_attention)
