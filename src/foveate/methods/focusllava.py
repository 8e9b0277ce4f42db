"""FocusLLaVA: few tokens where the image is plain, then few where the question does not look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

from foveate.core.compressor import Chain, Compressor, Context, language
from foveate.core.ops import (
    Keep,
    check_keep,
    choice,
    number,
    real,
    refuse_unused,
    top,
    whole,
    windows,
)
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
        self.needs = frozenset(
            {"grid", "overview", *(["generator"] if explore and decides else [])}
        )
        self.router = _router(width, hidden, len(self.scales)) if decides else None

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """Each region at its scale. tokens.x (B, N, width)."""
        if self.router is not None and tokens.x.shape[-1] != self.width:
            raise ValueError(
                f"tokens of width {tokens.x.shape[-1]} for a router made for width={self.width}: "
                "sized(focusllava, model) takes the model's own"
            )
        plan = _Plan.of(tokens, context, self.region)
        odds = self._odds(tokens, plan)
        chosen = self._choose(odds, tokens, plan, context)
        side = plan.of_tokens(torch.tensor(self.scales, device=chosen.device)[chosen], 1)
        if not odds.requires_grad:
            return _pooled(tokens, plan, side)
        odds = odds.exp()
        out = _pooled(tokens.carry(self._gated(tokens, plan, odds, chosen, side)), plan, side)
        if not (self.training and self.balance and len(odds)):
            return out
        used = one_hot(chosen, len(self.scales)).float().mean(0)
        alike = len(self.scales) * (used * odds.mean(0)).sum()
        return replace(out, penalty=out.penalty + self.balance * alike)

    @torch.no_grad()
    def scores(self, tokens: VisualTokens, context: Context) -> Tensor:
        """(B, N) how many tokens are to be expected of each: 1 where it is certain that all stay."""
        plan = _Plan.of(tokens, context, self.region)
        odds = self._odds(tokens, plan).exp()
        return plan.of_tokens(odds @ self._left(odds), 1)

    def _left(self, odds: Tensor) -> Tensor:
        """(K,) the share of a region's tokens that each scale leaves."""
        return odds.new_tensor([1 / scale**2 for scale in self.scales])

    def _odds(self, tokens: VisualTokens, plan: _Plan) -> Tensor:
        """(regions, K) the log-probability of each scale, after training at its price."""
        if self.router is None:
            return torch.zeros(int(plan.there.sum()), 1, device=tokens.x.device)
        x, index = tokens.x.float(), plan.region[..., None].expand_as(tokens.x)
        bins = x.new_zeros(len(x), plan.there.shape[1] + 1, x.shape[-1])
        count = bins[..., 0].scatter_add(1, plan.region, torch.ones_like(x[..., 0]))
        mean = bins.scatter_add(1, index, x) / count.clamp(min=1)[..., None]
        most = bins.scatter_reduce(1, index, x, "amax", include_self=False)
        known = torch.cat([mean, most, plan.whole.float()[:, None].expand_as(mean)], dim=-1)
        known = known.to(tokens.x.dtype)
        odds = self.router(known[:, :-1][plan.there]).float()
        return (odds if self.training else odds - self.price * self._left(odds)).log_softmax(-1)

    def _choose(self, odds: Tensor, tokens: VisualTokens, plan: _Plan, context: Context) -> Tensor:
        """(regions,) the scale of each, by number.

        Noise is drawn for every token and a region takes its first one's, so that padding changes none.
        """
        if not (self.training and self.explore and self.router is not None):
            return odds.argmax(-1)
        drawn = torch.zeros(*plan.region.shape, len(self.scales))
        rows = zip(drawn, tokens.counts.tolist(), context.generator, strict=True)
        for row, count, generator in rows:
            row[:count] = torch.rand(count, len(self.scales), generator=generator)
        uniform = drawn.to(odds.device)[plan.there.nonzero()[:, 0], plan.first]
        least = torch.finfo(uniform.dtype).tiny
        gumbel = -(-uniform.clamp(min=least).log()).clamp(min=least).log()
        return (odds + gumbel).argmax(-1)

    def _gated(
        self, tokens: VisualTokens, plan: _Plan, odds: Tensor, chosen: Tensor, side: Tensor
    ) -> Tensor:
        """(B, N, D) vectors whose maxima are those of the tokens, with a gradient to the odds.

        odds (regions, K), chosen (regions,), side (B, N).
        """
        zero = odds - odds.detach()  # added to 1 in this order it is exact, in bfloat16 too
        if self.gate == "chosen":
            gate = plan.of_tokens(1 + zero.gather(1, chosen[:, None])[:, 0], 1)
            return tokens.x * gate[..., None].to(tokens.x.dtype)
        x = _maxima(tokens, plan, side)
        for k, scale in enumerate(self.scales):
            made = _maxima(tokens, plan, torch.full_like(side, scale)).detach()
            x = x + plan.of_tokens(zero[:, k], 0)[..., None].to(x.dtype) * made
        return x

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {
            "width": self.width,
            "region": self.region,
            "scales": list(self.scales),
            "hidden": self.hidden,
            "explore": self.explore,
            "balance": self.balance,
            "gate": self.gate,
            "price": self.price,
            "seed": self.seed,
        }


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
        self.sampled, self.seed = _bounds(sampled), whole("seed", seed, 0)
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
        return {
            "keep": self.keep,
            "layer": self.site.layer,
            "sampled": None if self.sampled is None else list(self.sampled),
            "seed": self.seed,
        }


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


@dataclass(frozen=True)
class _Plan:
    """How an image's tokens fall into regions. R: regions there may be, as many in every row.

    cell    (B, N, 3)  view, row and column of each token
    region  (B, N)     which it is in; R for none: padding, tokens of the whole view, or outside the grid
    there   (B, R)     regions that have a token; others are as if they were not
    first   (regions,) the first token of each that is there
    whole   (B, D)     the mean of the view that shows the whole image, or of all where there is none
    """

    cell: Tensor
    region: Tensor
    there: Tensor
    first: Tensor
    whole: Tensor

    @classmethod
    def of(cls, tokens: VisualTokens, context: Context, side: int) -> _Plan:
        """A token stands where its first patch does."""
        patch = tokens.anchor.clamp(max=context.grid.shape[1] - 1)
        grid = _from_corners(context.grid)
        cell = grid.gather(1, patch[..., None].expand(-1, -1, 3))
        overview = context.overview.gather(1, patch) & tokens.valid
        mapped = tokens.valid & ~overview & (cell[..., 1] >= 0)
        region, R = windows(cell, side, mapped)
        region = region.masked_fill(~mapped, R)
        B, N = region.shape
        place = torch.arange(N, device=region.device).expand(B, N)
        first = place.new_full((B, R + 1), N).scatter_reduce(1, region, place, "amin")[:, :R]
        shown = torch.where(overview.any(1, keepdim=True), overview, tokens.valid)
        share = shown / shown.sum(1, keepdim=True).clamp(
            min=1
        )  # a sum would be too large for float16
        whole_image = (share.to(tokens.x.dtype)[:, None] @ tokens.x)[:, 0]
        return cls(cell, region, first < N, first[first < N], whole_image)

    @property
    def mapped(self) -> Tensor:
        """(B, N) which tokens are in a region."""
        return self.region < self.there.shape[1]

    def of_tokens(self, value: Tensor, outside: float) -> Tensor:
        """(B, N) what holds of each token's region. value (regions,)."""
        table = value.new_full((len(self.there), self.there.shape[1] + 1), outside)
        return table.masked_scatter(pad(self.there, (0, 1)), value).gather(1, self.region)


def _from_corners(grid: Tensor) -> Tensor:
    """(B, P, 3) the grid, rows and columns counted from the first there is in a view; outside stays -1.

    Joined tiles count from the first tile's corner, which an image of this size may not reach.
    """
    B, P, _ = grid.shape
    inside = grid[..., 1:] >= 0
    view = grid[..., :1].clamp(min=0).expand(B, P, 2)
    far = int(grid.max()) + 1 if grid.numel() else 0
    first = grid.new_full((B, far, 2), far)
    first = first.scatter_reduce(1, view, torch.where(inside, grid[..., 1:], far), "amin")
    cell = torch.where(inside, grid[..., 1:] - first.gather(1, view), -1)
    return torch.cat([grid[..., :1], cell], dim=-1)


def _router(width: int, hidden: int, scales: int) -> nn.Sequential:
    last = nn.Linear(hidden, scales)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(3 * width), nn.Linear(3 * width, hidden), nn.GELU(), last)


def _pooled(tokens: VisualTokens, plan: _Plan, side: Tensor) -> VisualTokens:
    """One token of every window: their maximum. side (B, N) of the window that each token is in."""
    if bool((side == 1).all()):
        return tokens
    into, M = _windows(plan, side)
    return tokens.merge(into, M, _maximum(tokens.x, into, M))


def _maxima(tokens: VisualTokens, plan: _Plan, side: Tensor) -> Tensor:
    """(B, N, D) the maximum of the window that each token is in. side (B, N)."""
    into, M = _windows(plan, side)
    return _maximum(tokens.x, into, M).gather(1, into[..., None].expand_as(tokens.x))


def _windows(plan: _Plan, side: Tensor) -> tuple[Tensor, int]:
    """(B, N) the window of each token, and how many there may be; tokens of no region are alone."""
    rows_columns = plan.cell[..., 1:] // side[..., None] * side[..., None]
    window, M = windows(torch.cat([plan.cell[..., :1], rows_columns], dim=-1), 1, plan.mapped)
    N = window.shape[1]
    alone = M + torch.arange(N, device=window.device)
    return torch.where(plan.mapped, window, alone), M + N


def _maximum(x: Tensor, into: Tensor, M: int) -> Tensor:
    """x (B, N, D) → (B, M, D), 0 where nothing is sent."""
    index = into[..., None].expand_as(x)
    most = x.new_zeros(len(x), M, x.shape[-1])
    return most.scatter_reduce(1, index, x, "amax", include_self=False)


def _scales(given: Sequence[int], region: int) -> tuple[int, ...]:
    """The scales, the finest first. Raises ValueError unless they are different divisors of `region`."""
    given = given.tolist() if isinstance(given, np.ndarray) else given
    scales = tuple(map(real, given)) if isinstance(given, Sequence) else ()
    each = all(isinstance(s, int) and s >= 1 for s in scales)
    if not scales or not each or len(set(scales)) < len(scales) or any(region % s for s in scales):
        divisors = [s for s in range(1, region + 1) if region % s == 0]
        raise ValueError(f"scales={given!r}: want some of {divisors}, which divide region={region}")
    return tuple(sorted(scales))


def _bounds(given: Sequence[float] | None) -> tuple[float, float] | None:
    """Least and most of a share that is drawn. Raises ValueError unless 0 < least <= most <= 1."""
    if given is None:
        return None
    given = given.tolist() if isinstance(given, np.ndarray) else given
    pair = isinstance(given, list | tuple) and len(given) == 2
    if not pair or not 0 < number("sampled", given[0]) <= number("sampled", given[1]) <= 1:
        raise ValueError(f"sampled={given!r}: want (least, most), shares in (0, 1], or None")
    return float(given[0]), float(given[1])
