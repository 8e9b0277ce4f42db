"""Prompts of the contract, and the ids that stand for something else than text."""

from __future__ import annotations

from dataclasses import dataclass

PAD, BOS, EOS = 0, 2, 1
TEXT_IDS = (3, 90)  # where ordinary text is drawn from; all that follow are special
ROWS = (91, 92)  # <row_1_col_1>, <row_2_col_1>
NEWLINE = 93  # "\n", or "\n\n" where that is one token
GLOBAL = 94  # <global-img>
BREAK = 95  # [IMG_BREAK], <fake_token_around_image>
END, START = 96, 97
VIDEO_ID, IMAGE = 98, 99
VOCABULARY = 100


@dataclass(frozen=True)
class Prompt:
    """What one prompt is made of, in order: numbers of text tokens, 'i' an image, 'v' a video."""

    parts: tuple[int | str, ...]

    @property
    def images(self) -> int:
        return self.parts.count("i")

    @property
    def videos(self) -> int:
        return self.parts.count("v")


ONE = Prompt((3, "i", 6))
SHORT = Prompt((2, "i", 2))
TWO = Prompt((2, "i", 4, "i", 3))
TOUCHING = Prompt((1, "i", "i", 5))
TEXT = Prompt((7,))
MIXED = (ONE, SHORT, TWO, TOUCHING, TEXT)
VIDEO = Prompt((2, "v", 5))
VIDEO_AND_IMAGE = Prompt((1, "v", 3, "i", 4))
