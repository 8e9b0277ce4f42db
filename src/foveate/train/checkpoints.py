"""Checkpoints of a run: which one is whole, and whether it belongs to this recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from foveate.provenance import dumps, write

STATE, CARD, RESULT = "trainer_state.json", "recipe.json", "training.json"
# What may change between a run and its continuation, because no step depends on it.
FREE = frozenset(
    {
        "save_every",
        "keep_checkpoints",
        "log_every",
        "workers",
        "tensorboard",
        "check",
        "images",
        "outside",
        "micro_batch",
        "validation",
        "evaluate_every",
    }
)


def steps_of(out: Path) -> dict[int, Path]:
    """The checkpoints of a run by their step, in order, whole or not."""
    found = {
        int(p.name.rsplit("-", 1)[1]): p for p in Path(out).glob("checkpoint-*") if _numbered(p)
    }
    return dict(sorted(found.items()))


def last_whole(out: Path) -> Path | None:
    """The latest checkpoint that was written to its end; None without one.

    A run killed while it saves leaves half a checkpoint: the trainer's state, written last, tells.
    """
    for path in reversed(steps_of(out).values()):
        if _whole(path):
            return path
    return None


def begin(card: dict[str, Any], out: Path, resume: bool) -> Path | None:
    """The checkpoint to go on from; None begins anew.

    Raises ValueError if the folder holds a run and nobody asked to resume, or if it is another recipe's.
    """
    last = last_whole(out)
    if not resume:
        if steps_of(out) or (out / RESULT).exists():
            raise ValueError(f"{out} holds a run: resume it, or write to another folder")
        return None
    refuse_others(card, out)
    return last


def refuse_others(card: dict[str, Any], out: Path) -> None:
    """Raise ValueError if a folder was begun with another recipe, with the differences."""
    if found := differences(card, out):
        raise ValueError(f"{out} was begun with another recipe: {'; '.join(found)}")


def open_folder(card: dict[str, Any], out: Path, begun: Path | None) -> None:
    """Make the folder, note the recipe, and clear away what a killed run left behind its last checkpoint."""
    write(out / CARD, dumps(card))
    step = 0 if begun is None else int(begun.name.rsplit("-", 1)[1])
    for number, path in steps_of(out).items():
        if number > step:
            shutil.rmtree(path)


def result(out: Path, card: dict[str, Any]) -> dict[str, Any] | None:
    """What a finished run found; None if it is not finished. Raises ValueError for another recipe's."""
    if not (out / RESULT).exists():
        return None
    refuse_others(card, out)
    return json.loads((out / RESULT).read_text())


def differences(card: dict[str, Any], out: Path) -> list[str]:
    """How this recipe differs from the one a folder was begun with, where it matters; one line each.

    Fields that recipes did not have then do not count.
    """
    path = Path(out) / CARD
    if not path.exists():
        return []
    begun, fresh = json.loads(path.read_text()), json.loads(json.dumps(card))
    names = sorted((begun.keys() & fresh.keys()) - FREE)
    changed = [name for name in names if begun[name] != fresh[name]]
    return [f"{name}: {begun[name]!r} then, {fresh[name]!r} now" for name in changed]


def _numbered(path: Path) -> bool:
    return path.is_dir() and path.name.rsplit("-", 1)[1].isdigit()


def _whole(path: Path) -> bool:
    try:
        state = json.loads((path / STATE).read_text())
    except (OSError, ValueError):
        return False
    return state.get("global_step") == int(path.name.rsplit("-", 1)[1])
