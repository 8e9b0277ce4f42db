"""What goes where: the answer to stdout, all the rest to stderr."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from foveate.cli import said
from foveate.keeping.shared import Ranks

WIDTH = 140


class Screen(Console):
    """A console whose reader may have enough: who runs the command hears of it, as of any other error."""

    def on_broken_pipe(self) -> None:
        """Nothing but the error itself."""
        raise


def screen() -> Console:
    """Where answers are printed; never so narrow that a table would cut its numbers short.

    Of several processes the first speaks: here, in notes and in JSON.
    """
    width = max(WIDTH, shutil.get_terminal_size().columns) if sys.stdout.isatty() else WIDTH
    return Screen(width=width, highlight=False, soft_wrap=False, quiet=not Ranks.here().first)


def say(text: str, style: str | None = None) -> None:
    """A line of an answer, to stdout, with nothing in it that a terminal would take for a command."""
    screen().print(said.visible(text), style=style, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """A remark for the person at the terminal: to stderr."""
    with contextlib.suppress(OSError):  # a remark that nobody can read ends no work
        console = Console(
            stderr=True, highlight=False, soft_wrap=True, quiet=not Ranks.here().first
        )
        console.print(said.visible(text), style="dim", markup=False)


@contextlib.contextmanager
def answering() -> Iterator[Callable[[Any], None]]:
    """Work whose stray prints go to stderr; yields what prints a JSON document once the work is done."""
    documents: list[Any] = []
    with contextlib.redirect_stdout(sys.stderr), _no_stdout():
        yield documents.append
    for document in documents if Ranks.here().first else []:
        sys.stdout.write(written(document, sys.stdout.encoding or "utf-8") + "\n")


def written(document: Any, encoding: str) -> str:
    """A document as JSON, in letters that an encoding has; the others as JSON's own escapes."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(document, indent=2, allow_nan=False)
    return text


@contextlib.contextmanager
def _no_stdout() -> Iterator[None]:
    """The process's standard output goes to its standard error: libraries in C print too."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, TypeError, AttributeError):
            ctypes.CDLL(None).fflush(None)  # what C still holds back would come out as the answer
        os.dup2(kept, 1)
        os.close(kept)


def on_terminal() -> bool:
    """Whether somebody watches stderr."""
    return Console(stderr=True).is_terminal


@contextlib.contextmanager
def progress(total: int | None, what: str) -> Iterator[Callable[..., None]]:
    """A bar on a terminal, nothing elsewhere; yields advance(by, what is going on now, total=…)."""
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, disable=not on_terminal(), transient=True)
    with bar:
        task = bar.add_task(what, total=total)

        def advance(by: int, now: str, total: int | None = None) -> None:
            bar.update(task, advance=by, description=now, total=total)

        yield advance


def hush() -> None:
    """Keep the libraries below from chatting: their warnings and bars are no answer to a command.

    What training, tasks, evaluation and benchmarks themselves warn of is a remark for the person who waits.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        own = r"foveate\.(train|evaluate|bench|tasks)\."
        warnings.filterwarnings("default", category=UserWarning, module=own)
        warnings.showwarning = lambda message, *_: note(str(message))
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
