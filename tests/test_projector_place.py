"""Before the projector and in its place: what stands there, against the same thing worked out by hand.

By hand: the tower's hidden states joined, an MLP on each token, a convolution over each view, and the
fused vectors in the embeddings of a prompt that is that much shorter. It shares no code with the host.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
import transformers
from accelerate import cpu_offload
from calling import close, logits
from families import FAMILIES, IMAGE, ONE, TWO, VIDEO, VIDEO_AND_IMAGE, VIDEO_ID, Prompt
from probes import drawn
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import foveate
from foveate import (
    LLaVASTF,
    MultiBlockFusion,
    SpatialFusion,
    Stride,
    VisionZip,
    sized,
)
from foveate.hosts import traits

BEFORE = {"gemma3": ["mm_soft_emb_norm"], "mistral3": ["norm", "patch_merger"]}  # of connectors
THREE = Prompt((2, "i", 4, "i", 3, "i", 5))
PLACED = sorted(name for name, family in FAMILIES.items() if family.projected is not None)


@pytest.mark.parametrize("name", PLACED)
def test_a_connector_taken_apart_is_the_connector(name):
    """Bit for bit; and the linear layers of the projector are found in it, whose weights are the model's."""
    base = FAMILIES[name].model().model
    for module in base.modules():
        if "RMSNorm" in type(module).__name__:
            nn.init.normal_(module.weight)
    calls = []
    connector = traits.connector_of(base)
    connector.register_forward_hook(lambda m, given, made: calls.append((given, made)))
    inputs = FAMILIES[name].inputs((ONE, TWO))
    with torch.no_grad():
        base(**inputs)
        (given, made), (projector, before) = calls[0], traits.projector_of(base)
        read = before(*given)
        assert torch.equal(projector(read), made)
    assert read.shape[-1] == FAMILIES[name].projected
    linear = [m for m in projector.modules() if isinstance(m, nn.Linear)]
    assert linear[0].in_features == read.shape[-1]
    assert linear[-1].out_features == len(linear[-1].weight) == made.shape[-1]
    projector(read).sum().backward()
    assert sum(p.grad is not None and bool(p.grad.any()) for p in connector.parameters()) >= len(
        linear
    )


def test_a_bare_matrix_is_at_hand_where_weights_are_offloaded():
    """Gemma 3's projector is a parameter of its connector, which does not run when tokens went early."""
    family = FAMILIES["gemma3"]
    inputs, model = family.inputs((ONE, TWO)), foveate.compress(family.model(), VisionZip(5))
    away = foveate.compress(cpu_offload(family.model()), VisionZip(5))
    assert away.model.multi_modal_projector.mm_input_projection_weight.is_meta
    assert torch.equal(logits(away, inputs), logits(model, inputs))
    assert away.model.multi_modal_projector.mm_input_projection_weight.is_meta


# What each family's tower shows, read off its own code: (views, tokens, channels), what the projector reads
# in front and the hidden states that are fused with it behind.


def joined(out, layers, read, skip: int) -> Tensor:
    return torch.cat([read, *(out.hidden_states[i] for i in layers)], dim=-1)[:, skip:]


def clip(tower, pixels, layers, skip=1) -> Tensor:
    out = tower(pixels, output_hidden_states=True)
    return joined(out, layers, out.hidden_states[-2], skip)


def siglip(base, pixels, layers) -> Tensor:
    out = base.vision_tower(pixels, output_hidden_states=True)
    return joined(out, layers, out.last_hidden_state, 0)


def pooled(base, pixels, layers) -> Tensor:
    """Gemma 3: 2 x 2 of 8 x 8 tokens are a patch; what the matrix reads is normed as well."""
    x = siglip(base, pixels, layers).unflatten(1, (4, 2, 4, 2)).mean((2, 4)).flatten(1, 2)
    read = base.multi_modal_projector.mm_soft_emb_norm(x[..., :32])
    return torch.cat([read, x[..., 32:]], dim=-1)


def fuse_blocks(method, x: Tensor) -> Tensor:
    """What multi-block fusion makes of joined channels (…, C); without it, what the projector reads."""
    mbtf = method if isinstance(method, MultiBlockFusion) else getattr(method, "multi_block", None)
    if mbtf is None:
        return x[..., :32]
    one, _, two = mbtf.mlp
    hidden = functional.gelu(functional.linear(x, one.weight, one.bias))
    return functional.linear(hidden, two.weight, two.bias)


def fuse_windows(method, view: Tensor) -> Tensor:
    """A convolution over one view (rows, columns, D), NaN where nothing stands → (rows/k, columns/k, E)."""
    stf = getattr(method, "spatial", method)
    k, (one, _, two) = stf.window, stf.mlp
    rows, columns, D = view.shape
    view = functional.pad(view, (0, 0, 0, -columns % k, 0, -rows % k), value=torch.nan)
    filled = view.clone()
    for y in range(0, len(view), k):
        for x in range(0, view.shape[1], k):
            cells = view[y : y + k, x : x + k]
            rows, columns = (~cells[..., 0].isnan()).nonzero(as_tuple=True)
            if len(rows):  # a rectangle, and its edge goes on
                whole = [torch.arange(k).clamp(n.min(), n.max()) for n in (rows, columns)]
                filled[y : y + k, x : x + k] = cells[whole[0]][:, whole[1]]
    grid = filled.movedim(-1, 0)[None]
    grid = functional.conv2d(grid, one.weight.view(-1, D, k, k), one.bias, stride=k)
    grid = functional.conv2d(functional.gelu(grid), two.weight[:, :, None, None], two.bias)
    return grid[0].movedim(0, -1)


def squares(method, base, x: Tensor) -> list[Tensor]:
    """Images of one view of 4 x 4 patches: the vectors in each one's place. x (images, 16, D)."""
    if isinstance(method, MultiBlockFusion):
        connector = base.multi_modal_projector
        if hasattr(connector, "mm_input_projection_weight"):
            return list(x @ connector.mm_input_projection_weight)
        return list(connector(x))
    return [fuse_windows(method, view).flatten(0, 1) for view in x.unflatten(1, (4, 4))]


def frames(method, base, x: Tensor) -> list[Tensor]:
    """A video: of every frame the class token, alone, then its patches. x (frames, 17, D)."""
    if isinstance(method, MultiBlockFusion):
        return [base.multi_modal_projector(x).flatten(0, 1)]
    alone = [fuse_windows(method, frame[:1, None])[0] for frame in x]
    rest = squares(method, base, x[:, 1:])
    return [torch.cat([part for frame in zip(alone, rest, strict=True) for part in frame])]


def tiled(method, base, x: Tensor, tiles: tuple[int, int], stay: tuple[int, int]) -> list[Tensor]:
    """LLaVA-NeXT: the whole image, then every tile by itself, without the border that was padding.

    Rows of what is left run through all tiles, a newline behind each. x (1 + tiles, 16, D); stay: rows
    and columns of patches that are no border.
    """
    (first, *_), (R, C) = squares(method, base, x[:1]), tiles
    edge = [(4 * n - m) // 2 for n, m in zip(tiles, stay, strict=True)]
    inside = torch.full((4 * R, 4 * C, 1), torch.nan)
    inside[edge[0] : edge[0] + stay[0], edge[1] : edge[1] + stay[1]] = 1
    joined = x[1:].unflatten(1, (4, 4)).unflatten(0, tiles)
    joined = joined.transpose(1, 2).flatten(0, 1).flatten(1, 2) * inside
    if isinstance(method, MultiBlockFusion):
        whole = base.multi_modal_projector(joined)
    else:
        cut = [
            torch.cat([fuse_windows(method, t) for t in row.split(4, 1)], 1)
            for row in joined.split(4)
        ]
        whole = torch.cat(cut)
    lines = [row[~row.isnan().any(-1)] for row in whole]
    lines = [part for row in lines if len(row) for part in (row, base.image_newline[None])]
    return [torch.cat([first, *lines])]


def by_hand(name: str, method, base, inputs: dict) -> dict[int, list[Tensor]]:
    """Placeholder → what stands in place of each run of it, in order."""
    layers = getattr(method, "vision_layers", ())
    pixels = next((inputs[n] for n in ("pixel_values", "pixel_values_images") if n in inputs), None)
    if name == "llava_next":
        cuts, found = FAMILIES[name].cuts, []
        for image, (_, tiles, stay) in zip(pixels, cuts, strict=False):
            x = clip(base.vision_tower, image[: 1 + tiles[0] * tiles[1]], layers)
            found += tiled(method, base, fuse_blocks(method, x), tiles, stay)
        return {IMAGE: found}
    shows = {"gemma3": partial(pooled, base), "paligemma": partial(siglip, base)}
    tower = getattr(base, "image_tower", None) or base.vision_tower
    show = shows.get(name, partial(clip, tower))
    x = None if pixels is None else fuse_blocks(method, show(pixels, layers))
    found = {IMAGE: [] if x is None else squares(method, base, x), VIDEO_ID: []}
    for clip_of in inputs.get("pixel_values_videos", ()):
        x = fuse_blocks(method, clip(base.video_tower, clip_of, layers, skip=0))
        found[VIDEO_ID] += frames(method, base, x)
    return found


def shortened(model, ids: Tensor, vectors: dict[int, list[Tensor]]) -> tuple[Tensor, list[int]]:
    """(M, D) embeddings with the vectors where runs of placeholders stood; of each, its image or -1."""
    vectors = {kind: iter(found) for kind, found in vectors.items()}
    pieces, image, images, before = [], [], 0, None
    for n in ids.tolist():
        if n not in (IMAGE, VIDEO_ID):
            pieces.append(model.get_input_embeddings()(torch.tensor([n])))
            image.append(-1)
        elif n != before:
            pieces.append(next(vectors[n]))
            image += [images] * len(pieces[-1])
            images += 1
        before = n
    return torch.cat(pieces), image


def answered(name: str, model, x: Tensor, image: list[int]) -> Tensor:
    """(M, V) logits of a prompt of embeddings, its columns counted from 0."""
    M, image = len(x), torch.tensor(image)
    allowed = torch.ones(M, M, dtype=torch.bool).tril()
    if name == "paligemma":
        allowed = torch.ones_like(allowed)
    if name == "gemma3":
        allowed |= (image[:, None] == image) & (image >= 0)
    bias = torch.zeros(M, M).masked_fill(~allowed, torch.finfo(torch.float32).min)[None, None]
    mask = {"full_attention": bias, "sliding_attention": bias} if name == "gemma3" else bias
    decoder = model.model.language_model
    out = decoder(inputs_embeds=x[None], attention_mask=mask, position_ids=torch.arange(M)[None])
    return model.lm_head(out.last_hidden_state)[0]


PARTS = {
    "both": partial(LLaVASTF, blocks=3),
    "spatial": SpatialFusion,
    "blocks": partial(MultiBlockFusion, vision_layers=[0, 2]),
    "windows of 3": partial(LLaVASTF, vision_layers=[3, 1], window=3),
    "whole tiles": partial(SpatialFusion, window=4),
}
CASES = [
    (name, part, prompt)
    for name in ("llava", "llava_next", "gemma3", "paligemma", "video_llava")
    for part in PARTS
    for prompt in [THREE, *([VIDEO, VIDEO_AND_IMAGE] if name == "video_llava" else [])]
    if (name, part) != ("llava_next", "windows of 3")  # tiles of 4 x 4 are not made of them
]


@pytest.mark.parametrize(("name", "part", "prompt"), CASES)
@torch.no_grad()
def test_fused_by_hand_in_a_shorter_prompt(name, part, prompt):
    family = FAMILIES[name]
    inputs, model = family.inputs((prompt,)), family.model()
    method = drawn(sized(PARTS[part], model))
    ids = inputs["input_ids"][0]
    x, image = shortened(model, ids, by_hand(name, method, model.model, inputs))
    want = answered(name, model, x, image)[torch.tensor(image) < 0]
    foveate.compress(model, method, positions="renumbered")
    ran = []
    model.model.multi_modal_projector.register_forward_hook(lambda *_: ran.append(1))
    got = model(**inputs).logits[0, (ids != IMAGE) & (ids != VIDEO_ID)]
    close(got, want)
    if name != "llava_next":  # of the others, nothing in the place of images is a newline
        assert sum(foveate.last_counts(model)) == sum(i >= 0 for i in image)
    assert bool(ran) == (part == "blocks" and name != "gemma3")


@pytest.mark.parametrize("name", PLACED)
def test_the_old_projector_stays_learns_nothing_and_loads_without_foveate(name, tmp_path):
    family = FAMILIES[name]
    inputs, model = family.inputs((ONE, TWO)), family.model()
    with torch.no_grad():
        bare = model(**inputs).logits
    method = drawn(sized(PARTS["both"], model))
    foveate.compress(model, method).train()
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    model(**inputs, labels=labels.where(labels < VIDEO_ID, -100)).loss.backward()
    connector = traits.connector_of(model.model)
    before = BEFORE.get(name, ())
    idle = [p for n, p in connector.named_parameters() if n.split(".")[0] not in before]
    assert idle and all(p.grad is None for p in idle)
    assert all(p.grad is not None and bool(p.grad.any()) for p in method.parameters())

    model.eval().save_pretrained(tmp_path)
    with torch.no_grad():
        want = model(**inputs).logits
        assert torch.equal(foveate.from_pretrained(tmp_path)(**inputs).logits, want)
        plain = family.model_class.from_pretrained(tmp_path)
        assert torch.equal(plain(**inputs).logits, bare)
    assert not any("visual_compressor" in n for n, _ in plain.named_parameters())
    loaded = traits.connector_of(plain.model).parameters()
    assert all(torch.equal(a, b) for a, b in zip(loaded, connector.parameters(), strict=True))


@pytest.mark.parametrize("window", [2, 4])
@torch.no_grad()
def test_a_fused_token_is_of_one_tile(window):
    """Borders that were cut off shift no window: the tiles are of 4 x 4 patches."""
    family = FAMILIES["llava_next"]
    model = family.model()
    foveate.compress(model, drawn(sized(SpatialFusion, model, window=window)))
    with foveate.trace(model) as seen:
        model(**family.inputs((THREE,)))
    for owner, (_, tiles, (rows, columns)) in zip(seen.steps[0].owner, family.cuts, strict=True):
        top, left = (4 * tiles[0] - rows) // 2, (4 * tiles[1] - columns) // 2
        found: dict[int, set] = {}
        for patch, token in enumerate(owner[16 : 16 + rows * columns].tolist()):
            cell = top + patch // columns, left + patch % columns
            found.setdefault(token, set()).add(tuple(n // window for n in cell))
        places = [where for cells in found.values() for where in cells]
        assert len(places) == len(found) == len(set(places))


@pytest.mark.parametrize("make", [LLaVASTF, SpatialFusion, MultiBlockFusion])
@pytest.mark.parametrize("name", FAMILIES)
def test_support_says_where_it_stands_and_why_not(name, make):
    family = FAMILIES[name]
    model = family.model()
    method = sized(make, model)
    said = foveate.support(model, method)
    works = family.projected is not None or name == "llava_onevision"
    assert said.works == works and said.sites == (str(method.site),)
    if works:
        foveate.compress(model, method)
        return
    assert said.why.startswith(f"{make.__name__} at {method.site}: {type(model.model).__name__}")
    assert "windows of tokens" in said.why
    assert "methods that act behind it, at language 0, work" in said.why
    with pytest.raises(NotImplementedError) as raised:
        foveate.compress(model, method)
    assert str(raised.value) == said.why
    assert foveate.support(model, Stride(4)).works


def test_a_resampler_is_refused_by_what_it_does():
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16}
    config = transformers.Idefics2Config(
        vision_config={"image_size": 32, "patch_size": 8, "intermediate_size": 32, **small},
        text_config={"model_type": "mistral", "vocab_size": 100, "pad_token_id": 0, **small},
    )
    with torch.device("meta"):
        model = transformers.Idefics2ForConditionalGeneration(config)
    said = foveate.support(model, sized(SpatialFusion, model))
    assert not said.works
    assert "draws its tokens from all others" in said.why and "language 0, work" in said.why


@torch.no_grad()
def test_windows_behind_a_fusion_are_of_the_models_patches():
    family = FAMILIES["llava"]
    model, inputs = family.model(), family.inputs((ONE,))
    for stride, left in [(2, 4), (4, 1)]:
        chain = foveate.Chain(sized(SpatialFusion, model), foveate.Pool(stride, dims=2))
        foveate.compress(model, chain)
        model(**inputs)
        assert foveate.last_counts(model) == [left]


MERGING = {  # what none of their configs says
    "got_ocr2": "merges windows",  # convolutions
    "lfm2_vl": "merges windows",
    "lfm3_vl": "reads 4096 channels at once where a token has 1024",
    "minimax_m3_vl": "merges windows",
    "molmo2": "merges windows",
}


@pytest.mark.parametrize("kind", MERGING)
def test_connectors_that_merge_tokens_are_refused_by_what_they_have(kind):
    """Families that were never tested: a promise would break in the first forward."""
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(CONFIG_MAPPING[kind]())
    for method in (VisionZip(8), sized(SpatialFusion, model)):
        said = foveate.support(model, method)
        assert not said.works and MERGING[kind] in said.why and "language 0, work" in said.why


class Convolved(nn.Module):
    """A projector that looks at neighbours, and makes as many tokens as there were."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.mix = nn.Conv1d(width, width, 3, padding=1)
        self.linear = nn.Linear(width, out)

    def forward(self, x):
        return self.linear(self.mix(x.mT).mT)


def test_a_connector_that_looks_at_neighbours_is_refused():
    model = FAMILIES["llava"].model()
    method = sized(SpatialFusion, model)
    model.model.multi_modal_projector.pooling = nn.Identity()  # of a config that pools nothing
    assert foveate.support(model, method).works
    model.model.multi_modal_projector = Convolved(32, 64)
    assert "merges windows" in foveate.support(model, method).why


def test_onevision_fuses_small_images_and_refuses_what_it_interpolates():
    family = FAMILIES["llava_onevision"]
    model = family.model()
    foveate.compress(model, drawn(sized(SpatialFusion, model)))
    assert "interpolated" in foveate.support(model, model.model.visual_compressor).notes[0]
    with torch.no_grad():
        model(**family.inputs((TWO,)))  # several images have no tiles
        assert foveate.last_counts(model) == [4, 4]
        for prompts in [(ONE, ONE), (VIDEO,)]:  # the second image shrinks; frames are pooled
            with pytest.raises(NotImplementedError, match=r"interpolates .*language 0"):
                model(**family.inputs(prompts))


@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_the_projector_is_frozen_while_its_place_is_taken(name):
    """And no longer; what a connector does before it goes on learning. What was frozen stays so."""
    model = FAMILIES[name].model()
    connector = traits.connector_of(model.model)
    first = next(iter(connector.parameters()))
    for already in (True, False):
        first.requires_grad_(already)
        before = {n: p.requires_grad for n, p in model.named_parameters()}
        foveate.compress(model, SpatialFusion.for_model(model))
        foveate.compress(model, SpatialFusion.for_model(model, hidden=8))
        projector = {id(p) for p in traits.projector_of(model.model)[0].parameters()}
        for n, p in model.named_parameters():
            want = id(p) not in projector and before.get(n, True)
            assert p.requires_grad == want, n
        foveate.compress(model, MultiBlockFusion.for_model(model))
        assert all(p.requires_grad == before[n] for n, p in model.named_parameters() if n in before)
        foveate.restore(model)
        assert {n: p.requires_grad for n, p in model.named_parameters()} == before
