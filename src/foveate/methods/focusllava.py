"""FocusLLaVA: few tokens where the image is plain, then few where the question does not look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from foveate.core.composed import Chain
from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import (
    Keep,
    check_keep,
    choice,
    number,
    real,
    refuse_unused,
    top,
    whole,
)
from foveate.core.regions import Regions
from foveate.core.sampled import shares
from foveate.core.sizes import scaled
from foveate.core.spec import spoken
from foveate.core.tokens import VisualTokens

GATES = ("all", "chosen")


class RegionSampler(Compressor):
    """The vision-guided sampler: a scale for every region. Zhu et al. 2024, arXiv:2411.14228.

    The map of projected tokens falls into regions of `region` × `region`, the last of a row and a column
    smaller. A router sees a region's mean, its maximum and the mean of the whole image, and chooses one of
    `scales`: 4 leaves of every 4 × 4 tokens their maximum, 2 of every 2 × 2, 1 leaves all. Where an image is
    cut into tiles, the view that shows it whole stays as it is, and is what the router knows of the whole.

    width: of the tokens; hidden: of the router, which begins undecided, and undecided takes the finest scale.
    In training, `explore` adds Gumbel noise to its choice. What it chose carries a gradient to the
    probabilities, by a gate that changes no value: of "all" scales, as if the tokens were a sum of what
    each scale makes of them, or of the "chosen" one alone, as if its tokens were scaled by its probability.
    `balance` weighs the penalty K Σ f_k P_k, with f_k the share of regions that chose scale k and P_k its
    mean probability, over the regions of a micro-batch: 1 where all K scales are used alike. After training,
    `price` moves a router along its trade-off: a scale that leaves a share s of a region's tokens counts as
    if its log-probability were `price` × s lower. ValueError for scales that do not divide `region`, for
    other gates, for what one scale alone leaves without a meaning, and for tokens of another width.

    Differs from the paper, of which no code is public: router, gates, noise, penalty and price are ours.
    With the gate of the chosen scale the router learns to be wrong in a short run, and with little balance
    to keep all: docs/focusllava.md, from one small model, on which 0.1 was found too. A newline goes with
    the last token of its row, so that of a row of regions one stays at scale 4, and every one at scale 1.
    """

    site = language(0)

    def __init__(
        self,
        width: int = 4096,
        region: int = 4,
        scales: Sequence[int] = (1, 2, 4),
        hidden: int = 512,
        explore: bool = True,
        balance: float = 0.1,
        gate: str = "all",
        price: float = 0.0,
        seed: int = 0,
    ):
        super().__init__()
        self.region, self.scales = whole("region", region), _scales(scales, region)
        self.width, self.hidden = whole("width", width), whole("hidden", hidden)
        self.explore = choice("explore", explore, (True, False))
        self.balance, self.gate = number("balance", balance), choice("gate", gate, GATES)
        self.price, self.seed = number("price", price), whole("seed", seed, 0)
        if not (decides := len(self.scales) > 1):
            idle = {"hidden": hidden, "explore": explore, "balance": balance, "gate": gate}
            refuse_unused("one scale", RegionSampler, {**idle, "price": price}, RegionSampler)
        drawn = {"generator"} if explore and decides else ()
        self.needs = frozenset({"grid", "overview", *drawn})
        self.router = _router(width, hidden, len(self.scales)) if decides else None

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """Each region at its scale. tokens.x (B, N, width)."""
        if self.router is not None and tokens.x.shape[-1] != self.width:
            raise ValueError(
                f"tokens of width {tokens.x.shape[-1]} for a router made for width={self.width}: "
                "sized(focusllava, model) takes the model's own"
            )
        regions, whole_view = self._regions(tokens, context)
        odds = self._odds(tokens, regions, whole_view)
        chosen = self._choose(odds, tokens, regions, context)
        side = regions.of_tokens(torch.tensor(self.scales, device=chosen.device)[chosen], 1)
        if not odds.requires_grad:
            return regions.pooled(tokens, side)
        odds = odds.exp()
        gated = tokens.carry(self._gated(tokens, regions, odds, chosen, side))
        out = regions.pooled(gated, side)
        if not (self.training and self.balance and len(odds)):
            return out
        used = one_hot(chosen, len(self.scales)).float().mean(0)
        alike = len(self.scales) * (used * odds.mean(0)).sum()
        return replace(out, penalty=out.penalty + self.balance * alike)

    @torch.no_grad()
    def scores(self, tokens: VisualTokens, context: Context) -> Tensor:
        """(B, N) how many tokens are to be expected of each: 1 where it is certain that all stay."""
        regions, whole_view = self._regions(tokens, context)
        odds = self._odds(tokens, regions, whole_view).exp()
        return regions.of_tokens(odds @ self._left(odds), 1)

    def _regions(self, tokens: VisualTokens, context: Context) -> tuple[Regions, Tensor]:
        """The regions, and (B, N) the view that shows the whole image, or all tokens without one."""
        overview = tokens.of_first(context.overview) & tokens.valid
        regions = Regions.of(tokens, context.grid, overview, self.region)
        return regions, torch.where(overview.any(1, keepdim=True), overview, tokens.valid)

    def _left(self, odds: Tensor) -> Tensor:
        """(K,) the share of a region's tokens that each scale leaves."""
        return odds.new_tensor([1 / scale**2 for scale in self.scales])

    def _odds(self, tokens: VisualTokens, regions: Regions, whole_view: Tensor) -> Tensor:
        """(regions, K) the log-probability of each scale, after training at its price."""
        if self.router is None:
            return torch.zeros(int(regions.there.sum()), 1, device=tokens.x.device)
        # A sum would be too large for float16.
        share = whole_view / whole_view.sum(1, keepdim=True).clamp(min=1)
        image = (share.to(tokens.x.dtype)[:, None] @ tokens.x).float()
        mean, most = regions.means_and_maxima(tokens.x.float())
        known = torch.cat([mean, most, image.expand_as(mean)], dim=-1).to(tokens.x.dtype)
        odds = self.router(known[:, :-1][regions.there]).float()
        return (odds if self.training else odds - self.price * self._left(odds)).log_softmax(-1)

    def _choose(
        self, odds: Tensor, tokens: VisualTokens, regions: Regions, context: Context
    ) -> Tensor:
        """(regions,) the scale of each, by number.

        Noise is drawn for every token and a region takes its first one's, so that padding changes none.
        """
        if not (self.training and self.explore and self.router is not None):
            return odds.argmax(-1)
        drawn = torch.zeros(*regions.region.shape, len(self.scales))
        counts = tokens.counts.tolist()
        for row, count, generator in zip(drawn, counts, context.generator, strict=True):
            row[:count] = torch.rand(count, len(self.scales), generator=generator)
        uniform = drawn.to(odds.device)[regions.there.nonzero()[:, 0], regions.first]
        least = torch.finfo(uniform.dtype).tiny
        gumbel = -(-uniform.clamp(min=least).log()).clamp(min=least).log()
        return (odds + gumbel).argmax(-1)

    def _gated(
        self, tokens: VisualTokens, regions: Regions, odds: Tensor, chosen: Tensor, side: Tensor
    ) -> Tensor:
        """(B, N, D) vectors whose maxima are those of the tokens, with a gradient to the odds.

        odds (regions, K), chosen (regions,), side (B, N).
        """
        zero = odds - odds.detach()  # added to 1 in this order it is exact, in bfloat16 too
        if self.gate == "chosen":
            gate = regions.of_tokens(1 + zero.gather(1, chosen[:, None])[:, 0], 1)
            return tokens.x * gate[..., None].to(tokens.x.dtype)
        x = regions.maxima(tokens.x, side)
        for k, scale in enumerate(self.scales):
            made = regions.maxima(tokens.x, torch.full_like(side, scale)).detach()
            x = x + regions.of_tokens(zero[:, k], 0)[..., None].to(x.dtype) * made
        return x

    def arguments(self) -> dict[str, Any]:
        """As given."""
        given = {name: getattr(self, name) for name in signature(RegionSampler).parameters}
        return given | {"scales": [*self.scales]}


class TextGuided(Compressor):
    """The text-guided sampler: keep what the question looks at. Zhu et al. 2024, arXiv:2411.14228.

    Of the tokens that reach decoder layer `layer`, those stay that the instruction's words attend to most in
    the layer before, the mean over words and heads. In training, `sampled` = (least, most) draws the share
    that stays, evenly, anew for each image and step; `seed` is another than the region sampler's, so that
    the two draw apart. Kept tokens keep their positions. ValueError for layer 0, which has no layer before
    it, and for bounds that are no shares.

    Differs from the paper, of which no code is public: only the words' own attention rows are computed; the
    share is drawn for an image instead of a batch, so that it does not matter how a batch is divided.
    """

    selects = True

    def __init__(
        self,
        keep: Keep = 0.5,
        layer: int = 16,
        sampled: Sequence[float] | None = None,
        seed: int = 1,
    ):
        super().__init__()
        if layer == 0:
            raise ValueError(
                "layer=0: TextGuided reads the attention of the layer before; want layer >= 1"
            )
        self.keep, self.site = check_keep(keep), language(layer)
        self.sampled, self.seed = shares(sampled), whole("seed", seed, 0)
        self.needs = frozenset({"prompt_attention", *(() if sampled is None else {"generator"})})

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """The tokens most looked at. tokens.x (B, N, D)."""
        keep = self._drawn(tokens, context) if self.training and self.sampled else self.keep
        return tokens.where(top(context.prompt_attention, keep, tokens.valid))

    def _drawn(self, tokens: VisualTokens, context: Context) -> Tensor:
        """(B, 1) how many tokens stay of each image."""
        least, most = self.sampled
        draws = torch.stack([torch.rand((), generator=g) for g in context.generator])
        count = tokens.counts
        share = least + (most - least) * draws.to(count.device)
        return (share * count + 0.5).floor().long().clamp(min=1).minimum(count)[:, None]

    def arguments(self) -> dict[str, Any]:
        """As given."""
        sampled = None if self.sampled is None else [*self.sampled]
        own = {"keep": self.keep, "layer": self.site.layer}
        return {**own, "sampled": sampled, "seed": self.seed}


@spoken
def focusllava(
    keep: Keep | None = None,
    only: str | None = None,
    width: int = 4096,
    layers: int = 32,
    layer: int | None = None,
    region: int = 4,
    scales: Sequence[int] = (1, 2, 4),
    hidden: int = 512,
    explore: bool = True,
    balance: float = 0.1,
    gate: str = "all",
    price: float = 0.0,
    sampled: Sequence[float] | None = None,
    seed: int = 0,
) -> Compressor:
    """Coarse to fine: a scale for every region, then what is asked. Zhu et al. 2024, arXiv:2411.14228.

    `RegionSampler` before the language model, `TextGuided` half way through its `layers`, or at `layer`. Of
    the tokens that reach it, `keep` stay, 0.5 unless told. only: "vision" or "text" for one of the two; all
    other arguments are theirs. The vision-guided sampler alone takes no budget, but a `price`. Raises
    ValueError for arguments of the sampler that is not there.
    """
    given = dict(locals())
    choice("only", only, ("vision", "text", None))
    if only == "vision" and keep is not None:
        raise ValueError(
            f"keep={keep!r}: with only='vision' the router decides how much stays, and takes no budget"
        )
    if only is not None:
        absent = TextGuided if only == "vision" else RegionSampler
        refuse_unused(f"only={only!r}", absent, given, focusllava, ("keep", "width", "seed"))
    parts: list[Compressor] = []
    if only != "text":
        parts.append(
            RegionSampler(width, region, scales, hidden, explore, balance, gate, price, seed)
        )
    if only != "vision":
        half = scaled(16, layers) if layer is None else layer
        parts.append(
            TextGuided(0.5 if keep is None else keep, half, sampled, whole("seed", seed, 0) + 1)
        )
    return parts[0] if only else Chain(*parts)


def _router(width: int, hidden: int, scales: int) -> nn.Sequential:
    last = nn.Linear(hidden, scales)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(3 * width), nn.Linear(3 * width, hidden), nn.GELU(), last)


def _scales(given: Sequence[int], region: int) -> tuple[int, ...]:
    """The scales, the finest first. Raises ValueError unless they are different divisors of `region`."""
    given = given.tolist() if isinstance(given, np.ndarray) else given
    scales = tuple(map(real, given)) if isinstance(given, Sequence) else ()
    each = all(isinstance(s, int) and s >= 1 for s in scales)
    if not scales or not each or len(set(scales)) < len(scales) or any(region % s for s in scales):
        divisors = [s for s in range(1, region + 1) if region % s == 0]
        raise ValueError(f"scales={given!r}: want some of {divisors}, which divide region={region}")
    return tuple(sorted(scales))
