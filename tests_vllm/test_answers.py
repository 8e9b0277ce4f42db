"""vLLM with foveate in it says what a compressed model says."""

from __future__ import annotations

import pytest

from foveate import embedded
from recipes import vllm_answers
from recipes.vllm_answers import asked, compared, ours, questions, theirs

METHODS = [
    "stride(keep=36)",
    "pool(keep=0.25)",
    "divprune(keep=36)",
    "visionzip(keep=36)",
    "identity",
]
NEAR = 1e-3  # a margin of two logits that counts as a tie
# Chunks smaller than a prompt, and caches of images and of prefixes that see every request twice.
CHUNKED = {"max_num_batched_tokens": 160, "limit_mm_per_prompt": {"image": 2}}


def check(processor, mine, other, tokens):
    row = compared(processor, mine, other)
    assert [one for one in row["apart"] if one["margin"] > NEAR] == []
    assert all(tokens[0] <= count <= tokens[1] for count in row["prompt"])


@pytest.mark.parametrize("positions", vllm_answers.POSITIONS)
def test_methods_in_one_batch_answer_as_they_do_alone(positions):
    model, processor = embedded.load()
    asks = [*questions(8), *questions(4, images=2)]
    by_method = {text: asked(processor, asks, text) for text in METHODS}
    mixed = [request for some in zip(*by_method.values(), strict=True) for request in some] * 2
    answers = theirs(str(embedded.PATH), positions, mixed, enable_prefix_caching=True, **CHUNKED)
    for i, text in enumerate(METHODS):
        mine = ours(model, processor, text, positions, asks)
        tokens = (150, 330) if text == "identity" else (40, 110)
        check(processor, mine * 2, answers[i :: len(METHODS)], tokens)


@pytest.mark.parametrize("positions", vllm_answers.POSITIONS)
def test_a_checkpoint_brings_its_method_and_weights(positions):
    model, processor = embedded.load(name=vllm_answers.SAVED)
    asks, path = questions(8), str(embedded.MODELS[vllm_answers.SAVED])
    answers = theirs(path, positions, asked(processor, asks, None))
    check(processor, ours(model, processor, None, positions, asks), answers, (40, 60))
