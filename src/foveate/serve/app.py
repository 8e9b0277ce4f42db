"""The routes: OpenAI's chat completions and models, health, and what Prometheus reads."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from foveate.serve import wire
from foveate.serve.engine import Engine
from foveate.serve.guard import END, GONE, Guard, refusal
from foveate.serve.limits import Refused
from foveate.serve.reader import Reader
from foveate.serve.rows import Row, Wanted, late

ANY = ["GET", "POST", "PUT", "PATCH", "DELETE"]
REFUSALS = {
    "4XX": {"description": "What is wrong with the request, under error.message"},
    "5XX": {"description": "Why there is no answer, under error.message"},
}


def app(engine: Engine, reader: Reader, api_key: str | None = None) -> FastAPI:
    """The server as an ASGI application. api_key: a bearer token that /v1 then wants."""
    made = FastAPI(
        title="foveate", docs_url=None, redoc_url=None
    )  # whose pages come from elsewhere
    made.add_middleware(Guard, engine=engine, api_key=api_key)

    @made.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return refusal(engine, error)

    @made.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return refusal(engine, wire.malformed(error.errors()))

    @made.exception_handler(HTTPException)
    async def outside(_: Request, error: HTTPException) -> JSONResponse:
        return refusal(engine, Refused(error.status_code, str(error.detail)))

    name, born = engine.loaded.name, int(time.time())

    @made.post("/v1/chat/completions", response_model=None, responses=REFUSALS)
    async def chat(body: wire.ChatRequest, request: Request) -> Response:
        """Answer a conversation about pictures."""
        end = request.scope[END]
        with engine.place():
            row = Row(await _in_time(reader.wanted(body, end), end))
            engine.submit(row)
        key = f"chatcmpl-{uuid.uuid4().hex}"
        async with _watched(engine, row, request):
            while not row.over and not (body.stream and row.shown):
                await row.news()
            if row.refused is not None:
                raise row.refused
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            pieces = _stream(engine, row, name, key, usage)
            return StreamingResponse(pieces, media_type="text/event-stream")
        engine.meters.requests.labels("answered").inc()
        return JSONResponse(wire.completion(name, key, row.shown, row.why or "stop", told(row)))

    @made.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model there is."""
        own = {"id": name, "object": "model", "created": born, "owned_by": "foveate"}
        return {"object": "list", "data": [own]}

    @made.get("/v1/models/{model}", responses=REFUSALS)
    async def model(model: str) -> dict[str, Any]:
        """The same one, by its name."""
        if model != name:
            raise Refused(404, f"no model {model!r}: this server has {name}", "model")
        return (await models())["data"][0]

    @made.api_route("/v1/{rest:path}", methods=ANY, include_in_schema=False)
    async def other(rest: str, request: Request) -> Response:
        """What else a client may try."""
        raise Refused(404, f"no {request.method} /v1/{rest}: POST /v1/chat/completions answers")

    @made.get("/healthz")
    async def health() -> JSONResponse:
        """Whether requests are taken."""
        return JSONResponse({"taking": engine.taking}, 200 if engine.taking else 503)

    @made.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(engine.meters.text(), media_type="text/plain; version=0.0.4")

    return made


def told(row: Row) -> dict[str, Any]:
    """What there is to say of an answer: tokens as the model saw them, and what acted."""
    reply, images = row.reply, len(row.wanted.ask[0])
    before, after = round(reply.before * images), round(reply.after * images)
    prompt = reply.columns[0] if reply.columns else reply.words + after
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": len(row.ids),
        "total_tokens": prompt + len(row.ids),
        "visual_tokens": {"before": before, "after": after},
    }
    plan = row.wanted.plan
    return {"usage": usage, "method": plan.method, "keep": plan.keep}


async def _in_time(reading: Awaitable[Wanted], end: float) -> Wanted:
    """A request that is read. Raises Refused, 504, when its time is over before."""
    try:
        async with asyncio.timeout(max(end - time.monotonic(), 0)):
            return await reading
    except TimeoutError as error:
        raise late() from error


@asynccontextmanager
async def _watched(engine: Engine, row: Row, request: Request) -> AsyncIterator[None]:
    """Inside, a row is cancelled when its client leaves; and when nobody waits for it after an error."""

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        engine.cancel(row)
        row.refuse(Refused(GONE, "the client has left"))

    gone = asyncio.create_task(leave())
    try:
        yield
    except BaseException:
        engine.cancel(row)
        raise
    finally:
        gone.cancel()


async def _stream(engine: Engine, row: Row, name: str, key: str, usage: bool) -> AsyncIterator[str]:
    """An answer piece by piece; its usage behind it, where that is wanted."""
    sent, outcome = 0, "cancelled"
    try:
        yield wire.event(wire.chunk(name, key, {"role": "assistant", "content": ""}))
        while sent < len(row.shown) or not row.over:
            if sent >= len(row.shown):
                await row.news()
            if new := row.shown[sent:]:
                yield wire.event(wire.chunk(name, key, {"content": new}))
                sent += len(new)
        if row.refused is not None:
            raise row.refused
        own = told(row)
        used = own.pop("usage")
        yield wire.event(wire.chunk(name, key, {}, row.why or "stop", **own))
        if usage:
            yield wire.event(wire.chunk(name, key, None, usage=used))
        yield wire.event("[DONE]")
        outcome = "answered"
    except Refused as refused:
        outcome = str(refused.status)
        yield wire.event(wire.error(refused))
    finally:
        engine.cancel(row)
        engine.meters.requests.labels(outcome).inc()
