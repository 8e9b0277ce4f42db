"""LLaVA-STF: a connector that fuses blocks of the vision tower, and neighbouring tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from foveate.core import warm
from foveate.core.compressor import Compressor, Context, Site, Tower
from foveate.core.ops import Keep, stride_of, whole, windowed, windows_of
from foveate.core.spec import spoken
from foveate.core.tokens import VisualTokens

BLOCKS = 8  # how many the paper fuses, of CLIP-L's 24


class MultiBlockFusion(Compressor):
    """MBTF: fuse hidden states of several blocks of the tower. Tang and Shen 2025, arXiv:2506.07138.

    Every token is joined, channel by channel, with what it was at the hidden states `vision_layers`, and
    mapped back to one feature: Linear → GELU → Linear, no norms. As many tokens as before; the model's
    projector follows. feature_width: of the tokens; tower_width: of a hidden state; hidden: 4 ·
    feature_width unless told. Without vision_layers, `blocks_of` chooses `blocks` of them, the selected
    feature counted. final_activation adds the last GELU of the paper's figure, which the authors' code
    does not have. ValueError for sizes < 1, hidden states named twice, tokens of another width.
    """

    site = Site(Tower.features)

    def __init__(
        self,
        feature_width: int = 1024,
        tower_width: int = 1024,
        feature_layer: int = 23,
        blocks: int | None = None,
        vision_layers: Sequence[int] | None = None,
        hidden: int | None = None,
        final_activation: bool = False,
    ):
        super().__init__()
        self.feature_width = whole("feature_width", feature_width)
        self.tower_width = whole("tower_width", tower_width)
        if blocks is not None and vision_layers is not None:
            raise ValueError(f"blocks={blocks} and vision_layers={[*vision_layers]}: give one")
        chosen = blocks_of(feature_layer, blocks) if vision_layers is None else vision_layers
        self.vision_layers = tuple(whole("vision_layers", layer, least=0) for layer in chosen)
        if len(set(self.vision_layers)) < len(self.vision_layers):
            raise ValueError(f"vision_layers={[*chosen]}: want every hidden state once")
        self.needs = frozenset({"features"} if self.vision_layers else ())
        joined = feature_width + len(self.vision_layers) * tower_width
        hidden = 4 * feature_width if hidden is None else hidden
        self.mlp = _mlp(joined, hidden, feature_width, final_activation)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """The same tokens, fused. tokens.x (B, N, feature_width)."""
        _check_width(tokens.x, self.feature_width)
        blocks = [context.features[layer].to(tokens.x.dtype) for layer in self.vision_layers]
        fused = self.mlp(torch.cat([tokens.x, *blocks], dim=-1))
        return tokens.carry(fused.masked_fill(~tokens.valid[..., None], 0))

    def warm_start(self, projector: nn.Module) -> None:
        """Begin as the identity on the selected feature."""
        warm.as_identity(self.mlp, self.feature_width)

    def left(self, count: int, grid: Tensor) -> int:
        """All of them."""
        return count

    def arguments(self) -> dict[str, Any]:
        """As built."""
        return {
            "feature_width": self.feature_width,
            "tower_width": self.tower_width,
            "vision_layers": [*self.vision_layers],
            "hidden": self.mlp[0].out_features,
            "final_activation": len(self.mlp) > 3,
        }


class SpatialFusion(Compressor):
    """STF: fuse windows of neighbouring tokens into one each. Tang and Shen 2025, arXiv:2506.07138.

    In the projector's place. The patches of every `window` × `window` cells of the grid are joined, channel
    by channel, and mapped to one token of the language model: Linear → GELU → Linear. That is a
    convolution of this stride, GELU and a 1×1 convolution, and the weights lie as a convolution's do:
    (channel, row, column). feature_width: of the tokens; width: of the language model; hidden: 4 · width
    unless told; final_activation as in `MultiBlockFusion`. Fused tokens stand in reading order. The
    paper counts their positions anew: compress(…, positions="renumbered"). ValueError for sizes < 1 and
    tokens of another width.

    Differs from the paper: where a window is not full, at the edge of a grid that it does not divide or
    behind a method that dropped tokens, its nearest patch stands in for each that is missing, as in
    padding by replication; the paper's windows are full.
    """

    site = Site(Tower.projector)
    needs = frozenset({"grid"})

    def __init__(
        self,
        width: int = 4096,
        feature_width: int = 1024,
        window: int = 2,
        hidden: int | None = None,
        final_activation: bool = False,
    ):
        super().__init__()
        self.width = whole("width", width)
        self.feature_width = whole("feature_width", feature_width)
        self.window = whole("window", window)
        hidden = 4 * width if hidden is None else hidden
        self.mlp = _mlp(window**2 * feature_width, hidden, width, final_activation)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """One token for each window. tokens.x (B, N, feature_width) → (B, M, width)."""
        _check_width(tokens.x, self.feature_width)
        fused, joined = self.joined(tokens, context.grid)
        return fused.carry(self.mlp(joined).masked_fill(~fused.valid[..., None], 0))

    def joined(self, tokens: VisualTokens, grid: Tensor) -> tuple[VisualTokens, Tensor]:
        """Windows as tokens, and all cells of each side by side: (B, M, D), (B, M, D·window²)."""
        fused, cells = windowed(tokens, grid, self.window)
        return fused, rearrange(cells, "b m cell c -> b m (c cell)")

    def warm_start(self, projector: nn.Module) -> None:
        """Begin as average pooling behind the projector, exactly so in full windows.

        It takes hidden = window² times the projector's own hidden width, where it has one: with window 2
        what there is unless told. Raises ValueError as `warm.as_pooling` does.
        """
        warm.as_pooling(self.mlp, projector, self.window**2)

    def left(self, count: int, grid: Tensor) -> int | None:
        """One for each window."""
        return windows_of(grid, self.window, count)

    def arguments(self) -> dict[str, Any]:
        """As built."""
        return {
            "width": self.width,
            "feature_width": self.feature_width,
            "window": self.window,
            "hidden": self.mlp[0].out_features,
            "final_activation": len(self.mlp) > 3,
        }


class LLaVASTF(Compressor):
    """Multi-block fusion, then spatial fusion: a connector. Tang and Shen 2025, arXiv:2506.07138.

    In the projector's place. Arguments are those of `MultiBlockFusion`, whose hidden width is
    `block_hidden` here, and of `SpatialFusion`. For LLaVA-1.5-7B, as it is by default: 172.0 M parameters,
    41.1 GMAC and 144 tokens an image.
    """

    site = Site(Tower.projector)

    def __init__(
        self,
        width: int = 4096,
        feature_width: int = 1024,
        tower_width: int = 1024,
        feature_layer: int = 23,
        blocks: int | None = None,
        vision_layers: Sequence[int] | None = None,
        window: int = 2,
        hidden: int | None = None,
        block_hidden: int | None = None,
        final_activation: bool = False,
    ):
        super().__init__()
        tower = feature_width, tower_width, feature_layer, blocks, vision_layers
        self.multi_block = MultiBlockFusion(*tower, block_hidden, final_activation)
        self.spatial = SpatialFusion(width, feature_width, window, hidden, final_activation)
        self.vision_layers = self.multi_block.vision_layers
        self.needs = self.multi_block.needs | self.spatial.needs

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """One token for each window. tokens.x (B, N, feature_width) → (B, M, width)."""
        return self.spatial(self.multi_block(tokens, context), context)

    def warm_start(self, projector: nn.Module) -> None:
        """Begin as average pooling behind the projector. Raises ValueError as `warm.as_pooling` does."""
        self.spatial.warm_start(projector)
        self.multi_block.warm_start(projector)

    def left(self, count: int, grid: Tensor) -> int | None:
        """One for each window."""
        return self.spatial.left(count, grid)

    def arguments(self) -> dict[str, Any]:
        """As built."""
        blocks, spatial = self.multi_block.arguments(), self.spatial.arguments()
        return {**blocks, **spatial, "block_hidden": blocks["hidden"]}


@spoken
def llava_stf(
    keep: Keep | None = None,
    window: int | None = None,
    only: str | None = None,
    width: int = 4096,
    feature_width: int = 1024,
    tower_width: int = 1024,
    feature_layer: int = 23,
    blocks: int | None = None,
    vision_layers: Sequence[int] | None = None,
    hidden: int | None = None,
    block_hidden: int | None = None,
    final_activation: bool = False,
) -> Compressor:
    """Fuse blocks of the tower, then windows of patches. Tang and Shen 2025, arXiv:2506.07138.

    keep: 1/window², a quarter unless told. only: "stf" for `SpatialFusion`, "mbtf" for
    `MultiBlockFusion`, which keeps all tokens; None for both, `LLaVASTF`. Raises ValueError for other
    shares, and for arguments that mean nothing together.
    """
    if only not in (None, "stf", "mbtf"):
        raise ValueError(f"only={only!r}: want 'stf', 'mbtf', or None for both")
    window = _window(keep, window, only)
    tower = feature_width, tower_width, feature_layer, blocks, vision_layers
    if only == "stf":
        _refuse(
            "fuses no blocks", blocks=blocks, vision_layers=vision_layers, block_hidden=block_hidden
        )
        return SpatialFusion(width, feature_width, window, hidden, final_activation)
    if only == "mbtf":
        _refuse("fuses no windows: want block_hidden", hidden=hidden)
        return MultiBlockFusion(*tower, block_hidden, final_activation)
    return LLaVASTF(width, *tower, window, hidden, block_hidden, final_activation)


def blocks_of(feature_layer: int, blocks: int | None = None) -> tuple[int, ...]:
    """The hidden states to fuse with that of `feature_layer`, evenly spaced, deepest first.

    `blocks` counts the selected one; unless told, 8 or as many as there are. Of CLIP-L's 23rd, 8 are the
    paper's 21, 18, … 3 and 4 are its 18, 12, 6. Raises ValueError for more than there are.
    """
    most = max(1, whole("feature_layer", feature_layer, least=0))
    blocks = min(BLOCKS, most) if blocks is None else whole("blocks", blocks)
    if blocks > most:
        raise ValueError(
            f"blocks={blocks}: the tower gives at most {most}, the selected one included"
        )
    return tuple((feature_layer + 1) * i // blocks for i in range(blocks - 1, 0, -1))


def _mlp(width: int, hidden: int, out: int, final_activation: bool) -> nn.Sequential:
    hidden = whole("hidden", hidden)
    last = [nn.GELU()] if final_activation else []
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out), *last)


def _window(keep: Keep | None, window: int | None, only: str | None) -> int:
    """The side of the windows that a share, a side or neither asks for."""
    if keep is not None and window is not None:
        raise ValueError(f"keep={keep!r} and window={window!r} say the same thing: give one")
    if only == "mbtf" and (keep not in (None, 1.0) or window not in (None, 1)):
        raise ValueError(f"keep={keep!r}, window={window!r}: only='mbtf' keeps all tokens")
    if keep is not None:
        return stride_of(keep, dims=2)
    return 2 if window is None else window


def _refuse(why: str, **given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name}={value!r}: this part {why}")


def _check_width(x: Tensor, width: int) -> None:
    if x.shape[-1] != width:
        raise ValueError(
            f"tokens of width {x.shape[-1]} for a connector that reads {width}: for_model(model) takes "
            "the model's own"
        )
