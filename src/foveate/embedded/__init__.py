"""Small real LLaVAs that come with the package: one trained from nothing on PatchQA, and what it became.

MODELS   what people call them → where their files are
PATH     the first of them, which sees every token
"""

from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
)

from foveate import methods
from foveate.compressor import Compressor
from foveate.hosts import saving
from foveate.hosts.attach import compress

PATH = Path(__file__).with_name("model")
MODELS = {
    "embedded": PATH,
    "embedded-llava_stf": PATH.with_name("llava_stf"),  # trained on with LLaVA-STF, 36 tokens
}


def load(
    dtype: torch.dtype = torch.float32, name: str = "embedded"
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Read a model, ready for inference, and its processor from the package's own files.

    A model that was trained with a compressor has it attached. Raises ValueError for unknown names.
    """
    if name not in MODELS:
        raise ValueError(f"name={name!r}: want one of {', '.join(MODELS)}")
    path = MODELS[name]
    if getattr(AutoConfig.from_pretrained(path), "visual_compression", None):
        known = {k: c for k, c in vars(methods).items() if _is_compressor(c)}
        model = compress(*saving.from_pretrained(str(path), known, None, dtype=dtype))
    else:
        model = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype)
    return model.eval(), AutoProcessor.from_pretrained(path)


def _is_compressor(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Compressor)
