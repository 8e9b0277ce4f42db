"""`foveate serve`: one model behind OpenAI's chat interface, and a page to look at it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from foveate.cli import arguments, models, output, pictures
from foveate.cli.ask import (
    Attention,
    Device,
    Dropped,
    Keep,
    Method,
    Model,
    Protocol,
    Set,
    attach,
    chosen_method,
)
from foveate.cli.opening import Opened, opened
from foveate.cli.wrong import Failed, Wrong
from foveate.serve.limits import Limits

if TYPE_CHECKING:
    from foveate.serve.choice import Choice

T = TypeVar("T")
NEEDS = ("fastapi", "uvicorn", "prometheus_client", "gradio")
MOST = Limits()


def _most(text: str) -> Any:
    return typer.Option(help=text, min=1)


def serve(
    model: Model = models.EMBEDDED,
    method: Method = None,
    keep: Keep = None,
    set_: Set = None,
    positions: Annotated[
        str | None,
        typer.Option(
            help="Of kept tokens: 'original', or 'renumbered'.",
            show_default="as saved, else original",
        ),
    ] = None,
    dropped: Dropped = None,
    attention: Attention = None,
    protocol: Protocol = None,
    device: Device = "auto",
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    page: Annotated[
        bool | None,
        typer.Option(help="A page at /.", show_default="yes, unless there is a key"),
    ] = None,
    allow_fetch: Annotated[
        bool, typer.Option("--allow-fetch", help="Fetch pictures of public http(s) addresses.")
    ] = False,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="FOVEATE_API_KEY", help="A key that /v1 then wants from everybody."),
    ] = None,
    queue: Annotated[int, _most("Requests at once, waiting ones among them.")] = MOST.queue,
    batch: Annotated[int, _most("Requests that are answered together.")] = MOST.batch,
    images: Annotated[int, _most("Pictures of a request.")] = MOST.images,
    pixels: Annotated[int, _most("Of a picture.")] = MOST.pixels,
    prompt: Annotated[int, _most("Tokens of a prompt, with its pictures.")] = MOST.prompt,
    answer: Annotated[int, _most("Tokens of an answer.")] = MOST.answer,
    seconds: Annotated[float, _most("For a request.")] = MOST.seconds,
    body: Annotated[int, _most("Bytes of a request.")] = MOST.body,
) -> None:
    """Answer OpenAI's chat completions with one model; any method and budget per request."""
    if lacking := [name for name in NEEDS if find_spec(name) is None]:
        raise Failed(f"no {', '.join(lacking)}: pip install 'foveate[serve]'")
    from foveate.serve.run import run, server

    if page and api_key:
        raise Wrong("--page with --api-key: the page knows no key, leave one of them out")
    models.check_protocol(protocol)
    switches = models.switches(positions=positions, dropped=dropped, attention=attention)
    spec = chosen_method(method, keep, set_ or [])
    limits = Limits(queue, batch, images, pixels, prompt, answer, seconds, body)
    output.hush()
    start = opened(model, device, protocol, spec, keep, set_ or [], switches=switches)
    offered = choice(start)
    start.tell()
    own_page = None
    if page is not False and not api_key:
        from foveate.serve.page import mount

        own_page = partial(mount, canvas=pictures.canvas)
    with _listening(host, port) as listening:
        at = f"http://{host}:{listening.getsockname()[1]}"
        ready = partial(output.note, f"{start.loaded.name} answers at {at}")
        run(server(offered, limits, ready, allow_fetch, api_key, own_page), listening)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises Failed where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise Failed(f"cannot listen at {host}, port {port}: {error.strerror or error}") from error


def choice(start: Opened) -> Choice:
    """What requests may choose of a model. Raises Wrong for a method that does not fit it."""
    from foveate.evaluate.plans import BARE
    from foveate.serve.choice import Choice

    attach(start.loaded, start.spec)
    acting = start.acting
    if start.spec is None and start.saved is not None:
        usual = start.saved._replace(compressor=acting.compressor, trained=None)
    elif acting.method == BARE:
        usual = acting._replace(keep=1.0, spec=None, compressor=None)
    else:
        how = start.loaded.how(acting.compressor)
        usual = acting._replace(keep=start.plan.keep, how=how)
    return Choice(start.loaded, usual, start.saved, _said(_one), _said(arguments.budget))


def _one(text: str) -> Any:
    """The one method that a text names."""
    found = arguments.specs(text)
    if len(found) != 1:
        raise Wrong(f"method {text!r}: want one, such as divprune")
    return found[0]


def _said(parse: Callable[[str], T]) -> Callable[[str], T]:
    """A parser of the command line for others: what is wrong is a ValueError, without the option's dashes."""

    def parsed(text: str) -> T:
        try:
            return parse(text)
        except Wrong as error:
            raise ValueError(str(error).removeprefix("--")) from error

    return parsed
