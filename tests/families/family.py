"""What all families share: a small model whose answers are decided, and batches around its images."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from .prompts import (
    BOS,
    EOS,
    IMAGE,
    MIXED,
    ONE,
    PAD,
    SHORT,
    TEXT,
    TEXT_IDS,
    VIDEO,
    VIDEO_AND_IMAGE,
    VOCABULARY,
    Prompt,
)
from .sight import Sight, cells, squares

LAYERS = 5
TYPES = ("mm_token_type_ids", "token_type_ids")
PER_TOKEN = ("input_ids", "attention_mask", *TYPES)


@dataclass(frozen=True)
class Visual:
    """One image or video of a batch.

    ids: what it puts into the prompt, placeholders with the markers around them.
    parts: its share of each pixel argument, to be joined along the first dimension.
    lines: of its placeholders, the rows of patches that a newline embedding follows.
    images: as how many images compressors see it: frames of a video may be images.
    sight: what its patches show.
    """

    ids: list[int]
    parts: dict[str, Tensor]
    sight: Sight
    lines: tuple[range, ...] = ()
    images: int = 1


@dataclass(frozen=True)
class Stand:
    """Where an image or video stands: its prompt, the columns of its patches, and its newlines.

    newlines: the column of each, and the patches of the row it closes.
    """

    prompt: int
    patches: list[int]
    newlines: list[tuple[int, range]]


class Family:
    """A family of models. A subclass has `name`, `model_class`, `config`, and what is its own.

    By default an image is a square of 32 pixels and 16 placeholders, with `around` it what the
    processor puts before and behind.
    """

    name: str
    model_class: type
    image_id = IMAGE
    video_id: int | None = None  # None: frames of a video are images, with the image's placeholder
    takes_video = False
    class_token = False  # whether the vision tower has one
    own_positions = False  # the model counts positions in three dimensions itself
    projected: int | None = None  # width that the projector reads, where it takes tokens one by one
    answer_type = 0  # the token type of an answer
    offloads = True  # the bare model generates with all weights offloaded by accelerate
    layers = LAYERS
    selected_block = 3  # of the tower's blocks, that which makes the features
    thins = False  # compressors may act in the tower
    merged = 1  # side of the windows of the tower's tokens that make a patch
    patches = 16
    overview: int | None = None  # of an image's several views, that which shows it whole
    around: tuple[list[int], list[int]] = ([], [])

    def config(self):
        raise NotImplementedError

    def model(self, attention: str = "sdpa"):
        """A fresh model; the same weights every time."""
        torch.manual_seed(0)
        config = self.config()
        config._attn_implementation = attention
        model = self.model_class(config)
        # Random logits of small models tie nearly; larger weights keep greedy decoding decided.
        # Drawn anew, because some families begin with zeros, or with towers as loud as this.
        with torch.no_grad():
            for name, p in model.named_parameters():
                if p.dim() >= 2 and "embed" not in name:
                    p.normal_(0, 0.12)
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = PAD
        # An answer of placeholders and markers is none.
        model.generation_config.suppress_tokens = list(range(TEXT_IDS[1], VOCABULARY))
        return model.eval()

    def inputs(self, prompts=(ONE, SHORT), padding: str = "left", seed: int = 1) -> dict:
        """A batch of prompts as the family's processor makes it."""
        draw = torch.Generator().manual_seed(seed)
        texts = [
            [
                torch.randint(*TEXT_IDS, (n,), generator=draw).tolist()
                for n in p.parts
                if isinstance(n, int)
            ]
            for p in prompts
        ]
        rows = self.visuals(prompts, draw)
        ids = [self.row(*parts) for parts in zip(prompts, texts, rows, strict=True)]
        ids, mask = padded(ids, padding)
        return {"input_ids": ids, "attention_mask": mask} | self.types(ids) | self.pixels(rows)

    def single(self, batch: dict, prompts, i: int) -> dict:
        """Row i of a batch, alone and without padding."""
        real = batch["attention_mask"][i].bool()
        alone = {name: batch[name][i : i + 1, real] for name in PER_TOKEN if name in batch}
        rows = self.visuals(prompts, torch.Generator())
        before = self.joined(rows[:i])
        for name, mine in self.pixels(rows[i : i + 1]).items():
            first = len(before.get(name, ()))
            size = tuple(map(slice, mine.shape[1:]))
            alone[name] = batch[name][first : first + len(mine)][:, *size]
        return alone

    def longer(self, batch: dict, ids: Tensor) -> dict:
        """The batch with an answer behind each prompt. ids (B, more than before)."""
        added = ids.shape[1] - batch["input_ids"].shape[1]
        pad = torch.nn.functional.pad
        mask = pad(batch["attention_mask"], (0, added), value=1)
        types = {n: pad(batch[n], (0, added), value=self.answer_type) for n in TYPES if n in batch}
        return {**batch, **types, "input_ids": ids, "attention_mask": mask}

    def answered(self, batch: dict, labels: Tensor) -> dict:
        """The batch where all behind the first label is an answer, as the processor marks it."""
        types = batch.get("token_type_ids")
        if types is None or not self.answer_type:
            return dict(batch)
        behind = (labels != -100).cumsum(1) > 0
        return {**batch, "token_type_ids": types.masked_fill(behind, self.answer_type)}

    def stands(self, prompts, ids: Tensor) -> list[Stand]:
        """Where the images of a batch stand, and then its videos, as compressors see them. ids (B, S)."""
        kinds = [kind for kind in (self.image_id, self.video_id) if kind is not None]
        found: dict[int, list[Stand]] = {kind: [] for kind in kinds}
        visuals = self.visuals(prompts, torch.Generator())
        for b, row in enumerate(visuals):
            for kind, stands in found.items():
                columns = (ids[b] == kind).nonzero()[:, 0].tolist()
                for v in (v for v in row if kind in v.ids):
                    size = v.ids.count(kind) // v.images
                    for _ in range(v.images):
                        mine, columns = columns[:size], columns[size:]
                        stands.append(Stand(b, *apart(mine, v.lines)))
        return [stand for stands in found.values() for stand in stands]

    def sights(self, prompts) -> dict[str, list[Sight]]:
        """What each image shows, and each video, as compressors see them."""
        found: dict[str, list[Sight]] = {"image": [], "video": []}
        for row in self.visuals(prompts, torch.Generator()):
            for v in row:
                modality = "video" if self.video_id in v.ids else "image"
                found[modality] += v.sight.split(v.images)
        return found

    def batches(self) -> dict[str, tuple[Prompt, ...]]:
        """Batches of everything a family can see."""
        videos = (VIDEO, VIDEO_AND_IMAGE, TEXT)
        return {"images": MIXED} | ({"videos": videos} if self.takes_video else {})

    def positions(self, batch: dict) -> dict:
        """Positions as generate counts them: those of a padded row are those of the row alone."""
        if self.own_positions:
            return {}
        return {"position_ids": (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)}

    def sight(self, views: int) -> Sight:
        """Square views of 16 patches, with a class token in front of each where there is one."""
        weights = squares(views, 4, 4, self.merged, skip=int(self.class_token))
        return Sight(cells(views, 4, 4), weights, self.merged**2)

    @property
    def placeholders(self) -> Tensor:
        """The ids that stand for an image or a video."""
        return torch.tensor(sorted({self.image_id, self.video_id} - {None}))

    # What a family may have of its own.

    def image(self, n: int, prompt: Prompt, draw: torch.Generator) -> Visual:
        """The batch's n-th image, which stands in this prompt."""
        before, behind = self.around
        pixels = torch.randn(1, 3, 32, 32, generator=draw)
        ids = [*before, *[IMAGE] * self.patches, *behind]
        return Visual(ids, {"pixel_values": pixels}, self.sight(1))

    def video(self, n: int, prompt: Prompt, draw: torch.Generator) -> Visual:
        """The batch's n-th video, which stands in this prompt."""
        raise NotImplementedError

    def row(self, prompt: Prompt, texts: list[list[int]], visuals: list[Visual]) -> list[int]:
        """The ids of one prompt from its texts and its images, each in order."""
        texts, visuals = iter(texts), iter(visuals)
        pieces = (next(visuals).ids if part in ("i", "v") else next(texts) for part in prompt.parts)
        return [n for piece in pieces for n in piece]

    def types(self, ids: Tensor) -> dict[str, Tensor]:
        """Further arguments with a number for each token."""
        return {}

    def shares(self, row: list[Visual]) -> list[dict[str, Tensor]]:
        """What the images of one prompt give to the pixel arguments: by default each its own."""
        return [v.parts for v in row]

    # How a batch is put together.

    def visuals(self, prompts, draw: torch.Generator) -> list[list[Visual]]:
        """Each prompt's images and videos; sizes depend on the prompts alone, never on `draw`."""
        if not self.takes_video and any(p.videos for p in prompts):
            raise ValueError(f"{self.name} takes no videos")
        kinds = {"i": (self.image, count()), "v": (self.video, count())}
        rows = []
        for prompt in prompts:
            made = [(kinds[part], prompt) for part in prompt.parts if part in kinds]
            rows.append([make(next(n), prompt, draw) for (make, n), prompt in made])
        return rows

    def joined(self, rows: list[list[Visual]]) -> dict[str, Tensor]:
        shares = [share for row in rows for share in self.shares(row)]
        names = dict.fromkeys(name for share in shares for name in share)
        return {name: join([s[name] for s in shares if name in s]) for name in names}

    def pixels(self, rows: list[list[Visual]]) -> dict[str, Tensor]:
        """The pixel arguments of a batch; none where there is no image."""
        return {name: joined for name, joined in self.joined(rows).items() if joined.numel()}


def apart(columns: list[int], lines: tuple[range, ...]) -> tuple[list, list]:
    """The columns of patches, and of newlines with the patches of the row in front of each."""
    ends = {line.stop for line in lines}
    patches = [c for k, c in enumerate(columns) if k not in ends]
    before = [sum(end < line.start for end in ends) for line in lines]
    rows = [range(line.start - n, line.stop - n) for line, n in zip(lines, before, strict=True)]
    return patches, [(columns[line.stop], row) for line, row in zip(lines, rows, strict=True)]


def text(kind: str, **more) -> dict:
    """A small decoder of some kind."""
    small = {
        "model_type": kind,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    return small | more


def tower(kind: str, **more) -> dict:
    """A small vision tower of some kind."""
    small = {
        "model_type": kind,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    return small | more


def padded(rows: list[list[int]], side: str) -> tuple[Tensor, Tensor]:
    """Ids (B, S) and mask (B, S)."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), PAD)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        span = slice(longest - len(row), longest) if side == "left" else slice(len(row))
        ids[i, span], mask[i, span] = torch.tensor(row), 1
    return ids, mask


def join(parts: list[Tensor]) -> Tensor:
    """One behind the other along the first dimension, zeros up to the largest along the others."""
    largest = [max(sizes) for sizes in zip(*(p.shape[1:] for p in parts), strict=True)]
    whole = parts[0].new_zeros(sum(map(len, parts)), *largest)
    first = 0
    for part in parts:
        size = tuple(map(slice, part.shape[1:]))
        whole[first : first + len(part)][:, *size] = part
        first += len(part)
    return whole
