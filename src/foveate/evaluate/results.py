"""Result files: written whole or not at all, found again, and picked up where a killed run stopped."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from foveate.provenance import write

FORMAT = 1
LATER = {
    "protocol": None,
    "newlines": "rows",
}  # what jobs did not say at first, and what it was then


@dataclass(frozen=True)
class Job:
    """What one run answers, and how. Equal jobs give equal answers, so a finished one is not repeated.

    fingerprint is the bare model's, with the weights of a compressor that was saved with it; examples is
    that of the questions; method is as people write it, keep None where its arguments say it; compressor
    is its repr; untrained says that it has weights and nobody trained them; protocol is whose it is asked
    with, None the checkpoint's own; positions and newlines are as `compress` takes them.
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

    @property
    def name(self) -> str:
        """The file's name: readable, and different for different jobs."""
        told = {k: v for k, v in asdict(self).items() if LATER.get(k, "none such") != v}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        keep = [] if self.keep is None else [str(self.keep)]
        words = (self.task, self.model, self.method, *keep, digest[:8])
        return "-".join(re.sub(r"[^\w.]+", "_", word).strip("_") for word in words)


def finished(folder: Path, job: Job) -> dict[str, Any] | None:
    """The document of a run that was finished before; None if there is none, or it is not readable."""
    try:
        document = json.loads((folder / f"{job.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = document.get("format") == FORMAT and {**LATER, **document.get("job", {})} == asdict(job)
    return document if same else None


class Partial:
    """The answers so far of a run that is not finished: one line of JSON per batch."""

    def __init__(self, folder: Path | None, job: Job):
        self.path = None if folder is None else folder / f"{job.name}.part.jsonl"
        self.batches: list[list[dict[str, Any]]] = []
        if self.path is not None and self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    batch = json.loads(line)
                except ValueError:
                    break  # the run was killed while it wrote this line
                if any("columns" not in answer for answer in batch):
                    break  # of an earlier foveate, which did not note what a prompt had in each layer
                self.batches.append(batch)
            self._rewrite()

    def add(self, batch: list[dict[str, Any]]) -> None:
        """One batch more, on disk before the next begins."""
        self.batches.append(batch)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(batch, ensure_ascii=False) + "\n")

    def drop(self) -> None:
        """The run is finished: its own file holds the answers."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _rewrite(self) -> None:
        lines = [json.dumps(batch, ensure_ascii=False) + "\n" for batch in self.batches]
        write(self.path, "".join(lines))


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
