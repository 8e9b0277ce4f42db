"""The slow reference: nothing is dropped, but what was dropped is hidden from every later layer.

A token dropped before decoder layer K is a column that no layer from K on may attend to; merged tokens
are one column that carries the mean. The bare model runs with masks, vectors and rotary positions put in
by hand, over all columns at once. Whatever a host gets wrong about positions, masks, caches, padding or
batches differs from this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from foveate.hosts import traits
from foveate.hosts.trace import Step


def columns_of_images(ids: Tensor, image: int, sizes: list[int]) -> tuple[Tensor, list[Tensor]]:
    """Row and columns of each image's placeholders, in order of reading."""
    rows, columns = (ids == image).nonzero(as_tuple=True)
    split = columns.split(sizes)
    return torch.tensor([r[0] for r in rows.split(sizes)]), list(split)


@contextmanager
def masking(
    model, ids: Tensor, mask: Tensor, steps: list[Step], renumbered: bool = False
) -> Iterator[None]:
    """The bare model behaves, for these ids, as if the steps' dropped tokens were gone.

    ids (B, S) prompt with or without an answer behind it; mask (B, S); steps at language sites.
    Rotary embeddings are relative, so positions are right up to a constant of each row.
    """
    base = traits.base_of(model)
    decoder = traits.decoder_of(base)
    sizes = [int((row >= -1).sum()) for row in steps[0].owner] if steps else []
    rows, columns = columns_of_images(ids, base.config.image_token_id, sizes)
    B, S = ids.shape
    visible = mask.bool().clone()
    position = torch.arange(S).expand(B, S).clone()
    plan = {}
    owners = [torch.arange(n) for n in sizes]
    for step in steps:
        moves = []
        for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
            new = step.owner[i][: sizes[i]]
            visible[row, column] = False
            for token in new[new >= 0].unique():
                mine = (new == token).nonzero()[:, 0]
                was = owners[i][mine]
                first = [int((owners[i] == t).nonzero()[0]) for t in was.unique()]
                weight = torch.tensor([float((owners[i] == t).sum()) for t in was.unique()])
                visible[row, column[mine[0]]] = True
                if len(mine) > 1:
                    position[row, column[mine[0]]] = column[mine].sum() // len(mine)
                moves.append((int(row), column[first], weight / weight.sum(), int(column[mine[0]])))
            owners[i] = new
        if renumbered:
            position = visible.cumsum(1)
        plan[step.site.layer] = (visible.clone(), position.clone(), moves)
    handles = [
        layer.register_forward_pre_hook(
            _Masked(decoder, plan, i, mask, model.dtype), with_kwargs=True
        )
        for i, layer in enumerate(decoder.layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Masked:
    def __init__(self, decoder, plan, layer, mask, dtype):
        self.decoder, self.plan, self.layer, self.mask, self.dtype = (
            decoder,
            plan,
            layer,
            mask,
            dtype,
        )

    def __call__(self, module, args, kwargs):
        reached = [k for k in self.plan if k <= self.layer]
        if not reached:
            return args, kwargs
        visible, position, moves = self.plan[max(reached)]
        hidden = args[0]
        if self.layer in self.plan:
            hidden = hidden.clone()
            for row, columns, weight, target in moves:
                if len(columns) > 1:
                    hidden[row, target] = (args[0][row, columns] * weight[:, None]).sum(0)
        S = visible.shape[1]
        causal = torch.ones(S, S, dtype=torch.bool).tril()
        allowed = causal & visible[:, None] | torch.eye(S, dtype=torch.bool)
        least = torch.finfo(self.dtype).min
        bias = torch.zeros(allowed.shape, dtype=self.dtype).masked_fill(~allowed, least)
        # The offset between a column and its position id is one number per row.
        offset = kwargs["position_ids"][..., :1] if kwargs.get("position_ids") is not None else 0
        rotary = self.decoder.rotary_emb(hidden, position + offset)
        kwargs = {**kwargs, "attention_mask": bias[:, None], "position_embeddings": rotary}
        return (hidden, *args[1:]), kwargs


def reference(model, inputs: dict, steps: list[Step], renumbered: bool = False, **more):
    """The bare model's output under masking, for prompt rows with left or right padding."""
    with masking(model, inputs["input_ids"], inputs["attention_mask"], steps, renumbered):
        return model(**inputs, **more)


def seen_columns(ids: Tensor, image: int, steps: list[Step]) -> Tensor:
    """(B, S) columns whose output means something: text, and what stays to the end."""
    keep = ids != image
    if steps:
        sizes = [int((row >= -1).sum()) for row in steps[0].owner]
        rows, columns = columns_of_images(ids, image, sizes)
        for row, column, owner in zip(rows, columns, steps[-1].owner, strict=True):
            stays = [int((owner == t).nonzero()[0]) for t in owner[owner >= 0].unique()]
            keep[row, column[stays]] = True
    return keep
