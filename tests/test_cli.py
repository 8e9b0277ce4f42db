"""The command line: answers on stdout, one line for every mistake, nothing silent."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

import foveate
from foveate import DivPrune, Stride, compress, evaluate, sized
from foveate.cli import arguments, models, output, run
from foveate.cli.methods import _support_table, _table, describe
from foveate.cli.opening import beside, trained
from foveate.cli.pictures import KINDS, read, save, writable
from foveate.cli.tables import table
from foveate.cli.work import plan, work
from foveate.cli.wrong import Failed, Wrong
from foveate.embedded import MODELS, PATH, carried
from foveate.evaluate import work as work_room
from foveate.methods import METHODS
from foveate.patchqa import PatchQA
from foveate.tasks.own import task

ENDINGS = "want a name that ends in .png, .svg, .jpg, .jpeg, .webp, .gif, .bmp, .tif, .tiff or .pdf"
P = AutoConfig.from_pretrained(PATH).image_seq_length  # visual tokens of one image


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A random model with the embedded one's shape, in a directory of its own."""
    folder = tmp_path_factory.mktemp("model")
    AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(PATH)).save_pretrained(
        folder
    )
    AutoProcessor.from_pretrained(PATH).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Images that are none, and one that is."""
    folder = tmp_path_factory.mktemp("files")
    PatchQA("test")[0].images[0].save(folder / "good.png")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:900])
    (folder / "text.png").write_text("not an image\n")
    (folder / "empty.png").touch()
    Image.new("1", (20_000, 40)).save(folder / "wide.png")
    Image.new("1", (10_000, 10_000)).save(folder / "bomb.png")
    Image.new("1", (4_000, 4)).save(folder / "thin.png")
    Image.new("RGBA", (30, 40), (0, 0, 0, 0)).save(folder / "clear.png")
    Image.new("F", (30, 40), 30_000).save(folder / "deep.tif")
    for name in ("folder.png", "beside.json"):
        (folder / name).mkdir()
    os.mkfifo(folder / "pipe.png")
    return folder


def refused(capsys, *command):
    """The one line that a wrong command gets."""
    assert run([str(word) for word in command]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("foveate: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.png", "no such image"),
        ("", "no file"),
        ("text.png", "no image"),
        ("empty.png", "0 bytes"),
        ("cut.png", "broken"),
        ("wide.png", "20000 x 40 pixels: want at most"),
        ("bomb.png", "million"),
        ("thin.png", "times as long"),
    ],
)
def test_bad_images(capsys, files, name, says):
    assert says in refused(capsys, "ask", files / name, "what is it ?")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--method", "fastvv"], "nearest: fastv;"),
        (["--method", "nothing-like-it"], "there are identity, random"),
        (["--method", "fastv", "--keep", "0"], "keep=0: want an int >= 1"),
        (["--method", "fastv", "--keep", "2.0"], "a float in (0, 1]"),
        (["--method", "fastv", "--keep", "-3"], "keep=-3"),
        (["--method", "fastv", "--keep", "nan"], "keep=nan"),
        (["--method", "fastv", "--keep", "many"], "keep='many'"),
        (["--method", "fastv", "--set", "layr=3"], "nearest: layer; there are layer"),
        (["--method", "fastv", "--set", "layer=x"], "a whole number, such as 2"),
        (["--method", "fastv", "--set", "layer"], "want name=value"),
        (["--method", "fastv", "--set", "keep=3"], "--keep"),
        (["--method", "fastv", "--set", "layer=0"], "want layer >= 1"),
        (["--method", "pool", "--keep", "0.3"], "0.333"),
        (["--keep", "0.5"], "--method"),
        (["--picture", "kept.docx"], ENDINGS),
        (["--picture", "kept.webm"], ENDINGS),
        (["--picture", "kept.psd"], ENDINGS),  # which Pillow reads
        (["--picture", "kept"], ENDINGS),
        (["--picture", "FILES/good.png"], "that is the image itself"),
        (["--picture", "/"], ENDINGS),
        (["--picture", ".png"], ENDINGS),
        (["--picture", "FILES/folder.png"], "that is no file"),
        (["--picture", "FILES/pipe.png"], "that is no file"),
        (["--picture", "FILES/good.png/kept.png"], "there is no directory"),
        (["--picture", "/proc/kept.png"], "no picture can be written there ("),
        (["--picture", f"{'x' * 252}.png"], "no picture can be written there (File name too long)"),
        (["--picture", "/no/such/folder/kept.png"], "no directory"),
        (["--model", "/no/such/model"], f"want {', '.join(map(repr, carried()))}, a directory"),
        (["--model", "embeded"], "nearest: embedded; want"),
        (["--max-new-tokens", "0"], "max-new-tokens"),
        (["--kep", "1"], "--kep"),
    ],
)
def test_bad_words(capsys, files, words, says):
    words = [word.replace("FILES", str(files)) for word in words]
    assert says in refused(capsys, "ask", files / "good.png", "what is it ?", *words)


def test_a_figure_whose_numbers_have_no_place(capsys, files):
    says = "its numbers go into"
    assert says in refused(capsys, "draw", "scales", "--picture", files / "beside.svg")


def test_a_picture_is_written_whole_or_not_at_all(tmp_path):
    """What was there before stays, and nothing is left beside it."""
    path = writable(tmp_path / "a.WEBP")
    assert not [*tmp_path.iterdir()]
    path.write_text("before")
    with pytest.raises(Failed, match=r"a\.WEBP cannot be written: .*size"):
        save(Image.new("RGB", (17_000, 4)), path)  # more than the format holds
    assert [*tmp_path.iterdir()] == [path] and path.read_text() == "before"
    save(Image.new("RGB", (9, 9)), path)
    assert [*tmp_path.iterdir()] == [path] and read(path).size == (9, 9)


@pytest.mark.parametrize("kind", KINDS)
def test_every_ending_that_is_offered_can_be_written(tmp_path, kind):
    save(Image.new("RGB", (40, 30)), writable(tmp_path / f"a{kind}"))
    if kind == ".pdf":
        assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    elif kind == ".svg":
        (held,) = re.findall(
            r'href="data:image/png;base64,([^"]+)"', (tmp_path / "a.svg").read_text()
        )
        assert Image.open(io.BytesIO(base64.b64decode(held))).size == (40, 30)
    else:
        assert read(tmp_path / f"a{kind}").getpixel((9, 9)) == (0, 0, 0)


def test_an_argument_may_be_a_list():
    one, two = arguments.specs("meteor(only='selection', sampled=[7, 16]),fastv(layer=3)")
    assert one.arguments == {"only": "selection", "sampled": [7, 16]}
    assert two.arguments == {"layer": 3}


def test_a_layer_the_model_does_not_have(capsys, files, tiny):
    words = ("--method", "fastv", "--set", "layer=99", "--model", tiny)
    assert "decoder layers 0 to" in refused(capsys, "ask", files / "good.png", "what ?", *words)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["ask"], "argument"),
        (["ask", "good.png", "  "], "empty"),
        (["compair"], "nearest: compare"),
        (["compare", "--methods", "fastv,randm"], "nearest: random"),
        (["compare", "--keeps", "0.5,0"], "keep=0"),
        (["compare", "--methods", "pol(stride=8)"], "nearest: pool"),
        (["compare", "--methods", "fastv,pool(strid=8)"], "nearest: stride"),
        (["compare", "--baselines", "blid"], "there are downsample, blind, oracle"),
        (["compare", "--methods", "pool(8)"], "there are layer, dims, stride"),
        (["compare", "--methods", "pool(stride=8"], "a name, or one with arguments"),
        (["compare", "--methods", "pool(stride=8)x"], "a name, or one with arguments"),
        (["compare", "--methods", "pool(stride)"], "--methods pool(stride): want name=value"),
        (["compare", "--methods", "pool(stride=0)"], "pool(stride=0): stride=0: want"),
        (["compare", "--methods", "pool(stride=2, stride=4)"], "stride is given twice"),
        (["compare", "--methods", "pool(keep=0.5, stride=4)"], "give one"),
        (["compare", "--methods", "fastv(keep=0)"], "keep=0"),
        (["compare", "--methods", "fastv(layer=0)"], "want layer >= 1"),
        (["compare", "--methods", "visionzip(projected=maybe)"], "want true or false"),
        (["bench", "--methods", "pool(stride=8),fastv(layr=3)"], "nearest: layer"),
        (["bench", "--methods", "pool(stride=8),fastv", "--keeps", ","], "--keeps is empty"),
        (["leaderboard", "--methods", "stride", "--keeps", "\u2028"], "--keeps is empty"),
        (["compare", "--keeps", ","], "empty"),
        (["compare", "--task", "patchq"], "nearest: patchqa"),
        (["compare", "--limit", "0"], "limit"),
        (["eval", "--task", "vqa"], "unknown task"),
        (["bench", "--methods", "fastvv"], "nearest: fastv"),
        (["bench", "--keeps", "0"], "keep=0"),
    ],
)
def test_other_mistakes(capsys, command, says):
    assert says in refused(capsys, *command)


def test_what_only_the_model_can_tell(capsys, files, tiny):
    image = files / "good.png"
    assert "leave it out" in refused(capsys, "ask", image, "<image> what ?", "--model", tiny)
    long = "what is the sign " * 600
    assert "the model takes 2048" in refused(capsys, "ask", image, long, "--model", tiny)
    assert "mode F, 32 bits: want 8 or 16 bits" in refused(
        capsys, "ask", files / "deep.tif", "what ?"
    )


def test_nothing_to_compare(capsys, tmp_path):
    out = ("--out", tmp_path)
    assert "--methods is empty" in refused(capsys, "compare", "--methods", "", *out)
    assert "want a share of 1/stride" in refused(
        capsys, "compare", "--methods", "pool", "--keeps", "0.3", *out
    )


def test_a_folder_that_is_a_file(capsys, files):
    assert "--out" in refused(capsys, "compare", "--out", files / "good.png")


def test_help_of_every_command(capsys):
    for command in ([], ["methods"], ["ask"], ["compare"], ["eval"], ["bench"]):
        assert run([*command, "--help"]) == 0
        assert "Usage: foveate" in capsys.readouterr().out


def test_methods_in_words_and_in_json(capsys):
    assert run(["methods"]) == 0
    table = capsys.readouterr().out
    assert run(["methods", "--json"]) == 0
    found = {row["slug"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(found) == list(METHODS)
    assert all(slug in table for slug in METHODS)
    assert found["fastv"]["arxiv"] == "2403.06764"
    assert found["fastv"]["sites"] == ["language 2"]
    assert found["fastv"]["arguments"] == {"keep": 0.5, "layer": 2}
    assert found["random"]["paper"] is None


@pytest.mark.parametrize("words", [[], ["--model", "embedded"]])
def test_the_table_of_methods_is_what_its_json_says(capsys, words):
    """Made anew from the JSON alone, it is the same to the letter; and no fact in it is rounded."""
    assert run(["methods", *words]) == 0
    table = capsys.readouterr().out
    assert run(["methods", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    output.screen().print((_support_table if words else _table)(found))
    assert capsys.readouterr().out == table
    assert found[0]["slug"] == "identity" and found[0]["sites"] == []
    if not words:
        told = table.replace("\n", " ")
        for row in found:
            for name, value in row["arguments"].items():
                assert f"{name}=" in told
                assert not isinstance(value, float) or str(value) in told


@pytest.mark.parametrize("slug", METHODS)
def test_every_docstring_names_its_paper_or_says_there_is_none(slug):
    method = describe(slug, METHODS[slug])
    make = METHODS[slug]
    assert method["arxiv"] or "no paper" in getattr(make, "__self__", make).__doc__
    assert method["line"]


def test_budgets_as_typed():
    assert arguments.budget("1") == 1
    assert isinstance(arguments.budget("1"), int)
    assert isinstance(arguments.budget("1.0"), float)
    assert arguments.budget(".25") == 0.25
    with pytest.raises(Wrong):
        arguments.budget("True")


def test_settings_are_typed_by_the_defaults():
    assert arguments.settings("fastv", ["layer=3"]) == {"layer": 3}
    assert arguments.settings("visionzip", ["contextual=0"]) == {"contextual": 0.0}
    assert arguments.settings("llavolta", ["schedule='light'"]) == {"schedule": "light"}
    pool = arguments.chosen("pool", 0.25, ["dims=2"]).build()
    assert repr(pool) == "Pool(stride=2, layer=0, dims=2)"


def test_a_list_of_methods_with_arguments():
    text = "fastv, pool(stride=8, layer=2),visionzip( projected = true ),pool(layer=2,stride=8),fastv()"
    found = arguments.specs(text)
    assert [str(spec) for spec in found] == [
        "fastv",
        "pool(stride=8, layer=2)",
        "visionzip(projected=true)",
    ]
    assert found[2].build(keep=9).projected is True
    assert repr(found[1].build()) == "Pool(stride=8, layer=2, dims=1)"


@pytest.mark.parametrize(
    ("text", "budgets"),
    [
        ("fastv", [0.5, 0.25]),
        ("fastv(keep=64, layer=3)", [64]),
        ("pool", [0.5, 0.25]),
        ("pool(dims=2)", [0.5, 0.25]),
        ("pool(layer=2)", [0.5, 0.25]),
        ("pool(stride=8)", [None]),
        ("vccattention(block=8)", [0.5, 0.25]),
        ("vccattention(fine=2)", [None]),
        ("llavolta", [None]),
        ("llavolta(schedule=two_stage)", [None]),
        ("layerwise", [0.5, 0.25]),
    ],
)
def test_arguments_may_say_the_budget(text, budgets):
    (spec,) = arguments.specs(text)
    assert spec.budgets([0.5, 0.25]) == budgets


def test_nothing_runs_twice():
    plans, _ = plan("fastv(keep=1),fastv,pool(stride=4),pool( stride=4 )", "1,1.0,1")
    assert [(p.method, repr(p.keep)) for p in plans] == [
        ("identity", "1.0"),
        ("fastv", "1"),
        ("fastv", "1.0"),
        ("pool(stride=4)", "None"),
    ]


def test_sizes_are_those_of_the_model():
    config = AutoConfig.from_pretrained(PATH)
    text = config.get_text_config()
    (free, told) = arguments.specs("depthwise,depthwise(width=48)")
    assert free.build(0.25, config).width == text.hidden_size != 4096
    assert told.build(0.25, config).width == 48
    (staged,) = arguments.specs("llavolta(schedule=light)")
    assert staged.build().site.layer == 16
    assert staged.build(model=config).site.layer == (text.num_hidden_layers + 1) // 2


def test_ask_answers_and_draws(capsys, files, tiny, tmp_path):
    command = ["ask", str(files / "good.png"), "what does the sign say ?", "--model", tiny]
    command += ["--method", "fastv", "--keep", "0.25", "--max-new-tokens", "3"]
    assert run([*command, "--picture", str(tmp_path / "kept.png")]) == 0
    out = capsys.readouterr().out
    assert f"{P} → {P // 4} (25 %)" in out
    assert "kept.png" in out
    assert Image.open(tmp_path / "kept.png").width > 600
    assert run([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["tokens"] == {"before": P, "after": P // 4}
    assert document["steps"] == [{"site": "language 2", "before": P, "after": P // 4}]


def test_one_token_is_not_all_tokens(capsys, files, tiny):
    command = [
        "ask",
        str(files / "clear.png"),
        "what ?",
        "--model",
        tiny,
        "--method",
        "stride",
        "--json",
    ]
    left = []
    for keep in ("1", "1.0"):
        assert run([*command, "--max-new-tokens", "1", "--keep", keep]) == 0
        left.append(json.loads(capsys.readouterr().out)["tokens"]["after"])
    assert left == [1, P]


def test_a_model_saved_compressed_stays_so(capsys, files, tiny, tmp_path):
    model = compress(AutoModelForImageTextToText.from_pretrained(tiny), Stride(0.5))
    model.save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(tiny).save_pretrained(tmp_path)
    command = [
        "ask",
        str(files / "good.png"),
        "what ?",
        "--model",
        str(tmp_path),
        "--max-new-tokens",
        "1",
    ]
    assert run([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["method"] == "Stride(keep=0.5, layer=0)"
    assert document["tokens"]["after"] == P // 2
    assert run(["eval", "--model", str(tmp_path), "--limit", "4", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["method"], document["keep"], document["tokens"]) == ("stride", 0.5, P // 2)


SWITCHES = ["--dropped", "merged", "--attention", "proportional"]
TOLD = {"dropped": "merged", "attention": "proportional"}


def test_compare_tells_every_method_what_becomes_of_dropped_tokens(capsys, tiny, tmp_path):
    command = ["compare", "--model", tiny, "--out", str(tmp_path), "--limit", "3", "--no-timing"]
    command += ["--methods", "stride,pool", "--keeps", "0.25", "--baselines", "blind"]
    command += ["--scenes", "0", "--max-new-tokens", "1", "--json"]
    plain, told = (answer(capsys, [*command, *more]) for more in ([], SWITCHES))
    assert {name: plain[name] for name in TOLD} == {"dropped": "gone", "attention": "plain"}
    assert {name: told[name] for name in TOLD} == TOLD
    assert "dropped merged, attention proportional, 3 questions" in table(told).title
    assert "dropped" not in table(plain).title
    page = (tmp_path / "report.html").read_text()
    assert "joins the kept one most like it" in page
    assert "attends to a token in proportion to the patches" in page
    jobs = [json.loads(file.read_text())["job"] for file in (tmp_path / "runs").glob("*.json")]
    said = [tuple(job[name] for name in ("method", *TOLD)) for job in jobs]
    usual = [(name, "gone", "plain") for name in ("identity", "blind", "stride", "pool")]
    assert sorted(said) == sorted([*usual, *((n, *TOLD.values()) for n in ("stride", "pool"))])


def test_ask_and_eval_take_the_same_words(capsys, files, tiny, tmp_path):
    """As it was saved, unless told; a document and a line say so."""
    model = AutoModelForImageTextToText.from_pretrained(tiny)
    compress(model, Stride(0.5), dropped="merged").save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(tiny).save_pretrained(tmp_path)
    ask = ["ask", str(files / "good.png"), "what ?", "--model", str(tmp_path)]
    ask += ["--max-new-tokens", "1"]
    for more, words in (
        ([], ("merged", "plain")),
        (["--dropped", "gone"], ("gone", "plain")),
        ([*SWITCHES, "--keep", "9"], ("merged", "proportional")),
        ([*SWITCHES, "--method", "stride", "--keep", "9"], ("merged", "proportional")),
    ):
        found = answer(capsys, [*ask, *more, "--json"])
        assert (found["dropped"], found["attention"]) == words
    assert run([*ask, *SWITCHES]) == 0
    assert "Stride(keep=0.5, layer=0), dropped merged, attention prop" in capsys.readouterr().out
    job = answer(capsys, ["eval", *ask[3:], "--limit", "2", *SWITCHES[2:], "--json"])["job"]
    assert (job["dropped"], job["attention"]) == ("merged", "proportional")
    assert "nearest: merged" in refused(capsys, *ask, "--dropped", "merge")


def answer(capsys, command):
    """What a command says as JSON."""
    assert run(command) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_compare_writes_a_table_files_and_a_report(capsys, tiny, tmp_path):
    command = ["compare", "--model", tiny, "--out", str(tmp_path), "--limit", "11", "--no-timing"]
    command += [
        "--methods",
        "pool,fastv",
        "--keeps",
        "0.5,0.3",
        "--scenes",
        "2",
        "--max-new-tokens",
        "2",
    ]
    assert run([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    made = [(r["method"], r["keep"]) for r in document["runs"]]
    ours = [("identity", 1.0), ("pool", 0.5), ("fastv", 0.5), ("fastv", 0.3)]
    lower = [("downsample", 0.5), ("downsample", 0.3), ("blind", 1.0)]
    assert made == [*ours, *lower, ("oracle", 0.5), ("oracle", 0.3)]
    assert [(s["method"], s["keep"]) for s in document["skipped"]] == [("pool", 0.3)]
    assert "left out: pool at 0.3" in err
    assert set(document["runs"][0]["accuracy"]) == {
        "overall",
        "fine",
        "local",
        "relational",
        "global",
    }
    files = sorted((tmp_path / "runs").glob("*.json"))
    assert len(files) == 9
    written = [file.stat().st_mtime_ns for file in files]
    assert (tmp_path / "report.html").read_text().count("data:image") == 8  # of four runs
    assert run(command) == 0  # again: nothing is repeated, the table is the same
    assert [file.stat().st_mtime_ns for file in files] == written
    table = capsys.readouterr().out
    assert "relational" in table
    assert "report.html" in table


@pytest.mark.slow
def test_compare_tells_arguments_apart(capsys, tiny, tmp_path):
    command = ["compare", "--model", tiny, "--out", str(tmp_path), "--limit", "4", "--no-timing"]
    command += ["--baselines", "", "--keeps", "", "--scenes", "1", "--max-new-tokens", "1"]
    command += ["--methods"]
    command += ["pool(stride=4, layer=2),pool(stride=9),fastv(keep=0.25, layer=1),fastv(keep=0.25)"]
    command[-1] += ",llavolta(schedule=four_stage_wider_deeper)"
    assert run([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(r["method"], r["keep"], r["tokens"]) for r in document["runs"]] == [
        ("identity", 1.0, P),
        ("pool(stride=4, layer=2)", None, P // 4),
        ("pool(stride=9)", None, P // 9),
        ("fastv(layer=1)", 0.25, P // 4),
        ("fastv", 0.25, P // 4),
        ("llavolta(schedule=four_stage_wider_deeper)", None, P),
    ]
    assert document["runs"][1]["compressor"] == "Pool(stride=4, layer=2, dims=1)"
    names = sorted(path.name for path in (tmp_path / "runs").glob("*.json"))
    assert len(names) == 6
    assert [name for name in names if "pool_stride_4_layer_2-" in name and "None" not in name]
    page = (tmp_path / "report.html").read_text()
    assert page.count("<b>pool(stride=4, layer=2)</b>") == 1  # under its picture
    assert page.count('<td class="name">pool(stride=4, layer=2)</td>') == 3  # in every table
    assert run(command) == 0
    table = capsys.readouterr().out
    assert "pool(stride=9)" in table
    assert "…" not in table  # a name too long for its column goes on in the next line
    assert "None" not in table + page


@pytest.fixture(scope="session")
def saved(tiny, tmp_path_factory):
    """A model with the tiny one's shape and other weights, saved with a compressor that has weights."""
    folder = tmp_path_factory.mktemp("saved")
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(tiny))
    method = sized(METHODS["depthwise"], model, keep=0.25)
    compress(model, method, positions="renumbered").save_pretrained(folder)
    AutoProcessor.from_pretrained(tiny).save_pretrained(folder)
    return folder


def test_ask_says_in_one_line_what_acts(capsys, files, tiny, saved):
    """A compressor with its arguments; of a method with many parts, the call that makes them."""
    ask = ["ask", str(files / "good.png"), "what ?", "--max-new-tokens", "1"]
    assert run([*ask, "--model", str(saved)]) == 0
    assert "\nDepthwiseConv(width=128, kernel=2, layer=2): visual tokens" in capsys.readouterr().out
    assert run([*ask, "--method", "layerwise", "--keep", "0.125"]) == 0
    assert "\nlayerwise(keep=0.125): visual tokens" in capsys.readouterr().out


def test_a_saved_model_takes_another_budget_and_other_arguments(capsys, files, tiny, tmp_path):
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(tiny))
    compress(model, sized(METHODS["focusllava"], model)).save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(tiny).save_pretrained(tmp_path)
    ask = ["ask", str(files / "good.png"), "what ?", "--model", str(tmp_path)]
    more = ["--max-new-tokens", "1", "--json"]

    def kept(*given):
        capsys.readouterr()
        assert run([*ask, *given, *more]) == 0
        told, noted = capsys.readouterr()
        assert ("naming the method made its weights anew" in noted) == ("--method" in given)
        return [step["after"] for step in json.loads(told)["steps"]]

    assert kept() == [P, P // 2]
    assert kept("--keep", "0.25") == [P, P // 4]
    assert kept("--set", "price=9", "--keep", "1.0") == [P // 16, P // 16]
    assert kept("--method", "focusllava", "--keep", "0.25") == [P, P // 4]
    assert "what ?" not in refused(capsys, *ask, "--set", "only=text")
    assert "of another shape" in refused(capsys, *ask, "--set", "hidden=9")
    assert "--method" in refused(capsys, *ask[:3], "--keep", "0.5")
    run_one = ["eval", "--model", str(tmp_path), "--keep", "7", "--limit", "2", *more]
    assert run(run_one) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tokens"] == 7 and told["keep"] == 7 and told["method"] == "focusllava"


@pytest.mark.slow
def test_compare_has_rows_of_trained_models(capsys, tiny, saved, tmp_path):
    command = ["compare", "--model", tiny, "--out", str(tmp_path), "--limit", "11"]
    command += [
        "--methods",
        "depthwise",
        "--baselines",
        "",
        "--keeps",
        "0.25",
        "--scenes",
        "1",
        "--max-new-tokens",
        "1",
    ]
    command += ["--trained", str(saved)]
    assert run([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    bare, mine, theirs = document["runs"]
    assert document["model"] == bare["model"] == mine["model"] != theirs["model"] == saved.name
    assert [r["method"] for r in document["runs"]] == ["identity", "depthwise", "depthwise"]
    assert theirs["tokens"] == P // 4
    assert theirs["prefill"]["pairs"] == mine["prefill"]["pairs"] > 0
    (file,) = (tmp_path / "runs").glob(f"patchqa-{saved.name}-depthwise-*.json")
    answered = json.loads(file.read_text())
    assert answered["job"]["positions"] == "renumbered"
    assert (
        run(["eval", "--model", str(saved), "--limit", "11", "--max-new-tokens", "1", "--json"])
        == 0
    )
    alone = json.loads(capsys.readouterr().out)
    assert alone["answers"] == answered["answers"]
    page = (tmp_path / "report.html").read_text()
    assert page.count(f'<td class="name">{saved.name} (trained)</td>') == 3  # in every table
    assert page.count(f"<b>{saved.name} (trained)</b>") == 1  # under its picture
    written = file.stat().st_mtime_ns
    assert run(command) == 0  # again: nothing is repeated
    assert file.stat().st_mtime_ns == written
    assert "(trained)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_model_that_was_trained_for_any_budget_has_a_row_for_each(capsys, tiny, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(tiny)
    processor = AutoProcessor.from_pretrained(tiny)
    method = DivPrune(keep=5, sampled=[0.1, 1.0])
    compress(model, method).save_pretrained(tmp_path / "any")
    processor.save_pretrained(tmp_path / "any")
    words = ["compare", "--model", tiny, "--out", str(tmp_path / "out"), "--limit", "11"]
    words += ["--methods", "stride", "--keeps", "0.5,0.25", "--max-new-tokens", "1"]
    words += ["--baselines", ""]
    words += ["--no-timing", "--scenes", "1", "--trained", str(tmp_path / "any")]
    assert run([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = [(r["name"], r["keep"], r["tokens"]) for r in document["runs"]][3:]
    assert rows == [("any (trained)", 0.5, P // 2), ("any (trained)", 0.25, P // 4)]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<b>any (trained)</b>") == 1  # at the budget that is shown
    how = {"keeps": [0.5], "limit": 11, "max_new_tokens": 1}
    evaluated = evaluate.compare(model, processor, "stride", **how)
    assert [r["keep"] for r in evaluated["runs"]] == [1.0, 0.5, 0.5]


FRESH = "llava_stf has fresh weights, never trained: train it (foveate train) or load a model saved"
OLD = (
    "runs without that use its old projector, though its language model was trained behind its own"
)


@pytest.fixture(scope="session")
def connected(tiny, tmp_path_factory):
    """A model with the tiny one's shape, saved with a compressor in its projector's place."""
    folder = tmp_path_factory.mktemp("connected")
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(tiny))
    compress(model, sized(METHODS["llava_stf"], model, keep=0.25)).save_pretrained(folder)
    AutoProcessor.from_pretrained(tiny).save_pretrained(folder)
    return folder


def test_ask_says_that_weights_are_fresh(capsys, files, tiny, connected):
    command = ["ask", str(files / "good.png"), "what ?", "--max-new-tokens", "1", "--model"]
    assert run([*command, tiny, "--method", "llava_stf", "--keep", "0.25"]) == 0
    out, err = capsys.readouterr()
    assert FRESH in err and OLD not in err and " (untrained): visual tokens" in out
    assert run([*command, str(connected), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["untrained"] is False
    assert err == ""
    assert run([*command, str(connected), "--method", "llava_stf", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["untrained"] is True
    assert FRESH in err and f"{connected.name} was saved with llava_stf" in err and OLD in err


def test_eval_says_what_is_fresh_or_left_out(capsys, tiny, saved, connected):
    command = ["eval", "--limit", "1", "--max-new-tokens", "1", "--model"]
    assert run([*command, tiny, "--method", "llava_stf", "--keep", "0.25", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["untrained"] is True
    assert FRESH in err and OLD not in err
    assert run([*command, str(connected), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["untrained"] is False
    assert err == ""
    assert run([*command, str(connected), "--method", "identity"]) == 0
    out, err = capsys.readouterr()
    assert "uncompressed" in out and OLD in err and "fresh" not in err
    assert run([*command, str(saved), "--method", "identity"]) == 0
    assert "a model that may have been trained for it" in capsys.readouterr().err


@pytest.mark.slow
def test_compare_says_what_is_fresh_and_shows_the_model_as_saved(capsys, connected, tmp_path):
    command = ["compare", "--model", str(connected), "--out", str(tmp_path), "--limit", "4"]
    command += ["--methods", "llava_stf,stride", "--keeps", "0.25", "--scenes", "1", "--no-timing"]
    command += ["--baselines", ""]
    command += ["--max-new-tokens", "1"]
    assert run([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    name = f"{connected.name} as saved (trained)"
    names = ["uncompressed", "llava_stf (untrained)", "stride", name]
    assert [r["name"] for r in document["runs"]] == names
    assert [r["untrained"] for r in document["runs"]] == [False, True, False, False]
    assert [FRESH in note or OLD in note for note in document["notes"]] == [True, True]
    assert FRESH in err and OLD in err
    assert run(["eval", *command[1:3], *command[5:7], *command[-2:], "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    (file,) = (tmp_path / "runs").glob(f"patchqa-{connected.name}_as_saved-llava_stf-*.json")
    assert json.loads(file.read_text())["answers"] == alone["answers"]
    page = (tmp_path / "report.html").read_text()
    assert FRESH in page and OLD in page
    for name in names[1:]:
        assert page.count(f'<td class="name">{name}</td>') == 3  # in every table
    assert run(command) == 0
    assert "llava_stf (untrained)" in capsys.readouterr().out


def test_a_compressor_with_other_weights_is_another_run(tiny, saved):
    loaded = models.load(str(saved), "cpu")
    plan_ = evaluate.plans.as_saved(loaded)
    job = work(loaded, task("patchqa", 1), 0, 1, 1, False, None)
    before = job._job(plan_, "")
    next(plan_.compressor.parameters()).data.add_(1)
    assert job._job(plan_, "").name != before.name


def test_a_trained_model_is_timed_against_the_compared_one(tiny, saved):
    compared = models.load(tiny, "cpu")
    job = work(compared, task("patchqa", 1), 0, 1, 1, True, None)
    (one,) = trained(str(saved), compared, job.examples, "cpu")
    ran = []
    for loaded in (compared, one.trained):
        loaded.model.register_forward_hook(lambda *_, name=loaded.name: ran.append(name))
    assert job._time(one)["pairs"] == work_room.TIMED
    assert ran.count(compared.name) == ran.count(one.trained.name) > work_room.TIMED


def test_trained_models_are_told_apart_from_what_they_began_as(tiny, saved):
    compared = models.load(str(saved), "cpu")
    examples = PatchQA("test").examples(2)
    (one,) = trained(str(saved), compared, examples, "cpu")
    assert one.trained.name == str(saved) != compared.name == saved.name
    assert not foveate.is_compressed(one.trained.model)
    assert trained("", compared, examples, "cpu") == trained(None, compared, examples, "cpu") == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (None, "saved without a compressor"),
        (("USER", "Q"), "asks differently than that of"),
    ],
)
def test_what_is_no_trained_row(capsys, tiny, saved, tmp_path, change, says):
    other = tiny
    if change is not None:
        other = shutil.copytree(saved, tmp_path / "other")
        processor = AutoProcessor.from_pretrained(other)
        assert change[0] in processor.chat_template
        processor.chat_template = processor.chat_template.replace(*change)
        processor.save_pretrained(other)
    words = ("compare", "--model", tiny, "--limit", 1, "--out", tmp_path / "out")
    assert says in refused(capsys, *words, "--trained", other)


def test_what_comes_beside_the_embedded_model():
    assert beside("embedded") == [n for n in carried() if n not in ("embedded", "embedded-tiled")]
    assert beside("elsewhere") == []


def test_nothing_offers_a_model_that_is_missing(capsys, files, tmp_path, monkeypatch):
    assert run(["ask", "--help"]) == 0
    help_ = re.sub(r"[│\s]", "", capsys.readouterr().out)  # lines may break within a name
    offered = set(re.findall(r"'(embedded[^']*)'", help_))
    assert offered == set(carried())
    monkeypatch.setitem(MODELS, "embedded-lost", tmp_path)
    says = refused(capsys, "ask", files / "good.png", "what ?", "--model", "embedded-los")
    says += refused(capsys, "methods", "--model", "embedded-los")
    with pytest.raises(ValueError, match="want one of embedded") as error:
        foveate.embedded.load(name="embedded-lost")
    assert "'embedded'" in says
    assert "embedded-lost" not in says + str(error.value).partition(": ")[2]


def test_names_are_known_without_what_loads_models():
    code = "import sys, foveate.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def after(code):
    """The modules in a fresh process that ran this code, and how many objects no search looks at again."""
    told = (
        "import gc, json, sys; print('\\n' + json.dumps([[*sys.modules], gc.get_freeze_count()]))"
    )
    done = subprocess.run([sys.executable, "-c", f"{code}\n{told}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules, frozen = json.loads(done.stdout.splitlines()[-1])
    return set(modules), frozen


def test_the_list_of_methods_loads_no_compiler_and_no_transformers():
    """Arithmetic on the meta device would load the one, which takes as long as torch itself."""
    modules, frozen = after("from foveate.cli import run; run(['methods'])")
    assert not modules & {"torch._dynamo", "transformers", "foveate.hosts", "foveate.evaluate"}
    assert frozen > len(modules)


def test_an_answer_loads_what_transformers_needs_and_little_more(files):
    bare = (
        "from PIL import Image\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n"
        f"model = AutoModelForImageTextToText.from_pretrained({str(PATH)!r})\n"
        f"processor = AutoProcessor.from_pretrained({str(PATH)!r})\n"
        "asked = processor(images=Image.new('RGB', (8, 8)), text='<image> what ?', return_tensors='pt')\n"
        "model.generate(**asked, max_new_tokens=1)"
    )
    asked = ["ask", str(files / "good.png"), "what ?", "--method", "fastv"]
    ask = f"from foveate.cli import run; run({asked})"
    modules, frozen = after(ask)
    more = modules - after(bare)[0]
    packages = {name.partition(".")[0] for name in more} - sys.stdlib_module_names
    own = {"foveate", "typer", "rich", "einops", "annotated_doc", "shellingham"}
    checks = {"pydantic", "pydantic_core", "typing_inspection", "annotated_types"}
    assert packages <= own | checks | {"PIL", "torch", "transformers"}, packages
    assert sum(name.startswith(("PIL", "torch", "transformers")) for name in more) < 20, more
    assert not modules & {f"foveate.{room}" for room in ("train", "leaderboard", "convert")}
    assert frozen > len(modules)


@pytest.mark.slow
def test_json_is_all_there_is_on_stdout(files, tiny):
    command = ["ask", str(files / "good.png"), "what ?", "--model", tiny, "--json"]
    code = "import sys; from foveate.cli import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--max-new-tokens", "1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["tokens"]["before"] == P
    assert done.stderr == ""


def test_what_libraries_print_is_no_answer(capfd):
    with output.answering() as emit:
        emit({"a": 1})
        print("from Python")
        os.write(1, b"from C\n")
    out, err = capfd.readouterr()
    assert json.loads(out) == {"a": 1}
    assert "from Python" in err
    assert "from C" in err


def test_what_goes_wrong_inside_is_one_line_and_code_1(capsys, files, tiny, monkeypatch):
    monkeypatch.setattr(sys.modules["foveate.cli.ask"], "answer", lambda *a: 1 / 0)
    assert run(["ask", str(files / "good.png"), "what ?", "--model", tiny]) == 1
    assert capsys.readouterr().err.startswith("foveate: unexpected ZeroDivisionError")
