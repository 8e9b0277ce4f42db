"""foveate inside vLLM: images leave the encoder with fewer tokens, so prompt, cache and prefill are short."""

from __future__ import annotations

ARCHITECTURE = (
    "FoveateForConditionalGeneration"  # of an export: vLLM without foveate knows no such model
)
BACKEND = "TransformersMultiModalForCausalLM"  # what vLLM runs with --model-impl transformers


def register() -> None:
    """Put our class in the place of vLLM's own for transformers' multimodal models. vLLM calls it first.

    Where no method is asked for, it does what that class does. A model's loading imports the rest.
    """
    from vllm import ModelRegistry

    for name in (BACKEND, ARCHITECTURE):
        ModelRegistry.register_model(
            name, "foveate.engines.vllm.model:FoveateForConditionalGeneration"
        )
