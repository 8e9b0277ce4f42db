"""Servers of the embedded models, each in a thread of its own, and what is asked of them."""

from __future__ import annotations

import base64
import functools
import io
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import httpx
import pytest
import torch

from foveate import tasks
from foveate.cli import pictures
from foveate.cli.serve import offer
from foveate.serve.limits import Limits
from foveate.serve.run import run, server

torch.set_num_threads(1)
USUAL = Limits()
CHAT = "/v1/chat/completions"


def pytest_configure(config):
    """What other packages warn of is no error of ours."""
    config.addinivalue_line("filterwarnings", "default")


@functools.cache
def examples() -> list[Any]:
    """Questions with their pictures, of every kind."""
    return tasks.examples("patchqa", 44)


@functools.cache
def url(index: int) -> str:
    """The picture of a question as a data URL."""
    examples()[index].images[0].save(file := io.BytesIO(), "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def body(index: int = 0, **more: Any) -> dict[str, Any]:
    """A request that asks one question about its picture."""
    picture = {"type": "image_url", "image_url": {"url": url(index)}}
    words = {"type": "text", "text": examples()[index].question}
    return {"messages": [{"role": "user", "content": [picture, words]}], **more}


def said(response: httpx.Response) -> str:
    """The answer in a response."""
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


@contextmanager
def serving(
    model: str = "embedded",
    method: str | None = None,
    keep: str | None = None,
    limits: Limits = USUAL,
    endless: bool = False,
    page: bool = False,
    offered: Mapping[str, Any] = MappingProxyType({}),
    **how: Any,
) -> Iterator[tuple[httpx.Client, Any]]:
    """A client of a server that runs, and the server. endless: its answers end at their longest."""
    choice = offer(model, method=method, keep=keep, **offered)
    if endless:
        choice.loaded.model.generation_config.eos_token_id = None
    if page:
        from foveate.serve.page import mount

        how["page"] = functools.partial(mount, canvas=pictures.canvas)
    listens = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        made = server(choice, limits, listens.set, **how)
        thread = threading.Thread(target=run, args=(made, listening))
        thread.start()
        try:
            assert listens.wait(60)
            at = f"http://127.0.0.1:{listening.getsockname()[1]}"
            with httpx.Client(base_url=at, timeout=120) as client:
                yield client, made
        finally:
            made.engine.close()
            made.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def embedded() -> Iterator[httpx.Client]:
    """A client of the embedded model, bare unless a request says otherwise."""
    with serving() as (client, _):
        yield client
