"""What stands before the routes: who may come in, and how much and how slowly one may send and read."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse

from foveate.serve import wire
from foveate.serve.engine import Engine
from foveate.serve.limits import Refused

Scope = MutableMapping[str, Any]  # of a request, and of ASGI's messages
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
UPLOADS = "/gradio_api/upload"  # whose size the page limits itself
HINTS = {
    401: {"WWW-Authenticate": "Bearer"},
    429: {"Retry-After": "1"},
    503: {"Retry-After": "1"},
}
END = "foveate.end"  # of a request's scope: when nobody waits any more
GONE = 499  # what nobody hears: the client has left
# Nothing of the page comes from elsewhere, and nobody shows it in a frame.
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"


class Guard:
    """An ASGI middleware: keys, bodies within the limits, readers that do not stay for ever."""

    def __init__(self, app: Any, engine: Engine, api_key: str | None):
        self.app, self.engine, self.limits = app, engine, engine.limits
        self.key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def patient(message: Scope) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"content-security-policy", POLICY),
                ]
            async with asyncio.timeout(self.limits.seconds):  # of one piece
                await send(message)

        scope[END] = time.monotonic() + self.limits.seconds
        try:
            self._check_key(scope)
            if scope["method"] == "POST" and not scope["path"].startswith(UPLOADS):
                ours = scope["path"].startswith("/v1/")
                with self.engine.place() if ours else nullcontext():
                    body = await self._body(scope, receive)
                if not ours:
                    _check_paths(body)
                receive = _again(body, receive)
        except Refused as refused:
            await refusal(self.engine, refused)(scope, receive, patient)
            return
        await self.app(scope, receive, patient)

    def _check_key(self, scope: Scope) -> None:
        if self.key is None or not scope["path"].startswith("/v1/"):
            return
        scheme, _, given = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self.key):
            raise Refused(401, "this server wants its key: Authorization: Bearer …")

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body. Raises Refused, 413 or 408, for one that is too long or comes too slowly."""
        most = self.limits.body
        too_long = Refused(413, f"the request is too long: want at most {most:,} bytes")
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if said.isdigit() and int(said) > most:
            raise too_long
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(max(scope[END] - time.monotonic(), 0)):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(GONE, "the client has left")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > most:
                        raise too_long
        except TimeoutError as error:
            why = f"the request did not come whole within {self.limits.seconds:g} seconds"
            raise Refused(408, why) from error
        return bytes(body)


def refusal(engine: Engine, refused: Refused) -> JSONResponse:
    """A refusal as it is sent, and counted."""
    outcome = "cancelled" if refused.status == GONE else str(refused.status)
    engine.meters.requests.labels(outcome).inc()
    return JSONResponse(wire.error(refused), refused.status, HINTS.get(refused.status))


def _check_paths(body: bytes) -> None:
    """Raise Refused for a file of the page's that was not uploaded: its code would copy and show any."""
    try:
        left = [json.loads(body)]
    except (ValueError, RecursionError):  # what is no JSON names no file
        return
    while left:
        one = left.pop()
        if isinstance(one, dict) and (path := one.get("path")) and not _uploaded(str(path)):
            raise Refused(400, "a file that was not uploaded: choose it on the page")
        left += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()


def _uploaded(path: str) -> bool:
    """Whether a path leads to where Gradio keeps uploads."""
    folder = os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir(), "gradio")
    return "\0" not in path and Path(path).resolve().is_relative_to(Path(folder).resolve())


def _again(body: bytes, receive: Receive) -> Receive:
    """What receives a body that was read before, and then what comes behind it."""
    left = [body]

    async def received() -> Scope:
        return {"type": "http.request", "body": left.pop()} if left else await receive()

    return received
