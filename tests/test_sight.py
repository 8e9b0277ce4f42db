"""What compressors see, against the bare model's own eager attention and hidden states.

Which of the tower's tokens make which patch, and where it stands, is written down in families/, by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate

import pytest
import torch
from calling import close, traced
from families import FAMILIES, LAYERS, ONE, TEXT, TWO
from probes import Looks
from torch import Tensor

import foveate
from foveate import Chain, Pool
from foveate.core.compressor import OF_BLOCKS, Compressor, Site, Tower, language
from foveate.hosts import glance

OF_PROMPT = ("last_attention", "own_attention", "prompt_attention", "text", "text_mask")
OF_LAYERS = ("previous", "normed", "key_size", "words")
TYPES = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


@contextmanager
def recorded() -> Iterator[dict]:
    """Every eager attention: module → its calls' keys (U, H, S, d) and probabilities (U, H, S, S)."""
    calls: dict = {}

    def recording(own):
        def attend(module, query, key, value, attention_mask, **kwargs):
            output, weights = own(module, query, key, value, attention_mask, **kwargs)
            calls.setdefault(module, []).append((key, weights))
            return output, weights

        return attend

    with pytest.MonkeyPatch.context() as patch:
        for name, home in list(sys.modules.items()):
            own = vars(home).get("eager_attention_forward") if "modeling" in name else None
            if own is not None:
                patch.setattr(home, "eager_attention_forward", recording(own))
        yield calls


def pixels(inputs: dict, modality: str) -> dict:
    video = ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts")
    given = {k: v for k, v in inputs.items() if k not in TYPES}
    return {k: v for k, v in given.items() if (k in video) == (modality == "video")}


def shown(family, inputs: dict, modality: str) -> dict[str, list[Tensor] | Tensor]:
    """What the bare tower shows, for all of its tokens in a row: attention (L,), keys, features (L, d).

    What its tokens are given by the class token's row, and by every row, is that of each block.
    """
    bare, states = family.model("eager"), []
    encode = getattr(bare.model, f"get_{modality}_features")
    given = pixels(inputs, modality)
    if modality == "video":
        given.pop("second_per_grid_ts", None)
    with recorded() as calls, torch.no_grad():
        states = encode(**given, output_hidden_states=True).hidden_states
    blocks = list(calls.values())
    attentions = [attended(block, family.class_token) for block in blocks]
    return {
        "cls_attention": attentions[family.selected_block],
        "keys": torch.cat([key.mean(1).flatten(0, 1) for key, _ in blocks[family.selected_block]]),
        "attentions": attentions,
        "received": [attended(block, False) for block in blocks],
        "features": [state.flatten(0, -2) for state in states],
    }


def attended(block, class_token: bool) -> Tensor:
    """(L,) what every token of a tower gets in a block, from the first row or all that may look at it."""
    rows = [weights.mean(1)[:, : 1 if class_token else None] for _, weights in block]
    return torch.cat([(row.sum(1) / (row > 0).sum(1)).flatten() for row in rows])


def expected(family, inputs: dict, prompts) -> list[dict]:
    """Row by row, images first: every field as a compressor should see it."""
    rows = []
    for modality, sights in family.sights(prompts).items():
        if not sights:
            continue
        tower = shown(family, inputs, modality)
        sizes = [sight.weights.shape[1] for sight in sights]
        assert sum(sizes) == len(tower["keys"])
        for stop, sight in zip(accumulate(sizes), sights, strict=True):
            mine = slice(stop - sight.weights.shape[1], stop)
            rows.append(
                {
                    "cls_attention": sight.weights @ tower["cls_attention"][mine] * sight.together,
                    "keys": sight.weights @ tower["keys"][mine],
                    "features": [sight.weights @ state[mine] for state in tower["features"]],
                    **{
                        name: [sight.weights @ a[mine] * sight.together for a in tower[name]]
                        for name in OF_BLOCKS
                    },
                    "grid": torch.tensor(sight.cells),
                }
            )
    return rows


def sites(family) -> list[Site]:
    before = [Site(Tower.features), Site(Tower.projector)]
    return [language(0)] + before * (family.projected is not None)


@torch.no_grad()
def looked(model, inputs, looks, *earlier):
    """Tokens and context as the last compressor got them, and the steps."""
    with foveate.compressed(model, Chain(*earlier, looks)):
        _, steps = traced(model, inputs)
    ((tokens, context),) = looks.seen
    return tokens, context, steps


def test_scores_of_the_tower_are_those_of_the_right_patches(model, family):
    """Windows, tiles without borders, newlines, several sizes; before and behind the projector."""
    for prompts in family.batches().values():
        inputs = family.inputs(prompts)
        rows = expected(family, inputs, prompts)
        for site in sites(family):
            tokens, context, _ = looked(model, inputs, Looks(site))
            assert len(tokens.x) == len(rows)
            for i, row in enumerate(rows):
                P = len(row["grid"])
                for name in ("cls_attention", "keys"):
                    close(getattr(context, name)[i, :P], row[name])
                assert context.features.keys() == {0, 3, 4}  # what it asked for, and no more
                for layer, got in context.features.items():
                    close(got[i, :P], row["features"][layer])
                for name in OF_BLOCKS:
                    assert getattr(context, name).keys() == {1, -1}
                    for block, got in getattr(context, name).items():
                        close(got[i, :P], row[name][block])


def test_after_a_merge_attention_is_summed_and_vectors_are_averaged(model, family):
    inputs = family.inputs((TWO, ONE))
    tokens, context, _ = looked(model, inputs, Looks(language(0)), Pool(3))
    for i, row in enumerate(expected(family, inputs, (TWO, ONE))):
        owner = tokens.owner[i][: len(row["grid"])]
        members = (owner == torch.arange(int(owner.max()) + 1)[:, None]).float()
        mean = members / members.sum(1, keepdim=True)
        M = len(members)
        close(context.cls_attention[i, :M], members @ row["cls_attention"])
        close(context.keys[i, :M], mean @ row["keys"])
        close(context.features[3][i, :M], mean @ row["features"][3])
        close(context.attentions[1][i, :M], members @ row["attentions"][1])
        close(context.received[-1][i, :M], members @ row["received"][-1])


def test_all_rows_are_never_there_at_once(monkeypatch):
    """The mean of 600 rows, some of which may not look at some tokens, 256 of them at a time."""
    draw, most, own = torch.Generator().manual_seed(0), [], glance.attention_rows
    query, key = (torch.randn(2, 3, 600, 4, generator=draw) for _ in range(2))
    mask = (torch.arange(600) // 100)[:, None] >= torch.arange(600) // 100

    def counted(rows, *args):
        most.append(rows.shape[2])
        return own(rows, *args)

    monkeypatch.setattr(glance, "attention_rows", counted)
    whole = (query @ key.mT / 2).masked_fill(~mask, -torch.inf).softmax(-1).mean(1)
    got = glance.mean_of_rows(query, key, 0.5, mask.expand(2, 1, -1, -1))
    close(got, whole.sum(1) / mask.sum(0))
    assert max(most) == 256 and sum(most) == 600
    close(
        glance.mean_of_rows(query[:, :, :1], key, 0.5, None),
        own(query[:, :, :1], key, 0.5).mean((1, 2)),
    )


def test_a_tower_without_a_class_token_says_what_stands_in():
    """Of the rows asked for, that which is not the class token's; what is received is what it is."""
    needs = ["cls_attention", "attentions", "received"]
    notes = foveate.support(FAMILIES["qwen2_5_vl"].model(), Looks(language(0), needs)).notes
    told = [note for note in notes if "no class token" in note]
    assert len(told) == 2 and "for attentions" in told[0] and "for cls_attention" in told[1]
    assert not foveate.support(FAMILIES["llava"].model(), Looks(language(0), needs)).notes


def test_rows_are_images_as_their_users_count_them(model, family):
    """Tiles are views of one image, frames views of one video; newlines are nobody's."""
    for prompts in family.batches().values():
        inputs = family.inputs(prompts)
        cells = [s.cells for sights in family.sights(prompts).values() for s in sights]
        sizes = [len(image) for image in cells]
        for site in sites(family):
            tokens, context, (step,) = looked(model, inputs, Looks(site, ["grid"]))
            assert tokens.counts.tolist() == step.before.tolist() == step.after.tolist() == sizes
            assert step.owner.shape == (len(sizes), max(sizes)) == step.grid.shape[:2]
            assert torch.equal(step.grid, context.grid)
            for image, grid, owner in zip(cells, step.grid, step.owner, strict=True):
                assert [tuple(cell) for cell in grid.tolist()[: len(image)]] == image
                assert (grid[len(image) :] == -1).all() and (owner[len(image) :] == -2).all()


@pytest.mark.parametrize("layer", [0, 2])
def test_the_overview_is_the_view_of_the_whole_image(model, family, layer):
    """The first view of LLaVA-NeXT's, the last of tiles; none of a lone view or a video; for beams too."""
    fields, found = ["grid", "overview"], False
    for prompts in family.batches().values():
        inputs = family.inputs(prompts)
        sights = family.sights(prompts)
        whole = [
            [modality == "image" and several(s) and cell[0] == family.overview for cell in s.cells]
            for modality, sights in sights.items()
            for s in sights
        ]
        found |= any(map(any, whole))
        looks = Looks(language(layer), fields)
        _, context, _ = looked(model, inputs, looks)
        assert_shown(context, whole)
        with foveate.compressed(model, looks):
            looks.seen.clear()
            model.generate(**inputs, num_beams=2, do_sample=False, max_new_tokens=2)
        copied = whole * (2 if layer else 1)  # before the language model, copies are not seen
        assert_shown(looks.seen[0][1], copied)
    assert found == (family.overview is not None)


def several(sight) -> bool:
    return len({view for view, _, _ in sight.cells}) > 1


def assert_shown(context, whole: list[list[bool]]):
    """context.overview is `whole`, row by row, and False in padding."""
    assert context.overview.dtype == torch.bool and context.overview.shape == context.grid.shape[:2]
    for got, row in zip(context.overview.tolist(), whole, strict=True):
        assert got == row + [False] * (len(got) - len(row))


def test_what_prompt_rows_look_at_is_what_eager_attention_says(model, family):
    """In the layer before, and in the layer itself before it runs."""
    bare = family.model("eager")
    for prompts in family.batches().values():
        for padding, layer in (("left", 2), ("right", 1), ("left", LAYERS - 1)):
            inputs = family.inputs(prompts, padding)
            with recorded() as calls, torch.no_grad():
                bare(**inputs)
            ((_, weights),), ((_, own),) = list(calls.values())[-LAYERS:][layer - 1 : layer + 1]
            _, context, _ = looked(model, inputs, Looks(language(layer), OF_PROMPT))
            ids, real = inputs["input_ids"], inputs["attention_mask"].bool()
            words = real & ~torch.isin(ids, family.placeholders)
            for i, stand in enumerate(family.stands(prompts, ids)):
                b, columns = stand.prompt, stand.patches
                rows, P, last = weights[b].mean(0), len(columns), real[b].nonzero()[-1, 0]
                close(context.last_attention[i, :P], rows[last, columns])
                close(context.own_attention[i, :P], own[b].mean(0)[last, columns])
                close(context.prompt_attention[i, :P], rows[words[b]].mean(0)[columns])
                asked = bare.get_input_embeddings()(ids[b, words[b]])
                assert torch.equal(context.text[i][context.text_mask[i]], asked)


def test_what_a_layer_shows_of_tokens_and_words_is_what_the_bare_model_computes(model, family):
    bare = family.model("eager")
    norm = (getattr(bare.model, "language_model", None) or bare.model.text_model).norm
    for prompts in family.batches().values():
        for padding, layer in (("left", 2), ("right", 1), ("left", LAYERS - 1)):
            inputs = family.inputs(prompts, padding)
            with recorded() as calls, entering(bare) as states, torch.no_grad():
                bare(**inputs)
                normed = norm(states[layer])
            ((key, _),) = list(calls.values())[-LAYERS:][layer - 1]
            size = key.abs().sum((1, 3))
            _, context, _ = looked(model, inputs, Looks(language(layer), OF_LAYERS))
            ids, real = inputs["input_ids"], inputs["attention_mask"].bool()
            words = real & ~torch.isin(ids, family.placeholders)
            for i, stand in enumerate(family.stands(prompts, ids)):
                b, columns = stand.prompt, stand.patches
                P, behind = len(columns), words[b].clone()
                behind[: max(columns)] = False
                close(context.previous[i, :P], states[layer - 1][b, columns])
                close(context.normed[i, :P], normed[b, columns])
                close(context.key_size[i, :P], size[b, columns])
                mask = context.words["mask"][i]
                assert mask.sum() == behind.sum() > 0
                close(context.words["normed"][i][mask], normed[b, behind])
                close(context.words["key_size"][i][mask], size[b, behind])


@contextmanager
def entering(model) -> Iterator[list[Tensor]]:
    """What enters each decoder layer, once the model's own hooks have run."""
    decoder = getattr(model.model, "language_model", None) or model.model.text_model
    states: list[Tensor] = []
    norms = [layer.input_layernorm for layer in decoder.layers]
    handles = [n.register_forward_pre_hook(lambda _, args: states.append(args[0])) for n in norms]
    yield states
    for handle in handles:
        handle.remove()


class Lines(Compressor):
    """Keeps some rows of the joined tiles, or of an image that has no tiles."""

    needs = frozenset({"grid"})

    def __init__(self, rows: list[int], layer: int):
        super().__init__()
        self.rows, self.site = rows, language(layer)

    def forward(self, tokens, context):
        view, row, _ = context.grid.unbind(-1)
        kept = torch.isin(row, torch.tensor(self.rows))
        return tokens.where(kept & (view == view.amax(1, keepdim=True)))

    def arguments(self):
        return {"rows": self.rows, "layer": self.site.layer}


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize(("name", "columns"), [("llava_next", 8), ("llava_onevision", 5)])
def test_a_newline_leaves_with_its_row(name, columns, layer):
    """The batch's second image has as many rows as columns; two of them stay, and two newlines."""
    family = FAMILIES[name]
    model, lengths = family.model(), []
    inputs = family.single(family.inputs((TEXT, ONE, ONE)), (TEXT, ONE, ONE), 2)
    text = int((inputs["input_ids"] != family.image_id).sum())
    foveate.compress(model, Lines([0, columns - 2], layer))
    for at in model.model.language_model.layers:
        at.self_attn.q_proj.register_forward_pre_hook(lambda m, x: lengths.append(x[0]))
    with torch.no_grad():
        model(**inputs)
    assert foveate.last_counts(model) == [2 * columns]
    assert all(x.shape[1] == text + 2 * columns + 2 for x in lengths[layer:])
    if layer == 0:
        first = model.model.language_model.layers[0].input_layernorm(model.model.image_newline)
        found = [(x - first).abs().max() < 1e-6 for x in lengths[0][0]]
        ends = [c for c, newline in enumerate(found) if newline]
        start = (inputs["input_ids"][0] == family.image_id).nonzero()[0, 0]
        assert ends == [int(start) + columns, int(start) + 2 * columns + 1]
