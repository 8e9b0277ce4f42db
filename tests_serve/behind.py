"""What speaks as a vLLM does to a front, and is none: the whole model, on its decoder alone."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from foveate import embedded
from foveate.serve.front import Front

ROOM = 512


def speaking(name: str) -> FastAPI:
    """A server that answers prompt_embeds; `how` in its state says how badly."""
    app, (model, _) = FastAPI(), embedded.load(name=name)
    app.state.how, app.state.asked = "well", []
    decoder, head = model.model.language_model, model.lm_head

    @app.post("/v1/completions")
    async def completions(request: Request) -> Any:
        body, how = await request.json(), app.state.how
        app.state.asked.append(body)
        if isinstance(how, int):
            return JSONResponse({"error": {"message": "no", "code": how}}, how)
        if how == "mute":
            await asyncio.sleep(60)
        x = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
        return StreamingResponse(said(x[None], body["max_tokens"], how))

    async def said(x: torch.Tensor, most: int, how: str) -> Any:
        with torch.inference_mode():
            out = decoder(inputs_embeds=x, use_cache=True)
            for number in range(most):
                token = 5 if how == "endless" else int(head(out.last_hidden_state[:, -1]).argmax())
                why = "stop" if token == 2 else "length" if number + 1 == most else None
                if how == "broken" and number:
                    yield f"data: {json.dumps({'error': {'message': 'the engine is dead', 'code': 500}})}\n\n"
                    return
                if how == "short" and number:
                    return
                one = {"token_ids": [token], "finish_reason": why, "text": "", "index": 0}
                yield f"data: {json.dumps({'choices': [one]})}\n\n"
                if why:
                    break
                ids = torch.tensor([[token]])
                out = decoder(input_ids=ids, past_key_values=out.past_key_values, use_cache=True)
                if how == "endless":
                    await asyncio.sleep(0.3)
        yield "data: [DONE]\n\n"

    return app


@contextmanager
def behind(folder: Path, name: str = "embedded-fovea") -> Iterator[tuple[Any, Any]]:
    """Inside, one listens at a socket in a folder: its state, and what makes a front of it."""
    app, socket = speaking(name), str(folder / "s")
    made = uvicorn.Server(uvicorn.Config(app, uds=socket, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=made.run)
    thread.start()
    while not made.started:
        time.sleep(0.01)
    app.state.stop = partial(stop, made, thread)
    try:
        yield app.state, partial(Front, socket=socket, room=ROOM)
    finally:
        app.state.stop()


def stop(made: uvicorn.Server, thread: threading.Thread) -> None:
    """At once, whoever waits for an answer."""
    made.should_exit = made.force_exit = True
    thread.join(30)
