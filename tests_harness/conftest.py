"""lmms-eval asks the embedded models, in this process and as its own command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from foveate.cli.benchmarks import TASKS

torch.set_num_threads(1)


def pytest_configure(config):
    """What lmms-eval warns of is no error of ours."""
    config.addinivalue_line("filterwarnings", "default")


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """Where libraries keep what they make, in place of this person's home."""
    place = tmp_path_factory.mktemp("home")
    os.environ["HF_HOME"] = str(place)
    return place


@pytest.fixture(scope="session")
def ask(home):
    """lmms-eval's results for a task: ask(task, model_args, batch size, limit, …)."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    def asked(
        task: str,
        told: str = "",
        batch: int = 16,
        limit: int = 44,
        place: Path = TASKS,
        **more: Any,
    ) -> dict[str, Any]:
        tasks = TaskManager("ERROR", str(place), include_defaults=False, model_name="foveate")
        settings = {"tasks": [task], "task_manager": tasks, "limit": limit, **more}
        return simple_evaluate("foveate", told, batch_size=batch, **settings)

    return asked


def said(results: dict[str, Any], task: str = "patchqa") -> dict[int, str]:
    """Every answer by the question's number."""
    return {one["doc_id"]: one["filtered_resps"][0] for one in results["samples"][task]}


def score(results: dict[str, Any], task: str = "patchqa") -> dict[str, float]:
    """The accuracies, named as foveate names them."""
    own = {name.partition(",")[0]: value for name, value in results["results"][task].items()}
    names = ("fine", "local", "relational", "global")
    return {"overall": own["accuracy"], **{name: own[name] for name in names}}


def command(folder: Path, *words: str, processes: int = 1) -> tuple[dict[str, Any], str]:
    """What lmms-eval as a command writes into a folder, and says."""
    alone = [sys.executable, "-m", "lmms_eval"]
    many = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    how = ["--output_path", str(folder), "--log_samples"]
    start = alone if processes == 1 else [*many, "-m", "lmms_eval"]
    run = subprocess.run([*start, *words, *how], capture_output=True, text=True, check=True)
    [found] = folder.rglob("*_results.json")
    results = json.loads(found.read_text())
    samples = {}
    for name in results["results"]:
        [path] = folder.rglob(f"*_samples_{name}.jsonl")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        samples[name] = [{**row, "filtered_resps": [row["filtered_resps"]]} for row in rows]
    return {**results, "samples": samples}, run.stderr
