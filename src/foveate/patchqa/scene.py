"""What a PatchQA item is: pictures whose every pixel is accounted for, and questions about them."""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

# Values of a region map: 0 is background, 1, 2, ... are the objects in order, then these.
DIGIT_REGION = 90
SIGN_REGION = 100  # the plate; its characters are 101, 102, 103


@dataclass(frozen=True)
class Thing:
    """One object of a scene, in pixels."""

    shape: str
    color: str
    size: str
    center: tuple[int, int]  # x, y
    box: tuple[int, int, int, int]  # left, top, right, bottom; the last two excluded


@dataclass(frozen=True)
class Picture:
    """A picture and the truth about it."""

    pixels: np.ndarray = field(repr=False)  # (size, size, 3) uint8
    regions: np.ndarray = field(repr=False)  # (size, size) uint8, see DIGIT_REGION and SIGN_REGION
    objects: tuple[Thing, ...]
    sign: str | None
    digit: int | None
    background: str

    def pil(self) -> Image.Image:
        """The picture for a processor."""
        return Image.fromarray(self.pixels)


@dataclass(frozen=True)
class Question:
    """A question, its only right answer, what it asks about and the group that belongs to.

    about    the regions one must see to answer: those of the objects that are meant, the sign's, the
             digit's; none for a background, and where nothing of the kind is there
    picture  which of the scene's
    """

    text: str
    answer: str
    kind: str
    group: str
    about: tuple[int, ...] = ()
    picture: int = 0


@dataclass(frozen=True)
class Scene:
    """One to three pictures and the questions about them; `key` names it for ever."""

    pictures: tuple[Picture, ...]
    questions: tuple[Question, ...]
    key: str

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """The pictures for a processor."""
        return tuple(picture.pil() for picture in self.pictures)


@dataclass(frozen=True)
class Example:
    """One question with its images: what an evaluation consumes.

    asked  of each image, (size, size) uint8: what the question is about, see `truth.asked_regions`
    """

    images: tuple[Image.Image, ...]
    question: str
    answer: str
    kind: str
    group: str
    key: str
    asked: tuple[np.ndarray, ...] = field(default=(), repr=False, compare=False)
