"""The command line: `foveate methods`, `ask`, `compare`, `leaderboard` and the others."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from foveate.cli import said, streams
from foveate.cli.ask import ask
from foveate.cli.audit import audit
from foveate.cli.bench import bench
from foveate.cli.benchmarks import benchmarks
from foveate.cli.calibrate import calibrate
from foveate.cli.command import Command, UsageError
from foveate.cli.compare import compare
from foveate.cli.convert import convert
from foveate.cli.draw import draw
from foveate.cli.evaluate import evaluate_one
from foveate.cli.export import export
from foveate.cli.leaderboard import leaderboard
from foveate.cli.methods import methods
from foveate.cli.serve import serve
from foveate.cli.train import train
from foveate.cli.wrong import Failed, Wrong, outside, unknown
from foveate.keeping import stopping
from foveate.keeping.held import HeldError

app = typer.Typer(
    help="Fewer visual tokens for large multimodal models.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(cls=Command)(methods)
app.command(cls=Command)(ask)
app.command(cls=Command)(compare)
app.command(cls=Command)(leaderboard)
app.command("eval", cls=Command)(evaluate_one)
app.add_typer(draw, name="draw")
app.command(cls=Command)(audit)
app.command(cls=Command)(calibrate)
app.command(cls=Command)(bench)
app.command(cls=Command)(benchmarks)
app.command(cls=Command)(serve)
app.command(cls=Command)(train)
app.command(cls=Command)(convert)
app.command(cls=Command)(export)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 2 wrong use, 1 anything else, with one line on stderr."""
    stopping.heed()
    streams.open_all()
    code = run(list(sys.argv[1:] if arguments is None else arguments))
    stopping.ignore()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run a command; its exit code."""
    with streams.lenient():
        text, code = _ended(arguments)
        if text:
            streams.say(f"foveate: {said.line(text, arguments)}")
        return code


def _ended(arguments: list[str]) -> tuple[str, int]:
    """What is to be said at the end of a command, and its exit code."""
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return "", code
    except (Wrong, UsageError) as error:
        return str(error) if isinstance(error, Wrong) else error.format_message(), 2
    except (Failed, HeldError, FloatingPointError) as error:
        return str(error), 1
    except KeyboardInterrupt:
        return stopping.STOPPED, 1
    except BrokenPipeError:  # whoever read the answer has enough
        streams.settle(sys.stdout)
        return "", 1
    except OSError as error:  # such as a full disk, or no right to write
        streams.settle(sys.stdout)
        return outside(error), 1
    except Exception as error:
        if _exhausted(error):
            return "out of memory: want fewer or smaller things at once", 1
        if os.environ.get("FOVEATE_TRACEBACK"):
            raise
        hint = "FOVEATE_TRACEBACK=1 shows where"
        return f"unexpected {type(error).__name__}: {error} ({hint})", 1


def _exhausted(error: Exception) -> bool:
    """Whether memory ran out; torch says so in words, and each device in others."""
    told = any(words in str(error) for words in ("out of memory", "can't allocate memory"))
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and told)


def _run(arguments: list[str]) -> int:
    """Find the command and run it; its exit code. Not by typer's own, which ends Ctrl-C its own way."""
    command = typer.main.get_command(app)
    if arguments and not arguments[0].startswith("-") and arguments[0] not in command.commands:
        raise unknown("command", arguments[0], command.commands)
    try:
        with command.make_context("foveate", arguments or ["--help"]) as context:
            return command.invoke(context) or 0
    except typer.Exit as done:
        return done.exit_code
