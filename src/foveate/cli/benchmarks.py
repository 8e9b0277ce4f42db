"""`foveate benchmarks`: the papers' benchmarks, and how lmms-eval asks a compressed model them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from foveate.cli import models, output
from foveate.cli.ask import AsJson, Keep, Method, Protocol, Set, chosen_method

TASKS = Path(__file__).parents[1] / "engines" / "tasks"  # PatchQA, as lmms-eval reads tasks
LLAVA = "llava-hf/llava-1.5-7b-hf"
JUDGE = "a judge: OPENAI_API_KEY"
SERVER = "the benchmark's server"


class Benchmark(NamedTuple):
    """A benchmark as papers call it, its task in lmms-eval 0.7, and what else its score takes."""

    name: str
    task: str
    wants: str | None = None


BENCHMARKS = (
    Benchmark("GQA", "gqa"),
    Benchmark("VQAv2", "vqav2_val"),
    Benchmark("TextVQA", "textvqa_val"),
    Benchmark("POPE", "pope"),
    Benchmark("MME", "mme"),
    Benchmark("ScienceQA (images)", "scienceqa_img"),
    Benchmark("VizWiz", "vizwiz_vqa_val"),
    Benchmark("SEED-Bench", "seedbench"),
    Benchmark("MMMU", "mmmu_val"),
    Benchmark("MMBench", "mmbench_en_dev_static"),
    Benchmark("MMBench, as published", "mmbench_en_dev", JUDGE),
    Benchmark("MM-Vet", "mmvet", JUDGE),
    Benchmark("LLaVA-Bench", "llava_in_the_wild", JUDGE),
    Benchmark("VQAv2 test", "vqav2_test", SERVER),
)


def benchmarks(
    model: Annotated[
        str, typer.Option(help="What the commands ask: a directory or a Hub id, or 'embedded'.")
    ] = LLAVA,
    method: Method = None,
    keep: Keep = None,
    set_: Set = None,
    protocol: Protocol = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered at once.")] = 16,
    path: Annotated[
        bool,
        typer.Option("--path", help="Print where PatchQA lies as a task, for --include_path."),
    ] = False,
    json: AsJson = False,
) -> None:
    """List the papers' benchmarks, each with the command that runs it in lmms-eval."""
    if path and json:
        with output.answering() as emit:
            emit(str(TASKS))
        return
    if path:
        output.say(str(TASKS))
        return
    models.check_protocol(protocol)
    chosen_method(method, keep, set_ or [])
    parts = {"pretrained": model, "protocol": protocol, "method": method, "keep": keep}
    told = [f"{name}={value}" for name, value in parts.items() if value is not None]
    told += [f"set.{pair}" for pair in set_ or []]
    rows = [_row(one, ",".join(told), batch_size) for one in BENCHMARKS]
    if json:
        with output.answering() as emit:
            emit(rows)
        return
    output.screen().print(_table(rows))
    for row in rows:
        if row["wants"] is None:
            output.say(row["command"])


def _row(one: Benchmark, told: str, batch_size: int) -> dict[str, Any]:
    words = ("lmms-eval", "--model", "foveate", "--model_args", told, "--tasks", one.task)
    how = ("--batch_size", str(batch_size), "--output_path", f"out/{one.task}", "--log_samples")
    return {**one._asdict(), "command": shlex.join((*words, *how))}


def _table(rows: list[dict[str, Any]]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table("benchmark", "task in lmms-eval", "wants", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(f"[bold]{row['name']}[/bold]", row["task"], row["wants"] or "–")
    return table
