"""`foveate convert`: checkpoints of a paper's own code, as models that every other command takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foveate.cli import arguments, output
from foveate.cli.ask import AsJson
from foveate.cli.wrong import Failed, Wrong, outside

Source = Annotated[
    Path,
    typer.Argument(
        help="A LLaVA-STF as LLaVA's code saves it: a folder, or the first stage's mm_projector.bin."
    ),
]
Out = Annotated[Path, typer.Argument(help="The new folder.")]
Tower = Annotated[
    str | None,
    typer.Option(help="The vision tower: a folder or Hub id. Default: the one config.json names."),
]
Language = Annotated[
    str | None,
    typer.Option(
        help="Only with mm_projector.bin, what it goes onto: a LLaVA-1.5 as transformers saves it, or "
        "with --vision a language model; a folder or Hub id."
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(
        help="The tower's hidden states that are fused with the selected one, in the order of the "
        "weights, such as 21,18,15,12,9,6,3. Default: evenly spaced."
    ),
]


def convert(
    source: Source,
    out: Out,
    vision: Tower = None,
    language: Language = None,
    vision_layers: Layers = None,
    json: AsJson = False,
) -> None:
    """Turn a public LLaVA-STF checkpoint into a model that --model and transformers take.

    The connector lies in the same folder, and foveate attaches it on loading.
    """
    layers = None if vision_layers is None else _layers(vision_layers)
    with output.answering() as emit:
        output.hush()
        document = _converted(source, out, vision, language, layers)
        if json:
            emit(document)
    if not json:
        output.screen().print(document["compressor"], markup=False)
        output.screen().print(f"model: {document['out']}", markup=False, soft_wrap=True)


def _converted(
    source: Path, out: Path, vision: str | None, language: str | None, layers: list[int] | None
) -> dict[str, object]:
    from transformers import AutoConfig

    import foveate

    try:
        place = foveate.convert_llava_stf(source, out, vision, language, layers)
    except (ValueError, NotImplementedError, FileNotFoundError) as error:
        raise Wrong(str(error)) from error
    except OSError as error:
        raise Failed(outside(error)) from error
    except ImportError as error:
        raise Failed(str(error)) from error
    made = AutoConfig.from_pretrained(place).visual_compression
    said = ", ".join(f"{name}={value}" for name, value in made["arguments"].items())
    return {
        "out": str(place),
        "compressor": f"{made['compressor']}({said})",
        "arguments": made["arguments"],
        "positions": made["positions"],
    }


def _layers(text: str) -> list[int]:
    try:
        return [int(part) for part in arguments.listed(text)]
    except ValueError:
        raise Wrong(f"--vision-layers {text}: want whole numbers with commas: 21,18,15") from None
