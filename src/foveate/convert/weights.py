"""Weights under names of another code, and the modules that get them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from foveate.hosts.files import few

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check(weights: Mapping[str, Tensor], source: Path) -> None:
    """Raises ValueError for weights that nothing can be reckoned with: whole numbers, NaN, infinity."""
    for name, value in weights.items():
        if value.dtype not in DTYPES:
            want = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise ValueError(f"{source}: {name} is of {value.dtype}: want one of {want}")
        if not (fine := value.isfinite()).all():
            raise ValueError(
                f"{source}: {name} has {int((~fine).sum())} values of {value.numel()} that are NaN or "
                "infinite: want finite ones"
            )


def keyed(names: Iterable[str], key: Callable[[str], str], source: Path) -> dict[str, str]:
    """Names by key. Raises ValueError for two names of one key: either would be lost unsaid."""
    found: dict[str, str] = {}
    for name in names:
        if (first := found.setdefault(key(name), name)) != name:
            raise ValueError(f"{source}: {first} and {name} are the same weight: want one of them")
    return found


def fill(
    module: nn.Module, weights: Mapping[str, Tensor], names: Mapping[str, str], source: Path
) -> None:
    """Give the tensors of a module that are on the meta device their weights, without a copy.

    names: how a name begins in `weights` → how it does in the module. Raises ValueError, in names of
    `weights`, for those that are missing, left over, there twice, or of another shape; the module is
    untouched then.
    """
    wanted = {n: tuple(t.shape) for n, t in module.state_dict().items() if t.is_meta}
    given = keyed(weights, lambda name: _renamed(name, names.items()), source)
    back = [(ours, theirs) for theirs, ours in names.items()]
    missing = [_renamed(name, back) for name in wanted if name not in given]
    over = [theirs for ours, theirs in given.items() if ours not in wanted]
    other = [
        f"{theirs} is {tuple(weights[theirs].shape)}, want {wanted[ours]}"
        for ours, theirs in given.items()
        if ours in wanted and tuple(weights[theirs].shape) != wanted[ours]
    ]
    wrong = [f"it lacks {few(missing)}"] if missing else []
    wrong += [f"it has no place for {few(over)}"] if over else []
    wrong += [few(other)] if other else []
    if wrong:
        raise ValueError(f"{source}: {'; '.join(wrong)}")
    state = {ours: weights[theirs] for ours, theirs in given.items()}
    module.load_state_dict(state, strict=False, assign=True)


def _renamed(name: str, prefixes: Iterable[tuple[str, str]]) -> str:
    return next(
        (new + name.removeprefix(old) for old, new in prefixes if name.startswith(old)), name
    )
