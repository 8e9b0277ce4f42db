"""A small real LLaVA that comes with the package, trained from nothing on PatchQA."""

from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

PATH = Path(__file__).with_name("model")


def load(dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Read the model, ready for inference, and its processor from the package's own files."""
    model = AutoModelForImageTextToText.from_pretrained(PATH, dtype=dtype)
    return model.eval(), AutoProcessor.from_pretrained(PATH)
