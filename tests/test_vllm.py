"""foveate in vLLM, as far as it goes without vLLM: what is served, where tokens stand, what is written."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from families import FAMILIES

import foveate
from foveate import DivPrune, embedded
from foveate.cli import run, vllm
from foveate.core.sizes import sized
from foveate.embedded import MODELS
from foveate.engines.vllm import ARCHITECTURE, positions, served
from foveate.engines.vllm.command import command
from foveate.engines.vllm.exported import export
from foveate.hosts import features, reading
from foveate.methods import METHODS

ROOT = Path(__file__).parents[1]
LLAVA, QWEN = (FAMILIES[name].config() for name in ("llava", "qwen2_5_vl"))
EMBEDDED, FUSED = (str(MODELS[name]) for name in ("embedded", "embedded-llava_stf"))


@pytest.mark.parametrize("name", served.names())
def test_what_is_served_leaves_what_it_says(name):
    model = FAMILIES["llava"].model()
    method = served.of_text(name, model.config)
    (left,) = features.features(model.model, method, [16], pixel_values=torch.randn(1, 3, 32, 32))
    grid = features.layout(model.config, 16)
    assert len(left[0]) == served.left(method, name, grid) == method.count(grid)


def test_methods_are_served_or_refused_and_none_is_forgotten():
    others = METHODS.keys() - {*served.names()}
    assert {"fastv", "meteor", "cdpruner", "llava_stf", "focusllava", "prumerge"} <= others
    assert {"divprune", "visionzip", "stride", "pool", "tome", "fovea"} <= {*served.names()}
    for name in others:
        with pytest.raises(ValueError, match=name):
            served.of_text(name, LLAVA)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "fastv(keep=4)",
            "FastV acts before decoder layer 2.* vLLM serves identity, random, stride",
        ),
        ("cdpruner(keep=4)", "CDPruner reads the question"),
        ("prumerge", "the picture decides how many tokens are left.* Give it a keep"),
        ("llava_stf", "has weights, which only a checkpoint brings"),
        ("divprun(keep=4)", "nearest: divprune"),
        ("divprune(keep=0)", r"keep='?0'?: want an int >= 1"),
        ("divprune(keeps=4)", "unknown argument of divprune 'keeps'"),
        ("os:system", "want a method by name"),
        (36, "want a method by name"),
    ],
)
def test_refusals_say_what_is_wrong(text, said):
    with pytest.raises(ValueError, match=said):
        served.of_text(text, LLAVA)


def test_a_budget_makes_a_ragged_method_countable():
    assert served.of_text("prumerge(keep=5)", LLAVA).count(features.layout(LLAVA, 16)) == 5


def test_layouts_follow_from_what_a_processor_says():
    grid = features.layout(QWEN, 15, image_grid_thw=torch.tensor([1, 6, 10]))
    assert grid[:, 1:].amax(0).tolist() == [2, 4]
    assert features.layout(LLAVA, 32, tiles=2)[:, 0].bincount().tolist() == [16, 16]
    next_ = FAMILIES["llava_next"]
    for size, tiles, joined in next_.cuts:
        total = 16 + joined[0] * (joined[1] + 1)
        grid = features.layout(next_.config(), total, image_sizes=torch.tensor(size))
        assert grid.tolist() == [[*cell] for cell in next_.packed(tiles, joined).cells]
    with pytest.raises(NotImplementedError, match="nothing says how the 18 tokens"):
        features.layout(SimpleNamespace(model_type="llava"), 18)


def test_places_survive_bfloat16():
    place = torch.tensor([[0, 3, 255, 256, 257, 4097, 65535]])
    x = torch.randn(7, 4).bfloat16()
    for axes in (place, torch.cat([place.flip(1), place, place // 2])):
        back = positions.carried(positions.carrying(x, axes), 4)
        for value, expected in zip(back, (x, axes, torch.arange(7)), strict=True):
            assert torch.equal(value, expected)
    with pytest.raises(ValueError, match="an image of 65537 tokens"):
        positions.carrying(x[:1], torch.tensor([[65536]]))


def test_positions_are_those_of_the_whole_prompt():
    # Two words, an image of 9 tokens of which 3 are left, a word, one of 4 of which 4 are, and none behind.
    kept = [torch.tensor([1, 4, 8]), torch.arange(4)]
    laid = positions.laid_out(10, [(2, 3, 9), (6, 4, 4)])
    assert laid[0].tolist() == [0, 1, 2, 3, 4, 11, 12, 13, 14, 15]
    assert laid[2].tolist() == [16] * 10
    column, number = torch.tensor([2, 3, 4]), torch.arange(3)
    kept = [place[None] for place in kept]
    once = positions.landed(laid, column, kept[0], number)
    assert once[0].tolist() == [0, 1, 3, 6, 10, 11, 12, 13, 14, 15]
    # A chunk that holds a part of an image, and one that is computed again.
    part = positions.landed(laid, column[1:], kept[0][:, 1:], number[1:])
    assert torch.equal(positions.landed(part, column, kept[0], number), once)


def test_three_axes_are_those_that_the_model_itself_counts():
    """Two words, an image of 3 × 5 of which four tokens are left, a word, one of 2 × 2 with all, a word."""
    base = FAMILIES["qwen2_5_vl"].model().model
    grids = torch.tensor([[1, 6, 10], [1, 4, 4]])
    kinds = torch.tensor([[0, 0, *[1] * 15, 0, *[1] * 4, 0]], dtype=torch.int)
    whole = base.get_rope_index(
        torch.zeros_like(kinds), mm_token_type_ids=kinds, image_grid_thw=grids
    )
    kept = [torch.tensor([1, 4, 8, 14]), torch.arange(4)]
    stays = torch.cat(
        [torch.arange(2), 2 + kept[0], torch.tensor([17]), 18 + kept[1], torch.tensor([22])]
    )
    laid = whole[0][:, 0][:, positions.laid_out(12, [(2, 4, 15), (7, 4, 4)])[0]]
    place = []
    for grid, own in zip(grids, kept, strict=True):
        alone = kinds[:, kinds[0] == 1][:, : int(grid.prod()) // 4]
        axes = base.get_rope_index(alone, mm_token_type_ids=alone, image_grid_thw=grid[None])[0]
        place.append(axes[:, 0, own])
    column = torch.tensor([2, 3, 4, 5, 7, 8, 9, 10])
    number = torch.arange(4).repeat(2)
    once = positions.landed(laid, column, torch.cat(place, dim=1), number)
    assert torch.equal(once, whole[0][:, 0, stays])
    half = positions.landed(laid, column[2:], torch.cat(place, dim=1)[:, 2:], number[2:])
    assert torch.equal(positions.landed(half, column, torch.cat(place, dim=1), number), once)
    positions.check_text(range(12), [(2, 6), (7, 11)])
    for images in ([(2, 6), (6, 10)], [(2, 6), (7, 12)]):
        with pytest.raises(ValueError, match="an image without text behind it"):
            positions.check_text(range(12), images)


def test_positions_are_kept_or_refused():
    served.check_positions(LLAVA, {served.POSITIONS: "renumbered"})
    with pytest.raises(ValueError, match=r"--hf-overrides '\{\"mrope_section\": \[1, 1, 1\]\}'"):
        served.check_positions(LLAVA, {})
    with pytest.raises(ValueError, match=r'"renumbered".*or "original"'):
        served.check_positions(QWEN, {})
    for told in ({served.POSITIONS: "original"}, {served.METHOD: "stride(keep=4)"}):
        served.check_positions(QWEN, told)
        assert served.keeps_places(QWEN, told)
    assert not served.keeps_places(QWEN, {served.POSITIONS: "renumbered"})
    with pytest.raises(ValueError, match="want one of original, renumbered"):
        served.check_positions(LLAVA, {served.POSITIONS: "kept"})
    told = FAMILIES["llava"].config()
    told.mrope_section = [1, 1, 1]
    served.check_positions(told, {})
    served.check_policy(told, {})
    with pytest.raises(ValueError, match="counted anew, and mrope_section says"):
        served.check_policy(told, {served.POSITIONS: "renumbered"})


def test_the_command_says_all_that_vllm_must_know():
    config = reading.config(EMBEDDED)
    words = command(EMBEDDED, config, "divprune(keep=36)", by_request=True, cpu=True)
    told = dict(zip(words[3::2], words[4::2], strict=False))
    assert told["--model"] == EMBEDDED and told["--model-impl"] == "transformers"
    assert json.loads(told["--mm-processor-kwargs"]) == {"foveate": "divprune(keep=36)"}
    assert json.loads(told["--hf-overrides"]) == {"mrope_section": [1, 1, 1]}
    assert {"--trust-request-mm-kwargs", "--worker-cls"} <= {*words}
    words = command(EMBEDDED, config, "pool(stride=4)", "renumbered", more=["--port", "8001"])
    assert words[-2:] == ["--port", "8001"] and "--hf-overrides" not in words
    saved = command(FUSED, reading.config(FUSED))
    assert "--mm-processor-kwargs" not in saved
    with pytest.raises(ValueError, match="was saved without a method"):
        command(EMBEDDED, config)
    with pytest.raises(ValueError, match="FastV acts before decoder layer 2"):
        command(EMBEDDED, config, "fastv(keep=36)")


def test_serve_writes_that_command_and_refuses_what_vllm_would_not_hear():
    told = vllm.Told("embedded", "divprune", "36", [], "renumbered", "cpu", "::1", 8001, "secret")
    words = vllm.command(told, "--max-model-len 512")
    told = dict(zip(words[3::2], words[4::2], strict=False))
    assert json.loads(told["--mm-processor-kwargs"])["foveate"] == "divprune(keep=36)"
    assert (told["--host"], told["--port"], words[-1]) == ("::1", "8001", "512")
    assert "secret" not in words


@pytest.mark.parametrize(
    ("words", "says"),
    {
        "--engine vlm": "nearest: vllm",
        "--engine vllm --batch 3": "a limit is for foveate's own server",
        "--engine vllm --dropped merged": "--dropped is for foveate's own server",
        "--engine vllm --method fastv": "vLLM serves identity, random",
        "--engine-args x": "is for --engine vllm",
        "--engine vllm --method divprune --engine-args 'x": "No closing quotation",
    }.items(),
)
def test_serve_says_what_vllm_does_not(capsys, words, says):
    assert run(["serve", *words.split()]) == 2
    assert says in capsys.readouterr().err


def test_an_export_is_refused_by_a_vllm_without_foveate_and_loads_as_before(tmp_path, capsys):
    model, processor = embedded.load()
    foveate.compress(model, DivPrune(keep=36))
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    assert run(["export", str(tmp_path / "saved"), str(tmp_path / "out"), "--json"]) == 0
    changes = json.loads(capsys.readouterr().out)["config"]
    assert changes == {"architectures": [ARCHITECTURE], "mrope_section": [1, 1, 1]}
    assert "--model-impl" not in command("out", reading.config(str(tmp_path / "out")))
    told = json.loads((tmp_path / "out" / "config.json").read_text())
    assert told.items() >= changes.items()
    again = foveate.from_pretrained(str(tmp_path / "out"))
    assert again.model.visual_compressor.arguments() == model.model.visual_compressor.arguments()
    pixels = torch.randn(1, 3, 96, 96)
    assert torch.equal(
        again.get_image_features(pixels).pooler_output[0],
        model.get_image_features(pixels).pooler_output[0],
    )


def test_exports_of_other_models_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="want a folder with a model that was saved compressed"):
        export(EMBEDDED, tmp_path / "out")
    with pytest.raises(ValueError, match="is there already: want a new folder"):
        export(FUSED, tmp_path)
    assert run(["export", EMBEDDED, str(tmp_path / "out")]) == 2
    assert not list(tmp_path.iterdir())


def test_sizes_of_the_model_reach_the_method():
    assert len(served.of_text("tome(keep=8)", LLAVA).parts()) == len(
        sized(METHODS["tome"], LLAVA, keep=8).parts()
    )


def test_the_page_says_what_the_files_do():
    page = (ROOT / "docs" / "site" / "vllm.md").read_text()
    for file in ("vllm-answers", "vllm-front"):
        runs = json.loads((ROOT / "results" / f"{file}.json").read_text())["runs"]
        same, of = (sum(run[name] for run in runs) for name in ("same", "of"))
        assert f"[{same:,} of {of:,}](../../results/{file}.json)" in page
    runs = json.loads((ROOT / "results" / "vllm-answers.json").read_text())["runs"]
    assert f"over {len({r['method'] for r in runs if r['method']})} methods" in page


def test_what_the_page_says_of_the_load_is_so():
    found = json.loads((ROOT / "results" / "vllm-load.json").read_text())["clients"]
    page = (ROOT / "docs" / "site" / "vllm.md").read_text()
    _, *arms = found["1"]
    for arm in arms:
        ratios = [found[n][arm]["per_second_ratio"] for n in ("1", "4", "16")]
        first = [found[n][arm]["first_token_ratio"][1] for n in ("1", "16")]
        cells = [f"{mid:.2f} ({low:.2f}–{high:.2f})" for low, mid, high in ratios]
        assert f"| {arm} | {' | '.join([*cells, *(f'{x:.2f}' for x in first)])} |" in page
    for arms in found.values():  # at no number of clients slower than without
        assert all(row["per_second_ratio"][1] >= 1 for row in arms.values())
