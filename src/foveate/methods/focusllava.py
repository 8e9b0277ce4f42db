"""FocusLLaVA: few tokens where the image is plain, then few where the question does not look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from foveate.compressor import Chain, Compressor, Context, language
from foveate.ops import Keep, check_keep, choice, number, refuse_unused, top, whole, windows
from foveate.sizes import scaled
from foveate.tokens import VisualTokens


class RegionSampler(Compressor):
    """The vision-guided sampler: a scale for every region. Zhu et al. 2024, arXiv:2411.14228.

    The map of projected tokens falls into regions of `region` × `region`, the last of a row and a column
    smaller. A router sees a region's mean, its maximum and the mean of the whole image, and chooses one of
    `scales`: 4 leaves of every 4 × 4 tokens their maximum, 2 of every 2 × 2, 1 leaves all. Where an image is
    cut into tiles, the view that shows it whole stays as it is and is what the router knows of the whole.

    width: of the tokens; hidden: of the router. In training `explore` adds Gumbel noise to the choice, the
    chosen tokens carry a gradient to the router through a gate whose value is 1, and `balance` weighs the
    penalty K Σ f_k P_k, with f the share of regions that chose scale k and P the mean probability, over all
    regions of a micro-batch: 1 where K scales are used alike. The router begins undecided, and undecided
    it leaves all. ValueError unless every scale divides `region`.

    Differs from the paper, of which no code is public: router, gate, noise and penalty are ours. A newline
    goes with the last token of its row, so that a row of regions at scale 4 keeps one, at scale 1 all four.
    """

    site = language(0)

    def __init__(
        self,
        width: int = 4096,
        region: int = 4,
        scales: Sequence[int] = (1, 2, 4),
        hidden: int = 512,
        explore: bool = True,
        balance: float = 0.01,
        seed: int = 0,
    ):
        super().__init__()
        self.region, self.scales = whole("region", region), _scales(scales, region)
        self.width, self.hidden = whole("width", width), whole("hidden", hidden)
        self.explore = choice("explore", explore, (True, False))
        self.balance, self.seed = number("balance", balance), seed
        drawn = {"generator"} if explore and len(self.scales) > 1 else ()
        self.needs = frozenset({"grid", "overview", *drawn})
        self.router = _router(width, hidden, len(self.scales)) if len(self.scales) > 1 else None

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """Each region at its scale. tokens.x (B, N, width)."""
        cell, region, R = self._regions(tokens, context)
        there, odds = self._odds(tokens, context, region, R)
        chosen = self._choose(odds, there, region, tokens, context)
        # Regions' numbers, brought to their tokens; what is in none stays as it is.
        side = self._of_tokens(
            torch.tensor(self.scales, device=chosen.device)[chosen], there, region
        )
        likely = odds.exp().gather(1, chosen[:, None])[:, 0]
        gate = self._of_tokens(1 + (likely - likely.detach()), there, region)
        out = _pooled(
            tokens.carry(tokens.x * gate[..., None].to(tokens.x.dtype)), cell, side, region < R
        )
        if not (self.training and self.balance and self.router is not None and len(odds)):
            return out
        used = torch.nn.functional.one_hot(chosen, len(self.scales)).float().mean(0)
        term = len(self.scales) * (used * odds.exp().mean(0)).sum()
        return replace(out, penalty=out.penalty + self.balance * term)

    def scores(self, tokens: VisualTokens, context: Context) -> Tensor:
        """(B, N) how many tokens are to be expected of each: 1 where the finest scale is certain."""
        _, region, R = self._regions(tokens, context)
        there, odds = self._odds(tokens, context, region, R)
        left = torch.tensor([1 / scale**2 for scale in self.scales], device=odds.device)
        return self._of_tokens(odds.exp() @ left, there, region)

    def _regions(self, tokens: VisualTokens, context: Context) -> tuple[Tensor, Tensor, int]:
        """The cell (B, N, 3) and the region (B, N) of each token, R for none; R, the regions there may be."""
        patch = tokens.anchor.clamp(max=context.grid.shape[1] - 1)
        cell = context.grid.gather(1, patch[..., None].expand(-1, -1, 3))
        mapped = tokens.valid & (cell[..., 1] >= 0) & ~context.overview.gather(1, patch)
        region, R = windows(cell, self.region, mapped)
        return cell, region.masked_fill(~mapped, R), R

    def _odds(
        self, tokens: VisualTokens, context: Context, region: Tensor, R: int
    ) -> tuple[Tensor, Tensor]:
        """(B, R) which regions there are, and (regions there are, K) the log-probability of each scale."""
        x, index = tokens.x, region[..., None].expand_as(tokens.x)
        count = x.new_zeros(len(x), R + 1).scatter_add(1, region, torch.ones_like(x[..., 0]))[:, :R]
        there = count > 0
        if self.router is None:
            return there, torch.zeros(int(there.sum()), 1, device=x.device)
        each = x.new_zeros(len(x), R + 1, x.shape[-1])
        mean = each.scatter_add(1, index, x)[:, :R][there] / count[there][:, None]
        most = each.scatter_reduce(1, index, x, "amax", include_self=False)[:, :R][there]
        whole_image = _whole(tokens, context)[there.nonzero()[:, 0]]
        logits = self.router(torch.cat([mean, most, whole_image], dim=-1))
        return there, logits.float().log_softmax(-1)

    def _choose(
        self, odds: Tensor, there: Tensor, region: Tensor, tokens: VisualTokens, context: Context
    ) -> Tensor:
        """(regions there are,) the scale of each, by number."""
        if self.training and self.explore and self.router is not None:
            odds = odds + self._noise(region, there, tokens, context)
        return odds.argmax(-1)

    def _noise(
        self, region: Tensor, there: Tensor, tokens: VisualTokens, context: Context
    ) -> Tensor:
        """Gumbel noise of each region's own: drawn at its first token, so that padding changes none."""
        B, N, K = *region.shape, len(self.scales)
        drawn = torch.zeros(B, N, K)
        for row, count, generator in zip(
            drawn, tokens.counts.tolist(), context.generator, strict=True
        ):
            row[:count] = torch.rand(count, K, generator=generator)
        place = torch.arange(N, device=region.device).expand_as(region)
        first = place.new_full((B, there.shape[1] + 1), N).scatter_reduce(1, region, place, "amin")
        row, _ = there.nonzero(as_tuple=True)
        uniform = drawn.to(region.device)[row, first[:, :-1][there]]
        least = torch.finfo(uniform.dtype).tiny
        return -(-uniform.clamp(min=least).log()).clamp(min=least).log()

    @staticmethod
    def _of_tokens(value: Tensor, there: Tensor, region: Tensor) -> Tensor:
        """(B, N) what holds of each token's region, 1 outside of them. value (regions there are,)."""
        table = value.new_ones(there.shape[0], there.shape[1] + 1)
        inside = torch.nn.functional.pad(there, (0, 1))
        return table.masked_scatter(inside, value).gather(1, region)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {
            "width": self.width,
            "region": self.region,
            "scales": list(self.scales),
            "hidden": self.hidden,
            "explore": self.explore,
            "balance": self.balance,
            "seed": self.seed,
        }


class TextGuided(Compressor):
    """The text-guided sampler: keep what the question looks at. Zhu et al. 2024, arXiv:2411.14228.

    Of the tokens that reach decoder layer `layer`, those stay that the instruction's words attend to most in
    the layer before, the mean over words and heads. In training, `sampled` = (least, most) draws the share
    that stays, evenly, anew for each image and step. Kept tokens keep their positions. ValueError for
    layer 0, which has no layer before it, and for bounds that are no shares.

    Differs from the paper, of which no code is public: only the words' own attention rows are computed; the
    share is drawn for an image instead of a batch, so that it does not matter how a batch is divided.
    """

    selects = True

    def __init__(
        self,
        keep: Keep = 0.5,
        layer: int = 16,
        sampled: Sequence[float] | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if layer == 0:
            raise ValueError(
                "layer=0: TextGuided reads the attention of the layer before; want layer >= 1"
            )
        self.keep, self.site = check_keep(keep), language(layer)
        self.sampled, self.seed = _bounds(sampled), seed
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
    balance: float = 0.01,
    sampled: Sequence[float] | None = None,
) -> Compressor:
    """Coarse to fine: a scale for every region, then what is asked. Zhu et al. 2024, arXiv:2411.14228.

    `RegionSampler` before the language model, `TextGuided` half way through its `layers`, or at `layer`. Of
    the tokens that reach it, `keep` stay, 0.5 unless told. only: "vision" or "text" for one of the two; all
    other arguments are theirs. The vision-guided sampler alone takes no budget. Raises ValueError for
    arguments of the sampler that is not there.
    """
    given = dict(locals())
    choice("only", only, ("vision", "text", None))
    if only == "vision" and keep is not None:
        raise ValueError(
            f"keep={keep!r}: with only='vision' the router decides how much stays, and takes no budget"
        )
    if only is not None:
        refuse_unused(f"only={only!r}", TextGuided if only == "vision" else RegionSampler, given)
    parts: list[Compressor] = []
    if only != "text":
        parts.append(RegionSampler(width, region, scales, hidden, explore, balance))
    if only != "vision":
        half = scaled(16, layers) if layer is None else layer
        parts.append(TextGuided(0.5 if keep is None else keep, half, sampled))
    return parts[0] if only else Chain(*parts)


def _router(width: int, hidden: int, scales: int) -> nn.Sequential:
    last = nn.Linear(hidden, scales)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(3 * width), nn.Linear(3 * width, hidden), nn.GELU(), last)


def _whole(tokens: VisualTokens, context: Context) -> Tensor:
    """(B, D) the mean of the view that shows the whole image; of all tokens where there is no such view."""
    patch = tokens.anchor.clamp(max=context.overview.shape[1] - 1)
    seen = context.overview.gather(1, patch) & tokens.valid
    seen = torch.where(seen.any(1, keepdim=True), seen, tokens.valid).to(tokens.x.dtype)
    return torch.einsum("bn,bnd->bd", seen, tokens.x) / seen.sum(1, keepdim=True).clamp(min=1)


def _pooled(tokens: VisualTokens, cell: Tensor, side: Tensor, mapped: Tensor) -> VisualTokens:
    """The maximum of every window as wide as its tokens say. cell (B, N, 3), side, mapped (B, N)."""
    if bool((side == 1).all()):
        return tokens
    corner = torch.cat([cell[..., :1], cell[..., 1:] // side[..., None] * side[..., None]], dim=-1)
    window, windows_there = windows(corner, 1, mapped)
    B, N, D = tokens.x.shape
    alone = windows_there + torch.arange(N, device=window.device)
    into, M = torch.where(mapped, window, alone), windows_there + N
    index = into[..., None].expand(B, N, D)
    most = tokens.x.new_zeros(B, M, D).scatter_reduce(
        1, index, tokens.x, "amax", include_self=False
    )
    return tokens.merge(into, M, most)


def _scales(given: Sequence[int], region: int) -> tuple[int, ...]:
    """The scales, all different. Raises ValueError unless each is a whole number that divides `region`."""
    scales = tuple(given) if isinstance(given, list | tuple) else ()
    each = all(isinstance(s, int) and not isinstance(s, bool) and s >= 1 for s in scales)
    if not scales or not each or len(set(scales)) < len(scales) or any(region % s for s in scales):
        divisors = [s for s in range(1, region + 1) if region % s == 0]
        raise ValueError(f"scales={given!r}: want some of {divisors}, which divide region={region}")
    return scales


def _bounds(given: Sequence[float] | None) -> tuple[float, float] | None:
    """Least and most of a share that is drawn. Raises ValueError unless 0 < least <= most <= 1."""
    if given is None:
        return None
    pair = isinstance(given, list | tuple) and len(given) == 2
    if not pair or not 0 < number("sampled", given[0]) <= number("sampled", given[1]) <= 1:
        raise ValueError(f"sampled={given!r}: want (least, most), shares in (0, 1], or None")
    return float(given[0]), float(given[1])
