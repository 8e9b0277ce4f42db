"""The command as a process: it drains when it is told to stop; and nothing that is sent makes it fail."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import schemathesis
from conftest import CHAT, body, said, serving
from hypothesis import HealthCheck, given, settings, strategies
from schemathesis.checks import not_a_server_error


def test_told_to_stop_it_answers_what_is_here_and_exits_with_0():
    command = [sys.executable, "-m", "foveate", "serve", "--port", "0", "--no-page", "--batch", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        line = next(line for line in server.stderr if "answers" in line)
        at = re.search(r"http://\S+", line)[0]
        try:
            with httpx.Client(base_url=at, timeout=60) as client, ThreadPoolExecutor(24) as pool:
                whole = said(client.post(CHAT, json=body(2)))
                many = [pool.submit(client.post, CHAT, json=body(2)) for _ in range(24)]
                while (waiting := queue(client)) < 8:
                    pass
                server.send_signal(signal.SIGTERM)
                found = [one.exception() or one.result() for one in many]
            assert server.wait(30) == 0
        finally:
            server.kill()
    answers = [r for r in found if isinstance(r, httpx.Response) and r.status_code == 200]
    assert len(answers) >= waiting and {said(r) for r in answers} == {whole}
    # Whoever came after the signal found the door closed.
    late = [r for r in found if r not in answers]
    assert all(isinstance(r, httpx.TransportError) or r.status_code == 503 for r in late)


def test_a_load_with_broken_requests_loses_none_and_answers_the_others(tmp_path):
    """A small one of what results/serve-load.json is the large one of."""
    load = Path(__file__).parents[1] / "recipes" / "serve_load.py"
    how = [
        "--requests",
        "200",
        "--clients",
        "32",
        "--questions",
        "11",
        "--out",
        tmp_path / "a.json",
    ]
    subprocess.run([sys.executable, load, *how], check=True, stdout=subprocess.DEVNULL)
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["ended"]["good"] == {"200": 190} and found["not_as_they_should"] == []
    assert found["exit_code"] == 0


def queue(client: httpx.Client) -> float:
    """How many wait for the model."""
    return float(re.search(r"^foveate_queue_length (.*)$", client.get("/metrics").text, re.M)[1])


def test_whatever_its_schema_allows_it_never_fails():
    with serving() as (client, _):
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())

        @settings(max_examples=100, deadline=None, suppress_health_check=[*HealthCheck])
        @given(data=strategies.data())
        def ask(data):
            case = data.draw(operation.as_strategy())
            case.call_and_validate(base_url=str(client.base_url), checks=[not_a_server_error])

        for found in schema.get_all_operations():
            operation = found.ok()
            ask()
