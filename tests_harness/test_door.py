"""The other things that lmms-eval asks: likelihoods, several rounds, settings; and what it is told."""

import re
import shlex
import subprocess
import sys

import pytest
import torch
from conftest import command, said
from lmms_eval import utils
from lmms_eval.tasks import TaskManager

from foveate import tasks
from foveate.cli.benchmarks import BENCHMARKS, TASKS, _row
from foveate.engines import opening
from foveate.evaluate import likelihood

CHOICES = "[red, green, blue, yellow, purple, orange, white, black]"
COLORS = CHOICES.strip("[]").split(", ")
CHOICE = f"""
include: {TASKS}/patchqa.yaml
task: colors
class: !function colors.Colors
output_type: multiple_choice
doc_to_choice: {CHOICES}
process_results: null
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
# The questions that ask for a color, and one more about each of them.
MODULE = f"""
import sys
sys.path.insert(0, {str(TASKS)!r})
from patchqa import PatchQA
from lmms_eval.api.task import ConfigurableTask
class Colors(PatchQA):
    construct_requests = ConfigurableTask.construct_requests
    def download(self, dataset_kwargs=None):
        super().download(dataset_kwargs)
        for docs in (self.dataset["test"], self.dataset_no_image["test"]):
            docs[:] = [doc for doc in docs if doc["kind"] == "color"]
"""
ROUNDS = f"""
include: {TASKS}/patchqa.yaml
task: rounds
output_type: generate_until_multi_round
doc_to_text: !function rounds.text
process_results: !function rounds.score
metric_list:
  - metric: rounds
    aggregation: mean
    higher_is_better: true
"""
# A document's second question is about its first answer; odd ones have a third.
TEXT = """
def text(doc, previous_output=None, round_idx=None, previous_round_info=None, **more):
    if round_idx is None:
        return doc["question"]
    last = 3 if doc["kind"] in ("sign", "color") else 2
    if round_idx == last:
        return None, None, True, previous_output, None
    info = [*(previous_round_info or []), previous_output[-1]]
    return doc["images"], f"is there a {previous_output[-1]} object ?", False, previous_output, info
def score(doc, results):
    return {"rounds": len(results[0])}
"""


@pytest.fixture
def place(tmp_path):
    """A folder with tasks of one's own."""
    for name, text in (
        ("colors.yaml", CHOICE),
        ("colors.py", MODULE),
        ("rounds.yaml", ROUNDS),
        ("rounds.py", TEXT),
    ):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_door_is_listed_and_nothing_heavy_loaded():
    code = (
        "import sys, lmms_eval.models as m; assert 'foveate' in m.AVAILABLE_MODELS; "
        "print({'torch', 'transformers', 'datasets'} & sys.modules.keys()); m.get_model('foveate'); "
        "assert 'torch' in sys.modules"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
    assert "Failed to load" not in told.stderr


@pytest.fixture(scope="module")
def images():
    """The pictures of the first questions by key."""
    return {one.key: one.images for one in tasks.examples("patchqa", 66)}


@pytest.mark.parametrize(
    ("told", "name", "given"),
    [
        ("", "embedded", {}),
        ("method=fastv,keep=36", "embedded", {"method": "fastv", "keep": 36}),
        ("pretrained=embedded-fovea,keep=9", "embedded-fovea", {"keep": 9}),
    ],
)
def test_the_likeliest_choice_is_what_the_model_says(ask, place, images, told, name, given):
    """lmms-eval takes the choice of the least loss."""
    model, processor, _ = opening.opened(name, torch.device("cpu"), given)
    behind = [f" {color}" for color in COLORS]
    for batch in (1, 16):
        results = ask("colors", told, batch, 6, place, force_simple=True)
        rows, right = results["samples"]["colors"], 0
        for row in rows:
            losses = row["filtered_resps"]
            asked = [(images[row["doc"]["key"]], row["doc"]["question"])] * len(COLORS)
            mine = likelihood.losses(model, processor, asked, behind)
            assert losses == [(pytest.approx(loss, abs=1e-4), said) for loss, said in mine]
            right += COLORS[losses.index(min(losses))] == row["target"]
        assert len(rows) == 6 and right >= 5
        assert results["results"]["colors"]["acc,none"] == pytest.approx(right / 6)


def test_several_rounds_end_when_their_task_says_so(ask, place):
    results = ask("rounds", "method=fastv,keep=36", 4, 11, place)
    rows = results["samples"]["rounds"]
    kinds = {row["doc"]["kind"]: row["filtered_resps"][0] for row in rows}
    for kind, rounds in kinds.items():
        assert len(rounds) == (3 if kind in ("sign", "color") else 2)
        assert all(rounds)
    first = ask("patchqa", "method=fastv,keep=36", 4, 11)
    assert {row["doc_id"]: row["filtered_resps"][0][0] for row in rows} == said(first)


def test_settings_of_an_answer_are_heeded(ask):
    cut = ask("patchqa", limit=8, gen_kwargs="max_new_tokens=1")
    assert all(len(text.split()) <= 1 for text in said(cut).values())
    drawn = [ask("patchqa", limit=22, gen_kwargs="temperature=9.0,do_sample=true") for _ in "ab"]
    assert said(drawn[0]) == said(drawn[1]) != said(ask("patchqa", limit=22))
    beams = ask("patchqa", "method=fastv,keep=36", limit=8, gen_kwargs="num_beams=3")
    assert beams["throughput"]["avg_visual_tokens_after"] == 36
    assert all(
        one["token_counts"][0].keys() == {"output_tokens"} for one in beams["samples"]["patchqa"]
    )


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ("methode=fastv", "unknown argument 'methode': nearest: method"),
        ("method=fastv,set.layr=3", "nearest: layer"),
        ("method=fastw", "nearest: fastv"),
    ],
)
def test_what_there_is_not_is_named(ask, told, why):
    with pytest.raises(ValueError, match=re.escape(why)):
        ask("patchqa", told)


def test_a_system_prompt_that_the_template_would_make_an_answer_is_refused(ask):
    with pytest.raises(ValueError, match="knows no system turn"):
        ask("patchqa", "system_prompt=what color ?", limit=2)


def test_an_error_is_said_though_the_exit_code_is_0(home, tmp_path):
    words = ("--model", "foveate", "--tasks", "patchqa", "--include_path", str(TASKS))
    with pytest.raises(ValueError, match="not enough values"):  # no results
        command(tmp_path, *words, "--model_args", "methode=fastv")


@pytest.fixture(scope="module")
def known():
    return TaskManager("ERROR")


@pytest.mark.parametrize("one", BENCHMARKS, ids=lambda one: one.task)
def test_every_benchmark_is_there(known, one):
    """Under its name, and it loads with what the extra installs."""
    config = utils.load_yaml_config(known.task_index[one.task]["yaml_path"], mode="full")
    assert config["task"] == one.task and config["output_type"] == "generate_until"


def test_its_commands_are_ones_that_lmms_eval_reads(monkeypatch):
    from lmms_eval.__main__ import parse_eval_args

    row = _row(BENCHMARKS[0], "method=fastv,set.layer=3", 16)
    monkeypatch.setattr(sys, "argv", shlex.split(row["command"]))
    _, found = parse_eval_args()
    assert (found.model, found.tasks, found.batch_size) == ("foveate", "gqa", "16")
    told = utils.simple_parse_args_string(found.model_args)
    assert told == {"method": "fastv", "set.layer": 3}
