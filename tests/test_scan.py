"""Both kinds of scan against the plain loop: values, gradients, padding, precision, memory."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from foveate.statespace.scan import KINDS, kernel_for, scan, sequential

CHUNK = 8


def inputs(kind, R=2, L=19, G=1, width=4, P=3, S=5, D=True, dtype=torch.float64, decay=1.0):
    """x, delta, A, B, C and D with gradients; the decays of a step lie between 1 and exp(-decay)."""
    draw = torch.Generator().manual_seed(R + 10 * L + G)
    randn = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    rand = lambda *shape: torch.rand(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    found = (
        randn(R, L, width, P) if kind == "ssd" else randn(R, L, width),
        rand(R, L, width),
        -decay * (rand(width) if kind == "ssd" else rand(width, S)),
        randn(R, L, G, S),
        randn(R, L, G, S),
        *([randn(width)] if D else []),
    )
    return [t.to(dtype).requires_grad_() for t in found]


def with_gradients(f, args, toward=None):
    """f's value and the gradients of all arguments for one random cotangent (or `toward`)."""
    y = f(*args)
    if toward is None:
        draw = torch.Generator().manual_seed(1)
        toward = torch.randn(y.shape, generator=draw, dtype=torch.float64).to(y.dtype)
    return [y, *torch.autograd.grad(y, args, toward)]


def by(kind, chunk=CHUNK):
    return lambda *args: scan(*args, kind=kind, chunk=chunk)


def same(found, want, tolerance=1e-11):
    for f, w in zip(found, want, strict=True):
        torch.testing.assert_close(f, w, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_the_recurrence(kind):
    x = torch.tensor([1.0, 2.0, 0.0, 4.0]).view(1, 4, 1)
    delta = torch.tensor([1.0, 0.5, 2.0, 0.0]).view(1, 4, 1)
    A = -torch.log(torch.tensor([4.0]))  # the state loses half in a step of 0.5
    B = torch.tensor([1.0, 3.0, 1.0, 5.0]).view(1, 4, 1, 1)
    C = torch.tensor([1.0, 1.0, 16.0, 16.0]).view(1, 4, 1, 1)
    if kind == "ssd":
        x = x.unsqueeze(-1)
    # h = 1; 1/2 + 0.5 · 3 · 2 = 3.5; 3.5/16; unchanged
    want = torch.tensor([1.0, 3.5, 3.5, 3.5]) + 10 * x.flatten()
    args = (x, delta, A if kind == "ssd" else A.view(1, 1), B, C, torch.tensor([10.0]))
    same([sequential(*args).flatten(), scan(*args, kind=kind).flatten()], [want, want], 1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decay", [1.0, 0.0, 100.0])
@pytest.mark.parametrize("G", [1, 2])
@pytest.mark.parametrize("L", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 4 * CHUNK - 1])
def test_values_and_gradients_are_the_references(kind, L, G, decay):
    for R, D in ((1, True), (3, False)):
        args = inputs(kind, R, L, G, D=D, decay=decay)
        same(with_gradients(by(kind), args), with_gradients(sequential, args))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_the_chunk_changes_nothing(kind, chunk):
    args = inputs(kind, L=33, G=2)
    same(with_gradients(by(kind, chunk), args), with_gradients(by(kind), args))


@pytest.mark.parametrize("kind", KINDS)
def test_many_rows_and_no_row(kind):
    wide = inputs(kind, R=5, L=3 * CHUNK + 1, width=2**10, P=1, S=16)  # in parts, for the cache
    same(with_gradients(by(kind), wide), with_gradients(sequential, wide), 1e-10)
    y, *gradients = with_gradients(by(kind), inputs(kind, R=0))
    assert y.numel() == 0 and all(bool((g == 0).all()) for g in gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_views_are_read_as_they_lie(kind):
    x, delta, A, B, C, D = inputs(kind)
    turned = [t.detach().transpose(0, 1).contiguous().transpose(0, 1) for t in (x, delta)]
    B, C = (t.detach()[:1, :, :, :1].expand(t.shape) for t in (B, C))
    args = [t.requires_grad_() for t in (*turned, A.detach(), B, C, D.detach())]
    plain = [t.detach().contiguous().requires_grad_() for t in args]
    same(with_gradients(by(kind), args), with_gradients(sequential, plain))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["before", "between", "after"])
def test_steps_of_delta_zero_change_nothing_else(kind, place):
    x, delta, A, B, C, D = inputs(kind, L=21, G=2)
    real = torch.ones(21, dtype=torch.bool)
    real[{"before": slice(0, 6), "between": [3, 7, 8, 9, 16], "after": slice(15, 21)}[place]] = (
        False
    )
    delta = (delta * real.view(1, -1, 1)).detach().requires_grad_()
    seen = [t[:, real].detach().requires_grad_() for t in (x, delta, B, C)]
    short = [*seen[:2], A, *seen[2:], D]
    toward = torch.randn_like(x) * real.view(1, -1, *[1] * (x.dim() - 2))
    long_y, *long = with_gradients(by(kind), [x, delta, A, B, C, D], toward)
    short_y, *short = with_gradients(by(kind), short, toward[:, real])
    same([long_y[:, real]], [short_y], 1e-12)
    for name, f, w in zip("xdABCD", long, short, strict=True):
        same([f if name in "AD" else f[:, real]], [w], 1e-12)
        if name in "xBC":
            assert not f[:, ~real].any()


@pytest.mark.parametrize("kind", KINDS)
def test_no_decay_is_too_strong(kind):
    """exp of the sums would be infinite the other way round; nothing becomes infinite or NaN."""
    args = inputs(kind, L=40, dtype=torch.float32, decay=1e5)
    found = with_gradients(by(kind), args)
    assert all(bool(f.isfinite().all()) for f in found)
    same(found, with_gradients(sequential, args), 1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(kind, dtype):
    x, delta, A, B, C, D = inputs(kind, L=150, width=8, P=16, S=16)
    mixed = [
        *(t.detach().to(dtype).requires_grad_() for t in (x,)),
        *(t.detach().float().requires_grad_() for t in (delta, A)),
        *(t.detach().to(dtype).requires_grad_() for t in (B, C)),
        D.detach().float().requires_grad_(),
    ]
    found = with_gradients(by(kind, 64), mixed)
    want = with_gradients(sequential, [t.detach().double().requires_grad_() for t in mixed])
    for f, w, like in zip(found, want, [mixed[0], *mixed], strict=True):
        assert f.dtype == like.dtype
        assert (f.double() - w).norm() <= 2e-2 * w.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_float32_where_inputs_are_not(kind):
    """2048 ones add up; a sum in bfloat16 would stop at 256."""
    ones = [t.detach().mul(0).add(1).bfloat16() for t in inputs(kind, R=1, L=2048, S=1, D=False)]
    ones[2] = -1e-9 * ones[2].float()
    y = scan(*ones, kind=kind)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y[0, -1].float(), torch.full(y.shape[2:], 2048.0), rtol=1e-2, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_does_not_lower_the_states(kind):
    args = inputs(kind, dtype=torch.float32)
    plain = with_gradients(by(kind), args)

    def inside(*args):
        with torch.autocast("cpu", torch.bfloat16):
            return by(kind)(*args)

    same(with_gradients(inside, args), plain, 0)
    if kind == "mamba1":
        with torch.autocast("cpu", torch.bfloat16):
            same(with_gradients(by(kind), args), plain, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_it_works_under_checkpointing(kind):
    args = inputs(kind, G=2)
    again = lambda *args: checkpoint(by(kind), *args, use_reentrant=False)  # noqa: E731
    same(with_gradients(again, args), with_gradients(by(kind), args), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_it_compiles_to_one_graph(kind):
    torch._dynamo.reset()
    args = inputs(kind, G=2)
    graph = torch.compile(by(kind), backend="aot_eager", fullgraph=True)
    same(with_gradients(graph, args), with_gradients(by(kind), args), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_are_known_on_the_meta_device(kind):
    args = [t.detach().to("meta").requires_grad_() for t in inputs(kind, G=2)]
    y, *gradients = with_gradients(by(kind), args, torch.empty_like(args[0]))
    assert [t.shape for t in (y, *gradients)] == [t.shape for t in (args[0], *args)]


def test_a_second_derivative_of_mamba1_is_refused():
    x, *rest = inputs("mamba1")
    y = scan(x, *rest, kind="mamba1")
    (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="mamba1_backward"):
        torch.autograd.grad(dx.sum(), rest[0])


def saved_bytes(kind, L):
    """Bytes of the storages that one forward pass keeps for the backward pass, inputs included."""
    kept = {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = (t.untyped_storage().nbytes(), t)
        return t

    args = inputs(kind, R=1, L=L, width=8, P=4, S=4, dtype=torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        scan(*args, kind=kind)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_linear_in_the_length(kind):
    short, long = saved_bytes(kind, 1024), saved_bytes(kind, 2048)
    assert short > 1024 * 8 * 4
    assert long <= 2.1 * short


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        ("s4", {}, "kind='s4': want one of ssd, mamba1"),
        ("ssd", {"chunk": 0}, "chunk=0: want at least 1"),
        ("ssd", {"x": (2, 9, 4)}, r"x of 4 dimensions and B of 4, got x \(2, 9, 4\)"),
        ("mamba1", {"x": (2, 9, 4, 3)}, r"x of 3 dimensions and B of 4, got x \(2, 9, 4, 3\)"),
        ("mamba1", {"B": (2, 9, 5)}, r"B of 4, got x \(2, 9, 4\), B \(2, 9, 5\)"),
        ("ssd", {"x": (2, 0, 4, 3)}, "L=0"),
        ("ssd", {"B": (2, 9, 3, 5), "C": (2, 9, 3, 5)}, "groups that divide 4, got L=9, G=3"),
        ("mamba1", {"B": (2, 9, 0, 5), "C": (2, 9, 0, 5)}, "groups that divide 4, got L=9, G=0"),
        ("ssd", {"delta": (2, 1, 4)}, r"delta \(2, 9, 4\), not \(2, 1, 4\)"),
        ("ssd", {"A": (1,)}, r"A \(4,\), not \(1,\)"),
        ("mamba1", {"A": (4, 1)}, r"A \(4, 5\), not \(4, 1\)"),
        ("ssd", {"B": (1, 9, 1, 5)}, r"B \(2, 9, 1, 5\), not \(1, 9, 1, 5\)"),
        ("ssd", {"C": (2, 9, 1, 1)}, r"C \(2, 9, 1, 5\), not \(2, 9, 1, 1\)"),
        ("mamba1", {"D": (1,)}, r"D \(4,\), not \(1,\)"),
    ],
)
def test_wrong_use_is_refused_with_the_numbers(kind, wrong, message):
    known = kind if kind in KINDS else "ssd"
    given = dict(zip(("x", "delta", "A", "B", "C", "D"), inputs(known, L=9), strict=True))
    shaped = {k: v if k == "chunk" else torch.zeros(v) for k, v in wrong.items()}
    with pytest.raises(ValueError, match=message):
        scan(**{**given, **shaped}, kind=kind)


def selective_scan_fn(
    u,
    delta,
    A,
    B,
    C,
    D=None,
    z=None,
    delta_bias=None,
    delta_softplus=False,
    return_last_state=False,
):
    """mamba_ssm's function as its documentation and its checks have it, on top of the reference."""
    (b, d, length), (g, n) = u.shape, B.shape[1:3]
    assert delta.shape == (b, d, length) and A.shape == (d, n) and d % g == 0
    assert B.shape == C.shape == (b, g, n, length)
    assert u.dtype == delta.dtype == B.dtype == C.dtype != torch.float64
    assert A.dtype == torch.float32 and (D is None or (D.dtype, D.shape) == (torch.float32, (d,)))
    assert z is None and delta_bias is None and not delta_softplus and not return_last_state
    B, C = (t.permute(0, 3, 1, 2) for t in (B, C))
    return sequential(u.mT, delta.mT, A, B, C, D).mT


def test_an_installed_kernel_is_called_as_its_documentation_says(monkeypatch):
    monkeypatch.setattr(
        import_module("foveate.statespace.scan"), "kernel_for", lambda *_: selective_scan_fn
    )
    for D in (True, False):
        args = inputs("mamba1", G=2, D=D, dtype=torch.float32)
        same(with_gradients(by("mamba1"), args), with_gradients(sequential, args), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_kernel_is_given_what_is_as_exact_as_delta(monkeypatch, dtype):
    seen = []

    def spy(u, *rest):
        seen.append(u.dtype)
        return selective_scan_fn(u, *rest)

    monkeypatch.setattr(import_module("foveate.statespace.scan"), "kernel_for", lambda *_: spy)
    x, delta, *rest = inputs("mamba1", G=2, dtype=torch.float32)
    y = scan(x.bfloat16(), delta.to(dtype), *rest, kind="mamba1")
    want = sequential(x.bfloat16().float(), delta.to(dtype).float(), *rest)
    assert seen == [dtype] and y.dtype == torch.bfloat16
    assert (y.float() - want).norm() <= 2e-2 * want.norm()


def test_the_kernel_is_used_where_it_is_installed_and_fits(monkeypatch):
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    names = ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.selective_scan_interface")
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)  # as if not installed
    assert kernel_for(cuda, torch.float32) is None
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[names[-1]].selective_scan_fn = selective_scan_fn
    assert kernel_for(cuda, torch.float32) is selective_scan_fn
    assert kernel_for(cuda, torch.bfloat16) is selective_scan_fn
    assert kernel_for(cuda, torch.float64) is None
    assert kernel_for(cpu, torch.float32) is None
