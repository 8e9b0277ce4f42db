"""What a command asks: a task of foveate by its name, or questions of one's own, checked and scored."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foveate import tasks
from foveate.cli import output, said, values
from foveate.cli import wrong as errors
from foveate.cli.wrong import Failed, Wrong
from foveate.registry.written import nearest

if TYPE_CHECKING:
    from foveate.tasks.own import Own, Task

NAMES = ", ".join(tasks.TASKS)
Asked = Annotated[
    str,
    typer.Option(
        "--task",
        metavar="NAME_OR_FILE",
        help=f"One of {NAMES}; or questions of your own: a JSON, JSONL, CSV or TSV file, a folder that "
        "`datasets` saved, or hf:NAME:SPLIT.",
    ),
]
Metric = Annotated[str, typer.Option(help=f"How answers are scored: {', '.join(tasks.METRICS)}.")]
Columns = Annotated[
    str | None,
    typer.Option(
        help="What your file calls our keys, with commas: question=query,answer=label.",
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        **values.PATH, help="Where picture paths start.", show_default="the file's folder"
    ),
]
Outside = Annotated[
    bool, typer.Option("--outside", help="Pictures may lie outside of that folder.")
]
Skip = Annotated[bool, typer.Option("--skip", help="Leave out what cannot be asked, and say so.")]


def limited(usual: int) -> type:
    """How many questions: so many of a task of foveate's, all of a file, unless told."""
    return Annotated[
        int | None,
        typer.Option(
            min=1,
            max=values.LARGEST,
            help="How many questions.",
            show_default=f"{usual}, or all of a file",
        ),
    ]


def named(name: str) -> str:
    """A task's name, or what means one's own. Raises Wrong with the nearest one for others."""
    from foveate.tasks.own import is_own

    if not is_own(name):
        return values.task(name)
    if not name.startswith("hf:") and not Path(name).exists():
        raise Wrong(f"--task {name}: no such file; tasks of foveate are {NAMES}")
    return name


def own(metric: str, columns: str | None, images: Path | None, outside: bool, skip: bool) -> Own:
    """How one's own questions are read and scored. Raises Wrong for a metric or keys that are none."""
    from foveate.records.asked import KEYS
    from foveate.tasks.own import Own

    pairs = [pair.partition("=") for pair in (columns or "").split(",") if pair.strip()]
    found = {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
    for ours, theirs in found.items():
        if ours not in KEYS or not theirs:
            raise Wrong(
                f"--columns {ours}={theirs}: {nearest(ours, KEYS)}"
                f"want KEY=COLUMN, the keys are {', '.join(KEYS)}"
            )
    try:
        return Own(metric, found, images, outside, skip)
    except ValueError as error:
        raise Wrong(f"--metric: {error}") from error


def taken(name: str, limit: int | None, usual: int, seed: int, own: Own) -> Task:
    """The task, checked. Raises Wrong, with a line for each of the first problems on stderr."""
    from foveate.records.checking import DataError
    from foveate.tasks.own import is_own, task

    if not is_own(name) and limit is not None and limit > values.MOST_PROMPTS:
        raise Wrong(f"--limit {limit}: want at most {values.MOST_PROMPTS:,} of {name}")
    limit = limit if limit is not None or is_own(name) else usual
    try:
        with output.progress(limit, "checking") as advance:
            return task(name, limit, seed, own, lambda by: advance(by, "checking"))
    except DataError as error:
        *problems, summary = str(error).splitlines()
        print(*map(said.line, problems), sep="\n", file=sys.stderr)
        raise Wrong(summary) from error
    except (ValueError, FileNotFoundError) as error:
        raise Wrong(str(error)) from error
    except ImportError as error:
        raise Failed(str(error)) from error
    except OSError as error:
        raise Failed(errors.outside(error)) from error


def scored(task: Task, whole: bool = False) -> Task:
    """The task, if its answers are scored; with whole, without the questions whose answers cannot be.

    Raises Wrong where none can.
    """
    from foveate.tasks.metrics import labels

    if task.metric.name == "none":
        raise Wrong("--metric none scores nothing; `foveate eval --answers-only` writes answers")
    if not whole and any(labels(one).answers for one in task.examples):
        return task  # the first that has one is enough: a file is not read again
    lacking = [n for n, one in enumerate(task.examples) if not labels(one).answers]
    if len(lacking) == len(task.examples):
        raise Wrong(
            f"{task.name}: none of {len(lacking):,} questions has an answer to score by; "
            "`foveate eval --answers-only` writes answers"
        )
    if lacking:
        many = f"{len(lacking):,} of {len(task.examples):,} questions"
        output.note(f"{task.name}: {many} are left out, which have no answer to score by")
        return replace(task, examples=task.examples.without(lacking))
    return task
