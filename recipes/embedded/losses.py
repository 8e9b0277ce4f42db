"""What the vision tower is asked besides the answers: what every patch shows, what the scene holds."""

import torch
from batches import IGNORE, PATCH_LABELS, Batch
from model import SIDE, WIDTH
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.patchqa.words import BACKGROUNDS

IN_SCENE = {"present": 82, "background": len(BACKGROUNDS), "count": 10}


class Teacher(nn.Module):
    """Linear readings of the tower's patches and of its class token; thrown away after training."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, sum(PATCH_LABELS.values()))
        )
        self.scene = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, sum(IN_SCENE.values())))
        self.find = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * SIDE))
        rare = torch.ones(2)
        rare[1] = 5  # few patches hold a centre
        self.register_buffer("center_weight", rare)

    def forward(
        self, patches: Tensor, token: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and accuracies; patches (B, P, D), class token (B, D)."""
        readings = self.patch(patches).flatten(0, 1).split(list(PATCH_LABELS.values()), dim=-1)
        labels = batch.patches.flatten(0, 1)
        loss, right = torch.zeros(()), {}
        for number, (name, reading) in enumerate(zip(PATCH_LABELS, readings, strict=True)):
            weight = self.center_weight if name == "center" else None
            part = F.cross_entropy(reading, labels[:, number], weight)
            # Eight scenes may hold no digit at all: the mean over nothing is not a number.
            loss = loss + part.nan_to_num()
            asked = labels[:, number] > (0 if name in ("kind", "center") else -1)
            hit = (reading.argmax(dim=-1) == labels[:, number]) & asked
            right[name] = hit.sum() / asked.sum().clamp(min=1)
        holds, background, count = self.scene(token).split(list(IN_SCENE.values()), dim=-1)
        scene_loss = 10 * F.binary_cross_entropy_with_logits(holds, batch.present)
        scene_loss = scene_loss + F.cross_entropy(background, batch.background)
        scene_loss = scene_loss + F.cross_entropy(count, batch.count)
        right["background"] = (background.argmax(dim=-1) == batch.background).float().mean()
        right["count"] = (count.argmax(dim=-1) == batch.count).float().mean()
        return loss + 0.3 * scene_loss, right

    def named(self, words: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of the places of named things, read off words halfway up, (B, K, T, D)."""
        asked = batch.named[..., 0] != IGNORE
        row, column = self.find(words[asked]).split(SIDE, dim=-1)
        truth = batch.named[asked]
        loss = F.cross_entropy(row, truth[:, 0]) + F.cross_entropy(column, truth[:, 1])
        hit = (row.argmax(dim=-1) == truth[:, 0]) & (column.argmax(dim=-1) == truth[:, 1])
        return loss, hit.float().mean()
