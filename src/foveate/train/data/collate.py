"""Records to one batch of a model's inputs, with labels on the answers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import ProcessorMixin

from foveate.chat import Chat, Record, Said, columns, image_mark, verify
from foveate.chat.pictures import PictureError, read
from foveate.train.data.plain import Plain
from foveate.train.data.questions import several

IGNORED = -100  # a label that no loss counts
TEMPLATES = {"chat": Chat, "plain": Plain}
SIDES = ("right", "left")


class Collator:
    """Records to the tensors a model is called with, for any processor with a fast tokenizer.

    Beside the processor's own inputs, `labels` (B, S) hold the answers and what ends them, -100
    elsewhere, and `instruction_mask` (B, S) is True where the user asks: never an answer, a system
    prompt or a placeholder. template="plain" leaves what the user says out of the text; its tokens are
    then `instruction_ids` (B, T), -100 in padding, T 0 where nobody says a word. max_length cuts answers
    from their end, images never; a row that loses all of its answers stays without a loss, is counted in
    `unanswered`, and the first is warned of.

    reading says that the model's method reads what is asked: the first record that asks several questions
    at once is warned of.

    Where a token stands is counted in characters: the processor says which characters it put in the
    place of each image, so that images may stand anywhere in a conversation.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        max_length: int | None = None,
        template: str = "chat",
        padding: str = "right",
        reading: bool = False,
    ):
        for name, given, allowed in [
            ("template", template, TEMPLATES),
            ("padding", padding, SIDES),
        ]:
            if given not in allowed:
                raise ValueError(f"{name}={given!r}: want one of {', '.join(allowed)}")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length={max_length}: want at least 1")
        if not processor.tokenizer.is_fast or processor.tokenizer.pad_token_id is None:
            raise ValueError(
                "want a fast tokenizer with a pad token: labels are found by characters"
            )
        self.processor, self.max_length = processor, max_length
        self.template, self.padding = TEMPLATES[template](processor), padding
        self.unanswered = 0  # rows so far that max_length left nothing to learn of
        self.reading = reading

    def __call__(self, records: Sequence[Record]) -> dict[str, Tensor]:
        """One padded batch; text (B, S), images as the processor shapes them."""
        said = [self.said(record) for record in records]
        self.told_apart(records, said)
        batch = self.encode(records, said)
        offsets = [torch.tensor(rows) for rows in batch.pop("offset_mapping")]
        moves = batch.pop("text_replacement_offsets", None) or [[] for _ in records]
        names = [n for n, value in batch.items() if isinstance(value, list)]
        rows = []
        for i, record in enumerate(records):
            verify(said[i], len(record.images), moves[i], offsets[i], record.where)
            row = {name: torch.tensor(batch[name][i]) for name in names}
            row |= supervised(row["input_ids"], said[i], record.past, moves[i], offsets[i])
            end = self.length(record, moves[i], offsets[i])
            self.noted(record, row["labels"], end)
            rows.append({name: value[:end] for name, value in row.items()})
        images = {n: v for n, v in batch.items() if n not in names}
        return images | self.padded(rows) | self.beside(said)

    def said(self, record: Record) -> Said:
        """The record as text. Raises ValueError where its text has other marks than its images.

        So it does for a system turn that the chat template does not take, or leaves out.
        """
        try:
            said = self.template(record)
        except TemplateError as error:
            raise ValueError(
                f"{record.where}: the chat template refuses the conversation: {error}"
            ) from error
        mark = image_mark(self.processor)
        if said.text.count(mark) != len(record.images):
            raise ValueError(
                f"{record.where}: {said.text.count(mark)} times {mark} in the text of "
                f"{len(record.images)} images"
            )
        return said

    def encode(self, records: Sequence[Record], said: Sequence[Said]) -> dict[str, Any]:
        """What the processor makes of the batch: text in lists, without padding; images in tensors."""
        images = [[self.opened(record, source) for source in record.images] for record in records]
        start = self.processor.tokenizer.bos_token
        out = self.processor(
            text=[s.text for s in said],
            images=images if any(images) else None,
            add_special_tokens=not (start and said[0].text.startswith(start)),
            padding=False,
            return_offsets_mapping=True,
            return_text_replacement_offsets=True,
            text_kwargs={"return_tensors": None},
            images_kwargs={"return_tensors": "pt"},
        )
        wanted = {*self.processor.model_input_names, "offset_mapping", "text_replacement_offsets"}
        return {name: value for name, value in out.items() if name in wanted}

    def opened(self, record: Record, source: Any) -> Any:
        """A picture. Raises OSError with the record's place where it cannot be read, or not any more."""
        try:
            return read(source)
        except PictureError as error:
            raise OSError(f"{record.where}: {error}") from error

    def length(self, record: Record, moves: list[dict], offsets: Tensor) -> int:
        """Columns of a row: up to max_length, without what a tokenizer puts behind the last answer."""
        real = int((offsets[:, 1] > offsets[:, 0]).nonzero().max()) + 1
        if self.max_length is None or real <= self.max_length:
            return real
        behind = columns(offsets, [move["new_span"] for move in moves]).nonzero()
        if len(behind) and int(behind.max()) >= self.max_length:
            raise ValueError(
                f"{record.where}: images stand up to column {int(behind.max()) + 1} of {real}, "
                f"max_length={self.max_length} would cut them"
            )
        return self.max_length

    def noted(self, record: Record, labels: Tensor, end: int) -> None:
        """Count a row whose answers are all behind column `end`; warn of the first. labels (S,)."""
        taught = (labels != IGNORED).nonzero()
        if not len(taught) or int(taught.min()) < end:
            return
        self.unanswered += 1
        if self.unanswered == 1:
            warnings.warn(
                f"{record.where}: the first answer begins at column {int(taught.min()) + 1}, behind "
                f"max_length={self.max_length}: nothing is learnt of it (told once, of the first such row)"
            )

    def told_apart(self, records: Sequence[Record], said: Sequence[Said]) -> None:
        """Warn of the first record of which several answers are learnt, if a method reads the questions."""
        many = (r for r, s in zip(records, said, strict=True) if len(s.answers) - r.past > 1)
        if self.reading and (first := next(many, None)) is not None:
            self.reading = False
            warnings.warn(several(f"{first.where} asks several questions"))

    def padded(self, rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Rows of several lengths as one batch. (B, S)."""
        fill = {"input_ids": self.processor.tokenizer.pad_token_id, "labels": IGNORED}
        return {
            name: pad_sequence(
                [row[name] for row in rows],
                batch_first=True,
                padding_value=fill.get(name, 0),
                padding_side=self.padding,
            )
            for name in rows[0]
        }

    def beside(self, said: Sequence[Said]) -> dict[str, Tensor]:
        """Ids of what the user says beside the text, (B, T); nothing where the text holds it all."""
        words = [one.beside for one in said if one.beside is not None]
        if not words:
            return {}
        ids = self.processor.tokenizer(words, add_special_tokens=False)["input_ids"]
        rows = [torch.tensor(row, dtype=torch.long) for row in ids]
        return {"instruction_ids": pad_sequence(rows, batch_first=True, padding_value=IGNORED)}


def supervised(
    ids: Tensor, said: Said, past: int, moves: list[dict], offsets: Tensor
) -> dict[str, Tensor]:
    """Labels and instruction mask of one row, of whose answers the first `past` are not learnt. (S,) each."""
    answers = columns(offsets, said.answers, moves)
    questions = columns(offsets, said.questions, moves)
    labels = torch.where(columns(offsets, said.answers[past:], moves), ids, IGNORED)
    return {"labels": labels, "instruction_mask": questions & ~answers}
