"""Scenes as tensors: pixels, what every patch shows, what the scene holds, and tokenized questions."""

from dataclasses import dataclass

import numpy as np
import torch
from model import PATCH, SIDE
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from foveate.patchqa import DIGIT_REGION, KINDS, SIGN_REGION, PatchQA, Picture, Scene
from foveate.patchqa.words import BACKGROUNDS, CHARACTERS, COLORS, SHAPES, SIZES

LONGEST = 14  # tokens fed per question: 11 words, "assistant", ":", one answer token
IGNORE = -100
REGIONS = (*range(10), DIGIT_REGION, *range(SIGN_REGION, SIGN_REGION + 4))
# What is asked of every patch, and among how many classes.
PATCH_LABELS = {
    "kind": len(SHAPES) + 3,  # nothing, a shape, the sign, the digit
    "color": len(COLORS),
    "size": len(SIZES),
    "character": len(CHARACTERS),
    "digit": 10,
    "row": SIDE,  # of the object's centre
    "column": SIDE,
    "center": 2,  # does an object's centre lie in this patch: to count is to count these
}
COLOR_NAMES = tuple(COLORS)


@dataclass(frozen=True)
class Batch:
    """B scenes with K questions of T tokens; labels of P patches."""

    pixels: Tensor  # (B, 3, 96, 96)
    patches: Tensor  # (B, P, labels)
    present: Tensor  # (B, 82) is there: each coloured shape, each shape, each colour, sign, digit
    background: Tensor  # (B,)
    count: Tensor  # (B,)
    start: Tensor  # (3,) "<s> user :", before the image
    ids: Tensor  # (B, K, T)
    targets: Tensor  # (B, K, T), IGNORE outside the answer
    named: Tensor  # (B, K, T, 2) row and column of the only thing a word names, else IGNORE
    kinds: Tensor  # (B, K), -1 where there is no question


def make(task: PatchQA, indices: range, tokenizer: PreTrainedTokenizerFast) -> Batch:
    """Paint, ask and label the scenes with these indices."""
    scenes = [task[index] for index in indices]
    pictures = [scene.pictures[0] for scene in scenes]
    ids, targets, named, kinds = questions(scenes, task.questions, tokenizer)
    pixels = torch.from_numpy(np.stack([picture.pixels for picture in pictures]))
    return Batch(
        pixels=(pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25,
        patches=torch.from_numpy(np.stack([patch_labels(picture) for picture in pictures])),
        present=torch.from_numpy(np.stack([present(picture) for picture in pictures])),
        background=torch.tensor([BACKGROUNDS.index(picture.background) for picture in pictures]),
        count=torch.tensor([len(picture.objects) for picture in pictures]),
        start=torch.tensor(tokenizer("USER:").input_ids),
        ids=ids,
        targets=targets,
        named=named,
        kinds=kinds,
    )


def patch_labels(picture: Picture) -> np.ndarray:
    """(P, labels): of the region that covers most of a patch; IGNORE where that is unclear."""
    found = np.full((len(REGIONS), len(PATCH_LABELS)), IGNORE)
    found[0, 0] = 0
    for number, thing in enumerate(picture.objects):
        x, y = thing.center
        look = (SHAPES.index(thing.shape) + 1, COLOR_NAMES.index(thing.color))
        found[number + 1, [0, 1, 2, 5, 6]] = (
            *look,
            SIZES.index(thing.size),
            y // PATCH,
            x // PATCH,
        )
    if picture.digit is not None:
        found[10, [0, 4]] = len(SHAPES) + 2, picture.digit
    if picture.sign is not None:
        found[11:, 0] = len(SHAPES) + 1
        found[12:, 3] = [CHARACTERS.index(character) for character in picture.sign]

    cells = picture.regions.reshape(SIDE, PATCH, SIDE, PATCH).swapaxes(1, 2).reshape(SIDE**2, -1)
    covered = np.stack([(cells == region).sum(axis=1) for region in REGIONS])
    # Of a sign the characters matter more than the plate, of anything the thing more than nothing.
    covered[12:] *= 10
    most = 1 + covered[1:].argmax(axis=0)
    share = (cells > 0).mean(axis=1)
    labels = found[np.where(share > 0, most, 0)]
    labels[(share > 0) & (share < 0.12)] = IGNORE
    labels[:, -1] = 0
    for thing in picture.objects:
        labels[thing.center[1] // PATCH * SIDE + thing.center[0] // PATCH, -1] = 1
    return labels


def present(picture: Picture) -> np.ndarray:
    """Which of 64 coloured shapes, 8 shapes, 8 colours, sign and digit the picture holds."""
    holds = np.zeros(82, dtype=np.float32)
    for thing in picture.objects:
        shape, color = SHAPES.index(thing.shape), COLOR_NAMES.index(thing.color)
        holds[[shape * 8 + color, 64 + shape, 72 + color]] = 1
    holds[80:] = picture.sign is not None, picture.digit is not None
    return holds


def questions(scenes: list[Scene], K: int, tokenizer: PreTrainedTokenizerFast):
    """Ids, targets, named places and kinds of the questions, padded to K questions of T tokens."""
    ids = torch.full((len(scenes), K, LONGEST), tokenizer.pad_token_id)
    targets = torch.full_like(ids, IGNORE)
    named = torch.full((*ids.shape, 2), IGNORE)
    kinds = torch.full((len(scenes), K), -1)
    words = tokenizer.get_vocab()
    for row, scene in enumerate(scenes):
        for place, question in enumerate(scene.questions):
            asked = [words[w] for w in f"{question.text} assistant :".split()]
            said = [words[w] for w in question.answer.split()]
            line = torch.tensor([*asked, *said])
            ids[row, place, : len(line)] = line
            answer = torch.tensor([*said, tokenizer.eos_token_id])
            targets[row, place, len(asked) - 1 : len(line)] = answer
            for word, where in mentions(question.text.split(), scene.pictures[0]):
                named[row, place, word] = torch.tensor(where)
            kinds[row, place] = KINDS.index(question.kind)
    return ids, targets, named, kinds


def mentions(words: list[str], picture: Picture) -> list[tuple[int, tuple[int, int]]]:
    """Which word ends the name of exactly one thing, and the row and column of that thing."""
    found = []
    for place, word in enumerate(words):
        color = words[place - 1] if words[place - 1] in COLORS else None
        meant = [t for t in picture.objects if t.shape == word and color in (None, t.color)]
        if len(meant) == 1:
            x, y = meant[0].center
            found.append((place, (y // PATCH, x // PATCH)))
    return found
