"""Requests made ready for the model, on a thread of their own: the model's never waits for a picture."""

from __future__ import annotations

import asyncio
import copy
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from foveate.chat import MARK
from foveate.chat.messages import ask, check_system
from foveate.evaluate.prompts import Ask, encode
from foveate.records.faults import HALF
from foveate.serve import pictures, wire
from foveate.serve.choice import Choice
from foveate.serve.limits import Limits, Refused
from foveate.serve.rows import Wanted

Message = dict[str, Any]
PLANS = 8  # that are kept ready
FETCHES = 16  # at once
LETTERS = 32  # of a token, at most, before anybody counts


class Reader:
    """Reads requests for one model. fetch: whether pictures of http(s) are fetched."""

    def __init__(self, choice: Choice, limits: Limits, fetch: bool = False):
        self.choice, self.limits, self.fetch = choice, limits, fetch
        # Of 1 and 1.0 each its own; few, because those with weights are copies.
        self.plan = lru_cache(PLANS, typed=True)(choice.plan)
        # A tokenizer serves one thread at a time.
        self.processor = copy.deepcopy(choice.loaded.processor)
        self.thread = ThreadPoolExecutor(1, "reader")
        self.fetching = ThreadPoolExecutor(FETCHES, "fetcher")
        text = choice.loaded.model.config.get_text_config()
        self._most = min(limits.prompt, text.max_position_embeddings)
        self._held = text.max_position_embeddings

    async def wanted(self, request: wire.ChatRequest, end: float) -> Wanted:
        """What the model is to do; end is when nobody waits any more. Raises Refused."""
        wire.check(request)
        self._check_name(request.model)
        plan = await asyncio.to_thread(self.plan, request.method, request.keep)
        temperature, top_p = request.temperature or 0.0, request.top_p or 1.0
        if temperature and "ladder" in plan.how:
            why = f"temperature={temperature} on a ladder, which is shown for temperature 0: or say keep"
            raise Refused(400, why, "temperature")
        asked = request.max_completion_tokens or request.max_tokens
        if asked is not None and asked > self.limits.answer:
            why = f"{asked} tokens of answer: want at most {self.limits.answer}"
            raise Refused(400, why, "max_tokens")
        if len(places := wire.places(request)) > self.limits.images:
            why = f"{len(places)} pictures: want at most {self.limits.images}"
            raise Refused(413, why, "messages")
        data = [await self._raw(place) for place in places]
        shown, new = await self.ask(wire.messages(request, data), asked)
        return Wanted(shown, plan, new, end, temperature, top_p, request.seed, request.stops)

    async def _raw(self, place: str) -> bytes:
        """The bytes of a picture. Slow hosts keep nobody waiting but those that ask for them."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self.fetching, pictures.raw, place, self.limits, self.fetch
        )

    async def ask(self, messages: list[Message], new: int | None = None) -> tuple[Ask, int]:
        """What is shown and said, and how many tokens the answer may take; new, if they fit.

        messages: as `foveate.chat.messages` has them, pictures as bytes. Raises Refused where they are too
        long, or the chat template cannot say them.
        """
        loop = asyncio.get_running_loop()
        shown, length = await loop.run_in_executor(self.thread, self._ask, messages)
        return shown, self._room(length, new)

    def _check_name(self, name: str | None) -> None:
        own = self.choice.loaded.name
        if name not in (None, own):
            raise Refused(404, f"no model {name!r}: this server has {own}", "model")

    def _ask(self, messages: list[Message]) -> tuple[Ask, int]:
        """What is shown and said, and how many tokens that is."""
        parts = [part for m in messages for part in m["content"]]
        said = [part["text"] for part in parts if part["type"] == "text"]
        if (letters := sum(map(len, said))) > LETTERS * self.limits.prompt:
            most = LETTERS * self.limits.prompt
            why = f"{letters:,} letters are more than a prompt may hold: want at most {most:,}"
            raise Refused(413, why, "messages")
        if any(HALF.search(text) for text in said):
            raise Refused(400, "the text holds half a character, which is no text", "messages")
        for mark in (MARK, *self._marks()):
            if any(mark in text for text in said):
                why = f"the text holds {mark}: leave it out, pictures are put in by themselves"
                raise Refused(400, why, "messages")
        if not any(p["type"] == "image" or p["text"].strip() for p in messages[-1]["content"]):
            raise Refused(400, "the last message is empty: ask something", "messages")
        self._open([part for part in parts if part["type"] == "image"])
        try:
            shown, told = ask(messages)
            if not isinstance(told, str) and told[0].role == "system":
                check_system(self.processor, told)
            length = encode(self.processor, [(shown, told)])[0]["input_ids"].shape[1]
        except (ValueError, TypeError, KeyError) as error:
            raise Refused(400, " ".join(str(error).split()), "messages") from error
        if length > self._most:
            why = f"{length} tokens of prompt and pictures: want at most {self._most}"
            raise Refused(400, why, "messages")
        return (shown, told), length

    def _open(self, parts: list[dict[str, Any]]) -> None:
        """Put each picture in the place of its bytes, while they have few enough pixels together."""
        left = self.limits.pixels
        for part in parts:
            part["url"] = image = pictures.opened(part["url"], self.limits, left)
            left -= image.width * image.height

    def _room(self, length: int, asked: int | None) -> int:
        """Tokens of an answer to a prompt of this length. Raises Refused where they do not fit."""
        room = self._held - length
        if (asked or 1) > room:
            why = f"{length} tokens of prompt and pictures leave {max(room, 0)} for the answer"
            raise Refused(400, f"{why}: the model takes {self._held}", "max_tokens")
        return asked or min(self.limits.answer, room)

    def _marks(self) -> list[str]:
        names = ("image_token", "video_token")
        return [mark for n in names if isinstance(mark := getattr(self.processor, n, None), str)]
