"""foveate's server with vLLM behind says what a compressed model says, where vLLM cannot serve it alone."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
import torch
from PIL import Image
from test_families import saved

from recipes.vllm_answers import NEW_TOKENS, ours, questions
from recipes.vllm_front import ARMS, body, burst, fronted, run

NEAR = 1e-3  # a margin of two logits that counts as a tie


def test_ragged_methods_and_readers_of_the_question_answer_as_they_do_alone():
    rows = run(16)
    for row in rows:
        assert [one for one in row["apart"] if one["margin"] > NEAR] == [], row
    tokens = [row["tokens"] for row in rows]
    assert tokens[:3] == [[36], [9], [36]]
    assert all(
        len(left) > 3
        for left, (_, given) in zip(tokens, ARMS, strict=True)
        if "prumerge" in str(given)
    )


@pytest.mark.parametrize("name", ["llava_next", "idefics3", "qwen2_5_vl"])
def test_families_that_vllm_alone_serves_otherwise_or_not_at_all(name, tmp_path):
    """Newlines stay, text between an image's tokens is no matter, and what is cut is counted anew."""
    model, words = saved(name, tmp_path)
    if name == "idefics3":  # a tile of this model's
        words.image_seq_len = 16
        words.save_pretrained(tmp_path)
    draw = torch.Generator().manual_seed(0)
    sizes = [(64, 64), (64, 96), (96, 64)]
    pixels = [torch.randint(0, 256, (h, w, 3), generator=draw, dtype=torch.uint8) for h, w in sizes]
    asks = [((Image.fromarray(one.numpy()),), "What is in the picture?") for one in pixels]
    text = "divprune(keep=0.4)"
    with fronted(str(tmp_path), "--method", "divprune", "--keep", "0.4") as url:
        (theirs,) = burst(url, asks, [{}])
    for a, b in zip(ours(model, words, text, "renumbered", asks), theirs, strict=True):
        said = words.decode(a["ids"], skip_special_tokens=True).strip()
        assert said == b["choices"][0]["message"]["content"] or min(a["margin"]) < NEAR
        assert b["usage"]["completion_tokens"] == NEW_TOKENS


def test_what_the_front_refuses():
    (ask,) = questions(1)
    with fronted("embedded", "--method", "cdpruner", "--keep", "36") as url:
        for given, why in (
            ({"method": "fastv"}, "FastV acts before decoder layer 2"),
            ({"method": "meteor(keep=36)"}, "has weights"),
            ({"mm_processor_kwargs": {}}, "unknown field"),
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                burst(url, [ask], [given])
            assert refused.value.code == 400 and why in refused.value.read().decode()
        request = urllib.request.Request(
            f"{url}/v1/completions",
            json.dumps(body(ask, {})).encode(),
            {"Content-Type": "application/json"},
        )
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(request)
