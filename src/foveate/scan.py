"""Selective state-space scans in time linear in the length, and the plain loop they are tested against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

KINDS = ("ssd", "mamba1")


def scan(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    kind: str = "ssd",
    chunk: int = 64,
) -> Tensor:
    """Run h_k = exp(delta_k A) h_{k-1} + delta_k B_k x_k, y_k = C_k h_k + D x_k over L steps; y is like x.

    kind "ssd": x (R, L, H, P), delta (R, L, H), A (H,), D (H,): one decay per head. After Mamba-2, Dao and
    Gu 2024, arXiv:2405.21060. kind "mamba1": x (R, L, E), delta (R, L, E), A (E, S), D (E,): one decay per
    channel and state. After Mamba, Gu and Dao 2023, arXiv:2312.00752. B, C (R, L, G, S): the heads or
    channels fall into G groups of neighbours, which divide them evenly.
    delta >= 0 (softplus is the caller's) and A < 0 are not looked at; a step of delta 0 leaves the state
    exactly as it was. States and decays are float32, or float64 when x is.
    Raises ValueError for an unknown kind, a chunk below 1 and shapes that do not fit each other.
    """
    check(x, delta, A, B, C, D, kind, chunk)
    with torch.autocast(x.device.type, enabled=False):
        if kind == "mamba1":
            return sequential(x, delta, A, B, C, D)
        y = chunked(x, delta, A, B, C, chunk)
        return y if D is None else y + D.to(x.dtype).view(-1, *[1] * (x.dim() - 3)) * x


def sequential(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None
) -> Tensor:
    """`scan` step by step, of the kind that x's dimensions tell: the reference, slow and without tricks."""
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    heads = x.to(exact) if x.dim() == 4 else x.to(exact).unsqueeze(-1)  # (R, L, H, P)
    decay = A.to(exact).view(len(A), 1, -1)  # (H, 1, 1 | S)
    B, C = (t.to(exact).repeat_interleave(len(A) // t.shape[2], 2) for t in (B, C))
    h, outputs = 0, []
    for x_k, d_k, B_k, C_k in zip(
        *(t.unbind(1) for t in (heads, delta.to(exact), B, C)), strict=True
    ):
        d_k = d_k[..., None, None]
        h = (d_k * decay).exp() * h + d_k * x_k.unsqueeze(-1) * B_k.unsqueeze(-2)  # (R, H, P, S)
        outputs.append((h * C_k.unsqueeze(-2)).sum(-1))
    y = torch.stack(outputs, 1)
    if D is not None:
        y = y + D.to(exact)[:, None] * heads
    return y.view(x.shape).to(x.dtype)


def check(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    kind: str,
    chunk: int,
) -> None:
    """Raise ValueError, with the numbers, where `scan` could not run or would broadcast by accident."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: want one of {', '.join(KINDS)}")
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: want at least 1 step")
    want = 4 if kind == "ssd" else 3
    if x.dim() != want or B.dim() != 4:
        raise ValueError(
            f"{kind} wants x of {want} dimensions and B of 4, got x {(*x.shape,)} and B {(*B.shape,)}"
        )
    R, L, width = x.shape[:3]
    G, S = B.shape[2:]
    if L == 0 or G == 0 or width % G:
        raise ValueError(
            f"{kind} wants L >= 1 and {width} heads or channels in even groups, got {L=}, {G=}"
        )
    shapes = {
        "delta": (delta, (R, L, width)),
        "A": (A, (width,) if kind == "ssd" else (width, S)),
        "B": (B, (R, L, G, S)),
        "C": (C, (R, L, G, S)),
        "D": (D, (width,)),
    }
    for name, (given, shape) in shapes.items():
        if given is not None and given.shape != shape:
            raise ValueError(
                f"{kind} wants {name} {shape}, got {(*given.shape,)}, for x {(*x.shape,)}"
            )


def chunked(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int) -> Tensor:
    """Kind "ssd" as matrix products: attention with decays inside a chunk, states between chunks."""
    L, P, G = x.shape[1], x.shape[3], B.shape[2]
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    Q = min(chunk, L)
    pad = -L % Q  # steps of delta 0, which change nothing

    def cut(t: Tensor) -> Tensor:  # (R, L, n, …) → (R, K, Q, n, …)
        t = functional.pad(t, (0, 0) * (t.dim() - 2) + (0, pad)) if pad else t
        return t.unflatten(1, (-1, Q))

    delta = cut(delta.to(exact))
    u = delta.unsqueeze(-1) * cut(x)  # (R, K, Q, H, P)
    B, C = (cut(t.to(exact)).transpose(2, 3) for t in (B, C))  # (R, K, G, Q, S)
    log = (
        (delta * A.to(exact)).cumsum(2).transpose(2, 3)
    )  # (R, K, H, Q): decay since the chunk's start

    later = torch.ones(Q, Q, dtype=torch.bool, device=x.device).triu(1)
    # Masked before exp: a sum over later steps is positive, and its exp may be infinite.
    weight = (log.unsqueeze(-1) - log.unsqueeze(-2)).masked_fill(later, -torch.inf).exp()
    weight = (weight.unflatten(2, (G, -1)) * (C @ B.mT).unsqueeze(3)).flatten(2, 3)
    y = (weight @ u.transpose(2, 3)).transpose(2, 3)  # (R, K, Q, H, P)
    if log.shape[1] > 1:
        until = (
            (log[..., -1:] - log).exp().transpose(2, 3)
        )  # (R, K, Q, H): decay up to the chunk's end
        given = B.mT @ (until.unsqueeze(-1) * u).unflatten(3, (G, -1)).flatten(4).transpose(2, 3)
        h = carried(log[..., -1].exp(), given)  # (R, K, G, S, H/G·P)
        read = (C @ h).transpose(2, 3).unflatten(-1, (-1, P)).flatten(3, 4)
        y = y + log.exp().transpose(2, 3).unsqueeze(-1) * read
    return y.flatten(1, 2)[:, :L].to(x.dtype)


def carried(decay: Tensor, given: Tensor) -> Tensor:
    """The state before each chunk: decay (R, K, H) over a chunk, given (R, K, G, S, H/G·P) by it."""
    G, H = given.shape[2], decay.shape[2]
    given = given.unflatten(-1, (H // G, -1))
    states = [torch.zeros_like(given[:, 0])]
    for a, more in zip(
        decay.view(*decay.shape[:2], G, 1, -1, 1).unbind(1)[:-1], given.unbind(1)[:-1], strict=True
    ):
        states.append(torch.addcmul(more, a, states[-1]))
    return torch.stack(states, 1).flatten(-2)
