"""Compressors made to find mistakes of the host: ragged, learning, looking at what they should not."""

from __future__ import annotations

import inspect
from functools import partial
from itertools import chain, product

import numpy as np
import torch
from families import LAYERS
from PIL import Image
from torch import nn

from foveate.core.compressor import Compressor, Site, Tower, language
from foveate.core.ops import top
from foveate.core.sizes import sized
from foveate.methods import METHODS, DepthwiseConv, Pool, TextGuided, VisionZip


class Ragged(Compressor):
    """Keeps what the content says, so every image keeps another number; learns, and adds a penalty."""

    def __init__(self, width: int = 64, layer: int = 0):
        super().__init__()
        self.site = language(layer)
        torch.manual_seed(3)
        self.gate = nn.Linear(width, 1)

    def forward(self, tokens, context):
        gate = self.gate(tokens.x)[..., 0]
        first = torch.arange(gate.shape[1]) == 0
        scaled = tokens.carry(tokens.x * (1 + gate.sigmoid()[..., None] / 10))
        out = scaled.where((gate > 0) | first)
        penalty = (gate.sigmoid() * tokens.valid).sum() / tokens.valid.sum()
        return type(out)(out.x, out.owner, out.valid, out.penalty + 0.1 * penalty)

    def arguments(self):
        return {"width": self.gate.in_features, "layer": self.site.layer}


class Asked(Compressor):
    """Keeps the tokens most like the instruction; with weights, in the projector's place.

    Without a feature_width it stands behind a projector that does not take tokens one by one.
    """

    needs = frozenset({"text", "text_mask"})

    def __init__(self, feature_width: int | None = 32, width: int = 64, keep: int = 5):
        super().__init__()
        self.feature_width, self.keep = feature_width, keep
        self.site = language(0) if feature_width is None else Site(Tower.projector)
        torch.manual_seed(4)
        self.project = nn.Linear(feature_width or width, width)

    def forward(self, tokens, context):
        tokens = tokens.carry(self.project(tokens.x))
        mask = context.text_mask[..., None]
        asked = (context.text * mask).sum(1) / mask.sum(1).clamp(min=1)
        score = torch.cosine_similarity(tokens.x, asked[:, None], dim=-1)
        return tokens.where(top(score, self.keep, tokens.valid))

    def arguments(self):
        widths = {"feature_width": self.feature_width, "width": self.project.out_features}
        return widths | {"keep": self.keep}


class Reads(Compressor):
    """Writes what it reads into every second token; notes the words, their mask and what came out.

    The order of the words counts, and their number. With a feature_width, in the projector's place.
    """

    def __init__(self, feature_width: int | None = None, width: int = 64, optional: bool = False):
        super().__init__()
        self.feature_width = feature_width
        self.site = language(0) if feature_width is None else Site(Tower.projector)
        self.needs = frozenset({"text", "text_mask"})
        self.optional = self.needs if optional else frozenset()
        self.seen: list[tuple] = []
        torch.manual_seed(5)
        self.project = nn.Linear(feature_width or width, width)
        self.listen = nn.Linear(width, width)

    def forward(self, tokens, context):
        text, mask = context.text, context.text_mask
        place = 1 + torch.arange(mask.shape[1])
        heard = torch.tanh(self.listen(text)) * (mask / place.sqrt())[..., None]
        tokens = tokens.carry(self.project(tokens.x) + heard.sum(1, keepdim=True))
        out = tokens.where(torch.arange(tokens.x.shape[1]) % 2 == 0)
        self.seen.append((text.detach(), mask, out.x.detach()))
        return out

    def arguments(self):
        return {"feature_width": self.feature_width, "width": self.project.out_features}


def opened(method: DepthwiseConv, gate: float = 0.7) -> DepthwiseConv:
    """With weights that are always the same, and a gate that lets something through."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in method.parameters():
            p.copy_(torch.rand(p.shape, generator=draw) - 0.5)
        method.gate.fill_(gate)
    return method


def drawn(method: Compressor) -> Compressor:
    """With weights that are always the same, and tokens about as loud as a small model's projector's."""
    draw = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for p in method.parameters():
            p.normal_(0, 0.12, generator=draw)
    return method


def routed(method: Compressor, seed: int = 7, loud: float = 4.0) -> Compressor:
    """With routers that decide, and always alike: one that was never trained keeps all."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in method.parts():
            *known, last = [m for m in part.modules() if isinstance(m, nn.Linear)] or [None]
            for layer in known:
                layer.weight.normal_(0, layer.in_features**-0.5, generator=draw)
            if last is not None:
                last.weight.normal_(0, loud * last.in_features**-0.5, generator=draw)
    return method


def made(make, family) -> Compressor:
    """A method with the model's sizes, behind the projector where nothing can stand before it."""
    moves = family.projected is None and "projected" in inspect.signature(make).parameters
    return sized(make, family.config(), **({"projected": True} if moves else {}))


def zipped(family, keep) -> VisionZip:
    """VisionZip, behind the projector where nothing can stand before it."""
    return made(partial(VisionZip, keep), family)


def asked(family) -> Asked:
    """Asked, in the projector's place where it can stand there."""
    return Asked(family.projected)


OF_TOWER = ("cls_attention", "keys", "features", "attentions", "received")


class Looks(Compressor):
    """Keeps everything, and what it was shown; in the projector's place, as many tokens of nothing."""

    vision_layers = (3, 0, 4)
    vision_blocks = (1, -1)

    def __init__(self, site: Site, needs=OF_TOWER):
        super().__init__()
        self.site, self.needs, self.seen = site, frozenset(needs), []
        self.selects = site.tower is not Tower.projector

    def forward(self, tokens, context):
        self.seen.append((tokens, context))
        return tokens if self.selects else tokens.carry(tokens.x.new_zeros(*tokens.x.shape[:2], 64))

    def arguments(self):
        return {}


PromptRows = partial(TextGuided, layer=2)  # FastV with the mean over the instruction's rows


class Replay(Compressor):
    """Keeps what another run kept."""

    def __init__(self, site, owner):
        super().__init__()
        self.site, self.owner = site, owner

    def forward(self, tokens, context):
        return tokens.where(self.owner >= 0)

    def arguments(self):
        return {}


# Keep-all settings of every method that selects: identity, bit for bit.
SELECTING = (
    "identity random stride pool crop fastv sparsevlm pyramiddrop dart v2drop visionzip fastervlm vispruner "
    "prumerge prumerge_plus hired vscan hiprune holov scope divprune cdpruner evs fovea kmeans vccattention"
)
DEEP = {"sparsevlm", "pyramiddrop", "v2drop", "vscan"}  # their layers are those of the small models
SELECT = {
    slug: partial(METHODS[slug], keep=1.0, **({"layers": LAYERS} if slug in DEEP else {}))
    for slug in SELECTING.split()
}
SELECT["pool inside"] = partial(Pool, 1, layer=2)


def views(*sizes: tuple[int, int]) -> torch.Tensor:
    """(1, P, 3) the cells of views of these rows and columns, one behind the other."""
    cells = [product([v], range(rows), range(columns)) for v, (rows, columns) in enumerate(sizes)]
    return torch.tensor([[*chain(*cells)]])


def image(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    """Noise of some size."""
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
