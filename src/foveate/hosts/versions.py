"""Which transformers and which family this is: hosts lean on their inside, so they say what was tested."""

from __future__ import annotations

import functools
import re
import warnings

import transformers

KNOWN = ("5.18", "5.22", "5.23")  # `make test-versions` runs the tests with each of them
FAMILIES = (
    "gemma3",
    "idefics3",
    "internvl",
    "llava",
    "llava_next",
    "llava_onevision",
    "mistral3",
    "paligemma",
    "qwen2_5_vl",
    "qwen3_vl",
    "smolvlm",
    "video_llava",
)
FIRST = (5, 18)  # the first whose models take features that were encoded beforehand


@functools.cache
def check(version: str = transformers.__version__) -> None:
    """Warn, once, with a transformers that foveate was not tested with.

    Raises ImportError for one that cannot work at all.
    """
    series = _series(version)
    if series is not None and series < FIRST:
        raise ImportError(
            f"transformers {version} is too old: its models do not take mm_encoder_outputs, which foveate "
            "needs. pip install 'transformers>=5.18,<6'"
        )
    if series is None or "{}.{}".format(*series) not in KNOWN:
        warnings.warn(
            f"transformers {version} is unknown to foveate, which was tested with {', '.join(KNOWN)}: "
            "it may well work; if answers look odd, install one of these",
            UserWarning,
            stacklevel=4,  # whoever called foveate.compress
        )


@functools.cache
def check_family(kind: str) -> None:
    """Warn, once, of a model of a family that foveate was not tested with."""
    if kind not in FAMILIES:
        warnings.warn(
            f"models of type {kind!r} are unknown to foveate, which was tested with {', '.join(FAMILIES)}: "
            "compare a few answers with keep=1.0 before you trust it",
            UserWarning,
            stacklevel=4,  # whoever called foveate.compress
        )


def _series(version: str) -> tuple[int, int] | None:
    """Major and minor number; None if the version does not begin with two numbers."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None
