"""Two ranks on gloo train like one process: DDP and FSDP2, with a compressor that learns."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from calling import last_words
from families import ONE, TWO, Llava
from probes import Ragged, routed

import foveate
from foveate import DART, Chain, FastV, Fovea, PyramidDrop, focusllava
from foveate.train.distill import Distilled, Weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_gloo_available(), reason="gloo is not built in"),
]


def batch(rank):
    """Each rank's own prompts, as many answer tokens on each, so that means agree."""
    inputs = Llava().inputs((ONE, TWO), seed=10 + rank)
    return {**inputs, "labels": last_words(inputs)}


def sampled(**drawing):
    """FocusLLaVA with a router that decides, between scales of regions of 2 × 2."""
    sizes = {"width": 64, "layers": 5, "hidden": 16, "region": 2, "scales": [1, 2]}
    return routed(focusllava(0.5, **sizes, **drawing))


METHODS = {
    "seen ahead": lambda: Chain(Ragged(), DART(6, layer=1), PyramidDrop(0.5, layer=2)),
    "ragged": lambda: Chain(Ragged(), FastV(0.5, layer=2)),
    "focusllava": lambda: sampled(explore=False),
    "focusllava with draws": lambda: sampled(explore=True, sampled=[0.3, 1.0]),
    "fovea, taught": lambda: Fovea(0.3, "question", "mean", 64, hidden=8, sampled=[0.1, 1.0]),
}


def model(name):
    made = foveate.compress(Llava().model(), METHODS[name]()).train()
    foveate.set_progress(made, 3, 10)
    if "taught" in name:  # by a second forward of the same weights, inside the first
        Distilled(made, Weights(distill=0.5, full=0.25), lambda t: t, lambda: 0.3).__enter__()
    return made


def gradients(m):
    return {
        n: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
        for n, p in m.named_parameters()
        if p.grad is not None
    }


def ddp(rank, m):
    wrapped = torch.nn.parallel.DistributedDataParallel(m, find_unused_parameters=True)
    loss = wrapped(**batch(rank)).loss
    loss.backward()
    return loss, gradients(m)


def fsdp(rank, m):
    from torch.distributed.fsdp import fully_shard

    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    for layer in [*m.model.language_model.layers, *m.model.vision_tower.encoder.layers]:
        fully_shard(layer, mesh=mesh)
    fully_shard(m, mesh=mesh)
    with pytest.raises(RuntimeError, match="sharded already"):
        foveate.compress(m, FastV(3))
    loss = m(**batch(rank)).loss
    loss.backward()
    return loss, gradients(m)


CASES = [(how, name) for how in ("ddp", "fsdp") for name in METHODS]


def work(rank, folder):
    """All cases, one behind the other: two processes take longer to start than to compute."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    torch.set_num_threads(1)
    for case, (how, name) in enumerate(CASES):
        loss, grads = {"ddp": ddp, "fsdp": fsdp}[how](rank, model(name))
        torch.save((loss.detach(), grads), f"{folder}/{case}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two ranks computed: a file for every case and rank."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("case", range(len(CASES)), ids=["-".join(case) for case in CASES])
def test_two_ranks_are_one_process(ranks, case):
    """A penalty is of each rank's own batch, and their mean that of the step."""
    one = model(CASES[case][1])
    losses = [one(**batch(rank)).loss for rank in range(2)]
    (sum(losses) / 2).backward()
    want = gradients(one)
    for rank in range(2):
        loss, grads = torch.load(ranks / f"{case}-{rank}.pt")
        torch.testing.assert_close(loss, losses[rank].detach(), atol=1e-5, rtol=1e-5)
        assert want.keys() <= grads.keys()
        scale = max(g.abs().max() for g in want.values())
        for name, g in want.items():
            assert (grads[name] - g).abs().max() <= 1e-5 * scale, name
