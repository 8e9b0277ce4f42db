"""What a prompt shows inside the language model, to compressors that ask for it.

Rows of attention and sizes of keys come of a layer's own attention: glance.py calls `look` beside it, or in
its place where a layer is asked before it runs. The words are the instruction's, behind each image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from foveate.core.compressor import Compressor, Context
from foveate.core.ops import in_front, pick
from foveate.core.tokens import VisualTokens
from foveate.hosts import traits
from foveate.hosts.flow import KEY, Path, Prompt, Stage
from foveate.hosts.glance import attention_rows, is_open

# Context fields: those that read the prompt, that the layer before shows, and that no other site has.
PROMPT_ROWS = frozenset({"last_attention", "own_attention", "prompt_attention", "words"})
SHOWN_BEFORE = frozenset({"last_attention", "prompt_attention", "key_size", "words"})
INSIDE = PROMPT_ROWS | SHOWN_BEFORE | {"previous", "normed"}
OF_LAST = frozenset({"last_attention", "own_attention"})


@dataclass(eq=False)
class PromptGlance:
    """What a decoder layer's attention is asked to show of a prompt, and showed. (B, S') each.

    wants    of last_attention and own_attention, what the last prompt row looks at, prompt_attention, the
             mean over the instruction's rows, and key_size; means over heads, but for the last
    real     False where padded
    asking   columns before the first answer
    asked    those of the instruction among them
    row      (I,) the prompt that each image stands in
    raters   (I, S') the rows that count, for compressors that choose among the instruction's
    attends  whether the layer attends: else it is only looked at
    shown    by field, and by compressor that chooses: (I, S')
    """

    wants: frozenset[str]
    real: Tensor
    asking: Tensor
    asked: Tensor
    row: Tensor
    raters: Mapping[Compressor, Tensor]
    attends: bool = True
    shown: dict[str | Compressor, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, prompt: Prompt, path: Path, stage: Stage | None, parts: Sequence[Compressor]
    ) -> PromptGlance:
        """What these compressors ask of a layer in this stage."""
        columns, row = prompt.columns, prompt.images.row
        real, asking, asked = columns.real, columns.asking, columns.asking & columns.instruction
        raters = {part: path.raters[part] for part in parts if part in path.raters}
        if stage is not None:
            real = stage.real
            asking, asked = (m.gather(1, stage.columns) & real for m in (asking, asked))
            raters = {p: m.gather(1, stage.columns[row]) & real[row] for p, m in raters.items()}
        needs = frozenset().union(*(part.needs for part in parts)) & SHOWN_BEFORE
        if all(part in raters for part in parts if "prompt_attention" in part.needs):
            needs -= {"prompt_attention"}
        if "words" in needs:
            needs |= {"key_size"}
        return cls(needs, real, asking, asked, row, raters)

    @torch.no_grad()
    def look(self, query: Tensor, key: Tensor, scaling: float, mask: Tensor | None) -> None:
        """Keep what was asked for. query (B, H, S', d); key (B, G, ≥ S', d); mask of the layer, or None."""
        S = query.shape[2]
        column = torch.arange(S, device=query.device)
        key = key[:, :, :S]

        def rows(index: Tensor) -> Tensor:
            added = None
            if mask is not None and mask.dim() == 4:
                given = mask[:, 0, :, :S].expand(len(query), -1, -1)
                given = given.gather(1, index[..., None].expand(-1, -1, S))
                seen, added = is_open(given), None if given.dtype == torch.bool else given[:, None]
            else:
                seen = column <= index[..., None]
            closed = ~(seen & self.real[:, None])[:, None]
            chosen = index[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3])
            return attention_rows(query.gather(2, chosen), key, scaling, closed, added).mean(1)

        for name in self.wants & OF_LAST:
            last = (column * self.asking).amax(1, keepdim=True)
            self.shown[name] = rows(last)[:, 0]
        if "key_size" in self.wants:
            sizes = torch.linalg.vector_norm(key, 1, dim=(1, 3), dtype=torch.float32)
            self.shown["key_size"] = sizes
        if "prompt_attention" in self.wants or self.raters:
            self._listen(rows)

    def _listen(self, rows: Callable[[Tensor], Tensor]) -> None:
        """The means over rows of the instruction; rows (B, R) → (B, R, S')."""
        everybody = "prompt_attention" in self.wants
        speaks = self.asked if everybody else torch.zeros_like(self.asked)
        for rated in self.raters.values():
            count = torch.zeros_like(self.asked, dtype=torch.long)
            speaks = speaks | (count.index_add(0, self.row, rated.long()) > 0)
        index = in_front(speaks, max(int(speaks.sum(1).max()), 1))
        seen = rows(index)
        if everybody:
            self.shown["prompt_attention"] = _mean(seen, self.asked.gather(1, index))
        for part, rated in self.raters.items():
            counted = rated.gather(1, index[self.row])
            self.shown[part] = _mean(seen[self.row], counted)

    def of_images(self, name: str, part: Compressor) -> Tensor:
        """(I, S') what a field shows each image, as this compressor asks for it."""
        if name == "prompt_attention" and part in self.raters:
            return self.shown[part]
        return self.shown[name][self.row]


def _mean(seen: Tensor, counted: Tensor) -> Tensor:
    """(B, S) of the rows that count. seen (B, R, S), counted (B, R)."""
    return (seen * counted[..., None]).sum(1) / counted.sum(1, keepdim=True).clamp(min=1)


@torch.no_grad()
def look_ahead(
    glance: PromptGlance, layer: nn.Module, hidden: Tensor, kwargs: Mapping[str, Any]
) -> None:
    """Ask a decoder layer for own_attention, before it runs, at what reaches it. hidden (B, S', D).

    Its norm and attention run once more, without a cache; the latter shows its row and attends to nothing.
    """
    ahead = replace(glance, wants=frozenset({"own_attention"}), raters={}, attends=False)
    given = {name: kwargs.get(name) for name in ("position_embeddings", "attention_mask")}
    normed = traits.norm_of(layer)(hidden)
    # Its forward alone: whoever listens to the module hears it once.
    attention = traits.attention_of(layer)
    attention.forward(hidden_states=normed, past_key_values=None, **given, **{KEY: ahead})


def words_behind(asked: Tensor, row: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The columns (I, T) of the instruction's words behind each image, and which are none, False.

    asked (B, S) the instruction's columns; row, count (I,) the image's prompt, and how many words stand
    behind it: the last ones, as words never leave.
    """
    from_end = asked.flip(1).cumsum(1).flip(1)
    behind = asked[row] & (from_end[row] <= count[:, None])
    index = in_front(behind, int(count.max()))
    return index, behind.gather(1, index)


@torch.no_grad()
def raters(prompt: Prompt, embeds: Tensor) -> dict[Compressor, Tensor]:
    """The rows of the instruction that compressors choose to go by: (I, S). embeds (B, S, D)."""
    choosing = list(_choosing(prompt))
    if not choosing:
        return {}
    columns, row, entry = prompt.columns, prompt.images.row, prompt.entry
    index, said = words_behind(columns.asking & columns.instruction, row, prompt.images.words)
    x = embeds[row[:, None], entry.place].masked_fill(~entry.tokens.valid[..., None], 0)
    text = embeds[row[:, None], index].masked_fill(~said[..., None], 0)
    tokens, context = entry.tokens.carry(x), Context(text=text, text_mask=said)
    nobody = torch.zeros_like(columns.real)[row]
    chosen = {part: part.raters(tokens, context) for part in choosing}
    return {p: nobody.scatter(1, index, c & said) for p, c in chosen.items() if c is not None}


def _choosing(prompt: Prompt) -> Iterator[Compressor]:
    for parts in prompt.inside.values():
        for part in parts:
            if "prompt_attention" in part.needs and type(part).raters is not Compressor.raters:
                yield part


def known(
    prompt: Prompt,
    path: Path,
    layer: int,
    part: Compressor,
    hidden: Tensor,
    came: VisualTokens,
    now: VisualTokens,
) -> dict[str, Any]:
    """The Context fields before a decoder layer that this compressor needs, of the tokens as they are now.

    hidden (B, S', D), and came: what reached the layer, before compressors at the same site.
    """
    place, row, found = path.landing(layer).place, prompt.images.row, {}
    for name in part.needs & (OF_LAST | {"prompt_attention", "key_size"}):
        value = path.glances[layer].of_images(name, part)
        value = pick(value, place.clamp(min=0)).masked_fill(~came.valid, 0)
        how = "mean" if name == "key_size" else "sum"
        found[name] = _passed_on(value, came, now, how)
    if "previous" in part.needs:
        value = path.previous[layer][row[:, None], place]
        found["previous"] = _passed_on(value, came, now, "mean")
    if "normed" in part.needs:
        found["normed"] = _normed(prompt, now.x)
    if "words" in part.needs:
        found["words"] = _words(prompt, path.glances[layer], hidden)
    return found


def _words(prompt: Prompt, glance: PromptGlance, hidden: Tensor) -> dict[str, Tensor]:
    """The instruction's words behind each image, as they reach a decoder layer. hidden (B, S', D)."""
    row = prompt.images.row
    index, said = words_behind(glance.asked, row, prompt.images.words)
    return {
        "normed": _normed(prompt, hidden[row[:, None], index]),
        "key_size": pick(glance.shown["key_size"][row], index),
        "mask": said,
    }


@torch.no_grad()
def _normed(prompt: Prompt, x: Tensor) -> Tensor:
    """Through the last norm of the language model, wherever that stands."""
    return traits.last_norm(prompt.decoder)(x).to(x.device)


def _passed_on(value: Tensor, came: VisualTokens, now: VisualTokens, how: str) -> Tensor:
    """A field of the tokens that came, for those that compressors at the same site made of them.

    Of a token that carries several, shares are summed and everything else is averaged. value (I, N, …).
    """
    if now is came:
        return value
    gone = (came.owner < 0).reshape(*came.owner.shape, *[1] * (value.dim() - 2))
    if how == "mean":
        return now.mean(pick(value, came.owner.clamp(min=0)).masked_fill(gone, 0))
    share = pick(value / came.size.clamp(min=1), came.owner.clamp(min=0))
    return now.total(share.masked_fill(gone, 0))
