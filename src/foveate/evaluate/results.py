"""Result files: written whole or not at all, found again, and picked up where a killed run stopped."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from foveate.keeping.provenance import content, dumps, made, named, sealed, unsealed, write

FORMAT = 2
# What the names of jobs leave out.
USUAL = {"protocol": None, "newlines": "rows", "dropped": "gone", "attention": "plain"}


@dataclass(frozen=True)
class Job:
    """What one run answers, and how. Equal jobs give equal answers, so a finished one is not repeated.

    fingerprint is the bare model's, with the weights of a compressor that was saved with it; examples is
    that of the questions; method is as people write it, keep None where its arguments say it; compressor
    is its repr; untrained says that it has weights and nobody trained them; protocol is whose it is asked
    with, None the checkpoint's own; positions, newlines, dropped and attention are as `compress` takes them.
    """

    model: str
    fingerprint: str
    task: str
    examples: str
    n: int
    seed: int
    method: str
    keep: int | float | None
    compressor: str
    positions: str = "original"
    batch_size: int = 32
    max_new_tokens: int = 8
    untrained: bool = False
    protocol: str | None = None
    newlines: str = "rows"
    dropped: str = "gone"
    attention: str = "plain"

    @property
    def name(self) -> str:
        """The file's name: readable, and different for different jobs."""
        told = {k: v for k, v in asdict(self).items() if USUAL.get(k, "none such") != v}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        keep = [] if self.keep is None else [str(self.keep)]
        words = (self.task, self.model, self.method, *keep, digest[:8])
        return "-".join(re.sub(r"[^\w.]+", "_", word).strip("_") for word in words)


def finished(folder: Path, job: Job) -> dict[str, Any] | None:
    """The document of a run that was finished before; None if there is none, or not as it was written."""
    found = made(_file(folder, job), format=FORMAT, job=asdict(job))
    if found is not None:
        _part(folder, job).unlink(missing_ok=True)  # the run was killed before it did
    return found


def finish(folder: Path, job: Job, document: dict[str, Any]) -> None:
    """Write a run's document; its answers are no longer needed apart."""
    write(_file(folder, job), dumps(sealed(document)))
    _part(folder, job).unlink(missing_ok=True)


class Partial:
    """The answers so far of a run that is not finished: a sealed line for each batch, by where it starts.

    keys are those of all examples, in order. A line counts if it is as it was written, for this job, with
    the very keys of the batch it says it is; whatever else a file holds is asked again, with a warning.
    """

    def __init__(self, folder: Path | None, job: Job, keys: Sequence[str]):
        size = job.batch_size
        self.keys = {n: list(keys[n : n + size]) for n in range(0, len(keys), size)}
        self.path, self.job = None if folder is None else _part(folder, job), asdict(job)
        self.batches: dict[int, list[dict[str, Any]]] = {}
        if self.path is not None and (text := content(self.path)) is not None:
            self._read(text)

    @property
    def answers(self) -> list[dict[str, Any]]:
        """All answers so far, in the order of the examples."""
        return [answer for start in sorted(self.batches) for answer in self.batches[start]]

    def add(self, start: int, batch: list[dict[str, Any]]) -> None:
        """One batch more, with the system before the next begins: a killed process loses none.

        A power cut may cost the last ones, which are asked again: nothing waits for the disk. Raises
        OSError that names the file, where it cannot be written whole.
        """
        self.batches[start] = batch
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(self._line(start))
            except OSError as error:
                raise named(error, self.path) from error

    def _line(self, start: int) -> str:
        told = {"job": self.job, "start": start, "answers": self.batches[start]}
        return json.dumps(sealed(told)) + "\n"

    def _read(self, text: bytes) -> None:
        lines = text.splitlines() or [b""]
        for line in lines:
            found = unsealed(line) or {}
            keys = self.keys.get(found.get("start")) if found.get("job") == self.job else None
            if keys is not None and [answer["key"] for answer in found["answers"]] == keys:
                self.batches.setdefault(found["start"], found["answers"])
        if strange := len(lines) - len(self.batches):
            warnings.warn(
                f"{self.path}: {strange} of {len(lines)} lines are not as this run wrote them, or there "
                "twice; what is not answered is asked again"
            )
        write(self.path, "".join(map(self._line, sorted(self.batches))))


def _file(folder: Path, job: Job) -> Path:
    return folder / f"{job.name}.json"


def _part(folder: Path, job: Job) -> Path:
    return folder / f"{job.name}.part.jsonl"


def fingerprint(model: torch.nn.Module, compressor: torch.nn.Module | None = None) -> str:
    """A short name for these very weights: shapes, types, and up to 1,024 values of every tensor.

    compressor: one whose weights count too, beside the bare model's.
    """
    digest = hashlib.sha256(type(model).__name__.encode())
    tensors = {**model.state_dict(), **({} if compressor is None else compressor.state_dict())}
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.flatten()
        step = max(flat.numel() // 1024, 1)
        digest.update(flat[::step][:1024].double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
