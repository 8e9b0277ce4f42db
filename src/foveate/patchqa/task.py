"""The dataset: a scene for every (version, seed, split, index), the same on every machine."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from . import assets
from .dice import Dice
from .paint import CELL, paint
from .questions import ask, ask_many
from .scene import Example, Picture, Question, Scene
from .truth import asked_regions
from .words import KINDS, ORDINALS

VERSION = 1
SPLITS = ("train", "val", "test")
LENGTHS = {"train": 10_000_000, "val": 100_000, "test": 100_000}


@dataclass(frozen=True)
class PatchQA:
    """Procedural scenes with questions; `task[i]` is a Scene, `task.examples(n)` an evaluation set.

    Harder: more `objects`, `text="tiny"`, `size=192` (the same things on a four times larger
    canvas), `images=2` or 3 (questions then say which picture). `weights` says how often a kind
    of question is asked against the others; 1 where it says nothing.
    """

    split: str = "train"
    seed: int = 0
    size: int = 96
    objects: tuple[int, int] = (2, 6)
    text: str = "normal"
    images: int = 1
    questions: int = 12
    weights: Mapping[str, int] | None = None

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(f"split={self.split!r}; want one of {SPLITS}")
        if self.text not in ("normal", "tiny"):
            raise ValueError(f"text={self.text!r}; want 'normal' or 'tiny'")
        if self.size % CELL or not 72 <= self.size <= 384:
            raise ValueError(f"size={self.size}; want a multiple of {CELL} from 72 to 384")
        if not 1 <= self.objects[0] <= self.objects[1] <= 9:
            raise ValueError(f"objects={self.objects}; want (least, most) within 1..9")
        if not 1 <= self.images <= len(ORDINALS):
            raise ValueError(f"images={self.images}; want 1..{len(ORDINALS)}")
        if unknown := set(self.weights or ()) - set(KINDS):
            raise ValueError(f"weights for {sorted(unknown)}; the kinds are {KINDS}")

    def __len__(self) -> int:
        return LENGTHS[self.split]

    def __getitem__(self, index: int) -> Scene:
        dice, pictures = self._roll(index)
        weights = dict.fromkeys(KINDS, 1) | dict(self.weights or {})
        kinds = [kind for kind in KINDS for _ in range(weights[kind])]
        which = dice(self.images)
        questions = ask_many(dice, pictures[which], kinds, self.questions)
        if self.images > 1:
            questions = tuple(_about(which, question) for question in questions)
        return Scene(pictures, questions, self._key(index))

    def examples(self, n: int) -> list[Example]:
        """n questions about n scenes, every kind as often as every other, always the same.

        Raises ValueError, before any is made, for more than a tenth of the scenes: not all have all kinds.
        """
        if n > (most := len(self) // 10):
            raise ValueError(f"n={n}: the {self.split} split has {most:,} questions")
        found: list[Example] = []
        index = 0
        while len(found) < n:
            dice, pictures = self._roll(index)
            which = dice(self.images)
            question = ask(dice, pictures[which], KINDS[len(found) % len(KINDS)])
            if question:
                question = question if self.images == 1 else _about(which, question)
                found.append(_example(pictures, question, self._key(index)))
            index += 1
        return found

    def _roll(self, index: int) -> tuple[Dice, tuple[Picture, ...]]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)}")
        dice = Dice(VERSION, self.seed, SPLITS.index(self.split), index)
        things = assets.load(self.split)
        return dice, tuple(
            paint(dice, things, self.size, self.objects, self.text) for _ in range(self.images)
        )

    def _key(self, index: int) -> str:
        return f"patchqa{VERSION}-{self.split}-{self.seed}-{index}"


def _about(which: int, question: Question) -> Question:
    text = f"in the {ORDINALS[which]} picture {question.text}"
    return replace(question, text=text, picture=which)


def _example(pictures: tuple[Picture, ...], question: Question, key: str) -> Example:
    about = [question.about if i == question.picture else () for i in range(len(pictures))]
    return Example(
        images=tuple(picture.pil() for picture in pictures),
        question=question.text,
        answer=question.answer,
        kind=question.kind,
        group=question.group,
        key=key,
        asked=tuple(map(asked_regions, pictures, about)),
    )
