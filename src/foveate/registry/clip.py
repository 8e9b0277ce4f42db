"""CDPruner as it is published: with a CLIP text tower beside the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.core.compressor import Context
from foveate.core.ops import Keep, whole
from foveate.core.tokens import VisualTokens
from foveate.hosts import reading
from foveate.hosts.clip import CLIP
from foveate.methods import CDPruner


class CLIPCDPruner(CDPruner):
    """CDPruner, whose relevance is CLIP's own cosine of patch and question. arXiv:2506.10967.

    clip: folder or Hub id of the CLIP that the model's vision tower is from; words: of the model's own
    tokenizer, which turns the prompt's tokens back into words. feature_layer: the hidden state of the tower
    that is the feature (`foveate.sized` takes it from the model). A question that is too long for CLIP is
    read in pieces, whose relevance is averaged. A saved model comes back by
    `from_pretrained(path, CLIPCDPruner(…))`. Raises ValueError for folders that hold neither.

    Differs from the paper: each image is brought to (0, 1] by itself and not with its batch; a piece of a
    long question begins and ends as a text does.
    """

    needs = frozenset({"features", "text_ids", "text_mask"})
    optional = frozenset({"text_ids", "text_mask"})

    def __init__(
        self,
        keep: Keep = 64,
        clip: str = "openai/clip-vit-large-patch14-336",
        words: str = "llava-hf/llava-1.5-7b-hf",
        side: str = "away",
        feature_layer: int = 23,
    ):
        super().__init__(keep, side)
        self.feature_layer = whole("feature_layer", feature_layer)
        self.vision_layers = (self.feature_layer,)
        self.paths = {"clip": str(clip), "words": str(words)}
        self.clip = CLIP(clip)
        self.tokenizer = reading.tokenizer(words)

    @torch.no_grad()
    def compared(self, tokens: VisualTokens, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Patches (B, N, E) and pieces of the question (B, S, E) as CLIP has them, and which there are."""
        pairs = zip(context.text_ids, context.text_mask, strict=True)
        said = [self.tokenizer.decode(i[m], skip_special_tokens=True).strip() for i, m in pairs]
        words, there = self.clip.read(said)
        return self.clip.see(context.features[self.feature_layer]), words, there

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {**super().arguments(), **self.paths, "feature_layer": self.feature_layer}
