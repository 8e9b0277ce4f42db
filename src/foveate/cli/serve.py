"""`foveate serve`: one model behind OpenAI's chat interface, and a page to look at it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli import models, output, pictures, vllm
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
from foveate.cli.opening import opened
from foveate.cli.wrong import Failed, Wrong
from foveate.serve.limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from foveate.serve.choice import Choice

NEEDS = ("fastapi", "uvicorn", "prometheus_client", "httpx", "gradio")
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
        typer.Option(help="A page at /.", show_default="yes, but with a key or replicas"),
    ] = None,
    allow_fetch: Annotated[
        bool, typer.Option("--allow-fetch", help="Fetch pictures of public http(s) addresses.")
    ] = False,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="FOVEATE_API_KEY", help="A key that /v1 then wants from everybody."),
    ] = None,
    ray: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="So many replicas on a Ray cluster, each with a model of its own.",
        ),
    ] = None,
    queue: Annotated[int, _most("Requests at once, waiting ones among them.")] = MOST.queue,
    batch: Annotated[int, _most("Requests that are answered together.")] = MOST.batch,
    images: Annotated[int, _most("Pictures of a request.")] = MOST.images,
    pixels: Annotated[int, _most("Of a picture.")] = MOST.pixels,
    prompt: Annotated[int, _most("Tokens of a prompt, with its pictures.")] = MOST.prompt,
    answer: Annotated[int, _most("Tokens of an answer.")] = MOST.answer,
    seconds: Annotated[float, _most("For a request.")] = MOST.seconds,
    body: Annotated[int, _most("Bytes of a request.")] = MOST.body,
    engine: Annotated[
        str, typer.Option(help="'foveate', this server, or 'vllm', which has limits of its own.")
    ] = vllm.ENGINES[0],
    engine_args: Annotated[
        str, typer.Option(help="What else vLLM is told, as its own command line has it.")
    ] = "",
    front: Annotated[
        bool,
        typer.Option(
            "--front",
            help="This server with vLLM behind: for methods that read the question, or keep as many "
            "tokens as the picture wants.",
        ),
    ] = False,
) -> None:
    """Answer OpenAI's chat completions with one model; any method and budget per request."""
    output.hush()
    limits = Limits(queue, batch, images, pixels, prompt, answer, seconds, body)
    told = vllm.Told(model, method, keep, set_ or [], positions, device, host, port, api_key)
    if vllm.asked(engine) and not front:
        own = {"page": page, "ray": ray, "dropped": dropped, "attention": attention}
        own |= {"protocol": protocol, "allow-fetch": allow_fetch, "a limit": limits != MOST}
        vllm.refuse(own)
        vllm.run(told, engine_args)
        return
    if engine == vllm.ENGINES[0] and (front or engine_args):
        raise Wrong(f"{'--front' if front else '--engine-args'} is for --engine vllm")
    _check_there(front)
    if front and (page or ray):
        raise Wrong("--front has no page and no replicas: leave --page and --ray out")
    if page and (api_key or ray):
        raise Wrong("--page with --api-key or --ray: the page knows neither, leave one of them out")
    models.check_protocol(protocol)
    switches = models.switches(positions=positions, dropped=dropped, attention=attention)
    chosen_method(method, keep, set_ or [], climbs=True)
    switches |= {"positions": "renumbered"} if front else {}
    how = {"switches": switches, "headless": front}
    offered = partial(offer, model, device, protocol, method, keep, set_ or [], **how)
    if ray is not None:
        models.place(model)
        replica = partial(_replica, offered, limits, allow_fetch, api_key)
        _spread(replica, ray, limits, host, port)
        return
    offered = partial(offered, tell=True)
    start = partial(_serve, limits, host, port, fetch=allow_fetch, api_key=api_key)
    if front:
        from foveate.serve.front import Front

        with vllm.behind(told, engine_args, offered) as (choice, behind):
            answers = partial(Front, socket=behind.socket, room=behind.room)
            start(choice, behind.watch, answers=answers)
    else:
        start(offered(), page=None if page is False or api_key else _page())


def _check_there(front: bool) -> None:
    """Raise Failed where a package is missing. A front has no page."""
    needs, extra = (NEEDS[:-1], "vllm") if front else (NEEDS, "serve")
    if lacking := [name for name in needs if find_spec(name) is None]:
        raise Failed(f"no {', '.join(lacking)}: pip install 'foveate[{extra}]'")


def _serve(
    limits: Limits,
    host: str,
    port: int,
    choice: Choice,
    watch: Callable[[Callable[[], None]], None] | None = None,
    **how: Any,
) -> None:
    """Serve until a signal. watch: is told how to end it from elsewhere; how: as `server` takes it."""
    from foveate.serve.run import run, server

    with _listening(host, port) as listening:
        ready = partial(_ready, host, listening.getsockname()[1])
        made = server(choice, limits, ready, **how)
        if watch is not None:
            watch(made.stop)
        run(made, listening)


def offer(
    model: str = models.EMBEDDED,
    device: str = "cpu",
    protocol: str | None = None,
    method: str | None = None,
    keep: str | None = None,
    pairs: Sequence[str] = (),
    switches: Mapping[str, str] = MappingProxyType({}),
    tell: bool = False,
    headless: bool = False,
) -> Choice:
    """A model, and what requests may choose of it. Raises Wrong for a method that does not fit it.

    tell: whether what is to know of it is said; headless: without the decoder's layers, which vLLM has.
    """
    from foveate.engines.vllm.served import check_place
    from foveate.evaluate.plans import BARE
    from foveate.serve.choice import Choice

    spec = chosen_method(method, keep, pairs, climbs=True)
    start = opened(model, device, protocol, spec, keep, pairs, switches=switches, headless=headless)
    attach(start.loaded, start.spec)
    if tell:
        start.tell()
    acting = start.acting
    if start.spec is None and start.saved is not None:
        usual = start.saved._replace(compressor=acting.compressor, trained=None)
    elif acting.method == BARE:
        usual = acting._replace(keep=1.0, spec=None, compressor=None)
    else:
        how = start.loaded.how(acting.compressor)
        usual = acting._replace(keep=start.plan.keep, how=how)
    if headless and "ladder" in usual.how:
        raise Wrong(
            f"{start.loaded.name} was saved with a ladder, and vLLM begins an answer once: leave --engine "
            "vllm out, or say one budget with --keep"
        )
    check = {"check": check_place} if headless else {}
    # What a request names has one budget: the ladder is of what it says nothing of.
    switches = {n: told for n, told in start.loaded.switches.items() if n != "ladder"}
    return Choice(replace(start.loaded, switches=switches), usual, start.saved, **check)


def _replica(
    offered: Callable[[], Choice], limits: Limits, fetch: bool, api_key: str | None
) -> FastAPI:
    """The application in a process of its own."""
    from foveate.serve.run import application

    return application(offered(), limits, fetch, api_key)[0]


def _spread(
    replica: Callable[[], FastAPI], replicas: int, limits: Limits, host: str, port: int
) -> None:
    from foveate.serve.replicas import run

    try:
        run(replica, replicas, limits, host, port, partial(_ready, host, port))
    except ImportError as error:
        raise Failed(str(error)) from error


def _page() -> Callable[..., FastAPI]:
    from foveate.serve.page import mount

    return partial(mount, canvas=pictures.canvas)


def _ready(host: str, port: int) -> None:
    output.note(f"http://{host}:{port} answers")


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises Failed where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise Failed(f"cannot listen at {host}, port {port}: {error.strerror or error}") from error
