"""The command line: `foveate methods`, `ask`, `compare`, `eval`, `draw`, `bench`, `train` and `convert`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from foveate.cli.ask import ask
from foveate.cli.bench import bench
from foveate.cli.compare import compare, evaluate_one
from foveate.cli.convert import convert
from foveate.cli.draw import draw
from foveate.cli.methods import methods
from foveate.cli.train import train
from foveate.cli.wrong import Failed, Wrong, outside, unknown
from foveate.held import HeldError

# typer keeps click to itself; its public errors say which classes those are.
UsageError = typer.BadParameter.__bases__[0]

app = typer.Typer(
    help="Fewer visual tokens for large multimodal models.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(methods)
app.command()(ask)
app.command()(compare)
app.command("eval")(evaluate_one)
app.add_typer(draw, name="draw")
app.command()(bench)
app.command()(train)
app.command()(convert)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 2 wrong use, 1 anything else, with one line on stderr."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run a command; its exit code."""
    command = typer.main.get_command(app)
    try:
        if arguments and not arguments[0].startswith("-") and arguments[0] not in command.commands:
            raise unknown("command", arguments[0], command.commands)
        return (
            command.main(arguments or ["--help"], prog_name="foveate", standalone_mode=False) or 0
        )
    except Wrong as error:
        return _say(str(error), 2)
    except UsageError as error:
        return _say(error.format_message(), 2)
    except (Failed, HeldError, typer.Abort) as error:
        return _say(str(error) or "stopped", 1)
    except KeyboardInterrupt:
        return _say("stopped; what was finished is kept", 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("FOVEATE_TRACEBACK"):
            raise
        if isinstance(error, OSError) and error.filename:
            return _say(outside(error), 1)
        hint = "FOVEATE_TRACEBACK=1 shows where"
        return _say(f"unexpected {type(error).__name__}: {error} ({hint})", 1)


def _say(text: str, code: int) -> int:
    print("foveate:", " ".join(text.split()), file=sys.stderr)
    return code
