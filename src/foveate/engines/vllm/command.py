"""The long command by which vLLM serves a model with foveate."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foveate.engines.vllm import ARCHITECTURE, served
from foveate.hosts import files

SERVER = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
PLACES = {
    "mrope_section": [1, 1, 1]
}  # any will do: it is by its being there that vLLM asks for positions

SOCKET = "vllm.sock"
UNCOMPRESSED = {"visual_compression": None}  # of what a checkpoint says: its method acts in front


def command(
    model: str,
    config: Any,
    method: str | None = None,
    positions: str | None = None,
    by_request: bool = False,
    cpu: bool = False,
    more: Sequence[str] = (),
) -> list[str]:
    """What to run. config: the model's, from its config.json; more: what else vLLM is to be told.

    method: as `foveate compare --methods` reads it; None for the one the model was saved with. positions:
    "original" or "renumbered", unless given as the model was saved. by_request: a request may name another
    method, and say all else that its image processor takes. Raises ValueError for what vLLM cannot serve.
    """
    told = {served.METHOD: method, served.POSITIONS: positions}
    told = {name: value for name, value in told.items() if value is not None}
    if method is not None:
        served.of_text(method, config)
    elif served.of_checkpoint(config) is None and not by_request:
        raise ValueError(
            f'{model} was saved without a method: name one, such as "divprune(keep=36)"'
        )
    original, three = served.positions(config, told) == "original", served.counts_in_three(config)
    if original and three:
        told[served.POSITIONS] = "original"
    words = [*SERVER, "--model", model]
    exported = ARCHITECTURE in (config.architectures or ())  # foveate's class by its name
    words += [] if exported else ["--model-impl", "transformers"]
    words += ["--mm-processor-kwargs", json.dumps(told)] if told else []
    words += ["--hf-overrides", json.dumps(PLACES)] if original and not three else []
    words += ["--trust-request-mm-kwargs"] if by_request else []
    words += ["--worker-cls", "foveate.engines.vllm.worker.Worker"] if cpu and original else []
    return [*words, *more]


def behind(model: str, folder: Path, more: Sequence[str] = ()) -> list[str]:
    """What to run behind foveate's server, which is where the vision tower and the method are.

    folder: for the socket it listens at, and for links to weights that vLLM would not follow. more: as in
    `command`.
    """
    words = [*SERVER, "--model", linked(model, folder), "--model-impl", "transformers"]
    words += ["--language-model-only", "--enable-prompt-embeds"]
    words += ["--hf-overrides", json.dumps(UNCOMPRESSED), "--uds", str(folder / SOCKET)]
    return [*words, *more]


def linked(model: str, folder: Path) -> str:
    """A model as vLLM reads it: itself, or links where its index names weights in other folders."""
    source = Path(model)
    if not (source / files.INDEX).exists():
        return model
    index = files.read_object(source / files.INDEX)
    parts = sorted({*index["weight_map"].values()})
    if all(Path(part).name == part for part in parts):
        return model
    (made := folder / "model").mkdir()
    names = {part: f"{number}.safetensors" for number, part in enumerate(parts)}
    for part, name in names.items():
        (made / name).symlink_to((source / part).resolve())
    for other in source.iterdir():
        if other.name not in (*parts, files.INDEX):
            (made / other.name).symlink_to(other.resolve())
    told = {key: names[part] for key, part in index["weight_map"].items()}
    (made / files.INDEX).write_text(json.dumps({**index, "weight_map": told}))
    return str(made)
