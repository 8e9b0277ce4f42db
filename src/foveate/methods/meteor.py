"""LLaVA-Meteor: every token perceives the whole image and the question, then two experts choose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveate.core import warm
from foveate.core.composed import Chain
from foveate.core.compressor import Compressor, Context, Site, Tower, language
from foveate.core.ops import (
    Keep,
    budget,
    check_keep,
    choice,
    cosine_to_mean,
    pick,
    real,
    refuse_unused,
    standing_out,
    top,
    whole,
)
from foveate.core.spec import spoken
from foveate.core.tokens import VisualTokens
from foveate.statespace.routes import DIRECTIONS, SCANS, Route
from foveate.statespace.spaces import Block

STATES = {"ssd": 64, "mamba1": 16}  # of each channel, as Mamba-2 and Mamba have them
SIMILARITIES = {"mean": 0.1, "words": 1.0}  # and the temperature that suits each
AGGREGATES = ("sum", "product", "max", "union")


class FlashGlobalFusion(Compressor):
    """FGF: a projector in which every token sees image and question. Li et al. 2025, arXiv:2505.11945.

    In the projector's place: an input projection, `depth` blocks of selective state spaces that run over
    the whole image, and an output projection; as many tokens as before. The scan is local to single: a
    token's 3 × 3 neighbourhood goes before the token ("pair"), is added to it ("add"), or is walked
    through, the token last ("window"). With directions="both" one scan begins at each end. With `text`
    the instruction's words stand in front of both, so that they reach every token.

    width: of the language model; feature_width: of the tokens; state_width: inside, feature_width unless
    told; expand: channels of a scan, in state_width; operator: "ssd" or "mamba1", see `foveate.scan`;
    states: of each channel, 64 or 16 unless told. The output projection is LayerNorm → Linear; with
    `hidden` it is Linear → GELU → Linear, a projector's own form, as which it can begin: see
    `foveate.warm_start`. ValueError for other names, sizes < 1, tokens of another width.

    Differs from the paper, of which no code is public: the operator, sizes and text prefix are ours;
    neighbours are averaged behind the norm, so that all steps share one projection; a block updates words as
    it does tokens; what the scans give is gated by SiLU and brought to one level, as in Mamba-2. Let it learn
    in float32, as the recipes do: bfloat16 rounds small changes of decays and steps away.
    """

    site = Site(Tower.projector)
    optional = frozenset({"text", "text_mask"})
    behind = "meteor(only='selection')"

    def __init__(
        self,
        width: int = 4096,
        feature_width: int = 1024,
        state_width: int | None = None,
        depth: int = 2,
        scan: str = "pair",
        directions: str = "both",
        text: bool = True,
        operator: str = "ssd",
        states: int | None = None,
        expand: int = 2,
        hidden: int | None = None,
    ):
        super().__init__()
        for name, given, allowed in [
            ("scan", scan, SCANS),
            ("directions", directions, DIRECTIONS),
            ("operator", operator, STATES),
        ]:
            choice(name, given, allowed)
        if not isinstance(text, bool):
            raise ValueError(f"text={text!r}: want True or False")
        state_width = feature_width if state_width is None else state_width
        states = STATES[operator] if states is None else states
        sizes = {"width": width, "feature_width": feature_width, "state_width": state_width}
        sizes |= {"depth": depth, "states": states, "expand": expand}
        self._arguments = {name: whole(name, size) for name, size in sizes.items()} | {
            "scan": scan,
            "directions": directions,
            "text": text,
            "operator": operator,
            "hidden": None if hidden is None else whole("hidden", hidden),
        }
        self.needs = frozenset({"grid", *(self.optional if text else ())})
        self.enter = nn.Linear(feature_width, state_width)
        # Embeddings are small beside a bias: without the norm all words would look alike.
        words = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, state_width))
        self.words = words if text else None
        block = state_width, expand * state_width, operator, states, DIRECTIONS[directions]
        self.blocks = nn.ModuleList(Block(*block) for _ in range(depth))
        self.leave = _leave(state_width, hidden, width)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """The same tokens, fused. tokens.x (B, N, feature_width) → (B, N, width)."""
        own = self._arguments
        if tokens.x.shape[-1] != own["feature_width"]:
            raise ValueError(
                f"tokens of width {tokens.x.shape[-1]} for a connector that reads {own['feature_width']}: "
                "sized(meteor, model) takes the model's own"
            )
        z, (B, N, _) = self.enter(tokens.x), tokens.x.shape
        said = torch.zeros(B, 0, dtype=torch.bool, device=z.device)
        if self.words is not None:
            # Words stand last in their part, next to the image.
            said, order = context.text_mask.to(z.device).sort(dim=1, stable=True)
            text = pick(context.text.to(z), order)
            z = torch.cat([self.words(text), z], dim=1)
        cell, directions = tokens.of_first(context.grid), DIRECTIONS[own["directions"]]
        route = Route.of(cell, tokens.valid, said, own["scan"], directions)
        for block in self.blocks:
            z = block(z, route)
        fused = self.leave(z[:, z.shape[1] - N :])
        return tokens.carry(fused.masked_fill(~tokens.valid[..., None], 0))

    def warm_start(self, projector: nn.Module) -> None:
        """Begin as the projector, exactly. Raises ValueError as `warm.as_pooling` does."""
        if not isinstance(self.leave[0], nn.Linear):
            raise ValueError(
                "no warm start: LayerNorm and one linear layer cannot be the projector; make the method "
                f"with hidden={warm.hidden_of(projector)}, or more"
            )
        warm.widened(self.enter)
        for block in self.blocks:
            nn.init.zeros_(block.leave.weight)
        warm.as_pooling(self.leave, projector, 1)

    def left(self, count: int, grid: Tensor) -> int:
        """All of them."""
        return count

    def arguments(self) -> dict[str, Any]:
        """As built."""
        return dict(self._arguments)


class VisualNativeSelection(Compressor):
    """VNS: keep the tokens that two experts find important. Li et al. 2025, arXiv:2505.11945.

    The visual expert scores a token by what the class token's attention gives it, the native expert by how
    similar it is to the instruction: its cosine to the mean word, or with similarity="words" to the word
    that it stands out most for, each word's cosines standardised over the image. Softmax over
    `temperature`, 0.1 or 1.0 unless told, makes it a probability over the image's tokens, as the attention
    is one. `balance` is the visual expert's share: 1.0 asks it alone, 0.0 the native expert alone.
    `aggregate`: the weighted "sum", the weighted geometric "product", the "max" of the weighted two, or
    "union": the visual expert's share of the budget, then the native expert's best of the others. Exactly
    `keep` tokens stay, unchanged and in order. Without an instruction the visual expert decides, so its
    attention is always asked for. `sampled`: budgets of which one is drawn for each image and step in
    training. ValueError for other names, balances outside [0, 1], temperatures <= 0.

    Differs from the paper, of which no code is public: temperature, balance, union, sampling and
    similarity="words" are ours. Raw cosines differ more by token than by word, so that the mean word may
    look away from what is asked: docs/meteor.md.
    """

    site = language(0)
    selects = True
    optional = frozenset({"text", "text_mask"})

    def __init__(
        self,
        keep: Keep = 144,
        balance: float = 0.5,
        aggregate: str = "sum",
        similarity: str = "mean",
        temperature: float | None = None,
        sampled: Sequence[Keep] | None = None,
    ):
        super().__init__()
        self.similarity = choice("similarity", similarity, SIMILARITIES)
        temperature = SIMILARITIES[similarity] if temperature is None else temperature
        self.balance, self.temperature = real(balance), real(temperature)
        if self.balance is None or not 0 <= self.balance <= 1:
            raise ValueError(f"balance={balance!r}: want the visual expert's share, 0 to 1")
        if self.temperature is None or not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature={temperature!r}: want a number above 0")
        if sampled is not None and not (isinstance(sampled, list | tuple) and sampled):
            raise ValueError(f"sampled={sampled!r}: want a list of budgets to draw from, or None")
        self.keep, self.aggregate = check_keep(keep), choice("aggregate", aggregate, AGGREGATES)
        self.sampled = None if sampled is None else [check_keep(k) for k in sampled]
        self.needs = frozenset({"cls_attention", *(self.optional if balance < 1 else ())})
        if sampled is not None:
            self.needs |= {"generator"}

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """The tokens that were chosen. tokens.x (B, N, D)."""
        return tokens.where(self._chosen(tokens, context))

    @torch.no_grad()
    def _chosen(self, tokens: VisualTokens, context: Context) -> Tensor:
        """(B, N) True at the tokens that stay."""
        n, valid = self._budget(tokens, context), tokens.valid
        if self.aggregate != "union":
            return top(self.scores(tokens, context), n, valid)
        visual, native = self.experts(tokens, context)
        first = top(visual, (self.balance * n + 0.5).floor().long(), valid)
        return first | top(native, n - first.sum(1, keepdim=True), valid & ~first)

    @torch.no_grad()
    def scores(self, tokens: VisualTokens, context: Context) -> Tensor | None:
        """(B, N) both experts in one; None of a union, where no one number decides."""
        if self.aggregate == "union":
            return None
        own, (visual, native) = self.balance, self.experts(tokens, context)
        if self.aggregate == "product":
            return visual**own * native ** (1 - own)
        weighted = torch.stack([own * visual, (1 - own) * native])
        return weighted.sum(0) if self.aggregate == "sum" else weighted.amax(0)

    def _budget(self, tokens: VisualTokens, context: Context) -> Tensor:
        """(B, 1) how many tokens stay of each image."""
        count = tokens.counts[:, None]
        if not (self.training and self.sampled):
            return budget(self.keep, count)
        drawn = [int(torch.randint(len(self.sampled), (), generator=g)) for g in context.generator]
        pairs = zip(drawn, count, strict=True)
        return torch.stack([budget(self.sampled[i], one) for i, one in pairs])

    @torch.no_grad()
    def experts(self, tokens: VisualTokens, context: Context) -> tuple[Tensor, Tensor]:
        """(B, N) each: the probabilities that the visual and the native expert give an image's tokens.

        Without an instruction, or where it is not asked, the native expert says what the visual one says.
        """
        seen = context.cls_attention.float().masked_fill(~tokens.valid, 0)
        visual = seen / seen.sum(1, keepdim=True).clamp(min=torch.finfo(seen.dtype).tiny)
        if self.balance == 1:
            return visual, visual
        text, said = context.text.float(), context.text_mask
        if self.similarity == "words":
            alike = standing_out(tokens.x, text, said, tokens.valid)
        else:
            alike = cosine_to_mean(tokens.x, text, said)
        logits = (alike / self.temperature).masked_fill(~tokens.valid, -torch.inf)
        native = logits.softmax(1).nan_to_num()
        return visual, torch.where(said.any(1, keepdim=True), native, visual)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        names = ("keep", "balance", "aggregate", "similarity", "temperature", "sampled")
        return {name: getattr(self, name) for name in names}


@spoken
def meteor(
    keep: Keep | None = None,
    only: str | None = None,
    width: int = 4096,
    feature_width: int = 1024,
    state_width: int | None = None,
    depth: int = 2,
    scan: str = "pair",
    directions: str = "both",
    text: bool = True,
    operator: str = "ssd",
    states: int | None = None,
    expand: int = 2,
    hidden: int | None = None,
    balance: float = 0.5,
    aggregate: str = "sum",
    similarity: str = "mean",
    temperature: float | None = None,
    sampled: Sequence[Keep] | None = None,
) -> Compressor:
    """Fuse the whole image first, then select. Li et al. 2025, arXiv:2505.11945.

    `FlashGlobalFusion` in the projector's place, then `VisualNativeSelection` of `keep` tokens, 144 unless
    told. only: "fusion" or "selection" for one of them; all other arguments are theirs. Raises ValueError
    for arguments of the part that is not there.
    """
    given = dict(locals())
    choice("only", only, ("fusion", "selection", None))
    if only == "fusion" and keep not in (None, 1.0):
        raise ValueError(f"keep={keep!r}: only='fusion' keeps all tokens")
    if only is not None:
        other = VisualNativeSelection if only == "fusion" else FlashGlobalFusion
        shared = ("keep", "width", "feature_width")  # a budget, and sizes that belong to nobody
        refuse_unused(f"only={only!r}", other, given, meteor, shared)
    parts: list[Compressor] = []
    if only != "selection":
        sizes = width, feature_width, state_width, depth
        kind = scan, directions, text, operator, states, expand, hidden
        parts.append(FlashGlobalFusion(*sizes, *kind))
    if only != "fusion":
        keep = 144 if keep is None else keep
        experts = balance, aggregate, similarity, temperature
        parts.append(VisualNativeSelection(keep, *experts, sampled))
    return parts[0] if only else Chain(*parts)


def _leave(inner: int, hidden: int | None, width: int) -> nn.Sequential:
    if hidden is None:
        return nn.Sequential(nn.LayerNorm(inner), nn.Linear(inner, width))
    return nn.Sequential(nn.Linear(inner, hidden), nn.GELU(), nn.Linear(hidden, width))
