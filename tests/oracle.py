"""The slow reference: nothing is dropped, but what was dropped is hidden from every later layer.

A token dropped before decoder layer K is a column that no layer from K on may attend to; merged tokens
are one column that carries the mean, or the maximum; under proportional attention, as many columns alike as
they were. The bare model runs with masks, vectors and rotary
positions put in by hand, over all columns at once. Whatever a host gets wrong about positions, masks,
caches, padding or batches differs from this. It shares no code with the host.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from families import Stand
from torch import Tensor

from foveate.hosts.trace import Step


@dataclass
class Plan:
    """What holds from one decoder layer on.

    visible  (B, S)  columns that may be attended to
    carried  for every column that carries several others: prompt, column, the columns it carries
    moves    the merges at this very layer: prompt, column, columns, their weights
    """

    visible: Tensor
    carried: list[tuple[int, int, list[int]]]
    moves: list[tuple[int, int, list[int], Tensor]]


def plans(stands: list[Stand], mask: Tensor, steps: list[Step]) -> dict[int, Plan]:
    """Decoder layer → what holds from it on; several steps at one layer count as the last leaves them."""
    visible = mask.bool().clone()
    owners = [torch.arange(len(stand.patches)) for stand in stands]
    found: dict[int, Plan] = {}
    for step in steps:
        carried, moves = [], []
        for i, stand in enumerate(stands):
            columns, b = stand.patches, stand.prompt
            new, old = step.owner[i][: len(columns)], owners[i]
            visible[b, columns] = False
            for token in new[new >= 0].unique():
                mine = (new == token).nonzero()[:, 0].tolist()
                target = columns[mine[0]]
                visible[b, target] = True
                if len(mine) > 1:
                    carried.append((b, target, [columns[p] for p in mine]))
                was = old[mine].unique()
                first = [columns[int((old == t).nonzero()[0])] for t in was]
                weight = torch.tensor([float((old == t).sum()) for t in was])
                if len(first) > 1:
                    moves.append((b, target, first, weight / weight.sum()))
            standing = {int((new == t).nonzero()[0]) for t in new[new >= 0].unique()}
            for column, row in stand.newlines:
                visible[b, column] &= bool(standing & set(row)) or not row
            owners[i] = new
        layer = step.site.layer
        before = found[layer].moves if layer in found else []
        found[layer] = Plan(visible.clone(), carried, before + moves)
    return found


@contextmanager
def masking(
    model,
    stands: list[Stand],
    inputs: dict,
    steps: list[Step],
    renumbered=False,
    most=False,
    proportional=False,
) -> Iterator[None]:
    """The bare model behaves, for these inputs, as if the steps' dropped tokens were gone.

    inputs: prompts with or without an answer behind them; steps at language sites; most: tokens merge into
    their maximum; proportional: what a token carries stays, each patch a copy of it. Rotary embeddings are
    relative, so positions are right up to a constant of each row.
    """
    decoder = getattr(model.model, "language_model", None) or model.model.text_model
    run = _Run(decoder, plans(stands, inputs["attention_mask"], steps), inputs)
    run.renumbered, run.most, run.proportional = renumbered, most, proportional
    handles = [decoder.register_forward_pre_hook(run.enter, with_kwargs=True)]
    for i, layer in enumerate(decoder.layers):
        handles.append(layer.register_forward_pre_hook(run.at(i), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Run:
    renumbered = most = proportional = False

    def __init__(self, decoder, plan: dict[int, Plan], inputs: dict):
        self.decoder, self.plan = decoder, plan
        self.mask = inputs["attention_mask"].bool()
        self.position = None  # (A, B, S)

    def reached(self, layer: int) -> Plan | None:
        layers = [k for k in self.plan if k <= layer]
        return self.plan[max(layers)] if layers else None

    def enter(self, module, args, kwargs):
        position, (B, S) = kwargs.get("position_ids"), self.mask.shape
        position = torch.arange(S)[None] if position is None else position
        position = position if position.dim() == 3 else position[None]
        self.position = position[1:] if len(position) == 4 else position
        self.position = self.position.expand(-1, B, S)
        if (deep := kwargs.get("deepstack_visual_embeds")) is not None:
            kwargs["deepstack_visual_embeds"] = [
                self.deep(layer, embeds, kwargs["visual_pos_masks"])
                for layer, embeds in enumerate(deep)
            ]
        return args, kwargs

    def deep(self, layer: int, embeds: Tensor, visual: Tensor) -> Tensor:
        """What is added after a layer: to a merged token, the mean of what it carries."""
        plan = self.reached(layer)
        if plan is None:
            return embeds
        every = embeds.new_zeros(*visual.shape, embeds.shape[-1])
        every[visual] = embeds
        mean = every.clone()
        for b, target, columns in plan.carried:
            mean[b, columns if self.proportional else target] = every[b, columns].mean(0)
        return mean[visual]

    def positions(self, plan: Plan) -> Tensor:
        position = self.position.clone()
        if self.renumbered:
            gone = (plan.visible != self.mask).any(1)
            counted = position[:, :, :1] * 0 + plan.visible.cumsum(1)
            # Renumbered or not, what a later column is told is relative; rows that lost nothing stay.
            position = torch.where(gone[None, :, None], counted, position)
        else:
            for b, target, columns in plan.carried:
                position[:, b, target] = self.position[:, b, columns].sum(1) // len(columns)
        for b, target, columns in self.copies(plan):
            position[:, b, columns] = position[:, b, target, None].clone()
        return position

    def copies(self, plan: Plan) -> Iterator[tuple[int, int, list[int]]]:
        """Prompt, column and the columns that are to be like it."""
        return iter(plan.carried if self.proportional else ())

    def rotary(self, layer: int, hidden: Tensor, position: Tensor):
        rotary = self.decoder.rotary_emb
        position = position if len(position) > 1 else position[0]
        if "layer_type" in inspect.signature(rotary.forward).parameters:
            return rotary(hidden, position, self.decoder.config.layer_types[layer])
        return rotary(hidden, position)

    def at(self, layer: int):
        def hook(module, args, kwargs):
            plan = self.reached(layer)
            if plan is None:
                return args, kwargs
            hidden = args[0]
            if layer in self.plan:
                hidden = hidden.clone()
                for b, target, columns, weight in plan.moves:
                    every = hidden[b, columns]
                    mean = (every * weight[:, None].to(hidden)).sum(0)
                    hidden[b, target] = every.amax(0) if self.most else mean
                for b, target, columns in self.copies(plan):
                    hidden[b, columns] = hidden[b, target].clone()
            S = plan.visible.shape[1]
            mask = kwargs.get("attention_mask")
            if mask is None:
                allowed = torch.ones(S, S, dtype=torch.bool).tril()
            else:
                allowed = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] == 0
            allowed = allowed & plan.visible[:, None] | torch.eye(S, dtype=torch.bool)
            for b, target, columns in self.copies(plan):
                allowed[b, columns] = allowed[b, target].clone()
                allowed[b][:, columns] = allowed[b, :, target, None].clone()
            bias = torch.zeros(allowed.shape, dtype=hidden.dtype)
            bias = bias.masked_fill(~allowed, torch.finfo(hidden.dtype).min)
            rotary = self.rotary(layer, hidden, self.positions(plan))
            changed = {"attention_mask": bias[:, None], "position_embeddings": rotary}
            return (hidden, *args[1:]), {**kwargs, **changed}

        return hook


def reference(
    model,
    stands,
    inputs: dict,
    steps: list[Step],
    renumbered=False,
    most=False,
    proportional=False,
    **more,
):
    """The bare model's output under masking, for prompt rows with left or right padding."""
    with masking(model, stands, inputs, steps, renumbered, most, proportional):
        return model(**inputs, **more)


def seen_columns(stands: list[Stand], inputs: dict, steps: list[Step]) -> Tensor:
    """(B, S) columns whose output means something: text, and what stays to the end."""
    real = inputs["attention_mask"].bool()
    return (
        real
        if not steps
        else plans(stands, inputs["attention_mask"], steps)[
            max(step.site.layer for step in steps)
        ].visible
    )
