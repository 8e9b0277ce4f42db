"""How other programs want to be answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LONGEST = 1024  # tokens of an answer, where a task says nothing
OURS = ("until", "max_new_tokens", "do_sample", "temperature", "top_p", "top_k")
ONE = ("num_return_sequences", "return_dict_in_generate")  # an answer is one text


def settings(asked: Mapping[str, Any], known: Any) -> tuple[dict[str, Any], list[str]]:
    """What `generate` is told, and which of a task's generation_kwargs mean nothing to it.

    Sampled is where do_sample or else a temperature says so, and the temperature is above 0. known: the
    model's generation config.
    """
    heat = asked.get("temperature") or 0.0
    sampled = heat > 0 and asked.get("do_sample") is not False
    how: dict[str, Any] = {"do_sample": sampled, "temperature": None, "top_p": None, "top_k": None}
    if sampled:
        given = {name: asked.get(name) or None for name in ("top_p", "top_k")}
        how |= {"temperature": float(heat), **given}
    how |= {"max_new_tokens": asked.get("max_new_tokens", LONGEST), "num_beams": 1}
    rest = {name: value for name, value in asked.items() if name not in OURS}
    how |= {name: value for name, value in rest.items() if hasattr(known, name) and name not in ONE}
    return how, [name for name in rest if name not in how]


def cut(text: str, until: str | Sequence[str] | None) -> str:
    """An answer up to the first of these words."""
    for stop in [until] if isinstance(until, str) else until or []:
        text = text.partition(stop)[0] if stop else text
    return text.strip()
