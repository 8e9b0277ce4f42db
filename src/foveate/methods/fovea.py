"""Fovea: small tokens where the question looks, large ones elsewhere; any budget from one checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import Keep, budget, check_keep, choice, number, whole
from foveate.core.sampled import budgets, shares
from foveate.core.tokens import VisualTokens
from foveate.core.tree import tree

WEIGHTS = ("even", "attention", "question")
VECTORS = ("outlier", "medoid", "mean")
SPLITS = ("detail", "size")
FLOOR = 1e-3  # of a weight, beside a mean of one: what nobody asks about is still seen
SIZES = 16  # embeddings: of leaves of 2, 4, 8, … tokens


class Fovea(Compressor):
    """Split the picture where detail pays, until the budget is spent. Our own: no paper.

    A tree of rectangles over the grid; every leaf is one token, so nothing is dropped and any budget is met
    exactly, in each image. A rectangle costs what is lost if its tokens become their weighted mean, and the
    splits that save most are made. A smaller budget's tree is contained in a larger one's.

    weights: "even"; "attention", what the tower's class token gives each patch; or "question", a small
    trained scorer of the tokens against the instruction's words, softmax over the image. vector: without
    training a leaf becomes one of its tokens, the "outlier" least like the image's mean or the "medoid" most
    like the leaf's own; with training the "mean" itself, with an embedding of its size. The weights that
    blend are those that split, so the language model's loss teaches them. splits: "detail"; or "size", the
    largest rectangle first: a fixed grid of any number of cells, whatever is seen or asked. focus: the power
    of the weights that splits are made by: above 1, what is asked about is split further before the rest. A
    loss teaches how a leaf blends, and not which leaves there are, so a scorer alone stays too soft.
    sampled: (least, most) shares; in training each image draws its budget between them, evenly in the
    logarithm, which makes one checkpoint serve any budget. width: of the language model, where something is
    trained; hidden: of the scorer. Raises ValueError for others.
    """

    selects = True

    def __init__(
        self,
        keep: Keep = 64,
        weights: str = "even",
        vector: str = "outlier",
        width: int | None = 4096,
        hidden: int = 64,
        splits: str = "detail",
        focus: float = 1.0,
        sampled: Sequence[float] | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.keep, self.site = check_keep(keep), language(0)
        self.weights = choice("weights", weights, WEIGHTS)
        self.vector = choice("vector", vector, VECTORS)
        self.splits = choice("splits", splits, SPLITS)
        trained = self.weights == "question" or self.vector == "mean"
        width = whole("width", width) if trained or width is not None else None
        self.width = width if trained else None  # nothing else depends on it
        self.hidden, self.focus = whole("hidden", hidden), number("focus", focus)
        self.sampled = shares(sampled)
        self.seed, self.elastic = whole("seed", seed, least=0), self.sampled is not None
        reads = {"attention": {"cls_attention"}, "question": {"text", "text_mask"}}
        self.needs = frozenset({"grid"} | reads.get(self.weights, set()))
        self.optional = frozenset({"text", "text_mask"}) & self.needs
        if self.elastic:
            self.needs |= {"generator"}
        if self.weights == "question":
            self.scorer = Scorer(self.width, self.hidden)
        if self.vector == "mean":
            self.size = nn.Parameter(torch.zeros(SIZES, self.width))

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """Leaves of each image's tree. tokens.x (B, N, D)."""
        n = self._budgets(tokens, context)
        if bool((n >= tokens.counts[:, None]).all()):
            return tokens
        weight = self.weight(tokens, context)
        with torch.no_grad():
            leaf = self._leaves(tokens, context.grid, self._focused(weight, tokens), n)
        M = 2 * tokens.x.shape[1]
        return tokens.merge(leaf, M, self._vectors(tokens, leaf, weight, M))

    @property
    def looks(self) -> nn.Module | None:
        """The scorer, where there is one."""
        return getattr(self, "scorer", None)

    def weight(self, tokens: VisualTokens, context: Context) -> Tensor:
        """(B, N) what each token counts, float32; of the valid ones, one in the mean."""
        if self.weights == "even":
            return tokens.size.float().clamp(min=1)
        asked = self.weights == "question"
        share = self.scorer(tokens, context) if asked else context.cls_attention.float()
        share = share.masked_fill(~tokens.valid, 0)
        even = share.sum(1, keepdim=True).clamp(min=torch.finfo(share.dtype).tiny)
        return share / even * tokens.counts[:, None] + FLOOR

    def scores(self, tokens: VisualTokens, context: Context) -> Tensor | None:
        """What each token counts; None where all count the same."""
        return None if self.weights == "even" else self.weight(tokens, context)

    def _budgets(self, tokens: VisualTokens, context: Context) -> Tensor:
        """(B, 1) how many leaves each image gets: drawn in training, where a range is given."""
        count = tokens.counts[:, None]
        if self.training and self.elastic:
            return budgets(self.sampled, context.generator, count)
        return budget(self.keep, count)

    def _focused(self, weight: Tensor, tokens: VisualTokens) -> Tensor:
        """(B, N) the weights that splits are made by, one in the mean as before."""
        if self.focus == 1:
            return weight
        sharp = weight.pow(self.focus).masked_fill(~tokens.valid, 0)
        return sharp / sharp.sum(1, keepdim=True) * tokens.counts[:, None] + FLOOR

    def _leaves(self, tokens: VisualTokens, grid: Tensor, weight: Tensor, n: Tensor) -> Tensor:
        """(B, N) the leaf of each token, images of one layout together."""
        patch = tokens.anchor.clamp(max=grid.shape[1] - 1)
        cells = grid.gather(1, patch[..., None].expand(-1, -1, 3))
        cells = cells.masked_fill(~tokens.valid[..., None], -9)
        layouts, which = cells.flatten(1).unique(dim=0, return_inverse=True)
        leaf = torch.zeros_like(patch)
        for i in range(len(layouts)):
            rows = (which == i).nonzero()[:, 0]
            N = int(tokens.counts[rows[0]])
            x = normalize(tokens.x[rows, :N].float(), dim=-1)  # models have tokens of huge norms
            if self.splits == "size":
                x = torch.zeros_like(
                    x[..., :1]
                )  # every split is worth the same: large ones come first
            leaf[rows, :N] = tree(cells[rows[0], :N]).cut(x, weight[rows, :N], n[rows])
        return leaf

    def _vectors(self, tokens: VisualTokens, leaf: Tensor, weight: Tensor, M: int) -> Tensor:
        """(B, M, D) what each leaf becomes; a token alone stays as it is."""
        weight = weight * tokens.valid
        x, at = tokens.x.float(), leaf[..., None].expand_as(tokens.x)
        total = weight.new_zeros(len(x), M).scatter_add(1, leaf, weight)
        many = weight.new_zeros(len(x), M).scatter_add(1, leaf, tokens.valid.to(weight))
        part = (weight / total.gather(1, leaf).clamp(min=FLOOR * FLOOR)).unsqueeze(-1)
        part = torch.where(many.gather(1, leaf)[..., None] == 1, 1.0, part)
        mean = x.new_zeros(len(x), M, x.shape[-1]).scatter_add(1, at, x * part)
        if self.vector == "mean":
            step = many.clamp(min=1).log2().ceil().long().clamp(max=SIZES - 1)
            told = self.size.float()[step].masked_fill((many <= 1)[..., None], 0)
            return (mean + told).to(tokens.x.dtype)
        one = self._one(tokens, leaf, mean.gather(1, at), M)
        return tokens.x.gather(1, one[..., None].expand_as(mean))

    def _one(self, tokens: VisualTokens, leaf: Tensor, mean: Tensor, M: int) -> Tensor:
        """(B, M) the token that stands for each leaf, the first of equals. mean (B, N, D) of its leaf."""
        unit, N = normalize(tokens.x.float(), dim=-1), leaf.shape[1]
        if self.vector == "outlier":
            every = (unit * tokens.valid[..., None]).sum(1, keepdim=True)
            far = (unit * every).sum(-1)
        else:
            far = -(unit * mean).sum(-1)
        far = far.masked_fill(~tokens.valid, torch.inf)
        least = far.new_full((len(far), M), torch.inf).scatter_reduce(1, leaf, far, "amin")
        place = torch.arange(N, device=far.device).expand_as(leaf)
        place = place.masked_fill(far > least.gather(1, leaf), N)
        return place.new_full((len(far), M), N - 1).scatter_reduce(1, leaf, place, "amin")

    def arguments(self) -> dict[str, Any]:
        """As given."""
        sampled = None if self.sampled is None else list(self.sampled)
        names = ("keep", "weights", "vector", "width", "hidden", "splits", "focus")
        return {name: getattr(self, name) for name in names} | {
            "sampled": sampled,
            "seed": self.seed,
        }


class Scorer(nn.Module):
    """How much the words ask about each token: keys against queries, the best words speak.

    And a term of the token's own, which begins at zero. width: of tokens and words.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.token, self.word = nn.LayerNorm(width), nn.LayerNorm(width)
        self.key, self.query = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.own = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.own.weight)

    def forward(self, tokens: VisualTokens, context: Context) -> Tensor:
        """(B, N) shares of the question's look, softmax over an image's tokens; float32."""
        kind = self.key.weight.dtype
        x = self.token(tokens.x.to(kind))
        query = self.query(self.word(context.text.to(kind)))
        match = (query @ self.key(x).mT).float() / math.sqrt(query.shape[-1])  # (B, T, N)
        silent = ~context.text_mask.any(1, keepdim=True)
        unsaid = ~(context.text_mask | silent)[..., None]
        heard = match.masked_fill(unsaid, -torch.inf).logsumexp(1).masked_fill(silent, 0.0)
        score = heard + self.own(x).float().squeeze(-1)
        return score.masked_fill(~tokens.valid, -torch.inf).softmax(1)
