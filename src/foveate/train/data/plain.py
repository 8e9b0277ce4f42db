"""LLaVA's pre-training text: an image and its caption."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from foveate.chat import MARK, Record, Said, end_token, image_mark


class Plain:
    """LLaVA's pre-training: the images, the caption, the end. Liu et al. 2023, arXiv:2304.08485.

    What the human says is left out of the text, and told beside it; a system turn is left out. Differs
    from the paper: the caption ends with the tokenizer's end token instead of a line break, so that the
    model learns to stop.
    """

    def __init__(self, processor: Any):
        self.mark, self.end = image_mark(processor), end_token(processor)

    def __call__(self, record: Record) -> Said:
        """The record's images and caption. Raises ValueError for more than one answer."""
        answers = [turn.text for turn in record.turns if turn.role == "assistant"]
        if len(answers) != 1:
            raise ValueError(
                f"{record.where}: template='plain' wants one caption, not {len(answers)}"
            )
        images = self.mark * len(record.images)
        text = images + answers[0].strip() + self.end
        asked = takewhile(lambda turn: turn.role != "assistant", record.turns)
        asked = (turn for turn in asked if turn.role == "user")
        words = (piece.strip() for turn in asked for piece in turn.text.split(MARK))
        return Said(text, (), ((len(images), len(text)),), " ".join(filter(None, words)))
