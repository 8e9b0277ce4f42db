"""Two replicas on a local Ray cluster say what one server says."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import CHAT, body, said

pytest.importorskip("ray", reason="Ray is not installed")
BORN = re.compile(r"^foveate_batch_size_created (\S+)$", re.MULTILINE)  # of each replica


def test_two_replicas_say_what_one_server_says(embedded):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "foveate", "serve", "--ray", "2", "--port", port]
    quiet = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    asked = [body(i, method="divprune", keep=36) for i in range(24)]
    alone = [said(embedded.post(CHAT, json=one)) for one in asked]
    with subprocess.Popen(command, env=quiet, stderr=subprocess.PIPE, text=True) as process:
        try:
            at = next(
                found for line in process.stderr if (found := re.match(r"(http\S+) answers", line))
            )
            with (
                httpx.Client(base_url=at[1], timeout=120) as client,
                ThreadPoolExecutor(24) as pool,
            ):
                many = [*pool.map(lambda one: client.post(CHAT, json=one), asked)]
                assert [said(response) for response in many] == alone
                assert "nearest: divprune" in client.post(CHAT, json=body(method="divprun")).text
                made = {BORN.search(client.get("/metrics").text)[1] for _ in range(40)}
                assert len(made) == 2
                late = [pool.submit(client.post, CHAT, json=one) for one in asked]
                next(one for one in late if one.result())
                process.send_signal(signal.SIGTERM)
                ended = [one.exception() or one.result().status_code for one in late]
            assert process.wait(120) == 0
            assert all(isinstance(status, int) for status in ended)  # nobody is left without a word
            assert ended.count(200) > 12
        finally:
            process.kill()
