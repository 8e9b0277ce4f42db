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


def methods() -> list[str]:
    """The methods vLLM serves, as people write them."""
    from foveate.engines.vllm import served

    return [
        *(BUDGETS.get(name, f"{name}(keep=36)") for name in served.names()),
        "prumerge(keep=36)",
    ]


def questions(n: int) -> list[Any]:
    """The first questions of PatchQA's test split."""
    from foveate.patchqa import PatchQA

    return PatchQA("test").examples(n)


def ours(model: str, text: str | None, positions: str, n: int) -> list[dict[str, Any]]:
    """What a compressed model answers, and at each token the gap between the two largest logits.

    text: the method; None for the one that the model was saved with.
    """
    import torch

    import foveate
    from foveate import embedded
    from foveate.evaluate import encode
    from foveate.evaluate.prompts import ask
    from foveate.registry import written

    bare, processor = embedded.load(name=model)
    method = bare.model.visual_compressor if text is None else written.spec(text).build(model=bare)
    foveate.compress(bare, method, positions=positions)
    found = []
    for first in range(0, n, BATCH):
        batch, _ = encode(processor, [ask(one) for one in questions(n)[first : first + BATCH]])
        with torch.no_grad():
            out = bare.generate(
                **batch,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        ids = out.sequences[:, batch["input_ids"].shape[1] :]
        two = torch.stack(out.logits, dim=1).topk(2).values
        for row, gap in zip(ids, (two[..., 0] - two[..., 1]).tolist(), strict=True):
            found.append({"text": said(processor, row), "ids": row.tolist(), "margin": gap})
    return found


def said(processor: Any, ids: Any) -> str:
    """An answer in words."""
    return processor.decode(ids, skip_special_tokens=True).strip()


def theirs(job: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """What vLLM answers, by method, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "job.json", Path(folder) / "out.json"
        given.write_text(json.dumps(job))
        environment = {
            **os.environ,
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
        }
        command = [sys.executable, __file__, "--engine", str(given), str(out)]
        subprocess.run(command, check=True, env=environment, cwd=folder)
        return json.loads(out.read_text())


def engine(given: Path, out: Path) -> None:
    """The other process: one engine for a model and a policy, the methods by request.

    A job may say more of the engine (`engine`), and may ask for other images (`images` a prompt).
    """
    from vllm import LLM, SamplingParams

    from foveate.chat import prompt
    from foveate.embedded import MODELS
    from foveate.evaluate.prompts import ask

    job = json.loads(given.read_text())
    original = job["positions"] == "original"
    llm = LLM(
        job.get("path") or str(MODELS[job["model"]]),
        dtype="float32",
        max_model_len=1024,
        model_impl="transformers",
        enforce_eager=True,
        max_num_seqs=16,
        seed=0,
        mm_processor_kwargs={"foveate_positions": job["positions"]},
        hf_overrides={"mrope_section": [1, 1, 1]} if original else {},
        worker_cls="foveate.engines.vllm.worker.Worker",
        **job.get("engine", {}),
    )
    from foveate.hosts import reading

    processor = reading.processor(str(MODELS[job["model"]]))
    asks = [ask(one) for one in questions(job["n"])]
    greedy = SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
    found = {}
    for text in job["methods"]:
        requests = [
            {
                "prompt": prompt(processor, words, len(images)),
                "multi_modal_data": {"image": list(images)},
                "mm_processor_kwargs": {} if text is None else {"foveate": text},
            }
            for images, words in asks
        ]
        answers = llm.generate(requests, greedy, use_tqdm=False)
        found[str(text)] = [
            {
                "text": said(processor, one.outputs[0].token_ids),
                "ids": list(one.outputs[0].token_ids),
                "prompt": len(one.prompt_token_ids),
            }
            for one in answers
        ]
    out.write_text(json.dumps(found))


def compared(mine: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many answers are the same, and of the others the margin where they part."""
    apart = []
    for number, (a, b) in enumerate(zip(mine, other, strict=True)):
        if a["text"] == b["text"]:
            continue
        at = next(
            i for i, pair in enumerate(zip(a["ids"], b["ids"], strict=False)) if len({*pair}) > 1
        )
        apart.append(
            {"question": number, "ours": a["text"], "vllm": b["text"], "margin": a["margin"][at]}
        )
    tokens = sorted({one["prompt"] for one in other})
    return {"same": len(mine) - len(apart), "of": len(mine), "prompt": tokens, "apart": apart}


def run(n: int) -> list[dict[str, Any]]:
    """Every method and policy."""
    rows = []
    for model, texts in (("embedded", methods()), (SAVED, [None])):
        for positions in POSITIONS:
            job = {"model": model, "positions": positions, "methods": texts, "n": n}
            answers = theirs(job)
            for text in texts:
                row = compared(ours(model, text, positions, n), answers[str(text)])
                rows.append({"model": model, "method": text, "positions": positions, **row})
                print(model, text, positions, row["same"], "of", n, file=sys.stderr, flush=True)
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

    rows = run(given.questions)
    versions = {name: version(name) for name in ("torch", "transformers", "vllm-cpu")}
    document = {"task": "patchqa", "n": given.questions, "versions": versions, "runs": rows}
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    given.out.write_text(text) if given.out else print(text)


if __name__ == "__main__":
    main()
