"""Connectors taken apart: what pools, merges or shuffles the tower's tokens, and the projector behind it.

Letters: U units, S tokens of the tower for one unit, D and E widths.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

MERGING = ("pool", "conv", "merg")
MATRIX = "mm_input_projection_weight"  # Gemma 3's projector, a bare parameter of its connector


def mixes(connector: nn.Module, width: int | None = None) -> str | None:
    """Why tokens cannot pass a projector of the connector's one by one; None where they can.

    width: of the tokens that reach the projector, where the config says it.
    """
    if resamples(connector):
        return "the connector draws its tokens from all others"
    if not _known(connector) and _merges(connector):
        return "the connector merges windows of tokens on their way"
    linear = (m for m in apart(connector)[0].modules() if isinstance(m, nn.Linear))
    reads = next((m.in_features for m in linear), None)
    if None in (width, reads) or reads == width:
        return None
    return f"the connector reads {reads} channels at once where a token has {width}"


def apart(connector: nn.Module) -> tuple[nn.Module, Callable[..., Tensor]]:
    """The projector that maps tokens one by one, and what the connector does before it.

    The latter is called as the connector is. Its tokens are the patches, and the projector on them is
    the connector.
    """
    if hasattr(connector, MATRIX):
        return Matrix(connector, MATRIX), lambda x: _pooled(connector, x)
    if hasattr(connector, "modality_projection"):
        shuffle, factor = connector.pixel_shuffle, connector.scale_factor
        return connector.modality_projection, lambda x: shuffle(x, factor)
    if hasattr(connector, "patch_merger"):  # Mistral 3, which tells it the sizes of the images
        behind = nn.Sequential(connector.linear_1, connector.act, connector.linear_2)
        return behind, lambda x, sizes: connector.patch_merger(connector.norm(x), sizes)
    return connector, lambda x: x


def resamples(connector: nn.Module) -> bool:
    """Whether a connector asks all tokens with queries of its own, so that none stands for a place."""
    names = (name for name, _ in connector.named_modules())
    return hasattr(connector, "query") or any("resampl" in n or "perceiver" in n for n in names)


def _known(connector: nn.Module) -> bool:
    """Whether it is of a kind that `apart` takes apart."""
    if hasattr(connector, "modality_projection"):
        return hasattr(connector, "pixel_shuffle") and hasattr(connector, "scale_factor")
    return hasattr(connector, MATRIX) or hasattr(connector, "patch_merger")


def _merges(connector: nn.Module) -> bool:
    """Whether its parts' names tell of tokens that are made of several, or of their neighbours."""
    parts = [(n, m) for n, m in connector.named_modules() if type(m) is not nn.Identity]
    names = (f"{name} {type(part).__name__}".lower() for name, part in parts)
    told = any(word in name for name in names for word in MERGING)
    return told or any(_shuffles(type(part)) for _, part in parts)


@functools.cache
def _shuffles(kind: type[nn.Module]) -> bool:
    return any("shuffle" in name for name in dir(kind))


def _pooled(connector: nn.Module, x: Tensor) -> Tensor:
    """Gemma 3's tokens as its matrix reads them: pooled over the grid, then normed. x (U, S, D)."""
    side = connector.patches_per_image
    grid = x.mT.unflatten(2, (side, side)).contiguous()  # the order of its sums, bit for bit
    return connector.mm_soft_emb_norm(connector.avg_pool(grid).flatten(2).mT)


class Matrix(nn.Linear):
    """A bare matrix (D, E) of a module as the linear layer that it is. What learns is the module's own."""

    def __init__(self, owner: nn.Module, name: str):
        nn.Module.__init__(self)
        self.in_features, self.out_features = getattr(owner, name).shape
        self.bias = None
        self.__dict__.update(owner=owner, name=name)  # no second place for the owner's weights

    @property
    def weight(self) -> Tensor:
        """(E, D), as a linear layer has it."""
        return getattr(self.owner, self.name).mT

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The owner's, (D, E)."""
        yield getattr(self.owner, self.name)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, D) → (…, E), by the very product that the owner takes."""
        with _at_hand(self.owner):
            return x @ getattr(self.owner, self.name)


@contextmanager
def _at_hand(module: nn.Module) -> Iterator[None]:
    """A module's own weights in place, where accelerate brings them only for the module's own forward."""
    if not hasattr(module, "_hf_hook"):
        yield
        return
    from accelerate.utils import align_module_device  # there where its hook is

    with align_module_device(module):
        yield
