"""Small real LLaVAs that come with the package: one trained from nothing on PatchQA, and what came of it.

MODELS   what people call them → where their files are, or will be
PATH     the first of them, which sees every token
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

PATH = Path(__file__).with_name("model")
MODELS = {
    "embedded": PATH,
    "embedded-fovea": PATH.with_name("fovea"),  # trained on with Fovea, any number of tokens
    "embedded-llava_stf": PATH.with_name("llava_stf"),  # trained on with LLaVA-STF, 36 tokens
    "embedded-tiled": PATH.with_name("tiled"),  # with LLaVA-NeXT's tiles, 744 tokens
}


def carried() -> dict[str, Path]:
    """Those of MODELS whose files are in this copy of foveate."""
    return {name: path for name, path in MODELS.items() if (path / "config.json").exists()}


def compressed() -> list[str]:
    """Those of them that were trained with a compressor."""
    return [name for name, path in carried().items() if "visual_compression" in _config(path)]


def _config(path: Path) -> dict[str, Any]:
    return json.loads((path / "config.json").read_text(encoding="utf-8"))


def load(
    dtype: torch.dtype | None = None, name: str = "embedded"
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Read a model, ready for inference, and its processor from the package's own files.

    dtype is float32 unless given. A model that was trained with a compressor has it attached. Raises
    ValueError for names that this copy of foveate does not carry.
    """
    # Imported here: help and errors ask this file for names alone, and these take seconds.
    import torch

    from foveate import methods
    from foveate.hosts import reading, saving
    from foveate.hosts.attach import compress

    if name not in carried():
        raise ValueError(f"name={name!r}: want one of {', '.join(carried())}")
    path, dtype = MODELS[name], dtype or torch.float32
    if saving.said(reading.config(path)) is not None:
        # What is carried names foveate's own compressors alone, so nothing has to be told apart.
        model, method, how = saving.from_pretrained(str(path), vars(methods), None, dtype=dtype)
        compress(model, method, **how)
    else:
        model = reading.model(path, dtype=dtype)
    return model.eval(), reading.processor(path)
