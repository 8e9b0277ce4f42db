"""Where hosts and methods meet: methods by name, models back from disk, and who works on what."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from foveate.core.compressor import Compressor
from foveate.core.sizes import sized
from foveate.core.spec import Spec
from foveate.hosts import attach, reading, saving, traits, whole
from foveate.hosts import support as hosts_support
from foveate.hosts.support import Support
from foveate.hosts.switches import ALLOWED
from foveate.registry import setting
from foveate.registry.methods import factory, is_compressor, known, names

Model = TypeVar("Model", bound=nn.Module)

# What sets a method, or what there is of it, behind the projector.
BEHIND = {"projected": True, "only": "selection"}


def compress(
    model: Model,
    method: Compressor | str,
    positions: str = "original",
    newlines: str = "rows",
    dropped: str = "gone",
    attention: str = "plain",
    **arguments: Any,
) -> Model:
    """Let a model see with fewer visual tokens, in place: the same object, the same class.

    method: a compressor, or a method's name with its arguments, `compress(model, "fastv", keep=64)`, made
    with the model's sizes: a name of METHODS, one that a package brings, or package.module:Class. Or a file
    as `foveate tune` writes one, `compress(model, "setting.json")`, which says method, budget and switches;
    those given here that are not as usual go before.
    positions "original" keeps the position ids of kept tokens, "renumbered" counts them anew. newlines, of
    models that close rows of tiles with them: "rows" keeps one for every row where a token is left, "none"
    drops all as soon as a method acts, even one that keeps every token. dropped: "gone", or "merged": each
    dropped token joins the kept one of its image that is most like it (cosine), which becomes their mean, as
    in VScan, arXiv:2505.22654. attention, of models whose kernel takes a mask (sdpa, eager): "plain", or
    "proportional" to the patches that a token carries, as in ToMe, arXiv:2210.09461. A model that is
    compressed already gets the new method instead. Returns the model it was given.

    The method becomes part of the model: its weights move to the model's device and dtype and are saved
    with it, so give each model its own. A projector whose place it takes is frozen. While a compressor
    stands before the projector, features that `get_image_features` returns are those that the projector
    reads.

    Raises TypeError for models and methods that are none and for arguments a method does not have,
    ValueError for unknown names, layers the model does not have, methods made for other sizes (their
    arguments width, feature_width, tower_width, tower_layers and feature_layer; see `sized`) and unknown
    positions, newlines, dropped or attention,
    NotImplementedError for sites this host cannot serve and for kernels without such masks. The model is
    untouched then.
    """
    switches = {"newlines": newlines, "dropped": dropped, "attention": attention}
    made, told = _made(model, method, {"positions": positions, **switches}, arguments)
    return attach.compress(model, made, **told)


@contextmanager
def compressed(
    model: Model,
    method: Compressor | str,
    positions: str = "original",
    newlines: str = "rows",
    dropped: str = "gone",
    attention: str = "plain",
    **arguments: Any,
) -> Iterator[Model]:
    """`compress` for the length of a block; afterwards the model is what it was, also after an error."""
    switches = {"newlines": newlines, "dropped": dropped, "attention": attention}
    made, told = _made(model, method, {"positions": positions, **switches}, arguments)
    with attach.compressed(model, made, **told):
        yield model


def _made(
    model: nn.Module, method: Any, switches: dict[str, Any], arguments: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The compressor that was given, or that a name and arguments or a file make for a model; its switches.

    Raises TypeError and ValueError for anything else, as `compress` does, with what to write instead.
    """
    traits.base_of(model)
    if isinstance(method, str):
        if not isinstance(positions := switches["positions"], str):
            raise ValueError(
                f"positions={positions!r}: want one of {', '.join(attach.POSITIONS)}; a budget goes by name, "
                f"compress(model, {method!r}, keep={positions!r})"
            )
        beside = [f"{name}={value!r}" for name, value in arguments.items()]
        if (spec := setting.named(method, beside)) is None:
            return sized(factory(method), model, **arguments), switches
        typed = {n: word for n, word in switches.items() if word != ALLOWED[n][0]}
        return of_spec(model, spec), {**spec.switches, **typed}
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    if isinstance(method, Compressor) and arguments:
        raise TypeError(
            f"{given} beside a {type(method).__name__} that is made already: give it to its constructor, or "
            f"compress(model, method.but({given}))"
        )
    if inspect.isroutine(method) or is_compressor(method):
        name = method.__name__
        raise TypeError(
            f"want a foveate.Compressor, got {name} itself: call it, "
            f"foveate.sized({name}, model, {given or 'keep=…'}), or give a method's name and its arguments"
        )
    return method, switches


def of_spec(model: nn.Module, spec: Spec) -> Compressor:
    """The compressor that a spec makes for a model. Raises ValueError for one of saved weights it lacks."""
    if spec.chosen is not None and whole.fingerprint(model) != spec.chosen[1]:
        warnings.warn(
            f"this setting was chosen for {spec.chosen[0]}, and this model has other weights: `foveate tune` "
            "finds its own",
            stacklevel=3,
        )
    if not spec.saved:
        return spec.build(model=model)
    if not attach.is_compressed(model):
        raise ValueError(
            f"the ladder is of {spec.slug} as a model was saved with it, and this one has none: load it with "
            "foveate.from_pretrained"
        )
    return traits.base_of(model).visual_compressor.but(keep=spec.keep)


def from_pretrained(
    path: str, method: Compressor | str | None = None, trust: Sequence[str] = (), **kwargs: Any
) -> nn.Module:
    """The model saved under a path or Hub id, with the compressor and the ladder it was saved with.

    method: your own compressor, where the checkpoint's is none that foveate knows; or a file as `foveate
    tune` writes one, for a model with or without a compressor, which is then compressed so. trust:
    classes of your own, as package.module:Class, that the checkpoint may name; those of entry points are
    known. Other keywords go to
    AutoModelForImageTextToText.from_pretrained, but for those that would read more than safetensors and
    JSON, run a checkpoint's code (trust_remote_code), or make up weights: load such a model with
    transformers and compress it.

    Raises ValueError for these keywords, if the checkpoint names no compressor, an unknown one, or lacks
    its weights, and for files that are broken, which is an OSError too; TypeError for a method by name.
    """
    beside = [f"keep={kwargs['keep']!r}"] if "keep" in kwargs else []
    if isinstance(method, str) and (spec := setting.named(method, beside)) is not None:
        made = (
            from_pretrained(path, trust=trust, **kwargs)
            if spec.saved
            else reading.model(path, **kwargs)
        )
        return compress(made, method)
    if method is not None and not isinstance(method, Compressor):
        raise TypeError(
            f"method={method!r}: want a foveate.Compressor, made with its arguments, or leave it out for the "
            "one it was saved with; another goes on with foveate.compress(model, …)"
        )
    model, made, how = saving.from_pretrained(path, known(*trust), method, **kwargs)
    return attach.compress(model, made, **how)


def read(
    path: str, trust: Sequence[str] = (), dtype: Any = "auto", headless: bool = False
) -> tuple[Any, Any]:
    """A model as it was saved, with a compressor or bare, and its processor. Raises as `from_pretrained`.

    headless: without its decoder layers.
    """
    said = reading.config(path)
    compressed = saving.said(said) is not None
    less = {"config": reading.headless(path, said)} if headless else {}
    processor = reading.processor(path)  # before the weights: it takes no time
    one = partial(from_pretrained, trust=trust) if compressed else reading.model
    model = one(path, dtype=dtype, **less)
    whole.check_asked(path, model, processor)
    return model, processor


def support(
    model: nn.Module, method: Compressor | str | None = None, **arguments: Any
) -> Support | dict[str, Support]:
    """Which methods work on a model and what is different there: of all by name, or of one.

    method: a compressor, or a name and its arguments, as in `compress`. Where a method works with another
    setting only, its notes say so. The model may be on the meta device. Raises TypeError for what is no
    multimodal model at all, and as `compress` for methods that are none.
    """
    traits.base_of(model)
    if method is None:
        return {slug: _supported(model, factory(slug)) for slug in names()}
    if isinstance(method, str):
        return _supported(model, factory(method), **arguments)
    return hosts_support.support(model, _made(model, method, {}, arguments)[0])


def _supported(model: nn.Module, make: Callable[..., Compressor], **arguments: Any) -> Support:
    try:
        found = hosts_support.support(model, _outline(make, model, **arguments))
    except ValueError as error:  # the model does not say a size, or no such method fits it
        return Support((), works=False, why=str(error))
    for name, value in BEHIND.items() if not found.works else ():
        if name in arguments or name not in inspect.signature(make).parameters:
            continue
        try:
            shifted = _outline(make, model, **arguments, **{name: value})
            behind = hosts_support.support(model, shifted)
        except ValueError:  # a method may know the argument and not the value
            continue
        if behind.works:
            note = f"with {name}={value!r}: behind the projector"
            return replace(behind, notes=(note, *behind.notes))
    return found


def _outline(make: Callable[..., Compressor], model: nn.Module, **arguments: Any) -> Compressor:
    """A compressor made for a model, without memory for its weights: at 7B those are gigabytes."""
    with torch.device("meta"):
        return sized(make, model, **arguments)
