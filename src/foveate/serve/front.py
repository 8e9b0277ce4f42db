"""In front of vLLM: tower, projector and method act here, and vLLM answers from what is left.

vLLM is handed the vectors that enter the language model, as prompt_embeds of its completions. So it need not
know how many tokens an image leaves, and a method may read the question.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import torch
from torch import Tensor

from foveate.evaluate.plans import Loaded
from foveate.evaluate.prompts import Ask, acting, encode, told
from foveate.evaluate.replies import Reply, as_read
from foveate.evaluate.shares import Kept, of_prompts
from foveate.hosts import attach, entering, traits
from foveate.serve.limits import Refused
from foveate.serve.meters import Meters
from foveate.serve.rows import Row, ends, late

URL = "http://vllm/v1/completions"  # of the socket: a name, and no network
ENDED = ("stop", "length")


class Front:
    """Makes what enters the language model, and lets vLLM answer. The method is on the model already.

    socket: the file where vLLM listens; room: tokens of prompt and answer that it takes.
    """

    def __init__(self, loaded: Loaded, meters: Meters, socket: Path, room: int):
        self.loaded, self.meters, self.socket, self.room = loaded, meters, str(socket), room
        # A tokenizer serves one thread at a time.
        self.tokenizer = copy.deepcopy(loaded.processor.tokenizer)
        self._ends = ends(loaded.model)

    def __call__(self, rows: Sequence[Row]) -> None:
        """See to it that rows of one method are answered.

        Raises ValueError as `entering.prompts` does, and for prompts that leave no room for an answer.
        """
        asks = [row.wanted.ask for row in rows]
        made = entered(self.loaded, asks)
        if (most := max(len(x) for x, _ in made)) >= self.room:
            why = f"{most} tokens of text and what is left of pictures"
            raise ValueError(f"{why}: vLLM takes {self.room} with the answer (--max-model-len)")
        self.meters.note([reply for _, reply in made], [len(images) for images, _ in asks])
        for row, (x, reply) in zip(rows, made, strict=True):
            row.hand_on(self._answer(row, self._request(row, x), reply))

    def _request(self, row: Row, x: Tensor) -> dict[str, Any]:
        """What vLLM is asked. x (S, D); stop words are found here, where tokens become text."""
        torch.save(x.cpu(), file := io.BytesIO())
        wanted = row.wanted
        return {
            "prompt_embeds": base64.b64encode(file.getvalue()).decode(),
            "max_tokens": min(wanted.new, self.room - len(x)),
            "temperature": wanted.temperature,
            "top_p": wanted.top_p,
            "seed": wanted.seed,
            "stream": True,
            "return_token_ids": True,
        }

    async def _answer(self, row: Row, body: dict[str, Any], reply: Reply) -> None:
        start = time.monotonic()
        try:
            async with asyncio.timeout(row.wanted.end - start):
                if not row.cancelled:
                    await self._read(row, body)
        except TimeoutError:
            row.refuse(late())
        except Refused as refused:
            row.refuse(refused)
        except Exception as error:  # of the connection, or of what came
            why = f"{type(error).__name__}: {error}"
            row.refuse(Refused(502, f"vLLM, behind this server, gives no answer: {why}"))
        else:
            self.meters.decode.observe(time.monotonic() - start)
            row.answer(reply)

    async def _read(self, row: Row, body: dict[str, Any]) -> None:
        """Hear an answer to its end, or to the row's own. Raises Refused for what vLLM refuses."""
        way = httpx.AsyncHTTPTransport(uds=self.socket, verify=False)  # a file: there is no TLS
        async with (
            httpx.AsyncClient(transport=way, timeout=None) as client,
            client.stream("POST", URL, json=body) as answer,
        ):
            if answer.status_code != 200:
                raise refused(answer.status_code, (await answer.aread()).decode(errors="replace"))
            async for line in answer.aiter_lines():
                data = line.removeprefix("data: ")
                if data and data != "[DONE]":
                    self._hear(row, json.loads(data))
                if row.why:
                    return
        raise Refused(502, "vLLM, behind this server, ended in the middle of an answer")

    def _hear(self, row: Row, piece: dict[str, Any]) -> None:
        """A piece of an answer: its tokens, and at the end why there are no more."""
        if "error" in piece:
            raise refused(502, json.dumps(piece))
        (one,) = piece["choices"]
        for token in one["token_ids"] or ():
            if row.why is None:
                row.step(token, self._decode, self._ends)
        if (why := one["finish_reason"]) in ENDED:
            row.end(why)
        elif why is not None:
            raise Refused(502, f"vLLM, behind this server, broke an answer off: {why}")

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def entered(loaded: Loaded, asks: Sequence[Ask]) -> list[tuple[Tensor, Reply]]:
    """What enters the language model of each question, (S, D), and a reply that has yet to be said."""
    model, start = loaded.model, time.perf_counter()
    inputs, asked = encode(loaded.processor, asks)
    inputs = as_read(model, inputs)
    with told(acting(model), asked):
        made = entering.prompts(model, **inputs)
    visual = traits.is_visual(traits.base_of(model), inputs["input_ids"])
    words = (inputs["attention_mask"].bool() & ~visual).sum(1).tolist()
    images = [len(own) for own, _ in asks]
    before = after = visual.sum(1).tolist()
    if attach.is_compressed(model) and any(images):
        after = of_prompts(attach.last_counts(model), images)
    seconds = (time.perf_counter() - start) / len(asks)
    found = []
    for x, came, left, n, text in zip(made, before, after, images, words, strict=True):
        each = came / max(n, 1), left / max(n, 1)
        found.append((x, Reply("", *each, Kept(), (len(x),), text, seconds=seconds)))
    return found


def refused(status: int, said: str) -> Refused:
    """What a client hears of a status that is not 200."""
    try:
        why = json.loads(said)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        why = said[:200]
    if status == 400:
        return Refused(400, f"vLLM: {why}")
    return Refused(
        503 if status in (429, 503) else 502, f"vLLM, behind this server: {status}, {why}"
    )
