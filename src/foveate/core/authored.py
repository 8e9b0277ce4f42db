"""What a compressor must be, whoever wrote it, and what it must give back; each fault in one sentence."""

from __future__ import annotations

import difflib
import inspect
import json
import traceback
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from foveate.core.compressor import OF_BLOCKS, Compressor, Context, check_site
from foveate.core.ops import described
from foveate.core.tokens import VisualTokens

FIELDS = tuple(field.name for field in fields(Context))
OPTIONAL = ("text", "text_mask", "text_ids")


def check(part: Compressor) -> None:
    """Raise TypeError or ValueError for a compressor that is not whole: what it lacks, by its class."""
    kind, name = type(part), type(part).__name__
    if "_modules" not in vars(part):
        raise TypeError(f"{name}.__init__ must call super().__init__() before anything else")
    if kind.__hash__ is None:
        raise TypeError(
            f"{name} cannot be hashed, as a dataclass with eq: want dataclass(eq=False)"
        )
    for method, returns in (
        ("forward", "VisualTokens, such as tokens.where(keep)"),
        ("arguments", "the constructor's arguments by name, as in {'keep': self.keep}"),
    ):
        if getattr(kind, method) is getattr(Compressor, method):
            raise TypeError(f"{name} has no {method}(): it must return {returns}")
    try:
        inspect.signature(part.forward).bind(None, None)
    except TypeError as error:
        raise TypeError(f"{name}.forward must take (tokens, context): {error}") from error
    check_site(part)
    _check_names(part, "needs", FIELDS)
    _check_names(part, "optional", OPTIONAL)
    if "features" in part.needs and not part.vision_layers:
        raise ValueError(f"{name} needs 'features', and its vision_layers name no hidden state")
    if (of_blocks := sorted(part.needs & OF_BLOCKS)) and not part.vision_blocks:
        raise ValueError(f"{name} needs {of_blocks[0]!r}, and its vision_blocks name no block")
    _check_arguments(part)


def _check_names(part: Compressor, attribute: str, known: Iterable[str]) -> None:
    name, given = type(part).__name__, getattr(part, attribute)
    if not isinstance(given, set | frozenset):
        raise TypeError(
            f"{name}.{attribute} is {given!r}: want names in a set, as in frozenset({{'grid'}})"
        )
    for wrong in sorted(map(str, given - set(known))):
        near = difflib.get_close_matches(wrong, known, n=1)
        raise ValueError(
            f"{name}.{attribute} has {wrong!r}: "
            + (f"nearest: {near[0]}; " if near else "")
            + f"there are {', '.join(known)}"
        )


def _check_arguments(part: Compressor) -> None:
    name, given = type(part).__name__, part.arguments()
    if not isinstance(given, dict):
        raise TypeError(f"{name}.arguments() gave {described(given)}: want a dict, by name")
    known = inspect.signature(type(part)).parameters
    kinds = {parameter.kind for parameter in known.values()}
    unknown = [n for n in given if n not in known and inspect.Parameter.VAR_KEYWORD not in kinds]
    if unknown:
        raise TypeError(
            f"{name}.arguments() has {unknown[0]!r}, which {name}.__init__ does not take: it takes "
            f"{', '.join(known) or 'none'}"
        )
    for argument, value in given.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name}.arguments() has {argument}, {described(value)}: want what JSON can hold, to be saved"
            ) from error


def acted(part: Compressor, tokens: VisualTokens, context: Context, width: int) -> VisualTokens:
    """What a compressor makes of tokens. width: that of the vectors it must give.

    Raises TypeError where it reads what it does not declare, and as `check_result` does.
    """
    try:
        out = part(tokens, context)
    except (AttributeError, TypeError) as error:
        if (field := undeclared(part, context, error)) is None:
            raise
        raise TypeError(
            f"{type(part).__name__}.forward reads context.{field}, which is None as it does not declare it: "
            f"want {field!r} in its needs"
        ) from error
    check_result(part, tokens, out, width)
    return out


def check_result(part: Compressor, came: VisualTokens, out: Any, width: int) -> None:
    """Raise TypeError or ValueError for what is no result of a compressor. width: that of its vectors.

    Of tensors it looks at shapes, and at values on the CPU alone, where nothing has to wait for them.
    """
    if out is came:
        return
    name = f"{type(part).__name__}.forward"
    if not isinstance(out, VisualTokens):
        given = "nothing" if out is None else described(out)
        raise TypeError(
            f"{name} returned {given}: want VisualTokens, as tokens.where, merge and carry make them"
        )
    for field in ("x", "owner", "valid"):
        if not isinstance(value := getattr(out, field), Tensor):
            raise TypeError(f"{name} returned {field}={described(value)}: want a tensor")
    B, N, P = *came.valid.shape, came.owner.shape[1]
    _check_shapes(name, out, B, N, P, width)
    _check_kinds(name, out, came)
    if out.owner.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_owners(name, out)


def _check_shapes(name: str, out: VisualTokens, B: int, N: int, P: int, width: int) -> None:
    shape = tuple(out.x.shape)
    if len(shape) != 3 or shape[0] != B or shape[2] != width:
        raise ValueError(f"{name} returned x {shape}: want ({B}, at most {N}, {width})")
    if shape[1] > N:
        raise ValueError(f"{name} returned {shape[1]} tokens of {N}: want no more than came")
    for field, want in (("valid", shape[:2]), ("owner", (B, P))):
        if (has := tuple(getattr(out, field).shape)) != want:
            raise ValueError(f"{name} returned {field} {has}: want {want}")
    if isinstance(out.penalty, Tensor) and out.penalty.dim():
        has = tuple(out.penalty.shape)
        raise ValueError(f"{name} returned a penalty {has}: want one number")


def _check_kinds(name: str, out: VisualTokens, came: VisualTokens) -> None:
    """Under autocast, vectors may be of its type."""
    for field in ("x", "owner", "valid"):
        has, want = getattr(out, field), getattr(came, field)
        if has.device != want.device:
            raise ValueError(f"{name} returned {field} on {has.device}: want {want.device}")
        free = (
            field == "x" and has.is_floating_point() and torch.is_autocast_enabled(has.device.type)
        )
        if has.dtype != want.dtype and not free:
            raise TypeError(f"{name} returned {field} of {has.dtype}: want {want.dtype}")


def _check_owners(name: str, out: VisualTokens) -> None:
    M, P = out.valid.shape[1], out.owner.shape[1]
    if P and (most := int(out.owner.max())) >= M:
        raise ValueError(f"{name} returned owner up to {most}, of {M} tokens")
    anchor = out.anchor
    if not torch.equal(anchor < P, out.valid):
        raise ValueError(
            f"{name} returned valid tokens that carry no patch, or patches of tokens that are not valid: "
            "owner and valid must agree, as tokens.where, merge and carry make them"
        )
    if bool((anchor[:, 1:] < anchor[:, :-1]).any()):
        raise ValueError(f"{name} returned tokens out of the order of their first patches")


def undeclared(part: Compressor, context: Context, error: BaseException) -> str | None:
    """The field of the context that a failed call read and that nobody declared, if that is why."""
    if "NoneType" not in str(error):
        return None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    looked = [f for f in frames if any(value is context for value in f.f_locals.values())]
    read = {name for frame in looked for name in frame.f_code.co_names}
    return next((n for n in FIELDS if n in read - part.needs and getattr(context, n) is None), None)
