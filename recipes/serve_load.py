"""`foveate serve` under load: 64 clients, one request in twenty broken, and what came of every one.

python recipes/serve_load.py [--requests 10000] [--clients 64] [--out results/serve-load.json]

The server is a process of its own, asked about PatchQA's test questions with three methods by turns. An
answer is right if it is what the model says when the question is asked alone. The broken requests are bad
base64, a huge picture, a wrong field, a reader that is slow, and a client that leaves; slow readers want the
right answer too.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

import foveate
from foveate import embedded, tasks
from foveate.evaluate import replies
from foveate.keeping.provenance import dumps, record, write

ROOT = Path(__file__).parents[1]
METHODS: dict[str, dict[str, Any]] = {
    "identity": {},
    "divprune": {"keep": 36},
    "fastv": {"keep": 0.25},
}
BROKEN = {
    "base64": 400,
    "huge": 413,
    "field": 400,
    "slow": 200,
    "gone": 0,
}  # and how each should end
NEW = 8  # tokens of an answer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--questions", type=int, default=220)
    parser.add_argument("--out", type=Path, default=ROOT / "results/serve-load.json")
    told = parser.parse_args()
    examples = tasks.examples("patchqa", told.questions)
    truth = {method: alone(method, how, examples) for method, how in METHODS.items()}
    with serving() as (port, process):
        load = Load(port, process.pid, truth, examples)
        start = time.perf_counter()
        asyncio.run(load.all(told.requests, told.clients))
        seconds = time.perf_counter() - start
        metrics = asyncio.run(load.metrics())
        process.terminate()
        code = process.wait(60)
    found = {
        "requests": told.requests,
        "clients": told.clients,
        "model": "embedded",
        "methods": METHODS,
        "ended": {kind: dict(load.ended[kind]) for kind in ("good", *BROKEN)},
        "not_as_they_should": load.wrong[:20],
        "seconds": seconds,
        "requests_per_second": told.requests / seconds,
        "mean_batch": metrics["batch_size_sum"] / metrics["batch_size_count"],
        "latency": {str(p): load.latency(p) for p in (50, 90, 99)},
        "megabytes": memory(load.megabytes),
        "exit_code": code,
        "circumstances": record(0),
    }
    write(told.out, dumps(found))
    print(dumps({k: v for k, v in found.items() if k != "circumstances"}))
    sys.exit(bool(load.wrong) or code != 0)


def alone(method: str, how: dict[str, Any], examples: list[Any]) -> list[str]:
    """What the model says to each question."""
    model, processor = embedded.load()
    asks = [(e.images, e.question) for e in examples]
    with foveate.compressed(model, method, **how):
        return [r.text for one in asks for r in replies(model, processor, [one], NEW)]


@contextmanager
def serving() -> Iterator[tuple[int, subprocess.Popen]]:
    """The server's port and process."""
    command = [sys.executable, "-m", "foveate", "serve", "--port", "0", "--no-page"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = next(line for line in process.stderr if "answers" in line)
            yield int(re.search(r":(\d+)", line)[1]), process
        finally:
            process.kill()


def memory(megabytes: list[float]) -> dict[str, float]:
    """The server's memory: in the second tenth of the run, in the last one, and at most."""
    tenth = max(len(megabytes) // 10, 1)
    second, last = megabytes[tenth : 2 * tenth], megabytes[-tenth:]
    return {
        "second_tenth": sum(second) / max(len(second), 1),
        "last_tenth": sum(last) / len(last),
        "most": max(megabytes),
    }


class Load:
    """Clients of one server, and what came of their requests. truth: the answers by method."""

    def __init__(self, port: int, process: int, truth: dict[str, list[str]], examples: list[Any]):
        self.port, self.process, self.truth = port, process, truth
        self.ended = {kind: Counter() for kind in ("good", *BROKEN)}
        self.wrong: list[Any] = []
        self.times: list[float] = []
        self.megabytes: list[float] = []
        self.pictures = [url(example.images[0]) for example in examples]
        self.questions = [example.question for example in examples]
        self.huge = url(Image.new("1", (20_000, 20_000)))

    async def all(self, requests: int, clients: int) -> None:
        """Ask so many requests, so many at once."""
        left = iter(range(requests))

        async def client() -> None:
            for n in left:
                await self.one(n)

        watch = asyncio.create_task(self.watch())
        await asyncio.gather(*(client() for _ in range(clients)))
        watch.cancel()

    async def watch(self) -> None:
        """Note the server's memory twice a second."""
        status = Path(f"/proc/{self.process}/status")
        while True:
            kilobytes = int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1])
            self.megabytes.append(kilobytes / 1024)
            await asyncio.sleep(0.5)

    async def one(self, n: int) -> None:
        """One request, and whether it ended as it should."""
        dice = random.Random(n)
        kind = dice.choice([*BROKEN]) if n % 20 == 7 else "good"
        method, which = [*METHODS][n % len(METHODS)], dice.randrange(len(self.questions))
        body = self.body(kind, method, which)
        start = time.perf_counter()
        try:
            status, text = await self.sent(body, kind, dice)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            status, text = -1, repr(error)
        if kind == "good":
            self.times.append(time.perf_counter() - start)
        said = text == self.truth[method][which] if status == 200 else None
        self.ended[kind][str(status) if said is not False else "wrong answer"] += 1
        if status != BROKEN.get(kind, 200) or said is False:
            self.wrong.append([n, kind, status, text[:200]])

    def body(self, kind: str, method: str, which: int) -> dict[str, Any]:
        """What is asked; broken in its own way."""
        picture = {"base64": "data:image/png;base64,@@", "huge": self.huge}
        at = picture.get(kind, self.pictures[which])
        content = [
            {"type": "image_url", "image_url": {"url": at}},
            {"type": "text", "text": self.questions[which]},
        ]
        more = {"field": {"kept": 9}, "slow": {"stream": True}}.get(kind, {})
        asked = {"messages": [{"role": "user", "content": content}], "max_tokens": NEW}
        return {**asked, "method": method, **METHODS[method], **more}

    async def sent(self, body: dict[str, Any], kind: str, dice: random.Random) -> tuple[int, str]:
        """The status and the answer; 0 for a client that left."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request("POST", "/v1/chat/completions", json.dumps(body).encode()))
            await writer.drain()
            if kind == "gone":
                await asyncio.sleep(dice.random() * 0.2)
                return 0, ""
            raw = bytearray()
            while piece := await reader.read(16 if kind == "slow" else 65_536):
                raw += piece
                await asyncio.sleep(0.02 if kind == "slow" else 0)
            return parsed(bytes(raw), kind)
        finally:
            writer.close()

    async def metrics(self) -> dict[str, float]:
        """What the server counted, without "foveate_"."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request("GET", "/metrics"))
        lines = re.findall(r"^foveate_(\w+) (\S+)$", (await reader.read()).decode(), re.MULTILINE)
        writer.close()
        return {name: float(value) for name, value in lines}

    def latency(self, percent: int) -> float:
        """Seconds within which so many of the good requests were answered."""
        return sorted(self.times)[min(len(self.times) * percent // 100, len(self.times) - 1)]


def url(image: Image.Image) -> str:
    """A picture as a data URL."""
    image.save(file := io.BytesIO(), "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """A request of HTTP 1.1 as it is sent."""
    kind = "Content-Type: application/json\r\n" if body else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{kind}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def parsed(raw: bytes, kind: str) -> tuple[int, str]:
    """The status and the answer in a response, or what is said instead of one."""
    head, _, body = raw.partition(b"\r\n\r\n")
    status, text = int(head.split()[1]), body.decode()
    if status != 200:
        return status, text
    if kind == "slow":
        chunks = [json.loads(c) for c in re.findall(r"^data: (\{.*\})\r?$", text, re.MULTILINE)]
        if "data: [DONE]" not in text:
            return -1, text
        return status, "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    return status, json.loads(text)["choices"][0]["message"]["content"]


if __name__ == "__main__":
    main()
