"""vLLM's server: what cannot be served is a 400 in our words; a model is compressed, or not served at all."""

from __future__ import annotations

import base64
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import foveate
from foveate import DivPrune, embedded
from foveate.engines.vllm.command import command
from foveate.engines.vllm.exported import export
from foveate.hosts import reading
from recipes.vllm_load import WAIT, serving, started

SHOP = Path(__file__).parents[1] / "examples" / "shop.png"
SMALL = ["--max-model-len", "512", "--dtype", "float32", "--enforce-eager", "--max-num-seqs", "4"]


def ask(url, model, method=None, **more):
    """The status, and what was said: the answer and the prompt's tokens, or the error."""
    data = "data:image/png;base64," + base64.b64encode(SHOP.read_bytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": data}},
        {"type": "text", "text": "what does the sign say ?"},
    ]
    body = {
        "model": model,
        "temperature": 0,
        "max_tokens": 12,
        "messages": [{"role": "user", "content": content}],
        "mm_processor_kwargs": {} if method is None else {"foveate": method, **more},
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        out = json.load(urllib.request.urlopen(request))
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    return 200, (out["choices"][0]["message"]["content"], out["usage"]["prompt_tokens"])


@pytest.fixture(scope="module")
def url():
    path = embedded.PATH
    told = ["divprune(keep=36)", None, True, True, SMALL]
    words = command(str(path), reading.config(str(path)), *told)
    with serving(words) as address:
        yield address


def test_each_request_has_its_method(url):
    model = str(embedded.PATH)
    counts = {}
    for text in (None, "identity", "stride(keep=72)", "visionzip(keep=0.25)", None):
        status, (_, counts[text]) = ask(url, model, text)
        assert status == 200
    whole = counts["identity"]
    assert whole - counts[None] == 144 - 36
    assert whole - counts["stride(keep=72)"] == 144 - 72
    assert counts["visionzip(keep=0.25)"] == counts[None]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fastv(keep=36)", "FastV acts before decoder layer 2"),
        ("cdpruner(keep=36)", "CDPruner reads the question"),
        ("prumerge", "the picture decides how many tokens are left"),
        ("meteor(keep=36)", "vLLM serves identity, random, stride"),
        ("divprun(keep=36)", "nearest: divprune"),
        ("divprune(keep=0)", "want an int >= 1"),
        ("hiprune(keep=36, tower_layers=99)", "made for tower_layers=99, the model has"),
        ("os:getcwd", "want a method by name"),
        (["divprune"], "want a method by name"),
    ],
)
def test_what_cannot_be_served_is_refused_in_our_words(url, text, said):
    status, answer = ask(url, str(embedded.PATH), text)
    assert status == 400 and said in answer


def test_positions_are_the_servers(url):
    status, answer = ask(url, str(embedded.PATH), "stride(keep=36)", foveate_positions="renumbered")
    assert status == 400 and "foveate_positions" in answer


@pytest.fixture
def compressed(tmp_path):
    """A model that was saved compressed."""
    model, processor = embedded.load()
    foveate.compress(model, DivPrune(keep=36))
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_an_export_is_served_compressed_or_not_at_all(compressed, tmp_path):
    out = tmp_path / "out"
    export(compressed, out)
    words = command(str(out), reading.config(str(out)), cpu=True, more=SMALL)
    with serving(words) as address:
        status, answer = ask(address, str(out))
    assert status == 200, answer
    assert answer[1] < 100
    with (tmp_path / "bare").open("w") as log:
        plain = [
            sys.executable,
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--model",
            str(out),
            *SMALL,
        ]
        bare = started(plain, log, VLLM_PLUGINS="none")
        assert bare.wait(WAIT) != 0
    assert "FoveateForConditionalGeneration" in (tmp_path / "bare").read_text()


def test_positions_that_would_be_counted_anew_are_refused_at_the_start(compressed, tmp_path):
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(compressed)]
    with (tmp_path / "log").open("w") as log:
        assert started([*words, "--model-impl", "transformers", *SMALL], log).wait(WAIT) != 0
    assert "kept tokens keep their positions" in (tmp_path / "log").read_text()
