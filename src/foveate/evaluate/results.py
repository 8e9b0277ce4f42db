"""Result files: written whole or not at all, found again, and picked up where a killed run stopped."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foveate.keeping.provenance import dumps, made, sealed, write

FORMAT = 3
# What the names of jobs leave out.
USUAL = {
    "protocol": None,
    "newlines": "rows",
    "dropped": "gone",
    "attention": "plain",
    "metric": "exact",
    "ladder": None,
}


@dataclass(frozen=True)
class Job:
    """What one run answers, and how. Equal jobs give equal answers, so a finished one is not repeated.

    fingerprint is the bare model's, with the weights of a compressor that was saved with it; examples is
    that of the questions; method is as people write it, keep None where its arguments say it; compressor
    is its repr; untrained says that it has weights and nobody trained them; protocol is whose it is asked
    with, None the checkpoint's own; positions, newlines, dropped, attention and ladder are as `compress`
    takes them; metric is a name of METRICS.
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
    metric: str = "exact"
    ladder: Mapping[str, Any] | None = None

    @property
    def told(self) -> dict[str, Any]:
        """As result files hold it, a ladder where there is one."""
        told = asdict(self)
        return told if told["ladder"] else {k: v for k, v in told.items() if k != "ladder"}

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
    found = made(_file(folder, job), format=FORMAT, job=job.told)
    if found is None:
        _file(folder, job).unlink(missing_ok=True)  # others would take it for one
    else:
        _clear(_parts(folder, job))  # the run was killed before it did
    return found


def is_finished(folder: Path, job: Job) -> bool:
    """Whether a run's document is there."""
    return _file(folder, job).is_file()


def finish(folder: Path, job: Job, document: dict[str, Any]) -> None:
    """Write a run's document; its batches are no longer needed apart."""
    write(_file(folder, job), dumps(sealed(document)))
    _clear(_parts(folder, job))


class Partial:
    """The answers so far of a run that is not finished, by where their batch starts: a sealed file each.

    keys are those of all examples, in order. A file counts if it is as it was written, for this job, with
    the very keys of the batch it says it is; whatever else is there is asked again, with a warning. Without
    a folder, answers are held in memory alone.
    """

    def __init__(self, folder: Path | None, job: Job, keys: Sequence[str]):
        self.folder, self.job = None if folder is None else _parts(folder, job), job.told
        self.file = None if folder is None else _file(folder, job)
        self.size, self.keys = job.batch_size, keys
        self.batches: dict[int, list[dict[str, Any]]] = {}
        self.by: set[int] = set()  # ranks that answered

    @property
    def starts(self) -> range:
        """Where the batches start."""
        return range(0, len(self.keys), self.size)

    @property
    def answers(self) -> list[dict[str, Any]]:
        """All answers so far, in the order of the examples."""
        return [answer for start in sorted(self.batches) for answer in self.batches[start]]

    def has(self, start: int) -> bool:
        """Whether this batch is answered, here or by another process, which may have finished the run."""
        if self.file is not None and self.file.is_file():
            return True
        if start not in self.batches and (path := self.path(start)) is not None:
            found = made(path, job=self.job, start=start)
            answers = [] if found is None else found["answers"]
            if answers and [a["key"] for a in answers] == [*self._keys(start)]:
                self.batches[start] = answers
                self.by.add(found["rank"])
        return start in self.batches

    def add(self, start: int, batch: list[dict[str, Any]], rank: int = 0) -> None:
        """One batch more, with the system before the next begins: a killed process loses none.

        A power cut may cost the last ones, which are asked again: nothing waits for the disk. Raises
        OSError that names the file, where it cannot be written whole.
        """
        self.batches[start] = batch
        self.by.add(rank)
        if (path := self.path(start)) is not None:
            told = {"job": self.job, "start": start, "rank": rank, "answers": batch}
            write(path, json.dumps(sealed(told)) + "\n")

    def path(self, start: int) -> Path | None:
        """The file of a batch."""
        return None if self.folder is None else self.folder / f"{start:09d}.json"

    def _keys(self, start: int) -> Sequence[str]:
        return self.keys[start : start + self.size]


def _file(folder: Path, job: Job) -> Path:
    return folder / f"{job.name}.json"


def _parts(folder: Path, job: Job) -> Path:
    return folder / f"{job.name}.parts"


def _clear(parts: Path) -> None:
    """Remove a run's batches; somebody else may be doing so, or still looking."""
    shutil.rmtree(parts, ignore_errors=True)
