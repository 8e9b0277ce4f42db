"""The server as a process: it listens, answers, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI

from foveate.evaluate.plans import Loaded
from foveate.serve.app import app
from foveate.serve.choice import Choice
from foveate.serve.engine import Answer, Engine
from foveate.serve.generating import Generating
from foveate.serve.limits import Limits
from foveate.serve.meters import Meters
from foveate.serve.reader import Reader

Answers = Callable[[Loaded, Meters], Answer]
GRACE = 2.0  # seconds to write what was answered; open pages would stay for ever


class Server(uvicorn.Server):
    """Told to stop, it takes nothing more, answers what is here, and ends."""

    def __init__(self, config: uvicorn.Config, engine: Engine, ready: Callable[[], None]):
        super().__init__(config)
        self.engine, self.ready = engine, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        self.ready()

    def stop(self) -> None:
        """Take nothing more, answer what is here, and end. From any thread."""
        self.engine.close()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: Any) -> None:
        """A signal: close, and again: leave."""
        self.engine.close()
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let everybody have their answer."""
        leaving = asyncio.create_task(self._leave())
        await super().shutdown(sockets)
        leaving.cancel()

    async def _leave(self) -> None:
        while not self.engine.idle:
            await asyncio.sleep(0.05)
        await asyncio.sleep(GRACE)
        self.force_exit = True


def application(
    choice: Choice,
    limits: Limits,
    fetch: bool = False,
    api_key: str | None = None,
    answers: Answers = Generating,
) -> tuple[FastAPI, Engine, Reader]:
    """The routes, and what they call. answers: makes what answers a batch."""
    meters = Meters()
    engine = Engine(choice.loaded, limits, meters, answers(choice.loaded, meters))
    reader = Reader(choice, limits, fetch)
    return app(engine, reader, api_key), engine, reader


def server(
    choice: Choice,
    limits: Limits,
    ready: Callable[[], None],
    fetch: bool = False,
    api_key: str | None = None,
    page: Callable[[FastAPI, Engine, Reader], FastAPI] | None = None,
    answers: Answers = Generating,
) -> Server:
    """A server that is to be run. ready: called once it listens; page: mounts one on the application."""
    made, engine, reader = application(choice, limits, fetch, api_key, answers)
    if page is not None:
        made = page(made, engine, reader)
    config = uvicorn.Config(made, log_level="warning", access_log=False)
    return Server(config, engine, ready)


def run(made: Server, listening: socket.socket) -> None:
    """Serve until a signal."""
    with contextlib.suppress(KeyboardInterrupt):  # the signal again, once all is done
        made.run(sockets=[listening])
    made.engine.close()
    made.engine.join(GRACE)
