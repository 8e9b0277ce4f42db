"""Which methods vLLM can serve, and how many tokens one leaves; every refusal in one sentence."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import foveate.methods
from foveate.core.compressor import Compressor
from foveate.hosts import features, saving, traits
from foveate.hosts.switches import Switches
from foveate.registry import written
from foveate.registry.methods import known

METHOD, POSITIONS = "foveate", "foveate_positions"  # of --mm-processor-kwargs
PATCH = torch.zeros(
    1, 3, dtype=torch.long
)  # an image of one patch, to ask whether a method can say


def named(text: Any) -> str:
    """The text itself. Raises ValueError unless it names a method: no request imports a class by its path."""
    if not isinstance(text, str) or ":" in text:
        raise ValueError(f'foveate={text!r}: want a method by name, such as "divprune(keep=36)"')
    return text


def of_text(text: str, config: Any) -> Compressor:
    """The method that is written, as `foveate compare --methods` reads it. config: the model's.

    Raises ValueError for what cannot be served, and as `named` does.
    """
    spec = written.spec(named(text), "foveate: ")
    outline = checked(spec.tried(), text)  # before there is memory for any weights
    if next(outline.parameters(), None) is not None:
        raise ValueError(
            f"{text} has weights, which only a checkpoint brings: save the trained model, and serve that"
        )
    try:
        return spec.build(model=config).eval()
    except TypeError as error:
        raise ValueError(f"{text}: {error}") from error


def of_checkpoint(config: Any, device: str = "cpu") -> Compressor | None:
    """The method that a checkpoint was saved with, its weights still to be filled in; None without one.

    device: where these are, "meta" for nowhere. Raises ValueError for what cannot be served.
    """
    node = saving.said(config)
    if node is None:
        return None
    switches = check_switches(node, "the checkpoint")
    if traits.closes_rows(config) and switches.newlines == "rows":
        raise ValueError(
            f"{config.model_type} closes rows with newlines, and vLLM must know which of them stay before it "
            "sees the image: save the model with compress(…, newlines='none')"
        )
    with torch.device(device):
        method = saving.rebuild(node, known()).eval()
    return checked(method, str(method))


def check_switches(node: Mapping[str, Any], who: str) -> Switches:
    """What `compress` is told, as vLLM's own layers do it. Raises ValueError for the rest; who: says so."""
    switches = Switches.of(node)
    if "ladder" in node:
        raise ValueError(
            f"{who} has a ladder, and vLLM encodes an image once, with one budget: serve it with foveate "
            "serve's own engine, or say one budget with keep"
        )
    if switches.merges or switches.proportional:
        raise ValueError(
            f"{who} says {switches.told}, and vLLM serves dropped='gone' and attention='plain'"
        )
    return switches


def checked(method: Compressor, text: str) -> Compressor:
    """The method, if it can be served. Raises ValueError, with those that can."""
    try:
        features.check(method)
    except ValueError as error:
        raise ValueError(f"{text}: {error}. vLLM serves {', '.join(names())}") from error
    if method.count(PATCH) is None:
        raise ValueError(
            f"{text}: the picture decides how many tokens are left, and vLLM makes room for them before it "
            f"sees any. Give it a keep, where it takes one; vLLM serves {', '.join(names())}"
        )
    return method


def check_front(config: Any, method: Compressor | None, positions: str | None) -> None:
    """Raise ValueError for what cannot be served from a front either. None is as the model was saved."""
    node = saving.said(config)
    switches = Switches.of(node or {})
    if (positions or switches.positions) != "renumbered":
        raise ValueError(
            "kept tokens are to keep their positions, and vLLM counts anew those of a prompt that is made in "
            "front: say --positions renumbered, or serve with `foveate serve` alone"
        )
    if method is None and node is not None:
        with torch.device("meta"):
            method = saving.rebuild(node, known())
    if method is not None:
        check_place(method)


def check_place(method: Compressor) -> None:
    """Raise ValueError for a method inside the language model, with who serves it."""
    try:
        features.check_place(method)
    except ValueError as error:
        raise ValueError(f"{error}: `foveate serve` has it, without --engine vllm") from error


def left(method: Compressor, text: str, grid: Tensor) -> int:
    """How many tokens are left of an image. Raises ValueError where only the image says."""
    if (count := method.count(grid)) is None:
        raise ValueError(
            f"{text}: of {len(grid)} tokens in several views, the picture decides what is left"
        )
    return count


@functools.cache
def names() -> tuple[str, ...]:
    """The methods that can be served as they are, without weights of their own."""
    return tuple(slug for slug in foveate.methods.METHODS if _plain(slug))


def _plain(slug: str) -> bool:
    with torch.device("meta"):
        method = foveate.methods.METHODS[slug]()
    try:
        features.check(method)
    except ValueError:
        return False
    return next(method.parameters(), None) is None and method.count(PATCH) is not None


def positions(config: Any, kwargs: Mapping[str, Any]) -> str:
    """Whether kept tokens keep their positions: as the server was told, else the checkpoint, else "original".

    kwargs: the server's --mm-processor-kwargs. Raises ValueError for other words.
    """
    saved = Switches.of(saving.said(config) or {}).positions
    return Switches(kwargs.get(POSITIONS, saved)).positions


def keeps_places(config: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether the model is served so that kept tokens can stand where they stood. kwargs: as in `positions`.

    A model with M-RoPE of its own is, once anything is said of methods or positions.
    """
    if not counts_in_three(config):
        return getattr(config, "mrope_section", None) is not None
    said = saving.said(config) is not None or not {METHOD, POSITIONS}.isdisjoint(kwargs)
    return said and positions(config, kwargs) == "original"


def check_policy(config: Any, kwargs: Mapping[str, Any]) -> None:
    """Raise ValueError where positions are to be counted anew, and vLLM was told to ask for them."""
    if keeps_places(config, kwargs) and positions(config, kwargs) == "renumbered":
        raise ValueError(
            "positions are to be counted anew, and mrope_section says that tokens keep them: leave one out"
        )


def check_positions(config: Any, kwargs: Mapping[str, Any]) -> None:
    """Raise ValueError where original positions are wanted and vLLM would count anew."""
    if positions(config, kwargs) == "renumbered" or keeps_places(config, kwargs):
        return
    told = f'--mm-processor-kwargs \'{{"{POSITIONS}": "renumbered"}}\''
    if counts_in_three(config):
        raise ValueError(
            f"a request names a method, and the server was not told of positions: {told}, or "
            '"original" for kept tokens to keep theirs'
        )
    raise ValueError(
        "kept tokens keep their positions, which vLLM must be told of: --hf-overrides "
        f"'{{\"mrope_section\": [1, 1, 1]}}', or `foveate export`. Where they may be counted anew: {told}"
    )


def counts_in_three(config: Any) -> bool:
    """Whether the language model has M-RoPE of its own."""
    return "mrope_section" in (getattr(config.get_text_config(), "rope_parameters", None) or {})
