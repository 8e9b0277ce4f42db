"""What is answered is what the model says, whoever else asks at the same time."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import CHAT, body, examples, said, serving

import foveate
from foveate import embedded as ours
from foveate.chat import Turn
from foveate.evaluate import replies
from foveate.hosts.whole import fingerprint
from foveate.ladder import Ladder

METHODS = (
    "identity",
    "divprune(keep=36)",
    "fastv(keep=0.25)",
    "sparsevlm(keep=0.5)",
    "tome(keep=72)",
)


@pytest.fixture(scope="module")
def alone():
    """What `replies` says to every question by method, each asked alone."""
    model, processor = ours.load()
    found = {}
    for method in METHODS:
        slug, _, given = method.partition("(keep=")
        keep = json.loads(given.rstrip(")") or "1.0")
        with foveate.compressed(model, slug, **({} if slug == "identity" else {"keep": keep})):
            asks = [(e.images, e.question) for e in examples()]
            found[method] = [replies(model, processor, [one], 16)[0] for one in asks]
    return found


def test_everybody_gets_the_answer_they_would_get_alone(embedded, alone):
    asked = [(method, i) for i in range(len(examples())) for method in METHODS]

    def ask(one):
        method, i = one
        return embedded.post(CHAT, json=body(i, method=method, max_tokens=16))

    with ThreadPoolExecutor(64) as pool:
        for (method, i), response in zip(asked, pool.map(ask, asked), strict=True):
            mine, usage = alone[method][i], response.json()["usage"]
            assert said(response) == mine.text
            assert usage["visual_tokens"] == {"before": mine.before, "after": mine.after}
            assert usage["prompt_tokens"] == mine.columns[0]
    sizes = [line for line in embedded.get("/metrics").text.splitlines() if "size_bucket" in line]
    few, every = (next(s for s in sizes if f'le="{at}"' in s).split()[1] for at in ("1.0", "+Inf"))
    assert float(few) < float(every)  # some were answered together


@pytest.mark.parametrize("method", [{}, {"method": "divprune", "keep": 36}, {"method": "fastv"}])
def test_pictures_one_two_and_none_go_into_one_batch(embedded, method):
    asked = [body(i, **method) for i in range(9)]
    for i in range(3):
        words = examples()[i].question
        asked.append({"messages": [{"role": "user", "content": words}], **method})
        asked.append(two := body(i, **method))
        first, last = two["messages"][0]["content"]
        two["messages"][0]["content"] = [first, *body(i + 1)["messages"][0]["content"][:1], last]
    alone = [embedded.post(CHAT, json=one).json() for one in asked]
    with ThreadPoolExecutor(16) as pool:
        many = [r.json() for r in pool.map(lambda one: embedded.post(CHAT, json=one), asked)]
    for one, other in zip(alone, many, strict=True):
        assert one["choices"] == other["choices"] and one["usage"] == other["usage"]
    assert {one["usage"]["visual_tokens"]["before"] for one in alone} == {0, 144, 288}


def test_a_stream_says_the_same_piece_by_piece(embedded):
    for i in range(12):
        whole = said(embedded.post(CHAT, json=body(i)))
        asked = body(i, stream=True, stream_options={"include_usage": True})
        with embedded.stream("POST", CHAT, json=asked) as response:
            lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
        *chunks, last = lines
        chunks = [json.loads(line) for line in chunks]
        assert last == "[DONE]" and chunks[-1]["usage"]["completion_tokens"] >= 1
        pieces = [c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]]
        assert "".join(pieces) == whole
        assert chunks[-2]["choices"][0]["finish_reason"] == "stop"


def test_rows_of_a_batch_end_by_themselves():
    """Answers of other lengths, with other stop words, drawn or not, are the same alone and together."""
    wanted = [
        body(0, max_tokens=2),
        body(1, max_tokens=40),
        body(2, max_tokens=40, stop=["red"]),
        body(3, max_tokens=40, temperature=1.5, seed=7),
        body(4, max_tokens=40, temperature=0.7, top_p=0.9, seed=8),
    ]
    with serving(endless=True) as (client, _):
        first = [client.post(CHAT, json=one).json() for one in wanted]
        with ThreadPoolExecutor(len(wanted)) as pool:
            again = [r.json() for r in pool.map(lambda b: client.post(CHAT, json=b), wanted)]
    for one, other in zip(first, again, strict=True):
        assert one["choices"] == other["choices"] and one["usage"] == other["usage"]
    assert first[0]["usage"]["completion_tokens"] == 2
    assert first[0]["choices"][0]["finish_reason"] == "length"
    assert "red" not in first[2]["choices"][0]["message"]["content"]


def test_several_pictures_and_turns(embedded):
    model, processor = ours.load()
    first = body(2)["messages"][0]
    back = embedded.post(CHAT, json={"messages": [first]}).json()["choices"][0]["message"]
    assert back["content"] == "red"
    later = {
        "role": "user",
        "content": [*body(3)["messages"][0]["content"], {"type": "text", "text": " ?"}],
    }
    response = embedded.post(CHAT, json={"messages": [first, back, later]})
    e, f = examples()[2], examples()[3]
    turns = [
        Turn("user", f"<image>{e.question}"),
        Turn("assistant", "red"),
        Turn("user", f"<image>{f.question} ?"),
    ]
    mine = replies(model, processor, [([*e.images, *f.images], turns)], 16)[0]
    assert said(response) == mine.text
    assert response.json()["usage"]["visual_tokens"] == {"before": 288, "after": 288}
    assert said(embedded.post(CHAT, json={"messages": [{"role": "user", "content": "what ?"}]}))


@pytest.mark.parametrize(
    ("model", "given", "refused"),
    [
        ("embedded-fovea", {}, None),
        ("embedded-fovea", {"keep": 9}, None),
        ("embedded-fovea", {"method": "fovea", "keep": 16}, None),
        ("embedded-llava_stf", {}, None),
        ("embedded-llava_stf", {"method": "divprune", "keep": 9}, None),
        ("embedded-llava_stf", {"keep": 9}, "trained for one budget alone"),
        ("embedded", {"keep": 9}, "say which"),
        ("embedded", {"method": "llava_stf"}, "has weights, and embedded was not trained with it"),
    ],
)
def test_a_trained_method_serves_the_budgets_that_its_weights_know(model, given, refused):
    with serving(model) as (client, _):
        response = client.post(CHAT, json=body(1, **given))
    if refused is not None:
        assert response.status_code == 400 and refused in response.text
        return
    after = response.json()["usage"]["visual_tokens"]["after"]
    assert after == given.get("keep", after) and after < 144


def test_the_servers_own_method_takes_a_requests_budget():
    with serving(method="divprune", keep="72") as (client, _):
        for given, after in (({}, 72), ({"keep": 9}, 9), ({"keep": "1.0"}, 144)):
            usage = client.post(CHAT, json=body(1, **given)).json()["usage"]
            assert usage["visual_tokens"]["after"] == after


def test_a_ladder_lets_requests_climb_apart(tmp_path):
    """Each is answered as it would be alone, whole and as a stream; a method in a request goes before."""
    model, processor = ours.load()
    asks = [(e.images, e.question) for e in examples()]
    told = {"risk": 0.1, "delta": 0.1, "n": 44, "task": "mine", "examples": "", "model": "embedded"}
    ladder = Ladder("stride", (4, 36, 1.0), 0.5, fingerprint=fingerprint(model), **told)
    alone = [ladder.answers(model, processor, [one], 16)[0] for one in asks]
    assert {one.rung for one in alone} == {4, 36, 1.0}
    with serving(method=str(ladder.write(tmp_path / "ladder.json", {}))) as (client, _):

        def ask(i):
            return client.post(CHAT, json=body(i, max_tokens=16))

        with ThreadPoolExecutor(16) as pool:
            for mine, response in zip(alone, pool.map(ask, range(len(asks))), strict=True):
                assert said(response) == mine.text
                assert response.json()["usage"]["visual_tokens"]["after"] == mine.after
        for i in range(6):
            with client.stream("POST", CHAT, json=body(i, max_tokens=16, stream=True)) as told:
                lines = [line[6:] for line in told.iter_lines() if line.startswith("data: {")]
            words = [json.loads(line)["choices"] for line in lines]
            text = "".join(w[0]["delta"].get("content") or "" for w in words if w)
            assert text.strip() == alone[i].text
        for said_too in ({"method": "stride"}, {"method": "divprune"}, {}):
            for i in [i for i, one in enumerate(alone) if one.rung == 1.0][:4]:
                one = client.post(CHAT, json=body(i, keep=36, **said_too))
                assert one.json()["usage"]["visual_tokens"]["after"] == 36
        hot = client.post(CHAT, json=body(0, temperature=1.0))
        assert hot.status_code == 400 and "temperature=1.0 on a ladder" in hot.text
        assert client.post(CHAT, json=body(0, temperature=1.0, keep=36)).status_code == 200
        refused = client.post(CHAT, json=body(0, method=str(tmp_path / "ladder.json")))
        assert refused.status_code == 400
