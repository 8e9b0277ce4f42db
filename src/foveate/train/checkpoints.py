"""Checkpoints of a run: which one is whole, and whether it belongs to this recipe."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from foveate.keeping.held import sweep
from foveate.keeping.provenance import SEAL, content, dumps, sealed, unsealed, write
from foveate.train import manifest

STATE, CARD, RESULT = "trainer_state.json", "recipe.json", "training.json"
WEIGHTS = (".safetensors", ".safetensors.index.json")
MANIFESTS = "manifests"  # in the card of a run all of whose checkpoints have one
OURS = (STATE, manifest.NAME, "model*.safetensors", "adapter*.safetensors", "optimizer.pt")
# What every checkpoint of an earlier foveate has, without a manifest; sharded ones have the latter.
PARTS = {
    "optimizer.pt": ("optimizer.pt", "optimizer.bin", "optimizer_*"),
    "scheduler.pt": ("scheduler.pt",),
    "rng_state.pth": ("rng_state*.pth",),
    "model.safetensors": ("model*.safetensors", "adapter*.safetensors", "pytorch_model_fsdp*"),
}
ALWAYS = {"name", "model", "data", "trains"}  # fields of every recipe there was
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
    """The checkpoints of a run by their step, in order, whole or not; folders of others do not count."""
    found = {_step(p): p for p in Path(out).glob("checkpoint-*") if _numbered(p) and _has(p, OURS)}
    return dict(sorted(found.items()))


def last_whole(out: Path) -> Path | None:
    """The latest checkpoint that is as it was written; None without one."""
    return next((p for p in reversed(steps_of(out).values()) if damage(p) is None), None)


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint; None if nothing is.

    Its manifest, written last, tells. In a run of an earlier foveate, whose card does not speak of
    manifests, there may be none: the trainer's state tells, and that no file is missing.
    """
    if (path / manifest.NAME).exists():
        return manifest.damage(path)
    if _marked(path.parent):
        return f"{manifest.NAME} is missing"
    for name, such in PARTS.items():
        if not _has(path, such):
            return f"{name} is missing"
    try:
        state = json.loads((path / STATE).read_bytes())
        whole = state["global_step"] == _step(path) and isinstance(state["log_history"], list)
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        whole = False
    return None if whole else f"{STATE} is missing, or not as it was written"


def refuse(card: dict[str, Any], out: Path, resume: bool) -> None:
    """Raise ValueError if a folder cannot be trained in.

    It holds a run and nobody asked to resume, or it was begun with another recipe: with the differences.
    """
    if not resume and (steps_of(out) or (out / RESULT).exists()):
        raise ValueError(f"{out} holds a run: resume it, or write to another folder")
    if resume and (found := differences(card, out)):
        raise ValueError(f"{out} was begun with another recipe: {'; '.join(found)}")


def open_folder(card: dict[str, Any], out: Path) -> Path | None:
    """Make the folder, note the recipe, clear away what is damaged, and say which that is.

    The checkpoint to go on from; None begins anew.
    """
    sweep(out)
    begun = last_whole(out)
    step, so = (0, "the beginning") if begun is None else (_step(begun), begun.name)
    for number, path in reversed(steps_of(out).items()):
        if number > step:
            warnings.warn(f"{path} is removed, {damage(path)}: going on from {so}")
            drop(path)
    all_have = all((path / manifest.NAME).exists() for path in steps_of(out).values())
    write(out / CARD, dumps({**card, MANIFESTS: all_have or _marked(out)}))
    if (out / RESULT).exists():
        warnings.warn(f"{out} was finished, but {_unfinished(out)}: going on from {so}")
        content(out / RESULT)  # not even an empty folder stays in its place
        (out / RESULT).unlink(missing_ok=True)
    return begun


def newest(out: Path) -> Path | None:
    """The latest checkpoint of a folder that was opened: the one that is whole."""
    return next(reversed(steps_of(out).values()), None)


def rotate(out: Path, keep: int) -> None:
    """Drop all checkpoints but the latest so many."""
    for path in list(steps_of(out).values())[:-keep]:
        drop(path)


def drop(path: Path) -> None:
    """Remove a checkpoint, killed or not: without the trainer's state, no half of it counts as whole.

    The manifest goes last, so that what is left of it by then is known as ours.
    """
    (path / STATE).unlink(missing_ok=True)
    for part in path.iterdir():
        if part.is_dir():
            shutil.rmtree(part)
        elif part.name != manifest.NAME:
            part.unlink()
    shutil.rmtree(path)


def result(out: Path, card: dict[str, Any]) -> dict[str, Any] | None:
    """What a finished run found; None if it is not finished, or can be finished again from a checkpoint.

    Raises ValueError for another recipe's, and for a damaged one without a checkpoint.
    """
    if not (out / RESULT).exists():
        return None
    refuse(card, out, resume=True)
    why = _unfinished(out)
    if why is None:
        return _document(out)
    if last_whole(out) is None:
        raise ValueError(
            f"{out} was finished, but {why}, and there is no checkpoint to finish it again from: remove "
            f"{out / RESULT} to train anew, or write to another folder"
        )
    return None


def finish(document: dict[str, Any], made: Path, out: Path) -> dict[str, Any]:
    """Move what was made into its folder, the config last, and write the document that stands for it."""
    moved = []
    for path in sorted(made.rglob("*"), key=lambda path: (path.name == "config.json", path)):
        if path.is_file():
            to = out / path.relative_to(made)
            to.parent.mkdir(parents=True, exist_ok=True)
            moved.append(path.replace(to))
    shutil.rmtree(made)
    document = {**document, "files": _counted(out, moved)}
    write(out / RESULT, dumps(sealed(document)))
    return document


def _counted(out: Path, moved: Sequence[Path]) -> manifest.Contents:
    """What stays as it is for a run to be finished: weights and their index; of the rest, that it is there.

    People edit settings: of the tokenizer, of how it generates.
    """
    weights = [path for path in moved if path.name.endswith(WEIGHTS)]
    there = {path.relative_to(out).as_posix(): [] for path in sorted(moved)}
    return there | manifest.contents(out, weights)


def _document(out: Path) -> dict[str, Any] | None:
    """What training.json says; None if it is not as it was written. An earlier foveate did not seal it."""
    text = (out / RESULT).read_bytes()
    if (found := unsealed(text)) is not None:
        return found
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    old = isinstance(found, dict) and SEAL not in found and isinstance(found.get("history"), list)
    return found if old and "files" not in found and {"recipe", "steps"} <= found.keys() else None


def _unfinished(out: Path) -> str | None:
    """What is wrong with a folder that has a training.json; None if nothing is."""
    try:
        found = _document(out)
    except OSError as error:
        return f"{RESULT} cannot be read: {error.strerror}"
    if found is None:
        return f"{RESULT} is not as it was written"
    return manifest.changed(out, found.get("files", {}))


def differences(card: dict[str, Any], out: Path) -> list[str]:
    """How this recipe differs from the one a folder was begun with, where it matters; one line each.

    Fields that recipes did not have then do not count. Raises ValueError for a file that is no recipe.
    """
    begun, fresh = _card(Path(out) / CARD), json.loads(json.dumps(card))
    names = sorted((begun.keys() & fresh.keys()) - FREE)
    changed = [name for name in names if begun[name] != fresh[name]]
    return [f"{name}: {begun[name]!r} then, {fresh[name]!r} now" for name in changed]


def _card(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not found.keys() >= ALWAYS:
        raise ValueError(
            f"{path} is no recipe, and says no more what this run was begun with: remove it to go on with "
            "this one, or write to another folder"
        )
    return found


def _marked(out: Path) -> bool:
    """Whether the card says that all checkpoints of this run have manifests."""
    try:
        found = json.loads((out / CARD).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get(MANIFESTS) is True


def _has(folder: Path, such: Iterable[str]) -> bool:
    return any(True for pattern in such for _ in folder.glob(pattern))


def _numbered(path: Path) -> bool:
    return path.is_dir() and path.name.rsplit("-", 1)[1].isdecimal()


def _step(path: Path) -> int:
    return int(path.name.rsplit("-", 1)[1])
