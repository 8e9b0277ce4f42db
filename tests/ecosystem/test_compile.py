"""torch.compile: the same numbers as eager mode, hardly more graphs, and decoding that settles.

Of more methods the graphs are counted by recipes/compile_graphs.py.
"""

from __future__ import annotations

import shutil

import pytest
import torch
from calling import greedy, last_words, logits
from families import FAMILIES, ONE, TWO
from transformers import StaticCache

import foveate
from foveate import Chain, FastV, Stride, VisionZip
from foveate.hosts.traits import decoder_of

pytestmark = [
    pytest.mark.slow,
    # Of torch itself, when it compiles code of its own that it has deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    # Where a graph ends, told once for each reason.
    pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`"),
    pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]
METHODS = {
    "stride": lambda: Stride(4),
    "fastv": lambda: FastV(0.25, layer=2),
    "both": lambda: Chain(Stride(10), FastV(0.5, layer=2)),
}
LLAVA = FAMILIES["llava"]
STEPS, SETTLED = 256, 4  # of decoding; behind so many nothing is compiled any more
NAMES = [pytest.param(n, marks=pytest.mark.full if n != "both" else ()) for n in METHODS]
BACKENDS = [
    "aot_eager",
    pytest.param(
        "inductor",
        marks=[
            pytest.mark.full,
            pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler"),
        ],
    ),
]


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch._dynamo.reset()
    yield
    torch.compiler.set_stance("default")
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_compiled_is_eager(family, name, backend):
    model = foveate.compress(family.model(), METHODS[name]())
    batches = [family.inputs((ONE, TWO), seed=s) for s in (1, 2)]
    want = [logits(model, b) for b in batches]
    counts = foveate.last_counts(model)
    compiled = torch.compile(model, backend=backend)
    for batch, expected in zip(batches, want, strict=True):
        torch.testing.assert_close(logits(compiled, batch), expected, atol=2e-5, rtol=1e-4)
    assert foveate.last_counts(compiled) == counts
    assert not torch.allclose(want[0], want[1])
    # The same weights, bare again: a compiled call may not remember the compressor.
    foveate.restore(model)
    torch._dynamo.reset()
    bare = logits(family.model(), batches[0])
    torch.testing.assert_close(logits(compiled, batches[0]), bare, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.full
def test_compiled_gradients_are_eager_ones(family, name):
    batch = family.inputs((ONE, TWO))
    found = []
    for backend in (None, "aot_eager"):
        model = foveate.compress(family.model(), METHODS[name]()).train()
        run = torch.compile(model, backend=backend) if backend else model
        loss = run(**batch, labels=last_words(batch)).loss
        loss.backward()
        found.append((loss, {n: p.grad for n, p in model.named_parameters()}))
    (want, grads), (got, again) = found
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    for n, grad in grads.items():
        if grad is not None:
            torch.testing.assert_close(again[n], grad, atol=2e-5, rtol=1e-3, msg=n)


@pytest.mark.parametrize("name", NAMES)
def test_layers_compiled_one_by_one(family, name):
    """Regional compilation: hooks stay outside of what is compiled."""
    model = foveate.compress(family.model(), METHODS[name]())
    inputs = family.inputs((ONE, TWO))
    want = logits(model, inputs)
    text = greedy(model, inputs, 4)
    for layer in decoder_of(model.model).layers[1:3]:  # the cut of METHODS lies between these
        layer.forward = torch.compile(layer.forward, backend="aot_eager")
    torch.testing.assert_close(logits(model, inputs), want, atol=2e-5, rtol=1e-4)
    assert torch.equal(greedy(model, inputs, 4), text)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_decoding_on_a_static_cache(family, name):
    """What `cache_implementation="static"` compiles on a GPU, with a backend that a CPU has."""
    from transformers import CompileConfig

    model = foveate.compress(family.model(), METHODS[name]())
    inputs = family.inputs((ONE, TWO))
    more = {"return_dict_in_generate": True, "output_logits": True}
    want = greedy(model, inputs, 6, **more)
    config = CompileConfig(backend="aot_eager", fullgraph=False)
    config._compile_all_devices = True  # transformers leaves the CPU out otherwise
    static = {"cache_implementation": "static", "compile_config": config}
    got = greedy(model, inputs, 6, **more, **static)
    assert got.past_key_values.is_compileable
    assert hasattr(model, "_compiled_call")  # it was the compiled one that answered
    assert torch.equal(got.sequences, want.sequences)
    torch.testing.assert_close(
        torch.stack(got.logits), torch.stack(want.logits), atol=2e-5, rtol=1e-4
    )


def graphs(method):
    torch._dynamo.reset()
    model = LLAVA.model()
    if method is not None:
        foveate.compress(model, method)
    with torch.no_grad():
        return torch._dynamo.explain(model)(**LLAVA.inputs((ONE, TWO))).graph_count


def test_before_the_language_model_a_prompt_takes_two_graphs_more_at_most():
    bare = graphs(None)
    assert bare > 1
    assert max(graphs(Stride(4)), graphs(VisionZip(4))) <= bare + 2


def decoded(method, compiled, tokens=None):
    """The tokens of so many steps, each fed where it is given, and the last step's logits."""
    model, inputs = foveate.compress(LLAVA.model(), method), LLAVA.inputs((ONE,))
    length, said = inputs["input_ids"].shape[1], []
    cache = StaticCache(decoder_of(model.model).config, max_cache_len=length + STEPS)
    logits = model(**inputs, past_key_values=cache).logits[:, -1:]
    call = torch.compile(model, backend="eager") if compiled else model
    for step in range(STEPS):
        if compiled and step == SETTLED:
            torch.compiler.set_stance("fail_on_recompile")
        said.append(tokens[step] if tokens else logits.argmax(-1))
        place = torch.tensor([[length + step]])
        logits = call(input_ids=said[-1], position_ids=place, past_key_values=cache).logits
    return said, logits


@pytest.mark.parametrize("method", [Stride(4), FastV(4, layer=2)], ids=str)
@torch.no_grad()
def test_decoding_with_a_static_cache_compiles_once_and_says_the_same(method):
    tokens, want = decoded(method, compiled=False)
    torch.testing.assert_close(decoded(method, compiled=True, tokens=tokens)[1], want)
