"""FocusLLaVA inside models: what it keeps follows from the image and the question, and from nothing else."""

from __future__ import annotations

import pytest
import torch
from calling import last_words, logits, traced
from families import FAMILIES, ONE, SHORT, TEXT, TWO, VIDEO, LlavaNext
from probes import routed

import foveate
from foveate import Chain, RegionSampler, TextGuided, focusllava, sized
from foveate.hosts import samples, traits

# LLaVA-NeXT's images are cut into 1 × 2, 2 × 2, 2 × 1, 1 × 2 tiles.
PROMPTS = (ONE, SHORT, TWO, TEXT)
CUT = ["llava", "llava_next", "llava_onevision"]
# Images in tiles, whose pixels are joined in several ways, and images of any size.
DRAWN = [*CUT, "internvl", "smolvlm", "idefics3", "mistral3", "qwen2_5_vl", "qwen3_vl"]


def sharp(family, **arguments):
    """Both samplers, with routers that decide, region by region even in an image of 4 × 4 patches."""
    small = {"keep": 0.6, "region": 2, "scales": [1, 2], "hidden": 16}
    return routed(sized(focusllava, family.config(), **small | arguments), seed=21)


def kept(model, inputs, **more) -> list[list[list[int]]]:
    """For every image and step, the token that carries each of its patches."""
    _, steps = traced(model, inputs, **more)
    owners = zip(*(step.owner.tolist() for step in steps), strict=True)
    return [[[n for n in owner if n != -2] for owner in image] for image in owners]


def of_prompt(family, i: int) -> list[int]:
    """Which images of the batch stand in prompt i."""
    ids = family.inputs(PROMPTS)["input_ids"]
    return [n for n, stand in enumerate(family.stands(PROMPTS, ids)) if stand.prompt == i]


@pytest.fixture(params=CUT)
def cut(request):
    """A family whose images are one view, or joined tiles beside a view of all."""
    return FAMILIES[request.param]


@torch.no_grad()
def test_it_decides_something(cut):
    """Or all the others here, and of the contract, would hold of a method that keeps everything."""
    found = kept(foveate.compress(cut.model(), sharp(cut)), cut.inputs(PROMPTS))
    for regions, words in found:
        assert len(set(regions)) > len(set(words) - {-1}) > 1
        assert -1 not in regions and -1 in words
    every = [len(set(regions)) / len(regions) for regions, _ in found]
    assert len(set(every)) > 2 and min(every) < 0.7


def test_the_question_counts_half_way_and_not_before(cut):
    model, inputs = foveate.compress(cut.model(), sharp(cut, keep=0.3)), cut.inputs(PROMPTS[:3])
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][:, -2:] = 50
    with torch.no_grad():
        one, two = kept(model, inputs), kept(model, other)
    assert [regions for regions, _ in one] == [regions for regions, _ in two]
    assert [words for _, words in one] != [words for _, words in two]


def training(family, **arguments):
    """A model in training, with both samplers drawing, and a batch with its answers."""
    drawing = {"sampled": [0.3, 1.0], "balance": 0.1}
    model = foveate.compress(family.model(), sharp(family, **drawing | arguments)).train()
    inputs = family.inputs(PROMPTS)
    return model, inputs, last_words(inputs, 1)


@pytest.mark.parametrize("name", DRAWN)
def test_draws_follow_from_the_step_and_the_image(name):
    """Whatever else its micro-batch holds: larger images, images of more tiles, prompts without any."""
    family = FAMILIES[name]
    model, inputs, labels = training(family)
    steps = []
    for step in range(3):
        foveate.set_progress(model, step, 10)
        steps.append(kept(model, inputs, labels=labels))
        assert kept(model, inputs, labels=labels) == steps[-1]
        for i in range(3):
            alone = family.single(inputs, PROMPTS, i)
            own = labels[i : i + 1, -alone["input_ids"].shape[1] :]
            want = [steps[-1][n] for n in of_prompt(family, i)]
            assert kept(model, alone, labels=own) == want
    assert steps[0] != steps[1] != steps[2]


@pytest.fixture
def told_apart(monkeypatch):
    """The numbers that told images apart in the training forwards since, forward by forward."""
    found, of_rows = [], samples.of_rows

    def noted(*args):
        found.append(of_rows(*args))
        return found[-1]

    monkeypatch.setattr(samples, "of_rows", noted)
    return found


@pytest.mark.parametrize("name", DRAWN)
def test_images_are_told_apart_by_their_pixels_alone(name, told_apart):
    """What stands beside them is nothing to them, nor what the tower makes of them, bit by bit."""
    family = FAMILIES[name]
    model, inputs, labels = training(family)
    foveate.set_progress(model, 3, 10)
    model(**inputs, labels=labels)
    together = told_apart[0]
    assert len(set(together)) == len(together) == 4
    with torch.no_grad():
        for parameter in traits.tower_of(model.model).parameters():
            parameter.mul_(1.001)
    for i in range(3):
        alone = family.single(inputs, PROMPTS, i)
        model(**alone, labels=last_words(alone, 1))
        assert told_apart[-1] == [together[n] for n in of_prompt(family, i)]


def test_a_video_beside_it_leaves_an_image_its_number(told_apart):
    family, prompts = FAMILIES["llava_onevision"], (ONE, VIDEO)
    model, _, _ = training(family)
    foveate.set_progress(model, 3, 10)
    inputs = family.inputs(prompts)
    for given in (inputs, *(family.single(inputs, prompts, i) for i in range(2))):
        model(**given, labels=last_words(given, 1))
    together, image, video = told_apart
    assert together == image + video and image != video


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_router_learns_alike_under_checkpointing(cut, reentrant):
    """The penalty, the noise and the share that was drawn are those of a plain step."""
    model, inputs, labels = training(cut)
    foveate.set_progress(model, 3, 10)
    model.enable_input_require_grads()
    found = []
    for _ in range(2):
        model.zero_grad()
        loss = model(**inputs, labels=labels, use_cache=False).loss
        loss.backward()
        found.append((loss, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    (plain, want), (loss, got) = found
    assert torch.equal(loss, plain) and want.keys() == got.keys()
    assert sum("router" in n and g.abs().sum() > 0 for n, g in want.items()) == 6
    for name, grad in got.items():
        torch.testing.assert_close(grad, want[name], atol=1e-6, rtol=1e-4)


def test_the_penalty_is_the_balance_times_its_term(cut):
    losses = []
    for balance in (0.0, 0.1, 0.3):
        model, inputs, labels = training(cut, balance=balance)
        foveate.set_progress(model, 3, 10)
        losses.append(model(**inputs, labels=labels).loss.detach())
    plain, some, more = losses
    torch.testing.assert_close(more - plain, 3 * (some - plain), atol=1e-5, rtol=1e-5)
    assert 0.05 < float(some - plain) < 0.2  # 1 where both scales are used alike, 2 where one is
    model.eval()
    without = foveate.compress(cut.model(), sharp(cut, balance=0.0))
    want = without(**inputs, labels=labels).loss
    assert torch.equal(model(**inputs, labels=labels).loss, want)


# LLaVA-NeXT's newlines


def entered(model, inputs) -> tuple[list[torch.Tensor], list[list[int]]]:
    """What enters the language model, and at which of its columns newlines stand, prompt by prompt."""
    found = []
    handle = model.model.language_model.register_forward_pre_hook(
        lambda m, a, k: found.append(k["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    newline = model.model.image_newline
    marked = [(row == newline).all(-1).nonzero()[:, 0].tolist() for row in found[0]]
    return found[0], marked


def test_one_newline_for_each_row_of_regions():
    """Tiles of 8 × 8 patches at scale 4: the whole image, then two rows of two regions and a newline."""
    family, prompts = LlavaNext(), (TEXT, ONE, ONE)
    inputs = family.single(family.inputs(prompts), prompts, 2)  # an image of 2 × 2 tiles
    start = int((inputs["input_ids"][0] == family.image_id).nonzero()[0])
    model = foveate.compress(family.model(), RegionSampler(64, scales=[4]))
    (_,), (columns,) = entered(model, inputs)
    assert columns == [start + 16 + 2, start + 16 + 5]
    model = foveate.compress(foveate.restore(model), RegionSampler(64, scales=[2]))
    (_,), (columns,) = entered(model, inputs)
    assert columns == [start + 16 + 5 * row - 1 for row in range(1, 5)]


def test_scale_one_everywhere_is_the_prompt_as_it_was():
    family = LlavaNext()
    inputs, model = family.inputs(PROMPTS), family.model()
    want, newlines = entered(model, inputs)
    method = Chain(RegionSampler(64), TextGuided(1.0, layer=2))  # untrained
    answer = logits(model, inputs)
    foveate.compress(model, method)
    got, columns = entered(model, inputs)
    assert torch.equal(got, want) and columns == newlines
    assert torch.equal(logits(model, inputs), answer)


class Alternating(torch.nn.Module):
    """A router that gives every other region scale 4, and the others scale 1."""

    def forward(self, x):
        return torch.eye(2)[torch.arange(len(x)) % 2]


def test_in_a_mixed_row_newlines_stay_behind_what_is_left_of_their_row():
    family, prompts = LlavaNext(), (TEXT, ONE, ONE)
    inputs = family.single(family.inputs(prompts), prompts, 2)
    start = int((inputs["input_ids"][0] == family.image_id).nonzero()[0]) + 16
    method = RegionSampler(64, scales=[4, 1])
    method.router = Alternating()  # the region at the left is one token, at the right sixteen
    model = foveate.compress(family.model(), method)
    (_,), (columns,) = entered(model, inputs)
    # A region's one token stands in its first row: 1 + 4 tokens there, 4 in each of the three below.
    lengths = [5, 4, 4, 4] * 2
    assert columns == [start + sum(lengths[: i + 1]) + i for i in range(8)]


@pytest.mark.parametrize(
    ("name", "says"),
    [("llava", "one view"), ("llava_next", "are one map"), ("internvl", "a map of its own")],
)
def test_support_says_what_the_map_is(name, says):
    model = FAMILIES[name].model()
    found = foveate.support(model, sized(focusllava, model))
    assert found.works and any(says in note for note in found.notes)
    text = foveate.support(model, sized(focusllava, model, only="text"))
    assert text.works and not any("view" in note for note in text.notes)
