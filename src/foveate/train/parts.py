"""Which parameters learn, and how fast: the parts of a model by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from foveate.hosts import attach, reading, traits
from foveate.train.recipe import Lora

PARTS = ("vision", "projector", "language", "compressor", "lora")


def parts_of(model: nn.Module) -> dict[str, str]:
    """The part that every parameter belongs to: name → vision, projector, language, compressor or lora.

    What stands between the tower and the language model is the projector, newline embeddings too; the
    head belongs to the language model.
    """
    base = traits.base_of(model)
    owner: dict[int, str] = {}

    def claim(part: str, module: nn.Module | None) -> None:
        for p in module.parameters() if module is not None else ():
            owner[id(p)] = part

    head = traits.unwrapped(model).get_output_embeddings()
    for part, module in [("language", head), ("language", traits.decoder_of(base))]:
        claim(part, module)
    for tower in traits.towers_of(base):
        claim("vision", tower)
    claim("projector", traits.merger_of(base))
    claim("compressor", getattr(base, "visual_compressor", None))
    # peft trains a copy of a module that is saved whole, and keeps the original beside it.
    names = [(n, p) for n, p in model.named_parameters() if ".original_module." not in n]
    return {n: "lora" if "lora_" in n else owner.get(id(p), "projector") for n, p in names}


def learning_rates(model: nn.Module, trains: Mapping[str, float]) -> dict[str, float]:
    """The learning rate of every parameter that learns, by name; the last entry that fits it counts.

    A projector that a compressor stands in the place of never runs, and so learns nothing whatever
    `trains` says. Raises ValueError for an entry that fits nothing.
    """
    parts, rates, never = parts_of(model), {}, idle(model)
    for entry, rate in trains.items():
        fits = [n for n, part in parts.items() if part == entry or fnmatchcase(n, entry)]
        if not fits and entry != "compressor":  # a method may have no weights
            there = sorted(set(parts.values()))
            raise ValueError(
                f"trains {entry!r}: no parameter fits; the parts are {', '.join(there)}, and patterns "
                f"such as '*.layers.0.*' go by names such as {next(iter(parts))!r}"
            )
        rates |= dict.fromkeys(fits, rate)
    return {name: rate for name, rate in rates.items() if name not in never}


def idle(model: nn.Module) -> set[str]:
    """The names of what never runs: of the projector's parameters, where a compressor is in its place.

    What a connector does before its projector runs. So does a projector that a schedule comes back to.
    """
    own = {id(p) for p in attach.idle(traits.base_of(model))}
    return {name for name, p in model.named_parameters() if id(p) in own}


def freeze(model: nn.Module, trains: Mapping[str, float]) -> dict[str, float]:
    """Let only these parts learn, in float32; returns the learning rates by name.

    Half precision would round small steps away: what learns is kept whole, what is frozen stays as loaded.
    Raises ValueError if nothing would learn.
    """
    rates = learning_rates(model, trains)
    if any("lora_" in name for name in rates):
        # An adapter is saved with these modules and nothing else: newline embeddings stay as they are.
        rates = {n: r for n, r in rates.items() if "lora_" in n or ".modules_to_save." in n}
    if not rates:
        instead = ", but for a projector that never runs: train the compressor in its place"
        raise ValueError(
            f"trains={dict(trains)}: this model has no such weights{instead if idle(model) else ''}; "
            "nothing would learn"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in rates)
        if name in rates:
            parameter.data = parameter.data.float()
    return rates


def blocks_of(model: nn.Module) -> list[str]:
    """The classes that are sharded one by one: decoder layers and the blocks of the vision towers."""
    base = traits.base_of(model)
    some = [traits.decoder_of(base).layers]
    some += [traits.tower_blocks(base, tower) for tower in traits.towers_of(base)]
    return sorted({type(block).__name__ for blocks in some for block in blocks})


def named(model: nn.Module, part: str) -> list[str]:
    """The names of a part's parameters."""
    return [name for name, own in parts_of(model).items() if own == part]


@torch.no_grad()
def shrink(model: nn.Module, share: float, names: Iterable[str]) -> None:
    """Shrink these parameters and make up for it with those of a freshly initialised model, in place.

    Shrink and perturb, Ash and Adams 2020, arXiv:1910.08475. Compressors are left alone: they are fresh.
    """
    bare = traits.unwrapped(model)
    fresh = dict(reading.untrained(bare.config).named_parameters())
    held = dict(model.named_parameters())
    for name in dict.fromkeys(names):
        if name in fresh:
            held[name].mul_(share).add_(fresh[name].to(held[name]), alpha=1 - share)


def adapted(model: nn.Module, lora: Lora, trains: Mapping[str, float]) -> nn.Module:
    """The model with adapters on every linear layer of its language model (peft), its head apart.

    The parts that `trains` names besides are trained and saved whole. Raises ValueError for patterns and
    for the language model itself, which the adapters stand in for.
    """
    from peft import LoraConfig, get_peft_model

    if wrong := [entry for entry in trains if entry not in ("lora", "projector", "compressor")]:
        raise ValueError(
            f"trains {wrong[0]!r}: beside lora only projector and compressor can learn"
        )
    base, names = traits.base_of(model), {m: n for n, m in model.named_modules()}
    decoder = traits.decoder_of(base)
    linear = [names[m] for m in decoder.modules() if isinstance(m, nn.Linear)]
    connector = traits.connector_of(base) or traits.merger_of(base)
    never = idle(model)
    whole = {"projector": connector, "compressor": getattr(base, "visual_compressor", None)}
    saved = [names[m] for p, m in whole.items() if p in trains and _learns(m, names.get(m), never)]
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="|".join(map(re.escape, linear)),
        modules_to_save=saved or None,
    )
    return get_peft_model(model, config)


@contextmanager
def grounded(model: nn.Module) -> Iterator[None]:
    """Inside, every loss has a gradient: of a batch in which nothing that learns took part, one of zero.

    Text alone is such a batch where the projector alone learns. It is said in the forward, where whatever
    shares gradients over ranks sees that this one has some.
    """
    learns = next(p for p in model.parameters() if p.requires_grad)

    def ground(module: nn.Module, args: tuple, output: Any) -> None:
        if module.training and torch.is_grad_enabled() and not output.loss.requires_grad:
            output.loss = output.loss + 0.0 * learns.flatten()[0]

    handle = model.register_forward_hook(ground)
    try:
        yield
    finally:
        handle.remove()


def groups(
    model: nn.Module, rates: Mapping[str, float], decaying: set[str], weight_decay: float
) -> list[dict]:
    """Parameter groups for an optimizer: one for each learning rate, and with or without weight decay."""
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name in rates:
            key = (rates[name], weight_decay if name in decaying else 0.0)
            found.setdefault(key, []).append(parameter)
    return [
        {"params": some, "lr": rate, "weight_decay": decay} for (rate, decay), some in found.items()
    ]


def _learns(module: nn.Module | None, name: str | None, never: set[str]) -> bool:
    """Whether a module of this name has weights other than those that never run."""
    own = () if module is None else (n for n, _ in module.named_parameters())
    return any(f"{name}.{n}" not in never for n in own)
