"""In front of a vLLM: what it is handed, what comes back, and what a client hears when it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from behind import ROOM, behind
from conftest import CHAT, body, examples, said, serving

import foveate
from foveate import embedded as ours
from foveate.cli import run
from foveate.engines.vllm.behind import Ended, running
from foveate.evaluate import replies
from foveate.serve.limits import Limits

HEADLESS = {"headless": True, "switches": {"positions": "renumbered"}}
# What a request asks for, and what that is.
ASKED = {
    "saved": ({}, None),
    "saved, 9": ({"keep": 9}, 9),
    "cdpruner": ({"method": "cdpruner", "keep": 36}, "cdpruner(keep=36)"),
    "prumerge": ({"method": "prumerge"}, "prumerge"),
    "divprune, merged": ({"method": "divprune", "keep": 0.1}, "divprune(keep=0.1)"),
    "bare": ({"method": "identity"}, "identity"),
}


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    """A client of a front, and the state of what is behind it."""
    with (
        behind(tmp_path_factory.mktemp("behind")) as (state, answers),
        serving("embedded-fovea", offered=HEADLESS, answers=answers) as (client, made),
    ):
        state.server = made
        yield client, state


@pytest.fixture(autouse=True)
def well(front):
    """Whatever a test did to what is behind, the next finds it well."""
    yield
    front[1].how = "well"


def test_a_burst_of_all_methods_is_answered_as_compress_does(front):
    client, _ = front
    model, processor = ours.load(name="embedded-fovea")
    saved, some = model.model.visual_compressor, examples()[:8]
    asked = [(name, i) for i in range(len(some)) for name in ASKED]

    def ask(one):
        return client.post(CHAT, json=body(one[1], max_tokens=16, **ASKED[one[0]][0]))

    with ThreadPoolExecutor(16) as pool:
        found = dict(zip(asked, pool.map(ask, asked), strict=True))
    for name, (_, text) in ASKED.items():
        method = saved if text is None else saved.but(keep=text) if isinstance(text, int) else None
        made = method or foveate.registry.written.spec(text).build(model=model)
        foveate.compress(model, made, positions="renumbered")
        for i, e in enumerate(some):
            (mine,) = replies(model, processor, [(e.images, e.question)], 16)
            usage = found[name, i].json()["usage"]
            assert said(found[name, i]) == mine.text
            assert usage["visual_tokens"] == {"before": mine.before, "after": round(mine.after)}
            assert usage["prompt_tokens"] == mine.columns[0]


def test_streams_stop_words_turns_and_pictures_go_the_same_way(front):
    client, _ = front
    whole = said(client.post(CHAT, json=body(0)))
    asked = body(0, stream=True, stream_options={"include_usage": True})
    with client.stream("POST", CHAT, json=asked) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    *chunks, usage = [json.loads(line) for line in lines[:-1]]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == whole
    assert usage["usage"]["visual_tokens"]["before"] == 144 and lines[-1] == "[DONE]"
    first = whole.partition(" ")[0]
    assert first != whole
    cut = client.post(CHAT, json=body(0, stop=[whole[len(first) :]])).json()["choices"][0]
    assert cut["message"]["content"] == first and cut["finish_reason"] == "stop"
    short = client.post(CHAT, json=body(0, max_tokens=1)).json()["choices"][0]
    assert short["finish_reason"] == "length"
    two = body(2)
    two["messages"][0]["content"] *= 2
    assert client.post(CHAT, json=two).json()["usage"]["visual_tokens"]["before"] == 288
    words = {"messages": [{"role": "user", "content": "what ?"}]}
    assert client.post(CHAT, json=words).json()["usage"]["visual_tokens"]["before"] == 0


def test_what_is_behind_hears_how_to_draw_and_how_much_room_there_is(front):
    client, state = front
    said(client.post(CHAT, json=body(0, temperature=0.5, top_p=0.9, seed=7, max_tokens=400)))
    heard = {name: state.asked[-1][name] for name in ("temperature", "top_p", "seed", "max_tokens")}
    assert heard == {"temperature": 0.5, "top_p": 0.9, "seed": 7, "max_tokens": 400}
    said(client.post(CHAT, json=body(0, keep="1.0", max_tokens=ROOM - 100)))
    assert state.asked[-1]["max_tokens"] < ROOM - 100  # which the whole picture leaves no room for


@pytest.mark.parametrize(
    ("how", "status", "why"),
    [
        (400, 400, "vLLM: no"),
        (401, 502, "401, no"),
        (500, 502, "500, no"),
        (503, 503, "503, no"),
        ("broken", 502, "the engine is dead"),
        ("short", 502, "in the middle of an answer"),
    ],
)
def test_what_goes_wrong_behind_is_said_and_is_no_fault_of_the_clients(front, how, status, why):
    client, state = front
    state.how = how
    response = client.post(CHAT, json=body(0))
    kind = "invalid_request_error" if status == 400 else "server_error"
    assert response.status_code == status and why in response.text
    assert response.json()["error"]["type"] == kind
    with client.stream("POST", CHAT, json=body(0, stream=True)) as stream:
        told = stream.read().decode()
    assert why in told and "[DONE]" not in told
    state.how = "well"
    assert said(client.post(CHAT, json=body(0)))


def test_methods_inside_the_language_model_are_refused_and_say_where_they_are(front):
    response = front[0].post(CHAT, json=body(0, method="fastv"))
    assert response.status_code == 400 and "FastV acts before decoder layer 2" in response.text
    assert "`foveate serve` has it" in response.text


def test_who_leaves_is_forgotten_and_who_waits_too_long_is_told(tmp_path):
    with (
        behind(tmp_path) as (state, answers),
        serving("embedded-fovea", limits=Limits(seconds=2), offered=HEADLESS, answers=answers) as (
            client,
            made,
        ),
    ):
        state.how = "endless"
        with client.stream("POST", CHAT, json=body(0, stream=True)) as stream:
            next(stream.iter_lines())
            assert not made.engine.idle
        until = time.monotonic() + 1.5
        while not made.engine.idle and time.monotonic() < until:
            time.sleep(0.02)
        assert made.engine.idle
        state.how = "mute"
        late = client.post(CHAT, json=body(0))
        assert late.status_code == 504 and "no answer in time" in late.text
        state.stop()
        gone = client.post(CHAT, json=body(0))
        assert gone.status_code == 502 and "gives no answer" in gone.text


def test_a_vllm_that_ends_is_told_of_and_one_that_runs_is_ended(tmp_path):
    with (
        pytest.raises(Ended, match="exit code 3"),
        running(lambda _: [sys.executable, "-c", "exit(3)"]),
    ):
        pass
    script = """
import http.server, json, os, socketserver, sys
class One(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": [{"max_model_len": 99}]}).encode())
    address_string = log_message = lambda self, *words: ""
socketserver.UnixStreamServer(sys.argv[1], One).serve_forever()
"""

    def words(folder: Path) -> list[str]:
        return [sys.executable, "-c", script, str(folder / "vllm.sock")]

    with running(words) as made:
        assert made.room == 99 and made.socket.parent.stat().st_mode & 0o077 == 0
        process, seen = made.process, []
        made.watch(lambda: seen.append(process.poll()))
    assert process.poll() is not None and not made.socket.exists()
    with pytest.raises(Ended, match="exit code -9"), running(words) as made:
        made.process.kill()
        made.process.wait()
    assert len(seen) == 1


def test_a_front_that_is_killed_takes_what_is_behind_it_along(tmp_path):
    """Whatever that started, too."""
    script = """
import sys, time
from pathlib import Path
from foveate.engines.vllm.behind import Behind
made = Behind(["sh", "-c", "sleep 600 & sleep 600"], Path("nowhere"))
print(made.process.pid, flush=True)
time.sleep(600)
"""
    front = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    group = int(front.stdout.readline())
    os.killpg(group, 0)
    front.kill()
    front.communicate()
    end = time.monotonic() + 10
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < end:
            os.killpg(group, 0)
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("--front", 2, "--front is for --engine vllm"),
        ("--engine vllm --front --page", 2, "no page and no replicas"),
        ("--engine vllm --front --method cdpruner", 2, "say --positions renumbered"),
        ("--engine vllm --front --model embedded-fovea", 2, "say --positions renumbered"),
        (
            "--engine vllm --front --positions renumbered --method fastv",
            2,
            "`foveate serve` has it",
        ),
        ("--engine vllm --front --positions renumbered --method cdpruner", 1, "foveate[vllm]"),
    ],
)
def test_the_command_refuses_before_it_loads_anything(capsys, words, code, says):
    assert run(["serve", *words.split()]) == code
    assert says in capsys.readouterr().err


def test_the_front_hands_nothing_else_on(front):
    assert front[0].post("/v1/completions", json={"prompt": "a"}).status_code == 404
