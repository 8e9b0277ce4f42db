"""A whole CLIP model: what the vision tower of a LMM left behind, pictures and words in one space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from foveate.hosts import reading
from foveate.hosts.files import Unreadable


class CLIP(nn.Module):
    """The text tower of a CLIP checkpoint, and what brings states of its vision tower beside it.

    path: a folder or Hub id. Its vision tower's blocks are let go: the LMM has them. Raises ValueError for
    what is no CLIP model.
    """

    def __init__(self, path: str | Path):
        super().__init__()
        clip, self.tokenizer = reading.tower(path), reading.tokenizer(path)
        if clip.config.model_type != "clip":
            raise Unreadable(f"{path}: a {clip.config.model_type} is no CLIP")
        clip = clip.eval().requires_grad_(False)
        self.text_model, self.text_projection = clip.text_model, clip.text_projection
        self.norm, self.projection = clip.vision_model.post_layernorm, clip.visual_projection

    def see(self, x: Tensor) -> Tensor:
        """States of the vision tower (B, N, C) in the common space (B, N, E)."""
        width = self.norm.normalized_shape[0]
        if x.shape[-1] != width:
            raise ValueError(
                f"this CLIP's vision tower is {width} wide, the model's {x.shape[-1]}: want the CLIP "
                "that the model's vision tower is from"
            )
        return self.projection(self.norm(x.to(self.norm.weight.dtype)))

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts in the common space (B, S, E), long ones in pieces, and which there are (B, S)."""
        pieces = [self._pieces(text) for text in texts]
        flat = [piece for own in pieces for piece in own]
        device = self.text_projection.weight.device
        ids = pad_sequence(flat, batch_first=True, padding_value=self.tokenizer.eos_token_id)
        ids = ids.to(device)
        mask = torch.arange(ids.shape[1], device=device) < torch.tensor(
            [[len(piece)] for piece in flat], device=device
        )
        read = self.text_model(input_ids=ids, attention_mask=mask.long()).pooler_output
        rows = self.text_projection(read).split([len(own) for own in pieces])
        there = [
            torch.full((len(own),), bool(text), device=device)
            for own, text in zip(pieces, texts, strict=True)
        ]
        return pad_sequence(list(rows), batch_first=True), pad_sequence(there, batch_first=True)

    def _pieces(self, text: str) -> list[Tensor]:
        """The tokens of a text, in pieces that the tower has positions for, each begun and ended."""
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        room = self.text_model.config.max_position_embeddings - 2
        starts = range(0, max(1, len(ids)), room)
        return [torch.tensor([begin, *ids[start : start + room], end]) for start in starts]
