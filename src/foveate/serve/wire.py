"""OpenAI's chat completions as they are written: what comes, what goes, and what is refused."""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt

from foveate.serve.limits import Refused

# OpenAI's fields that we do not have, each with what asks for nothing.
NOTHING: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "web_search_options": (),
}
# Those that change nothing in an answer.
IDLE = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
STOPS = 4
WANTED = {
    "keep": "want a number of tokens, such as 36, or a share of them, such as 0.25",
    "stop": "want a text, or a list of texts",
    "content": "want a text, or a list of parts of type text or image_url",
    "image_url": 'want {"url": "data:image/png;base64,…"}',
}


class Part(BaseModel):
    """A piece of a message."""

    model_config = ConfigDict(extra="forbid")


class Text(Part):
    """Words."""

    type: Literal["text"]
    text: str


class Place(Part):
    """Where a picture is: a data URL, or http(s) where the server may fetch."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class Picture(Part):
    """A picture."""

    type: Literal["image_url"]
    image_url: Place


class Message(BaseModel):
    """What one side says. Answers may be sent back as they came, with their empty fields."""

    model_config = ConfigDict(extra="allow")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[Text | Picture, Field(discriminator="type")]]
    name: str | None = None

    @property
    def side(self) -> str:
        """Whose turn it is: system, user or assistant."""
        return "system" if self.role == "developer" else self.role

    @property
    def parts(self) -> list[Text | Picture]:
        """Its pieces, in order."""
        if isinstance(self.content, str):
            return [Text(type="text", text=self.content)]
        return self.content


class Streaming(Part):
    """How a stream is written."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(BaseModel):
    """A chat completion; `method` and `keep` are foveate's own.

    method: a name, or one with arguments, `pool(layer=2)`; without one, what the server was started with.
    keep: visual tokens of each picture, a whole number; or the share of them, a number with a point. As text
    it means the same: "1.0" is all, also for clients that write 1.0 as 1.
    """

    model_config = ConfigDict(extra="allow")
    messages: list[Message] = Field(min_length=1)
    model: str | None = None
    method: str | None = None
    keep: StrictInt | StrictFloat | str | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: Streaming | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The words that end an answer."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(word for word in given if word)


FIELDS = frozenset().union(
    *(m.model_fields for m in (ChatRequest, Message, Text, Place, Picture, Streaming))
)


def check(request: ChatRequest) -> None:
    """Raise Refused for what would be another answer than the one that is asked for."""
    for name, value in (request.model_extra or {}).items():
        if value is not None and name not in IDLE:
            _check_extra(name, value)
    for message in request.messages:
        for name, value in (message.model_extra or {}).items():
            if value:
                raise Refused(400, f"a message with {name!r}: want role and content", "messages")
    if any(part.image_url.detail == "low" for part in _pictures(request)):
        raise Refused(
            400, "detail=low: say with method and keep how much is to be seen", "messages"
        )
    _check_turns([message.side for message in request.messages])
    if request.max_tokens and request.max_completion_tokens:
        raise Refused(400, "max_tokens and max_completion_tokens at once: give one", "max_tokens")
    if len(request.stops) > STOPS:
        raise Refused(400, f"{len(request.stops)} stop words: want at most {STOPS}", "stop")


def _check_extra(name: str, value: Any) -> None:
    """A field that is not ours: fine if it asks for nothing."""
    if name not in NOTHING:
        known = [*ChatRequest.model_fields, *NOTHING, *IDLE]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f": nearest: {near[0]}" if near else ""
        raise Refused(400, f"unknown field {name!r}{hint}", name)
    if not any(value == nothing for nothing in NOTHING[name]):
        given = json.dumps(value)[:80]
        fine = NOTHING[name]
        how = f"want {json.dumps(fine[0])}, or leave it out" if fine else "leave it out"
        raise Refused(400, f"{name}={given}: this server has no {name}: {how}", name)


def _check_turns(sides: list[str]) -> None:
    turns = sides[1:] if sides[0] == "system" else sides
    fine = all(side == ("user", "assistant")[i % 2] for i, side in enumerate(turns))
    if not fine or len(turns) % 2 == 0:
        why = (
            "want user and assistant in turn, the user last, and a system message in front or none"
        )
        raise Refused(400, why, "messages")


def places(request: ChatRequest) -> list[str]:
    """Where the pictures are, in order."""
    return [part.image_url.url for part in _pictures(request)]


def _pictures(request: ChatRequest) -> list[Picture]:
    parts = (part for message in request.messages for part in message.parts)
    return [part for part in parts if isinstance(part, Picture)]


def malformed(faults: Sequence[Mapping[str, Any]]) -> Refused:
    """A body that is none, from what its reader says of it: what is wanted where, in a person's words."""
    fault = max(faults, key=lambda one: len(one["loc"]))  # of a choice, the one that came furthest
    if fault["type"] == "json_invalid":
        why = fault.get("ctx", {}).get("error", "it cannot be read")
        return Refused(400, f"the body is no JSON: {why} at character {fault['loc'][-1]}")
    path = [part for part in fault["loc"] if part != "body" and _is_field(part)]
    if not path:
        return Refused(400, "want a JSON object, and the header Content-Type: application/json")
    where, name = ".".join(map(str, path)), next(p for p in reversed(path) if isinstance(p, str))
    return Refused(400, f"{where}: {WANTED.get(name, fault['msg'])}", where)


def _is_field(part: Any) -> bool:
    return isinstance(part, int) or part in FIELDS


def messages(request: ChatRequest, pictures: list[Any]) -> list[dict[str, Any]]:
    """The conversation with its pictures in place, as `foveate.chat.messages` takes it."""
    left = iter(pictures)
    return [
        {
            "role": message.side,
            "content": [
                {"type": "text", "text": part.text}
                if isinstance(part, Text)
                else {"type": "image", "url": next(left)}
                for part in message.parts
            ],
        }
        for message in request.messages
    ]


def error(refused: Refused) -> dict[str, Any]:
    """A refusal in OpenAI's shape."""
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(
        refused.status, "server_error" if refused.status >= 500 else "invalid_request_error"
    )
    return {"error": {"message": refused.why, "type": kind, "param": refused.param, "code": None}}


def completion(name: str, key: str, text: str, why: str, told: dict[str, Any]) -> dict[str, Any]:
    """A whole answer. told: what else there is to say of it, such as its usage."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": why, "logprobs": None}
    return {**_head(name, key, "chat.completion"), "choices": [choice], **told}


def chunk(
    name: str, key: str, delta: dict[str, str] | None, why: str | None = None, **told: Any
) -> dict[str, Any]:
    """A piece of a stream; with delta None, what is told at its end."""
    choice = {"index": 0, "delta": delta, "finish_reason": why, "logprobs": None}
    choices = [] if delta is None else [choice]
    return {**_head(name, key, "chat.completion.chunk"), "choices": choices, **told}


def event(document: dict[str, Any] | str) -> str:
    """A server-sent event."""
    data = document if isinstance(document, str) else json.dumps(document, ensure_ascii=False)
    return f"data: {data}\n\n"


def _head(name: str, key: str, kind: str) -> dict[str, Any]:
    return {"id": key, "object": kind, "created": int(time.time()), "model": name}
