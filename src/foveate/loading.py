"""Models that come back from disk with their compressor: where hosts and methods meet."""

from __future__ import annotations

from typing import Any

from torch import nn

import foveate.methods
from foveate.compressor import Compressor
from foveate.hosts import saving
from foveate.hosts.attach import compress


def from_pretrained(path: str, method: Compressor | None = None, **kwargs: Any) -> nn.Module:
    """The model saved under a path or Hub id, with the compressor it was saved with.

    method: your own compressor, where the checkpoint's is not one of foveate's. Other keywords go to
    AutoModelForImageTextToText.from_pretrained. Nothing but safetensors and JSON is read.

    Raises ValueError if the checkpoint names no compressor, an unknown one, or lacks its weights.
    """
    known = {c.__name__: c for c in vars(foveate.methods).values() if _is_compressor(c)}
    model, method, positions = saving.from_pretrained(path, known, method, **kwargs)
    return compress(model, method, positions)


def _is_compressor(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Compressor) and value is not Compressor
