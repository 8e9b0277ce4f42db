"""`foveate draw`: every kind of picture from the real small model, its numbers checked in other ways."""

import json

import pytest
import torch
from PIL import Image

import foveate
from foveate import embedded, evaluate
from foveate.cli import run
from foveate.evaluate.charts import guidance_figure, sizes_figure
from foveate.patchqa import PatchQA

P, L = 144, 6  # visual tokens of an image and decoder layers of the embedded model
ASKED = "what does the sign say ?"


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "scene.png"
    PatchQA("test")[0].images[0].save(path)
    return str(path)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """The embedded model saved with a router that chooses among all scales, as one that was trained."""
    folder, (model, processor) = tmp_path_factory.mktemp("sampled"), embedded.load()
    method = foveate.sized(foveate.METHODS["focusllava"], model, keep=0.5)
    generator = torch.Generator().manual_seed(1)
    for weight in method.parts()[0].router.parameters():
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    foveate.compress(model, method).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def said(capsys, *command):
    """The document that a command prints."""
    assert run(["draw", *map(str, command), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tokn"], "unknown kind of picture 'tokn': nearest: tokens; there are"),
        (["layers", "PICTURE", " "], "the question is empty"),
        (["layers", "PICTURE", ASKED, "--method", "visionzip"], "no argument layer: want one of random"),
        (["layers", "PICTURE", ASKED, "--method", "fastvv"], "nearest: fastv"),
        (["layers", "PICTURE", ASKED, "--method", "fastv,pool"], "want one method"),
        (["layers", "PICTURE", ASKED, "--method", "pool"], "reads no attention"),
        (["layers", "PICTURE", ASKED, "--method", "focusllava"], "acts at language 0, language 1"),
        (["layers", "PICTURE", ASKED, "--layers", "2,x"], "--layers 2,x: want whole numbers"),
        (["layers", "PICTURE", ASKED, "--layers", ","], "--layers ,: want whole numbers"),
        (["layers", "PICTURE", ASKED, "--layers", "1,6"], "--layers 6: embedded has decoder layers 1 to 5"),
        (["layers", "PICTURE", ASKED, "--layers", "0"], "--layers 0"),
        (["layers", "PICTURE", ASKED, "--picture", "a.psd"], "name that ends in .png, .svg, .jpg"),
        (["tokens", "none.png", ASKED], "no such image"),
        (["scales", "--picture", "a.jpg"], "--picture a.jpg: want a name that ends in .svg, .png or .pdf"),
        (["scales", "--picture", "no/such/a.svg"], "no directory no/such"),
        (["scales", "--task", "patchq"], "nearest: patchqa"),
        (["scales", "--method", "fastv", "--keep", "0"], "keep=0"),
        (["guidance", "--methods", ""], "--methods is empty"),
        (["guidance", "--methods", "fastv(layer=2)"], "fastv(layer=2): the sweep sets the layer"),
        (["guidance", "--methods", "visionzip"], "visionzip has no argument layer"),
        (["guidance", "--methods", "pool", "--keep", "0.3", "--layers", "1"], "want a share of 1/stride"),
        (["guidance", "--keep", "2.0"], "keep=2.0"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(capsys, monkeypatch, tmp_path, picture, words, says):
    monkeypatch.chdir(tmp_path)
    assert run(["draw", *(picture if word == "PICTURE" else word for word in words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("foveate: ")
    assert err.count("\n") == 1
    assert says in err


def test_help_of_every_kind(capsys):
    assert run(["draw"]) == 0
    kinds = capsys.readouterr().out
    for kind in ("tokens", "layers", "scales", "guidance"):
        assert f"  {kind}" in kinds
        assert run(["draw", kind, "--help"]) == 0
        assert f"Usage: foveate draw {kind}" in capsys.readouterr().out


def test_tokens_are_what_ask_draws(capsys, monkeypatch, tmp_path, picture, sampled):
    monkeypatch.chdir(tmp_path)
    words = (picture, ASKED, "--model", sampled)
    document = said(capsys, "tokens", *words)
    assert document["picture"] == "out/tokens.png"
    assert [step["site"] for step in document["steps"]] == ["language 0", "language 3"]
    assert document["steps"][0]["after"] < P
    assert run(["ask", *words, "--picture", "asked.png"]) == 0
    capsys.readouterr()
    ours, theirs = (Image.open(name).convert("RGB") for name in ("out/tokens.png", "asked.png"))
    assert ours.tobytes() == theirs.tobytes()
    alone = said(capsys, "tokens", picture, ASKED, "--method", "stride", "--picture", "few.png")
    assert alone["steps"][0]["site"] == "language 0"
    assert ours.width > 2 * Image.open("few.png").width  # maps and a step more


def test_layers_show_what_the_question_looks_at(capsys, tmp_path, picture):
    words = ("layers", picture, ASKED, "--picture", tmp_path / "layers.png")
    document = said(capsys, *words)
    assert [one["layer"] for one in document["layers"]] == list(range(1, L))
    assert all(one["tokens"] == P for one in document["layers"])
    model, processor = embedded.load()
    image = Image.open(picture).convert("RGB")
    (reply,) = evaluate.replies(model, processor, [([image], ASKED)], 64)
    assert document["answer"] == reply.text  # nothing was dropped
    foveate.compress(model, foveate.METHODS["focusllava"](only="text", layer=3))
    (step,) = evaluate.steps(model, processor, [([image], ASKED)])
    third = document["layers"][2]
    assert third["on_image"] == pytest.approx(float(step.scores.sum()), abs=1e-4)
    order = step.scores[0].sort(descending=True).values.cumsum(0)
    assert order[third["half"] - 2] < order[-1] / 2 <= order[third["half"] - 1]
    fewer = said(capsys, *words, "--layers", "2,5")
    assert [one["layer"] for one in fewer["layers"]] == [2, 5]
    assert fewer["layers"] == [document["layers"][1], document["layers"][4]]


def test_two_questions_look_at_two_places(capsys, tmp_path, picture):
    drawn = []
    for i, question in enumerate((ASKED, "what digit is there ?")):
        path = tmp_path / f"{i}.png"
        said(capsys, "layers", picture, question, "--layers", "3", "--picture", path)
        drawn.append(Image.open(path).convert("RGB"))
    height = min(one.height for one in drawn)  # the second question takes more lines
    first, second = (one.crop((12, one.height - height + 80, 490, one.height)) for one in drawn)
    left, right = (0, 0, 240, 200), (256, 0, 478, 200)
    assert first.crop(left).tobytes() == second.crop(left).tobytes()
    assert first.crop(right).tobytes() != second.crop(right).tobytes()


def test_layers_of_a_saved_model_stand_behind_what_comes_before_them(
    capsys, tmp_path, picture, sampled
):
    path = tmp_path / "layers.png"
    ours = said(capsys, "layers", picture, ASKED, "--model", sampled, "--picture", path)
    first, *others = ours["steps"]
    assert first["site"] == "language 0"
    assert [step["before"] for step in others] == [first["after"]] * (L - 1)
    assert {one["tokens"] for one in ours["layers"]} == {first["after"]}
    assert all(0 < one["on_image"] <= 1 for one in ours["layers"])


def whole(step):
    """The shares of one step, that must add up: of tokens, and of area."""
    return sum(one["tokens"] for one in step["sizes"]), step["dropped"] + sum(
        one["area"] for one in step["sizes"]
    )


@pytest.mark.parametrize(
    ("words", "sizes", "dropped"),
    [
        (["pool", "--keep", "0.25", "--set", "dims=2"], [(4, 1.0, 1.0)], 0.0),
        (["fastv", "--keep", "36"], [(1, 1.0, 0.25)], 0.75),
        (["identity"], [(1, 1.0, 1.0)], 0.0),
        (["pool", "--set", "stride=5"], [(4, 1 / 29, 4 / P), (5, 28 / 29, 140 / P)], 0.0),
    ],
)
def test_scales_are_shares_of_tokens_and_of_images(capsys, tmp_path, words, sizes, dropped):
    figure = tmp_path / "scales.png"
    document = said(
        capsys, "scales", "--limit", 3, "--batch-size", 2, "--picture", figure, "--method", *words
    )
    (step,) = document["steps"]
    assert [tuple(one.values()) for one in step["sizes"]] == [pytest.approx(one) for one in sizes]
    assert step["dropped"] == dropped
    assert step["patches"] == P
    assert Image.open(figure).width > 500
    assert json.loads(figure.with_suffix(".json").read_text())["steps"] == document["steps"]


def test_scales_of_a_saved_model_step_by_step(capsys, tmp_path, sampled):
    words = ("scales", "--limit", 5, "--model", sampled, "--picture", tmp_path / "scales.svg")
    document = said(capsys, *words)
    region, text = document["steps"]
    assert document["method"] == "focusllava"
    assert {4, 16} <= {one["patches"] for one in region["sizes"]} <= {1, 4, 16}
    assert [whole(step) for step in (region, text)] == [pytest.approx((1, 1))] * 2
    assert region["dropped"] == 0 < text["dropped"]
    assert region["tokens"] == pytest.approx(2 * text["tokens"], abs=0.6)
    assert run(["eval", "--model", sampled, "--limit", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == pytest.approx(text["tokens"])
    svg = (tmp_path / "scales.svg").read_text()
    assert said(capsys, *words)["steps"] == document["steps"]
    assert (tmp_path / "scales.svg").read_text() == svg  # the same numbers make the same file


@pytest.mark.slow
def test_guidance_runs_a_method_at_each_layer(capsys, tmp_path, sampled):
    words = ("guidance", "--limit", 6, "--no-timing", "--layers", "1,4", "--keep", "0.25")
    words += ("--max-new-tokens", 3, "--out", tmp_path, "--picture", tmp_path / "guidance.png")
    document = said(capsys, *words, "--methods", "fastv,focusllava(only=text)")
    bare, *runs = document["runs"]
    assert (bare["method"], bare["layer"], bare["tokens"]) == ("identity", None, P)
    assert [(run["series"], run["layer"]) for run in runs] == [
        (name, layer) for name in ("fastv", "focusllava(only=text)") for layer in (1, 4)
    ]
    assert {run["tokens"] for run in runs} == {P // 4}
    assert runs[0]["cost"]["total"] < runs[1]["cost"]["total"] < bare["cost"]["total"]
    assert len(list((tmp_path / "runs").glob("*.json"))) == 5
    alone = ["eval", "--limit", "6", "--method", "fastv", "--keep", "0.25", "--set", "layer=4"]
    assert run([*alone, "--max-new-tokens", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == runs[1]["accuracy"]
    assert Image.open(tmp_path / "guidance.png").height > 700
    (unguided, guided) = said(capsys, *words[:4], "--layers", 2, *words[6:], "--model", sampled)[
        "runs"
    ]
    assert unguided["method"] == "unguided"
    assert unguided["tokens"] < P
    assert guided["tokens"] == pytest.approx(unguided["tokens"] / 4, abs=0.6)


@pytest.mark.slow
def test_guidance_may_be_timed(capsys, tmp_path):
    words = ("guidance", "--limit", 2, "--layers", 3, "--picture", tmp_path / "guidance.svg")
    _, guided = said(capsys, *words)["runs"]
    assert guided["prefill"]["ratio"] > 0
    assert "<!-- measured -->" in (tmp_path / "guidance.svg").read_text()
    assert run(["draw", *map(str, words), "--no-timing"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["focusllava(only=text)", "3", "72"] in [row[:3] for row in rows]


def test_many_sizes_share_bars(tmp_path):
    sizes = [{"patches": n, "tokens": 1 / 12, "area": n / 78} for n in range(1, 13)]
    step = {"site": "vision 3", "tokens": 12, "patches": 78, "dropped": 0.0, "sizes": sizes}
    document = {"model": "m", "task": "t", "n": 1, "method": "merging", "steps": [step] * 4}
    sizes_figure(document, tmp_path / "many.svg")
    text = (tmp_path / "many.svg").read_text()
    assert text.count("<!-- 8–12 -->") == 4
    assert text.count("<!-- 4–7 -->") == 4
    assert "<!-- 9 -->" not in text


def test_a_figure_of_guidance_needs_no_time(tmp_path):
    def row(layer, share, ratio):
        accuracy, interval = {"overall": share}, {"overall": [share - 0.1, share + 0.1]}
        timing = {"ratio": ratio, "interval": [ratio, ratio]} if ratio else {}
        told = {
            "layer": layer,
            "series": "fastv",
            "keep": 0.5,
            "cost": {"total": 10 + (layer or 10)},
        }
        return {**told, "accuracy": accuracy, "interval": interval, "prefill": timing}

    document = {"model": "m", "task": "t", "n": 1}
    for name, ratio, says in (("a", 0.5, "prefill, × bare"), ("b", None, "MACs, × bare")):
        runs = [row(None, 0.9, 1.0), row(1, 0.3, ratio), row(2, 0.6, ratio)]
        guidance_figure({**document, "runs": runs}, tmp_path / f"{name}.svg")
        text = (tmp_path / f"{name}.svg").read_text()
        assert f"<!-- {says} -->" in text
        assert ("<!-- measured -->" in text) == (ratio is not None)
