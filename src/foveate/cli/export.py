"""`foveate export`: a compressed model for vLLM, which refuses it where foveate is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foveate.cli import output, paths, values
from foveate.cli.ask import AsJson
from foveate.cli.wrong import Failed, meant, outside

Source = Annotated[Path, typer.Argument(help="A folder with a model that was saved compressed.")]
Out = Annotated[Path, typer.Argument(parser=values.path, help="The new folder.")]


def export(source: Source, out: Out, json: AsJson = False) -> None:
    """Copy a compressed model so that vLLM serves it compressed, or not at all.

    Without foveate, vLLM would answer from all tokens of such a model and say nothing.
    """
    with output.answering() as emit:
        output.hush()
        document = _exported(paths.plain(source), out)
        if json:
            emit(document)
    if not json:
        output.say(f"model: {document['out']}")


def _exported(source: Path, out: Path) -> dict[str, object]:
    from foveate.engines.vllm.exported import export

    try:
        with meant():
            changes = export(source, out)
    except OSError as error:
        raise Failed(outside(error)) from error
    return {"out": str(out), "config": changes}
