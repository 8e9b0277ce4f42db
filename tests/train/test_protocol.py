"""The papers' protocol: LLaVA's v1 prompt, pictures padded to squares, positions counted anew."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import small
import torch
from PIL import Image
from processors import MAKERS, image, llava, llava_next, processor, record
from transformers import AutoProcessor

import foveate
from foveate import (
    DART,
    EVS,
    Chain,
    DivPrune,
    FastV,
    Pool,
    VisionZip,
    embedded,
    evaluate,
    focusllava,
    llava_stf,
    llavolta,
    meteor,
    pyramiddrop,
    sparsevlm,
    tome,
    v2drop,
)
from foveate.cli import run
from foveate.cli.tables import table
from foveate.evaluate.results import USUAL, Job
from foveate.hosts.protocol import CHAT, padded, squared
from foveate.train import Collator
from foveate.train.model import load

# The published text, LLaVA's v1, in full. https://github.com/haotian-liu/LLaVA, conv-mode vicuna_v1.
ONE = (
    "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: <image>\nWhat is it? ASSISTANT:"
)
SEVERAL = f"{ONE} A cat.</s>USER: Is it red? ASSISTANT:"
ALL = f"{SEVERAL} No.</s>"


def turns(*said, system=None):
    """What is said in turn, as chat templates take it; the first turn with a picture."""
    made = [] if system is None else [{"role": "system", "content": system}]
    for n, words in enumerate(said):
        content = [{"type": "image"}] * (n == 0) + [{"type": "text", "text": words}]
        made.append({"role": ("user", "assistant")[n % 2], "content": content})
    return made


@pytest.fixture(scope="module")
def asks():
    return foveate.protocol(processor("llava"), "llava")


def test_the_prompt_is_the_published_one(asks):
    def said(*words, answered=False, **more):
        return asks.apply_chat_template(turns(*words, **more), add_generation_prompt=not answered)

    assert said("What is it?") == ONE
    assert said("What is it?", "A cat.", "Is it red?") == SEVERAL
    assert said("What is it?", "A cat.", "Is it red?", "No.", answered=True) == ALL
    brief = "<s>Be brief. USER: <image>\nWhat is it? ASSISTANT:"
    assert said("What is it?", system="Be brief.") == brief
    assert said("What is it?", system=[{"type": "text", "text": "Be brief."}]) == brief
    again = said("What is it?", "A cat.", "Is it red?", system="Be brief.")
    assert again == f"{brief} A cat.</s>USER: Is it red? ASSISTANT:"


def test_training_and_evaluation_say_it_too(asks):
    """Every label is of an answer and its end; a picture stands first, wherever the record has it."""
    words = asks.tokenizer
    for first in ("<image>\nWhat is it?", "What is it?\n<image>"):
        batch = Collator(asks)([record(first, "A cat.", "Is it red?", "No.")])
        text = words.decode(batch["input_ids"][0])
        assert text.replace("<image>" * 16, "<image>") == ALL
        taught = batch["input_ids"][0][batch["labels"][0] != -100]
        assert words.decode(taught) == " A cat.</s> No.</s>"
    inputs, asked = evaluate.encode(asks, [([image(0)], "What is it?")])
    assert words.decode(inputs["input_ids"][0]).replace("<image>" * 16, "<image>") == ONE
    assert words.decode(inputs["input_ids"][0][asked[0]]).strip() == "What is it?"
    # The image begins behind BOS, the system prompt and "USER: ", column 35 with Llama's tokenizer.
    column = int((inputs["input_ids"][0] == asks.image_token_id).nonzero()[0])
    before = words(ONE.partition("<image>")[0], add_special_tokens=False).input_ids
    assert column == len(before) and inputs["input_ids"][0, :column].tolist() == before


@pytest.mark.parametrize(("width", "height"), [(60, 40), (40, 61), (48, 48), (90, 7)])
def test_pictures_are_padded_to_squares_of_the_mean_colour(asks, width, height):
    shown, stock = image(3, width, height), processor("llava")
    side, colour = max(width, height), [122, 116, 104]  # 255 times CLIP's mean, rounded down
    square = np.empty((side, side, 3), dtype=np.uint8)
    square[:] = colour
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = np.asarray(shown)
    want = stock.image_processor(Image.fromarray(square), return_tensors="pt")["pixel_values"]
    got = asks(images=shown, text="<image>", return_tensors="pt")["pixel_values"]
    assert torch.equal(got, want)
    assert np.array_equal(np.asarray(padded(asks, shown)), square)
    assert padded(stock, shown) is shown
    cropped = stock(images=shown, text="<image>", return_tensors="pt")["pixel_values"]
    assert torch.equal(cropped, got) == (width == height)


def test_the_processor_that_is_given_stays_as_it_is(tmp_path):
    """And what comes back is saved as it asks."""
    own = llava()
    before = copy.deepcopy(own.to_dict()), own.chat_template, own.image_processor
    asks = foveate.protocol(own, "llava")
    assert (own.to_dict(), own.chat_template, own.image_processor) == before
    assert type(own.image_processor).__name__.startswith("CLIP") and asks.tokenizer is own.tokenizer
    asks.save_pretrained(tmp_path)
    back = AutoProcessor.from_pretrained(tmp_path)
    assert back.chat_template == asks.chat_template and back.image_processor.do_pad
    again = foveate.protocol(back)
    shown = image(1)
    pixels = [
        p(images=shown, text="<image>", return_tensors="pt")["pixel_values"] for p in (asks, again)
    ]
    assert torch.equal(*pixels)


def test_llava_next_keeps_its_tiles():
    own = llava_next()
    asks = foveate.protocol(own)
    assert asks.apply_chat_template(turns("What is it?"), add_generation_prompt=True) == ONE
    shown = image(2, 90, 50)
    a, b = (p(images=shown, text="<image>", return_tensors="pt") for p in (own, asks))
    assert torch.equal(a["pixel_values"], b["pixel_values"]) and a["pixel_values"].shape[1] > 1


MISTRAL = (
    "{% for m in messages %}{{ '[INST] ' if m['role'] == 'user' }}{% for part in m['content'] %}"
    "{{ '<image>\\n' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{{ ' [/INST]' if m['role'] == 'user' else '</s>' }}{% endfor %}"
)
UNFIT = {
    "qwen2_5_vl": "ImagesOnly is of another",
    "idefics3": "Idefics3Processor is of another",
    "gemma3": "Gemma3Processor is of another",
    "onevision": "this LlavaProcessor says '<|im_start|>user",
    "mistral": r"this LlavaNextProcessor says '[INST] <image>",
}


@pytest.mark.parametrize("name", UNFIT)
def test_other_families_are_refused(name):
    own = llava_next() if name == "mistral" else MAKERS[name]()
    if name == "mistral":
        own.chat_template = MISTRAL
    with pytest.raises(
        ValueError, match="is for the families llava and llava_next on Vicuna"
    ) as raised:
        foveate.protocol(own, "llava")
    assert UNFIT[name] in str(raised.value) and "leave it out" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="Qwen2VLImageProcessorPil cannot pad images to a square"):
        squared(processor("qwen2_5_vl").image_processor)


ANEW = {"positions": "renumbered", "newlines": "none"}
BEFORE = [VisionZip, DivPrune, lambda: Pool(4), llava_stf, meteor, tome]
INSIDE = [
    *(
        FastV,
        sparsevlm,
        DART,
        v2drop,
        focusllava,
        lambda: Pool(8, layer=2),
        lambda: llavolta("two_stage"),
    ),
    lambda: Chain(VisionZip(), FastV()),
]


COUNTED = [pyramiddrop, lambda: sparsevlm(version=1)]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        *((make, ANEW) for make in BEFORE),
        *((make, {}) for make in (*INSIDE, EVS)),
        *((make, {"positions": "renumbered"}) for make in COUNTED),
    ],
)
def test_what_stands_before_the_language_model_is_counted_anew(make, says):
    with torch.device("meta"):
        assert foveate.as_published(make()) == says


def test_models_saved_with_another_prompt_keep_it(tmp_path):
    """Those that an earlier foveate assembled, and those that come with foveate."""
    place = small.model_folder(tmp_path)
    own, old = AutoProcessor.from_pretrained(place), CHAT.replace("user", "human")
    own.chat_template = old
    own.save_pretrained(place)
    _, asks = load(small.card(place, tmp_path / "no.json", square=True))
    assert asks.chat_template == old
    assert foveate.protocol(asks).chat_template == CHAT
    for path in embedded.carried().values():
        assert "curious" not in (path / "chat_template.jinja").read_text()


# On the command line


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model like LLaVA-1.5 that Hugging Face would have: no system prompt, pictures cropped."""
    return str(small.model_folder(tmp_path_factory.mktemp("stock")))


def one(capsys, command, place, *more):
    """What a command says as JSON."""
    words = [*command, "--model", place, "--max-new-tokens", "1", "--json", *more]
    assert run([str(word) for word in words]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_ask_pads_and_says_the_prompt(capsys, place, tmp_path, monkeypatch):
    image(1, 90, 30).save(tmp_path / "wide.png")
    ask, heard = ["ask", tmp_path / "wide.png", "What is it?"], []
    encode = evaluate.encode

    def listening(*args):
        heard.append(encode(*args)[0])
        return encode(*args)

    monkeypatch.setattr(sys.modules["foveate.evaluate.replies"], "encode", listening)
    stock, ours = (one(capsys, ask, place, *more) for more in ([], ["--protocol", "llava"]))
    assert (stock["protocol"], ours["protocol"]) == (None, "llava")
    asks = foveate.protocol(AutoProcessor.from_pretrained(place))
    words, square = asks.tokenizer.decode(heard[1]["input_ids"][0]), padded(asks, image(1, 90, 30))
    assert words.replace("<image>" * 16, "<image>") == ONE
    want = processor("llava").image_processor(square, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(heard[1]["pixel_values"].cpu(), want)
    assert not torch.equal(heard[0]["pixel_values"], heard[1]["pixel_values"])
    picture = tmp_path / "kept.png"
    one(capsys, ["draw", "tokens", *ask[1:]], place, "--protocol", "llava", "--picture", picture)
    assert picture.exists()


def test_runs_say_how_they_were_asked_and_never_mix(capsys, place, tmp_path):
    """A result of before there were protocols is the checkpoint's own, and found again."""
    ask = ["eval", "--limit", 2, "--out", tmp_path, "--method", "stride", "--keep", "0.25"]
    stock = one(capsys, ask, place)
    ours = one(capsys, ask, place, "--protocol", "llava")
    assert (stock["job"]["protocol"], stock["job"]["positions"]) == (None, "original")
    asked = {name: ours["job"][name] for name in ("protocol", "positions", "newlines")}
    assert asked == {"protocol": "llava", **ANEW}
    assert len(list((tmp_path / "runs").glob("*.json"))) == 2
    assert one(capsys, ask, place, "--protocol", "llava") == ours


def test_a_job_of_before_is_the_checkpoints_own(tmp_path):
    job = Job("m", "f", "patchqa", "e", 10, 0, "stride", 0.25, "Stride()")
    told = {k: v for k, v in asdict(job).items() if k not in USUAL}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
    assert job.name == f"patchqa-m-stride-0.25-{digest}"
    others = {
        "protocol": "llava",
        "newlines": "none",
        "dropped": "merged",
        "attention": "proportional",
        "metric": "vqa",
        "ladder": {"keeps": [9, 1.0], "threshold": 0.1},
    }
    assert USUAL.keys() == others.keys()
    names = {job.name, *(replace(job, **{name: word}).name for name, word in others.items())}
    assert len(names) == 7


def test_compare_shows_the_protocol(capsys, place, tmp_path):
    budget = ["--methods", "stride,fastv", "--keeps", "0.25", "--limit", 3]
    budget += ["--baselines", ""]
    command = ["compare", *budget, "--no-timing", "--scenes", "0", "--out", tmp_path]
    document = one(capsys, command, place, "--protocol", "llava")
    assert document["protocol"] == "llava"
    assert "patchqa, protocol llava, 3" in table(document).title
    page = (tmp_path / "report.html").read_text()
    assert "<b>llava</b> of the papers" in page
    jobs = [json.loads(file.read_text())["job"] for file in (tmp_path / "runs").glob("*.json")]
    said = {job["method"]: (job["protocol"], job["positions"], job["newlines"]) for job in jobs}
    plain = ("llava", "original", "rows")
    assert said == {"identity": plain, "fastv": plain, "stride": ("llava", "renumbered", "none")}


def test_what_it_does_not_fit_is_one_line(capsys, place, tmp_path):
    image(1).save(tmp_path / "a.png")
    other = shutil.copytree(place, tmp_path / "other")
    llava(MISTRAL).save_pretrained(other)
    ask = ["ask", str(tmp_path / "a.png"), "What?", "--model", str(other), "--protocol"]
    assert run([*ask, "lava"]) == 2
    assert "nearest: llava" in capsys.readouterr().err
    assert run([*ask, "llava"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("foveate: --protocol llava: ") and said.count("\n") == 1
    assert "[INST]" in said
