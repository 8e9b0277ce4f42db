"""Whether a model fits: bytes it needs against bytes there are."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from foveate.bench.configs import TEXT, Named
from foveate.hosts import cost, traits

CGROUP = Path("/sys/fs/cgroup")


def weights(model: nn.Module) -> int:
    """Bytes of a model's weights; it may be a skeleton."""
    return sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


def beside(model: nn.Module, columns: int, batch: int) -> int:
    """Bytes for the cache of a batch of prompts of so many columns, and a layer's vectors at its widest.

    An estimate from below: kernels take room of their own.
    """
    base, size = traits.base_of(model), next(model.parameters()).element_size()
    text = base.config.get_text_config()
    load = cost.Load({}, {}, (columns,) * len(traits.decoder_of(base).layers), columns)
    vectors = columns * (4 * text.hidden_size + 3 * text.intermediate_size) * size
    return batch * (cost.cost(model, load).kv_bytes + vectors)


def available(device: torch.device | str) -> int | None:
    """Bytes free on a device; None if nobody can tell."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration):
        return None
    return min(free, _allowed() or free)


def fits(
    named: Named, dtype: torch.dtype, batch: int, new_tokens: int, device: torch.device | str
) -> None:
    """Raise MemoryError, with both numbers, if a model and its longest answers cannot fit."""
    skeleton = cost.skeleton(named.config(), dtype)
    columns = TEXT + named.visual + new_tokens
    _want(weights(skeleton) + beside(skeleton, columns, batch), dtype, batch, device)


def room(model: nn.Module, columns: int, batch: int) -> None:
    """Raise MemoryError, with both numbers, if such a batch cannot fit beside a model that is there."""
    _want(beside(model, columns, batch), model.dtype, batch, model.device)


def _want(want: int, dtype: torch.dtype, batch: int, device: torch.device | str) -> None:
    there = available(device)
    if there is not None and want > there:
        raise MemoryError(
            f"needs at least {want / 2**30:.1f} GiB in {str(dtype).removeprefix('torch.')} at batch "
            f"size {batch}, and {device} has {there / 2**30:.1f} GiB free"
        )


def _allowed() -> int | None:
    """What a container leaves this process; None without such a limit."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return None if limit == "max" else int(limit) - int(stat["anon"])
    except (OSError, ValueError):
        return None
