"""Selective state-space scans in time and memory linear in the length, and the plain loop behind them."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["KINDS", "scan", "sequential"]
KINDS = ("ssd", "mamba1")
LOG2E = math.log2(math.e)  # exp2 is several times as fast as exp on a CPU


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

    kind "ssd": x (R, L, H, P), delta (R, L, H), A (H,), D (H,): one decay for a head. After Mamba-2, Dao and
    Gu 2024, arXiv:2405.21060. kind "mamba1": x (R, L, E), delta (R, L, E), A (E, S), D (E,): one for each
    channel and state. After Mamba, Gu and Dao 2023, arXiv:2312.00752. B, C (R, L, G, S): heads or channels
    fall into G equal groups of neighbours. delta >= 0 (softplus is the caller's) and A < 0 are not looked at;
    a step of delta 0 leaves the state exactly as it was.
    chunk: steps computed together; mamba1 takes at most 16 a thread. States and decays are float32 (float64
    if x is), whatever autocast says; ssd's products run in bfloat16 if x is bfloat16. ssd takes differences
    of summed decays: behind a step of delta A = -800 float32 keeps four digits, behind -16 six.
    Raises ValueError for an unknown kind, chunk < 1, L = 0 and shapes that do not fit each other.
    """
    check(kind, chunk, x, delta=delta, A=A, B=B, C=C, D=D)
    with without_autocast(x.device):
        if kind == "mamba1" and (kernel := kernel_for(x.device, x.dtype)):
            return through(kernel, x, delta, A, B, C, D)
        y = (ssd if kind == "ssd" else mamba1)(x, delta, A, B, C, chunk)
        return y if D is None else y + D.to(x.dtype).view(-1, *[1] * (x.dim() - 3)) * x


def sequential(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None
) -> Tensor:
    """`scan` step by step, the kind told by x's dimensions: the reference, slow and without tricks."""
    X = x.to(exact(x)) if x.dim() == 4 else x.to(exact(x)).unsqueeze(-1)  # (R, L, H, P)
    delta, A = delta.to(X.dtype), A.to(X.dtype).view(len(A), 1, -1)  # (H, 1, 1 | S)
    B, C = (t.to(X.dtype).repeat_interleave(len(A) // t.shape[2], 2) for t in (B, C))
    h, y = 0, []
    for x_k, d_k, B_k, C_k in zip(*(t.unbind(1) for t in (X, delta, B, C)), strict=True):
        d_k = d_k[..., None, None]
        h = (d_k * A).exp() * h + d_k * x_k.unsqueeze(-1) * B_k.unsqueeze(-2)  # (R, H, P, S)
        y.append((h * C_k.unsqueeze(-2)).sum(-1))
    y = torch.stack(y, 1)
    if D is not None:
        y = y + D.to(X.dtype).unsqueeze(-1) * X
    return y.view(x.shape).to(x.dtype)


def check(kind: str, chunk: int, x: Tensor, **others: Tensor | None) -> None:
    """Raise ValueError, with the numbers, where `scan` could not run or would broadcast by accident."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: want one of {', '.join(KINDS)}")
    if chunk < 1:
        raise ValueError(f"{chunk=}: want at least 1 step")
    dims = 4 if kind == "ssd" else 3
    if not x.is_floating_point():
        raise ValueError(f"want x of floating point, got {x.dtype}")
    got = f"got x {(*x.shape,)}, B {(*others['B'].shape,)}"
    if x.dim() != dims or others["B"].dim() != 4:
        raise ValueError(f"{kind} wants x of {dims} dimensions and B of 4, {got}")
    (R, L, width), (G, S) = x.shape[:3], others["B"].shape[2:]
    if L < 1 or G < 1 or width % G:
        raise ValueError(f"{kind} wants steps, and groups that divide {width}, got {L=}, {G=}")
    one = {
        "delta": (R, L, width),
        "A": (width,),
        "B": (R, L, G, S),
        "C": (R, L, G, S),
        "D": (width,),
    }
    for name, shape in (one if kind == "ssd" else one | {"A": (width, S)}).items():
        if others[name] is not None and others[name].shape != shape:
            raise ValueError(f"{kind} wants {name} {shape}, not {(*others[name].shape,)}: {got}")


def exact(x: Tensor) -> torch.dtype:
    """The dtype of states and decays."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def without_autocast(device: torch.device):
    """No autocast, where the device knows it: meta does not."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def cores() -> int:
    """How many caches share the work on a CPU; a compiled graph takes it for one."""
    return 1 if torch.compiler.is_compiling() else torch.get_num_threads()


def ssd(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int) -> Tensor:
    """One decay for a head, as matrix products; on a CPU as many chunks at a time as stay in cache."""
    n = x.shape[1]
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        n = chunk * max(1, 2**19 * cores() // max(1, len(x) * x.shape[2] * chunk**2))
    h, y = None, []
    for part in zip(*(t.split(n, 1) for t in (x, delta, B, C)), strict=True):
        y_k, h = chunks(*part, A, h, chunk)
        y.append(y_k)
    return y[0] if len(y) == 1 else torch.cat(y, 1)


def chunks(
    x: Tensor, delta: Tensor, B: Tensor, C: Tensor, A: Tensor, h: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    """Attention with decays inside each of K chunks of Q, states between them: y, and the state after."""
    L, G, Q = x.shape[1], B.shape[2], min(chunk, x.shape[1])
    low = torch.bfloat16 if x.dtype == torch.bfloat16 else exact(x)

    def cut(t: Tensor) -> Tensor:  # (R, L, n, …) → (R, K, Q, n, …), filled with steps of delta 0
        t = functional.pad(t, (0, 0) * (t.dim() - 2) + (0, -L % Q)) if L % Q else t
        return t.unflatten(1, (-1, Q))

    delta = cut(delta.to(exact(x)))
    u = delta.unsqueeze(-1) * cut(x)  # (R, K, Q, H, P)
    B, C = (cut(t.to(low)).transpose(2, 3) for t in (B, C))  # (R, K, G, Q, S)
    log = (delta * (A.to(u.dtype) * LOG2E)).cumsum(2).transpose(2, 3)  # (R, K, H, Q)
    # Masked before exp2: over later steps the difference is positive, and its power may be infinite.
    later = torch.full((Q, Q), -torch.inf, dtype=u.dtype, device=x.device).triu(1)
    weight = (log.unsqueeze(-1) - log.unsqueeze(-2)).add_(later).exp2_()
    weight = (weight.unflatten(2, (G, -1)) * (C @ B.mT).unsqueeze(3)).flatten(2, 3)
    y = (weight.to(low) @ u.to(low).transpose(2, 3)).transpose(2, 3)  # (R, K, Q, H, P)

    until, since = (t.exp2().transpose(2, 3).unsqueeze(-1) for t in (log[..., -1:] - log, log))
    u = (until * u).to(low).unflatten(3, (G, -1)).flatten(4)  # (R, K, Q, G, H/G·P)
    h, after = carried(log[..., -1].exp2(), (B.mT @ u.transpose(2, 3)).to(since.dtype), h)
    read = (C @ h.to(low)).transpose(2, 3).unflatten(-1, (-1, x.shape[3])).flatten(3, 4)
    return (y + since * read).flatten(1, 2)[:, :L].to(x.dtype), after


def carried(decay: Tensor, given: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
    """The states before each chunk and after all; decay (R, K, H) and given (R, K, G, S, H/G·P) by each."""
    G, H = given.shape[2], decay.shape[2]
    given = given.unflatten(-1, (H // G, -1))
    states = [torch.zeros_like(given[:, 0]) if h is None else h]
    for decay_k, given_k in zip(decay.unbind(1), given.unbind(1), strict=True):
        states.append(decay_k.view(-1, G, 1, H // G, 1) * states[-1] + given_k)
    return torch.stack(states[:-1], 1).flatten(-2), states[-1]


def kernel_for(device: torch.device, dtype: torch.dtype) -> Callable | None:
    """mamba_ssm's selective_scan_fn where it is installed and takes such tensors; None: ours does."""
    if device.type != "cuda" or dtype == torch.float64:
        return None
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return None
    return selective_scan_fn


def through(
    kernel: Callable, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None
) -> Tensor:
    """Call mamba_ssm's function: time last, one dtype for what varies in time, float32 for A and D."""
    wide = torch.promote_types(x.dtype, delta.dtype)  # a float32 delta is not rounded to x's dtype
    u, steps = (t.to(wide).transpose(1, 2) for t in (x, delta))  # (R, E, L)
    B, C = (t.to(wide).permute(0, 2, 3, 1) for t in (B, C))  # (R, G, S, L)
    y = kernel(u, steps, A.float(), B, C, None if D is None else D.float())
    return y.transpose(1, 2).to(x.dtype)


def mamba1(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int) -> Tensor:
    """One decay for each channel and state: step by step, and backwards from one saved state a chunk."""
    # On a CPU a chunk's states should stay in cache, so rows go a few at a time.
    rows = max(1, 2**15 // A.numel() if x.device.type == "cpu" else len(x))
    A = A.to(exact(x)).unflatten(0, (B.shape[2], -1)).mT.contiguous()  # (G, S, E/G)
    x, delta = (t.unflatten(2, (B.shape[2], -1)) for t in (x, delta))
    parts = zip(*(t.transpose(0, 1).split(rows, 1) for t in (x, delta, B, C)), strict=True)
    chunk = min(chunk, 16 * cores())
    y = [forward(x, delta, A, B, C, chunk)[0] for x, delta, B, C in parts]
    return (y[0] if len(y) == 1 else torch.cat(y, 1)).transpose(0, 1).flatten(2)


class Steps:
    """Decays and states of a chunk's steps, in buffers used again for every chunk: time first, channels last.

    x, delta (L, R, G, e); B, C (L, R, G, S); A (G, S, e); decay (chunk, R, G, S, e); state one more.
    """

    def __init__(self, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int):
        self.inputs, self.A = (x, delta, B, C), A * LOG2E
        self.decay = A.new_empty(chunk, x.shape[1], *A.shape)
        self.state = A.new_zeros(chunk + 1, x.shape[1], *A.shape)
        self.decays, self.states = self.decay.unbind(0), self.state.unbind(0)

    def run(self, k: int) -> tuple[slice, Tensor, Tensor, Tensor, Tensor]:
        """Chunk k: fill decay[:n], and state[1 : n + 1] from state[0]; its n steps, their x, delta, B, C."""
        span = slice(k * len(self.decay), (k + 1) * len(self.decay))
        x, delta, B, C = (t[span].to(self.A.dtype) for t in self.inputs)
        torch.mul(delta.unsqueeze(-2), self.A, out=self.decay[: len(x)]).exp2_()
        torch.mul((x * delta).unsqueeze(-2), B.unsqueeze(-1), out=self.state[1 : len(x) + 1])
        for i in range(len(x)):
            self.states[i + 1].addcmul_(self.decays[i], self.states[i])
        return span, x, delta, B, C


# An operator of its own: a compiled graph keeps it as one node, and a second derivative is refused.
@torch.library.custom_op("foveate::mamba1", mutates_args=())
def forward(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """y like x, and the state before each chunk (K, R, G, S, e); shapes as in Steps."""
    y, steps = torch.empty_like(x), Steps(x, delta, A, B, C, chunk)
    starts = A.new_empty(-(-len(x) // chunk), x.shape[1], *A.shape)
    for k, start in enumerate(starts):
        start.copy_(steps.state[0])
        span, *_, C_k = steps.run(k)
        y[span] = (C_k.unsqueeze(-2) @ steps.state[1 : len(C_k) + 1]).squeeze(-2)
        steps.state[0] = steps.state[len(C_k)]
    return y, starts


@torch.library.custom_op("foveate::mamba1_backward", mutates_args=())
def backward(
    dy: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, chunk: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, delta, A, B, C: from h, each chunk's states again, then its steps backwards."""
    steps = Steps(x, delta, A, B, C, chunk)
    dx, ddelta, dB, dC = (torch.empty_like(t) for t in (x, delta, B, C))
    grad = torch.empty_like(steps.decay)  # of the states
    grads = grad.unbind(0)
    later, dA = torch.zeros_like(h[0]), torch.zeros_like(h[0])
    for k in reversed(range(len(h))):
        steps.state[0] = h[k]
        span, x_k, delta_k, B_k, C_k = steps.run(k)
        n, dy_k = len(x_k), dy[span].to(A.dtype).unsqueeze(-2)
        torch.mul(dy_k, C_k.unsqueeze(-1), out=grad[:n])
        grads[n - 1].add_(later)
        for i in reversed(range(n - 1)):
            grads[i].addcmul_(steps.decays[i + 1], grads[i + 1])
        torch.mul(steps.decays[0], grads[0], out=later)
        # A row times a matrix: on a CPU ten times as fast as the matrix times a column.
        dC[span] = (dy_k @ steps.state[1 : n + 1].mT).squeeze(-2)
        dB[span] = ((x_k * delta_k).unsqueeze(-2) @ grad[:n].mT).squeeze(-2)
        du = (B_k.unsqueeze(-2) @ grad[:n]).squeeze(-2)
        dx[span] = du * delta_k
        dlog = steps.decay[:n].mul_(steps.state[:n]).mul_(grad[:n])  # of delta A
        for i in range(n):
            dA.addcmul_(dlog[i], delta_k[i].unsqueeze(-2))
        ddelta[span] = dlog.mul_(A).sum(-2).addcmul_(du, x_k)
    return dx, ddelta, dA.sum(0), dB, dC


@forward.register_fake
def _(x, delta, A, B, C, chunk):
    return torch.empty_like(x), A.new_empty(-(-len(x) // chunk), x.shape[1], *A.shape)


@backward.register_fake
def _(dy, x, delta, A, B, C, h, chunk):
    return tuple(torch.empty_like(t) for t in (x, delta, A, B, C))


def remember(ctx, inputs, output):
    """Save the inputs and one state a chunk, never all."""
    *tensors, ctx.chunk = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.set_materialize_grads(False)


def gradients(ctx, dy, _):
    """Run backward, also inside autocast."""
    if dy is None:
        return (None,) * 6
    with without_autocast(dy.device):
        return *backward(dy, *ctx.saved_tensors, ctx.chunk), None


forward.register_autograd(gradients, setup_context=remember)
