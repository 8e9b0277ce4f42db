"""The same questions have the same answers and the same score through both doors."""

import json
import subprocess
import sys
from itertools import chain

import pytest
from conftest import command, said, score

import foveate
from foveate import embedded
from foveate.cli.benchmarks import TASKS
from foveate.evaluate import evaluate

N = 44
CASES = {
    "embedded": ({}, ""),
    "fastv": ({"method": "fastv", "keep": 36}, "method=fastv,keep=36"),
    "fovea": ({"name": "embedded-fovea", "keep": 9}, "pretrained=embedded-fovea,keep=9"),
    "stf": ({"name": "embedded-llava_stf"}, "pretrained=embedded-llava_stf"),
    "merged": (
        {"method": "divprune", "keep": 0.125, "positions": "renumbered", "dropped": "merged"},
        "method=divprune,keep=0.125,positions=renumbered,dropped=merged",
    ),
}


def ours(name="embedded", batch=16, task="patchqa", **how):
    model, processor = embedded.load(name=name)
    return evaluate(model, processor, task=task, limit=N, batch_size=batch, **how)


def predicted(document):
    """Every answer of foveate by the question's number."""
    return {n: one["prediction"] for n, one in enumerate(document["answers"].values())}


@pytest.mark.parametrize("case", CASES)
def test_both_doors_agree(ask, case):
    how, told = CASES[case]
    mine, theirs = ours(**how), ask("patchqa", told, limit=N)
    assert said(theirs) == predicted(mine)
    assert score(theirs) == pytest.approx(mine["accuracy"], abs=1e-12)
    spent = theirs["throughput"]
    assert spent["avg_visual_tokens_before"] == pytest.approx(mine["tokens_before"])
    assert spent["avg_visual_tokens_after"] == pytest.approx(mine["tokens"])
    assert spent["avg_visual_share_of_layers"] == pytest.approx(mine["layer_share"])
    assert 0 < spent["avg_prefill_seconds"] < spent["total_elapsed_time"]


@pytest.mark.parametrize("batch", [1, 7])
def test_they_agree_at_other_batch_sizes(ask, batch):
    how, told = CASES["fovea"]
    mine, theirs = ours(batch=batch, **how), ask("patchqa", told, batch, N)
    assert said(theirs) == predicted(mine)


@pytest.mark.parametrize("task", ["patchqa-tiny", "patchqa-crowded", "patchqa-two"])
def test_they_agree_on_harder_questions(ask, task):
    mine = ours(task=task, method="fastv", keep=36)
    theirs = ask(task, "method=fastv,keep=36", limit=N)
    assert said(theirs, task) == predicted(mine)
    assert score(theirs, task) == pytest.approx(mine["accuracy"], abs=1e-12)


def test_an_answer_says_what_it_took(ask):
    results = ask("patchqa", "method=stride,keep=36", limit=4)
    for one in results["samples"]["patchqa"]:
        [spent] = one["token_counts"]
        words = len(one["doc"]["question"].split())
        assert 36 + words <= spent["input_tokens"] <= 36 + words + 6  # USER: … ASSISTANT:
        assert spent["output_tokens"] == len(one["filtered_resps"][0].split()) + 1


def test_a_model_of_ones_own_with_another_budget(ask, tmp_path):
    model, processor = embedded.load(name="embedded-fovea")
    foveate.compress(model, model.model.visual_compressor.but(keep=18), "renumbered")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for told, tokens in (("", 18), (",keep=9", 9)):
        results = ask("patchqa", f"pretrained={tmp_path}{told}", limit=8)
        assert results["throughput"]["avg_visual_tokens_after"] == tokens


WORDS = ("--model", "foveate", "--tasks", "patchqa", "--include_path", str(TASKS))


def test_the_commands_agree(home, tmp_path):
    told = "pretrained=embedded-fovea,keep=9"
    theirs, _ = command(
        tmp_path, *WORDS, "--model_args", told, "--limit", str(N), "--batch_size", "16"
    )
    words = ["eval", "--model", "embedded-fovea", "--keep", "9", "--limit", str(N)]
    own = [sys.executable, "-m", "foveate", *words, "--batch-size", "16", "--json"]
    mine = json.loads(subprocess.run(own, capture_output=True, check=True).stdout)
    assert said(theirs) == predicted(mine)
    assert score(theirs) == pytest.approx(mine["accuracy"], abs=1e-12)


def test_two_processes_ask_each_question_once(home, tmp_path):
    """An odd number, so that one process asks one more, which counts once."""
    told = (
        "--model_args",
        "pretrained=embedded-fovea,keep=9",
        "--limit",
        "45",
        "--batch_size",
        "8",
    )
    runs = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        runs[processes], errors = command(folder, *WORDS, *told, processes=processes)
        assert "Error" not in errors
    assert sorted(one["doc_id"] for one in runs[2]["samples"]["patchqa"]) == [*range(45)]
    assert said(runs[2]) == said(runs[1]) and score(runs[2]) == score(runs[1])
    counts = chain.from_iterable(one["token_counts"] for one in runs[2]["samples"]["patchqa"])
    assert all(one["input_tokens"] < 36 for one in counts)
