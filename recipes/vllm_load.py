"""vLLM under load, as it is and with foveate in it: requests per second, and seconds to the first token.

    .venv-vllm/bin/python recipes/vllm_load.py [--rounds 3] [--out results/vllm-load.json]

A LLaVA of random weights, 12 layers of 768, reads 576 tokens of each picture beside some thirty of text. Two
servers run at once and are asked by turns, in every round, so that whatever else runs here meets all alike:
a vLLM that was told of no plugin, and one with foveate, which a request gives its method. No picture comes
twice. What counts are ratios to the vLLM without foveate, round by round.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import numpy as np
from PIL import Image

from foveate import embedded
from foveate.bench.configs import CONFIGS
from foveate.engines.vllm.command import command
from foveate.hosts import reading
from foveate.keeping.provenance import dumps, record, write

ROOT = Path(__file__).parents[1]
STOCK, OURS = "vllm", "vllm with foveate"
# Name, server, method of the request.
ARMS = (
    (STOCK, STOCK, None),
    ("foveate, no method", OURS, None),
    ("stride, 144 tokens", OURS, "stride(keep=144)"),
    ("divprune, 144 tokens", OURS, "divprune(keep=144)"),
    ("divprune, 64 tokens", OURS, "divprune(keep=64)"),
)
CLIENTS = (1, 4, 16)
LEAST = 4  # requests of a round
NEW = 8  # tokens of an answer
SIDE, PATCH = 336, 14
TOLD = ("--max-num-seqs", "16", "--max-model-len", "1024", "--dtype", "float32", "--enforce-eager")
WAIT = 400  # seconds until a server answers


def main() -> None:
    """Load both servers, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "vllm-load.json")
    told = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        path = model(Path(folder) / "small")
        words = command(path, reading.config(path), by_request=True, cpu=True, more=TOLD)
        bare = [*words[: words.index("--model-impl") + 2], *TOLD]
        with serving(bare, VLLM_PLUGINS="") as stock, serving(words) as ours:
            rounds = asyncio.run(asked({STOCK: stock, OURS: ours}, path, told.rounds))
    found = {"model": "12 layers of 768, random", "visual_tokens": 576, "answer_tokens": NEW}
    found |= {"load_before": before, "clients": {n: summed(rounds[n]) for n in CLIENTS}}
    write(told.out, dumps({**found, "circumstances": record(seed=0)}))
    print(json.dumps(found["clients"], indent=1))


def model(path: Path) -> str:
    """A folder with bench's small model, and a processor of PatchQA's words that fits it."""
    import torch

    torch.manual_seed(0)
    processor, config = embedded.load()[1], CONFIGS["small"].config()
    processor.image_processor.size = {"shortest_edge": SIDE}
    processor.image_processor.crop_size = {"height": SIDE, "width": SIDE}
    processor.patch_size, config.image_token_id = PATCH, processor.image_token_id
    reading.untrained(config).save_pretrained(path)
    processor.save_pretrained(path)
    return str(path)


def started(words: list[str], log: IO[str], **environment: str) -> subprocess.Popen[bytes]:
    """A server on its way."""
    told = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", **environment}
    return subprocess.Popen(words, env=told, stdout=log, stderr=subprocess.STDOUT)


@contextmanager
def serving(words: list[str], health: str = "/health", **environment: str) -> Iterator[str]:
    """The address of a server, once it answers. health: where it says so."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + WAIT
    with tempfile.TemporaryFile("w+") as log:
        process = started([*words, "--host", "127.0.0.1", "--port", str(port)], log, **environment)
        try:
            while True:
                try:
                    urllib.request.urlopen(f"{url}{health}")
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > until:
                        log.seek(0)
                        sys.exit(f"no server: {log.read()[-2000:]}")
                    time.sleep(1)
            yield url
        finally:
            process.terminate()
            process.wait(60)


async def asked(urls: dict[str, str], name: str, rounds: int) -> dict[int, list[dict[str, Any]]]:
    """By clients, of each round what every arm took; the first round is for warming up."""
    pictures = itertools.count()
    found: dict[int, list[dict[str, Any]]] = {n: [] for n in CLIENTS}
    async with httpx.AsyncClient(timeout=None) as client:
        for clients in CLIENTS:
            for number in range(rounds + 1):
                made = {}
                for arm, server, method in ARMS:
                    places = asyncio.Semaphore(clients)
                    size = max(clients, LEAST)
                    bodies = [body(name, method, next(pictures)) for _ in range(size)]
                    start = time.perf_counter()
                    firsts = await asyncio.gather(
                        *(one(client, urls[server], each, places) for each in bodies)
                    )
                    seconds = time.perf_counter() - start
                    first = statistics.median(firsts)
                    made[arm] = {"per_second": size / seconds, "first_token": first}
                if number:
                    found[clients].append(made)
    return found


async def one(
    client: httpx.AsyncClient, url: str, body: dict[str, Any], places: asyncio.Semaphore
) -> float:
    """Seconds to the first token of an answer, which is read to its end."""
    async with places:
        start, first = time.perf_counter(), None
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if first is None and line.startswith("data:"):
                    first = time.perf_counter() - start
    if first is None:
        raise RuntimeError("an answer without a token")
    return first


def body(name: str, method: str | None, number: int) -> dict[str, Any]:
    """A request about a picture that nobody else asks about."""
    draw = np.random.default_rng(number)
    image = Image.fromarray(draw.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize((SIDE, SIDE))
    image.save(data := io.BytesIO(), "JPEG")
    url = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "what does the sign say ?"},
    ]
    return {
        "model": name,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": NEW,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "mm_processor_kwargs": {} if method is None else {"foveate": method},
    }


def summed(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each arm the median over rounds, and its ratio to the vLLM without foveate: median and range."""
    found = {}
    for arm, _, _ in ARMS:
        own = {}
        for name in ("per_second", "first_token"):
            values = [made[arm][name] for made in rounds]
            ratios = [made[arm][name] / made[STOCK][name] for made in rounds]
            own[name] = statistics.median(values)
            own[f"{name}_ratio"] = [min(ratios), statistics.median(ratios), max(ratios)]
        found[arm] = own
    return found


if __name__ == "__main__":
    main()
