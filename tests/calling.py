"""Calls of a small model, and how near two answers are."""

from __future__ import annotations

import torch
from torch import Tensor

import foveate


def close(got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    """Finite, of one shape, and equal up to a share of the scale."""
    assert got.shape == want.shape and torch.isfinite(got).all()
    error = (got - want).abs().max() / want.abs().max()
    assert error <= tolerance, f"off by {error:.2e} of the scale {want.abs().max():.1f}"


@torch.no_grad()
def logits(model, inputs: dict, **more) -> Tensor:
    return model(**inputs, **more).logits


def greedy(model, inputs: dict, n: int, **more):
    """What generate returns of n greedy steps."""
    return model.generate(**inputs, max_new_tokens=n, do_sample=False, **more)


def decoded(model, inputs: dict, n: int, **more) -> tuple[Tensor, Tensor]:
    """The whole sequences, and (B, n, V) logits, of n greedy steps."""
    out = greedy(model, inputs, n, return_dict_in_generate=True, output_logits=True, **more)
    return out.sequences, torch.stack(out.logits, dim=1)


def generated(model, inputs: dict, n: int, **more) -> Tensor:
    """(B, n, V) logits of n greedy steps."""
    return decoded(model, inputs, n, **more)[1]


def traced(model, inputs: dict, **more):
    """What a forward returns, and its steps."""
    with foveate.trace(model) as seen:
        output = model(**inputs, **more)
    return output, seen.steps


def last_words(inputs: dict, n: int = 2) -> Tensor:
    """(B, S) labels: the last n columns are the answer."""
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -n:] = inputs["input_ids"][:, -n:]
    return labels


@torch.no_grad()
def spoken(model, family, inputs: dict, sequences: Tensor, n: int, asked: Tensor) -> Tensor:
    """(B,) the mean log-probability of the n words behind the prompts, all computed at once."""
    long = family.longer(inputs, sequences)
    long |= family.positions(long)
    said = logits(model, long, instruction_mask=asked)[:, -n - 1 : -1].log_softmax(-1)
    return said.gather(2, sequences[:, -n:, None]).mean((1, 2))


def fingerprint(model):
    """Everything an attachment could leave behind."""
    modules = dict(model.named_modules())
    return {
        "of modules": {
            n: (type(m), len(m._forward_pre_hooks), len(m._forward_hooks), m.training)
            for n, m in modules.items()
        },
        "attributes": {n: sorted(m.__dict__) for n, m in modules.items()},
        "configs": {n: id(m.config) for n, m in modules.items() if hasattr(m, "config")},
        "config": model.config.to_dict(),
        "keys": list(model.state_dict()),
    }
