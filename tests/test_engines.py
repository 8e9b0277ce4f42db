"""The doors for other programs, as far as it goes without them: what they load, are told, and get."""

import json
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from PIL import Image

import foveate
from foveate import embedded, tasks
from foveate.chat import Turn, messages
from foveate.cli import run
from foveate.engines import answers, opening
from foveate.evaluate.likelihood import losses
from foveate.evaluate.prompts import Ask, tokens
from foveate.evaluate.replies import answers as replies
from foveate.hosts.protocol import CHAT

HEAVY = {"torch", "transformers", "accelerate", "datasets"}
ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
GREY = Image.new("RGB", (96, 96), "grey")


@pytest.fixture(scope="module")
def asks():
    return [(e.images, e.question) for e in tasks.examples("patchqa", 6)]


def loaded(name: str) -> set[str]:
    """What of HEAVY is there once a module is imported."""
    code = f"import sys, {name}; print(*({HEAVY} & sys.modules.keys()))"
    return {*subprocess.check_output([sys.executable, "-c", code], text=True).split()}


def test_what_lists_the_door_loads_nothing_heavy():
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert package["entry-points"] == {
        "lmms_eval.models": {"foveate": "foveate.engines:harness"},
        "vllm.general_plugins": {"foveate": "foveate.engines.vllm:register"},
    }
    assert loaded("foveate.engines") == loaded("foveate.engines.vllm") == set()
    assert "torch" in loaded("foveate.engines.opening")


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ({}, None),
        ({"method": "identity"}, None),
        ({"method": "fastv", "keep": 64, "set.layer": 3}, "FastV(keep=64, layer=3)"),
        ({"method": "focusllava", "set.scales": "[2]"}, "focusllava(scales=[2])"),
        ({"method": "divprune", "keep": 0.25, "dropped": "merged"}, "DivPrune(keep=0.25, layer=0)"),
    ],
)
def test_arguments_make_the_model(given, method):
    model, _, notes = opening.opened("embedded", CPU, given)
    assert foveate.is_compressed(model) is (method is not None) and notes == []
    if method is not None:
        assert str(model.model.visual_compressor) == method
        assert model.config.visual_compression.get("dropped", "gone") == given.get(
            "dropped", "gone"
        )


def test_weights_that_nobody_trained_are_told_of():
    _, _, [note] = opening.opened("embedded", CPU, {"method": "focusllava"})
    assert "never trained" in note


def test_a_model_that_was_saved_compressed_keeps_its_method_and_takes_a_budget(tmp_path):
    model, _, _ = opening.opened("embedded-fovea", CPU, {"keep": 9, "positions": "renumbered"})
    assert model.model.visual_compressor.keep == 9
    assert model.config.visual_compression["positions"] == "renumbered"
    model.save_pretrained(tmp_path)
    embedded.load()[1].save_pretrained(tmp_path)
    again, _, _ = opening.opened(str(tmp_path), CPU, {})
    assert again.config.visual_compression == model.config.visual_compression
    bare, _, notes = opening.opened(str(tmp_path), CPU, {"method": "identity"})
    assert not foveate.is_compressed(bare) and "was saved with fovea" in notes[0]


@pytest.mark.parametrize(
    ("name", "given", "why"),
    [
        ("embedded", {"methode": "fastv"}, "unknown argument 'methode': nearest: method"),
        ("embedded", {"method": "fastw"}, "nearest: fastv"),
        (
            "embedded",
            {"method": "fastv", "set.layr": 3},
            "argument of fastv 'layr': nearest: layer",
        ),
        ("embedded-fovea", {"set.kep": 3}, "argument of fovea 'kep': nearest: keep"),
        ("embedded", {"method": "fastv", "positions": "renumberd"}, "positions"),
        ("embedded", {"keep": 9}, "keep: of a method, and none acts"),
        ("embedded", {"method": "identity", "dropped": "merged"}, "dropped: of a method"),
        ("embeded", {}, "unknown model 'embeded': nearest: embedded"),
        ("embedded", {"dtype": "float31"}, "nearest: float32"),
        ("embedded", {"protocol": "lava"}, "protocol"),
    ],
)
def test_what_there_is_not_is_an_error_that_names_the_nearest(name, given, why):
    with pytest.raises(ValueError, match=why):
        opening.opened(name, CPU, given)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, {"do_sample": False, "max_new_tokens": answers.LONGEST}),
        ({"temperature": 0, "do_sample": True}, {"do_sample": False, "temperature": None}),
        ({"temperature": 0.5}, {"do_sample": True, "temperature": 0.5, "top_p": None}),
        (
            {"temperature": 0.5, "do_sample": False, "top_p": 1.0},
            {"do_sample": False, "top_p": None},
        ),
        (
            {"temperature": 1, "top_p": 0.9, "top_k": 5},
            {"do_sample": True, "top_p": 0.9, "top_k": 5},
        ),
        ({"num_beams": 3, "max_new_tokens": 4}, {"num_beams": 3, "max_new_tokens": 4}),
        ({"repetition_penalty": 1.1, "until": ["."]}, {"repetition_penalty": 1.1}),
    ],
)
def test_generation_kwargs_become_those_of_generate(asked, said):
    how, idle = answers.settings(asked, embedded.load()[0].generation_config)
    assert said.items() <= how.items() and "until" not in how and idle == []


def test_generation_kwargs_that_mean_nothing_are_named():
    asked = {"image_aspect_ratio": "pad", "num_return_sequences": 2}
    how, idle = answers.settings(asked, embedded.load()[0].generation_config)
    assert idle == [*asked] and not asked.keys() & how.keys()


@pytest.mark.parametrize(
    ("until", "left"),
    [(None, "a b. c"), (".", "a b"), (["x", ". c", "b"], "a"), ([""], "a b. c")],
)
def test_an_answer_ends_at_the_first_of_some_words(until, left):
    assert answers.cut(" a b. c ", until) == left


def message(role: str, *parts: str | Image.Image) -> dict:
    content = [
        {"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "url": p}
        for p in parts
    ]
    return {"role": role, "content": content}


def words(processor, of: torch.Tensor, batch: dict) -> str:
    return processor.decode(batch["input_ids"][0][of[0]])


def test_words_of_the_user_are_found_wherever_they_stand():
    """Several texts and pictures in a turn, a system turn, and earlier answers."""
    processor = embedded.load()[1]
    processor.chat_template = CHAT
    asked_ = messages.ask(
        [
            message("system", "the object is"),
            message("user", GREY, "what color ", GREY, "is it ?"),
            message("assistant", "red"),
            message("user", GREY, "where ?"),
        ]
    )
    messages.check_system(processor, asked_[1])
    batch, asked, answered = tokens(processor, [asked_], ["left"])
    assert asked_[0] == [GREY] * 3 and batch["pixel_values"].shape[0] == 3
    assert words(processor, asked, batch).split() == [
        "what",
        "color",
        "is",
        "it",
        "?",
        "where",
        "?",
    ]
    assert words(processor, answered, batch).split() == ["left"]


def test_a_template_without_system_turns_is_refused():
    _, turns = messages.ask([message("system", "the object is"), message("user", "what ?")])
    with pytest.raises(ValueError, match="knows no system turn"):
        messages.check_system(embedded.load()[1], turns)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ([message("user", GREY, GREY, "a b")], ([GREY, GREY], "a b")),
        ([{"role": "user", "content": "a"}], ([], "a")),
        (
            [message("user", GREY, GREY, "a <image> b <image> c")],
            ([GREY, GREY], [Turn("user", "a <image> b <image> c")]),
        ),
        ([message("user", "a", GREY, "b")], ([GREY], [Turn("user", "a<image>b")])),
        (
            [message("user", GREY, "a"), message("assistant", "b"), message("user", "c")],
            ([GREY], [Turn("user", "<image>a"), Turn("assistant", "b"), Turn("user", "c")]),
        ),
    ],
)
def test_messages_become_what_is_asked(given, asked):
    assert messages.ask(given) == asked


def test_other_media_are_refused():
    with pytest.raises(ValueError, match="a message with audio"):
        messages.ask([{"role": "user", "content": [{"type": "audio", "url": "a.wav"}]}])
    watch = [{"type": "video", "url": "a.mp4"}, {"type": "text", "text": "what ?"}]
    assert messages.ask([{"role": "user", "content": watch}]) == (["a.mp4"], "what ?")
    with pytest.raises(ValueError, match=r"a video 3: want a file of \.mp4"):
        messages.ask([{"role": "user", "content": [{"type": "video", "url": 3}]}])


CASES = [
    ("embedded", {}),
    ("embedded", {"method": "fastv", "keep": 36}),
    ("embedded-fovea", {"keep": 9}),
]


@pytest.mark.parametrize(("name", "given"), CASES)
def test_what_a_model_says_is_what_it_finds_likeliest(name, given, asks):
    """The compressor sees of a prompt with an answer what it sees when it has to be found."""
    model, processor, _ = opening.opened(name, CPU, given)
    said = replies(model, processor, asks, {"max_new_tokens": 8, "do_sample": False})
    found = losses(model, processor, asks, [f" {one.text}" for one in said])
    assert all(greedy for _, greedy in found)
    others = losses(model, processor, asks, [" purple star heart"] * len(asks))
    assert not any(greedy for _, greedy in others)
    assert all(a[0] < b[0] for a, b in zip(found, others, strict=True))


@pytest.mark.parametrize(("name", "given"), CASES)
def test_an_answer_is_as_likely_alone_as_in_a_batch(name, given, asks):
    model, processor, _ = opening.opened(name, CPU, given)
    given = [" red", " left", " a b c", " yes", " 3", " circle"]
    together = losses(model, processor, asks, given)
    for ask, answer, (loss, greedy) in zip(asks, given, together, strict=True):
        [(alone, said)] = losses(model, processor, [ask], [answer])
        assert (alone, said) == (pytest.approx(loss, abs=1e-4), greedy)


def test_the_loss_of_an_answer_is_the_models_own(asks):
    model, processor, _ = opening.opened("embedded", CPU, {})
    [(images, question)] = asks[:1]
    [(found, _)] = losses(model, processor, asks[:1], [" red circle"])
    prompt = f"USER: <image>\n{question} ASSISTANT:"
    both = [
        processor(images=images, text=t, return_tensors="pt")
        for t in (prompt, f"{prompt} red circle")
    ]
    labels = both[1]["input_ids"].clone()
    labels[:, : both[0]["input_ids"].shape[1]] = -100
    with torch.inference_mode():
        assert found == pytest.approx(float(model(**both[1], labels=labels).loss), abs=1e-5)


def test_an_answer_without_a_token_is_refused(asks):
    model, processor, _ = opening.opened("embedded", CPU, {})
    with pytest.raises(ValueError, match="has no token"):
        losses(model, processor, asks[:2], [" red", ""])


@pytest.mark.parametrize("how", [{"num_beams": 3}, {"do_sample": True, "temperature": 0.7}])
@pytest.mark.parametrize(("name", "given"), CASES)
def test_beams_and_draws_answer_too(name, given, how, asks):
    model, processor, _ = opening.opened(name, CPU, given)
    told, _ = answers.settings({**how, "max_new_tokens": 8}, model.generation_config)
    torch.manual_seed(0)
    found = replies(model, processor, asks, told)
    assert all(one.text and 0 < one.made <= 8 and one.seconds > 0 for one in found)
    after = given.get("keep", 144)
    assert all((one.before, one.after) == (144, after) for one in found)


def test_a_prompt_without_a_picture_is_answered(asks):
    model, processor, _ = opening.opened("embedded", CPU, {"method": "fastv", "keep": 36})
    bare: Ask = ([], "what color is it ?")
    how = {"max_new_tokens": 8, "do_sample": False}
    mixed = replies(model, processor, [asks[0], bare], how)
    assert [one.before for one in mixed] == [144, 0]
    assert mixed[0].text == replies(model, processor, asks[:1], how)[0].text
    assert mixed[1].text == replies(model, processor, [bare], how)[0].text


def printed(words: list[str], capsys) -> tuple[int, str]:
    code = run(words)
    return code, capsys.readouterr().out


def test_benchmarks_have_a_command_each(capsys):
    told = ["--model", "a/b", "--method", "pool", "--keep", "0.25", "--set", "layer=2"]
    code, text = printed(["benchmarks", *told, "--json"], capsys)
    rows = {row["task"]: row for row in json.loads(text)}
    assert code == 0 and rows["gqa"]["wants"] is None and "judge" in rows["mmvet"]["wants"]
    words = shlex.split(rows["gqa"]["command"])
    assert words[:3] == ["lmms-eval", "--model", "foveate"]
    assert words[4] == "pretrained=a/b,method=pool,keep=0.25,set.layer=2"
    free = [row["command"] for row in rows.values() if row["wants"] is None]
    code, text = printed(["benchmarks", *told], capsys)
    assert code == 0 and text.splitlines()[-len(free) :] == free and len(free) == 10


def test_what_benchmarks_are_asked_with_is_checked(capsys):
    assert run(["benchmarks", "--method", "fastw"]) == 2
    assert "nearest: fastv" in capsys.readouterr().err


def test_the_folder_of_tasks_is_printed(capsys):
    code, text = printed(["benchmarks", "--path", "--json"], capsys)
    said = json.loads(text)
    assert code == 0 and printed(["benchmarks", "--path"], capsys) == (0, f"{said}\n")
    assert (Path(said) / "patchqa.yaml").is_file()
