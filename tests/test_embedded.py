"""The shipped model is a plain Hugging Face model that sees, and its recipe computes what it does."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
)

import foveate
from foveate import Pool, embedded
from foveate.patchqa import GROUPS, PatchQA, vocabulary

RECIPE = Path(__file__).parents[1] / "recipes" / "embedded"


@pytest.fixture(scope="module")
def loaded():
    return embedded.load()


@pytest.fixture
def recipe(monkeypatch):
    """Makes the recipe's files importable."""
    monkeypatch.syspath_prepend(str(RECIPE))
    yield
    for path in RECIPE.glob("*.py"):
        sys.modules.pop(path.stem, None)


def answers(loaded, images, questions) -> list[str]:
    """Greedy answers to questions about one image each."""
    model, processor = loaded
    inputs = processor(
        images=[[image] for image in images],
        text=[f"USER: <image>\n{question} ASSISTANT:" for question in questions],
        padding=True,
        return_tensors="pt",
    )
    out = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    return processor.batch_decode(out[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)


def judged(loaded, n=220):
    """Questions, and whether each was answered rightly."""
    examples = PatchQA("test", seed=3).examples(n)
    said = answers(loaded, [e.images[0] for e in examples], [e.question for e in examples])
    return examples, [a == e.answer for a, e in zip(said, examples, strict=True)]


def test_plain_from_pretrained_gives_a_float32_llava():
    model = AutoModelForImageTextToText.from_pretrained(embedded.PATH)
    assert isinstance(model, LlavaForConditionalGeneration)
    assert model.dtype == torch.float32
    assert sum(file.stat().st_size for file in embedded.PATH.iterdir()) < 12e6


CARRIED = list(embedded.carried())


def test_every_model_is_small_and_says_what_it_is():
    assert embedded.MODELS["embedded"] == embedded.PATH
    assert "embedded" in CARRIED
    for name in CARRIED:
        files = list(embedded.MODELS[name].iterdir())
        assert sum(file.stat().st_size for file in files) < 12e6
        assert "README.md" in {file.name for file in files}
    package = Path(foveate.__file__).parent
    whole = sum(f.stat().st_size for f in package.rglob("*") if f.is_file())
    assert whole < 40e6  # and so the wheel
    with pytest.raises(ValueError, match=f"want one of {', '.join(CARRIED)}$"):
        embedded.load(name="embeded")


@pytest.mark.parametrize("name", embedded.compressed())
def test_what_was_trained_with_a_compressor_sees_with_it(name):
    model, processor = embedded.load(name=name)
    assert foveate.is_compressed(model)
    _, right = judged((model, processor))
    assert foveate.last_counts(model) == [36] * len(right)
    assert sum(right) / len(right) > 0.9


TILED = embedded.MODELS["embedded-tiled"]


def test_the_tiled_twin_has_the_embedded_weights_and_no_copy_of_them(loaded, tmp_path):
    model, told = AutoModelForImageTextToText.from_pretrained(TILED, output_loading_info=True)
    assert isinstance(model, LlavaNextForConditionalGeneration) and model.dtype == torch.float32
    assert not any(told.values())
    own, theirs = model.state_dict(), loaded[0].state_dict()
    assert own.keys() - theirs.keys() == {"model.image_newline"}
    assert all(torch.equal(own[name], weight) for name, weight in theirs.items())
    assert sum(file.stat().st_size for file in TILED.iterdir()) < 50e3
    model.save_pretrained(tmp_path)  # and then it stands alone
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert all(torch.equal(weight, own[name]) for name, weight in again.state_dict().items())


@torch.no_grad()
def test_a_tile_is_seen_as_the_embedded_model_sees_it(loaded):
    """The whole first, then the map of four tiles: cut or shrunk beforehand, they give the same tokens."""
    model, processor = embedded.load(name="embedded-tiled")
    large = PatchQA("test", size=192)[0].pictures[0].pil()
    inputs = processor(images=large, text="USER: <image>\n", return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 144 + 24 * (24 + 1)
    pixels = inputs["pixel_values"], inputs["image_sizes"]
    (seen,) = model.model.get_image_features(*pixels).pooler_output
    rows = seen[144:].view(24, 25, -1)
    assert torch.equal(rows[:, -1], model.model.image_newline.expand(24, -1))
    corners = [(y, x) for y in (0, 96) for x in (0, 96)]
    small = [large.resize((96, 96), 3), *(large.crop((x, y, x + 96, y + 96)) for y, x in corners)]
    alone = loaded[1](images=small, text=["<image>"] * 5, return_tensors="pt")["pixel_values"]
    whole, *tiles = loaded[0].model.get_image_features(alone).pooler_output
    torch.testing.assert_close(seen[:144], whole, atol=1e-4, rtol=1e-4)
    for (y, x), tile in zip(corners, tiles, strict=True):
        mine = rows[y // 8 : y // 8 + 12, x // 8 : x // 8 + 12].flatten(0, 1)
        torch.testing.assert_close(mine, tile, atol=1e-4, rtol=1e-4)


def test_the_tiled_twin_is_what_its_recipe_makes(recipe, tmp_path):
    from tiled import make

    shutil.copytree(embedded.PATH, tmp_path / "model")
    make(tmp_path / "tiled")
    made = {file.name: file.read_bytes() for file in (tmp_path / "tiled").iterdir()}
    shipped = {file.name: file.read_bytes() for file in TILED.iterdir()}
    for files in (made, shipped):  # which release wrote it is no part of the model
        config = json.loads(files["config.json"])
        files["config.json"] = {k: v for k, v in config.items() if k != "transformers_version"}
        generation = json.loads(files["generation_config.json"])
        files["generation_config.json"] = generation | {"transformers_version": None}
    assert made == shipped
    plain = AutoProcessor.from_pretrained(embedded.PATH).tokenizer
    assert AutoProcessor.from_pretrained(TILED).tokenizer.get_vocab() == plain.get_vocab()


def test_a_model_saved_compressed_comes_back_so(loaded, tmp_path, monkeypatch):
    model = foveate.compress(embedded.load()[0], Pool(stride=2, dims=2), "renumbered")
    model.save_pretrained(tmp_path)
    loaded[1].save_pretrained(tmp_path)
    monkeypatch.setitem(embedded.MODELS, "embedded-pool", tmp_path)
    again, _ = embedded.load(torch.bfloat16, "embedded-pool")
    assert repr(again.model.visual_compressor) == repr(model.model.visual_compressor)
    assert again.config.visual_compression == model.config.visual_compression
    assert again.dtype == torch.bfloat16 and not again.training


def test_it_sees(loaded):
    examples, right = judged(loaded)
    assert sum(right) / len(right) > 0.9
    for group in GROUPS:
        mine = [r for r, e in zip(right, examples, strict=True) if e.group == group]
        assert sum(mine) / len(mine) > 0.8


def test_it_reads_questions_as_people_write_them(loaded):
    scenes = (PatchQA("test")[index] for index in range(20))
    picture = next(scene.pictures[0] for scene in scenes if scene.pictures[0].sign)
    question = "What does the sign say?"
    content = [{"type": "image"}, {"type": "text", "text": question}]
    asked = loaded[1].apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    assert asked == f"USER: <image>\n{question} ASSISTANT:"
    assert answers(loaded, [picture.pil()], [question]) == [" ".join(picture.sign)]


def test_the_tokenizer_knows_every_word_and_upper_case_letters(loaded):
    tokenizer = loaded[1].tokenizer
    assert tokenizer.unk_token_id not in tokenizer(" ".join(vocabulary())).input_ids
    ids = tokenizer("Is there a CIRCLE? A 7 B", add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == "is there a circle ? A 7 B"
    assert tokenizer.padding_side == "left"


def test_a_padded_question_gets_the_answer_it_gets_alone(loaded):
    asked = [(e.images[0], e.question) for e in PatchQA("test", seed=4).examples(11)]
    alone = [answers(loaded, [image], [question])[0] for image, question in asked]
    assert answers(loaded, *zip(*asked, strict=True)) == alone


@torch.no_grad()
def test_the_recipe_computes_what_the_model_computes(loaded, recipe):
    from batches import make
    from forward import read, see

    model, processor = loaded
    task = PatchQA("val", questions=6)
    batch = make(task, range(3), processor.tokenizer)
    first, late, token = see(model, batch.pixels)
    hidden, _ = read(model, first, late, batch.start, batch.ids)
    logits = model.lm_head(hidden)
    for row in range(3):
        scene = task[row]
        for place, question in enumerate(scene.questions):
            text = f"USER: <image>\n{question.text} ASSISTANT: {question.answer}"
            inputs = processor(images=scene.images[0], text=text, return_tensors="pt")
            n = int((batch.ids[row, place] != processor.tokenizer.pad_token_id).sum())
            mine = logits[row, place, :n]
            torch.testing.assert_close(mine, model(**inputs).logits[0, -n:], atol=1e-3, rtol=1e-3)
    tower = model.model.vision_tower(batch.pixels)
    torch.testing.assert_close(token, tower.last_hidden_state[:, 0], atol=1e-3, rtol=1e-3)


def test_every_patch_is_labelled_by_what_it_shows(recipe):
    from batches import IGNORE, PATCH_LABELS, patch_labels

    from foveate.patchqa.words import SHAPES

    names = list(PATCH_LABELS)
    for index in range(20):
        picture = PatchQA("train")[index].pictures[0]
        labels = patch_labels(picture)
        assert labels.shape == (144, len(names))
        assert labels[:, names.index("center")].sum() == len(picture.objects)
        for thing in picture.objects:
            x, y = thing.center[0] // 8, thing.center[1] // 8
            kind = labels[y * 12 + x, names.index("kind")]
            assert kind in (SHAPES.index(thing.shape) + 1, IGNORE)
        if picture.digit is not None:
            seen = labels[:, names.index("digit")]
            assert set(seen.tolist()) == {picture.digit, IGNORE}


def test_muon_steps_are_nearly_orthogonal(recipe):
    from muon import orthogonalized

    for shape in ((3, 8, 32), (2, 32, 8)):
        sizes = torch.linalg.svdvals(orthogonalized(torch.randn(shape)))
        assert sizes.min() > 0.5 and sizes.max() < 1.5


def test_a_checkpoint_continues_where_it_stopped(recipe, tmp_path):
    from batches import make
    from losses import Teacher
    from model import build
    from processor import build_tokenizer
    from run import Run

    tokenizer = build_tokenizer()
    batch = make(PatchQA(questions=2), range(2), tokenizer)
    from forward import see

    def step(run: Run) -> float:
        _, late, token = see(run.model, batch.pixels)
        loss, _ = run.teacher(late, token, batch)
        loss.backward()
        for optimizer in run.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    torch.manual_seed(0)
    run = Run(build(tokenizer), Teacher())
    run.enter("see", now=0.0)
    first = step(run)
    run.save(tmp_path / "run.pt")
    again = Run(build(tokenizer), Teacher())
    again.load(tmp_path / "run.pt")
    assert [step(again) for _ in range(3)] == pytest.approx([step(run) for _ in range(3)])
    assert step(run) < first


@pytest.mark.slow
def test_llava_stf_is_trained_shipped_and_asked(recipe, tmp_path, monkeypatch):
    from llava_stf import NAME, make, recipe

    shipped = tmp_path / "shipped"
    monkeypatch.setitem(embedded.MODELS, NAME, shipped)
    card = recipe(steps=2, batch=2)
    assert card.shrink == 1
    result = make(card, tmp_path / "out", 22)
    with safe_open(shipped / "model.safetensors", "pt") as stored:
        assert {stored.get_tensor(k).dtype for k in stored.keys()} == {torch.bfloat16}  # noqa: SIM118
    model, _ = embedded.load(name=NAME)
    before, after = embedded.load()[0].state_dict(), model.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed and all("language_model" in k or "lm_head" in k for k in changed)
    assert model.config.visual_compression["method"] == "llava_stf"
    assert model.config.visual_compression["positions"] == "renumbered"
    assert model.dtype == torch.float32
    assert sum(file.stat().st_size for file in shipped.iterdir()) < 12e6
    page = (shipped / "README.md").read_text()
    assert "**36 visual tokens**" in page and "| **overall** |" in page
    assert result["n"] == 22 and result["training"]["steps"] == 2
    weights = (shipped / "model.safetensors").read_bytes()
    make(card, tmp_path / "out", 22)  # a finished run is found again
    assert (shipped / "model.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_fovea_is_trained_shipped_and_asked_at_every_budget(recipe, tmp_path, monkeypatch):
    from fovea import NAME, make, recipes

    shutil.copytree(embedded.PATH, tmp_path / "model")
    shipped = tmp_path / "shipped"
    monkeypatch.setitem(embedded.MODELS, NAME, shipped)
    stages = recipes(steps=(2, 1, 1), batch=2)
    result = make(stages, tmp_path / "out", 22, shipped, budgets=(9, 4))
    model, _ = embedded.load(name=NAME)
    before, after = embedded.load()[0].state_dict(), model.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed and not any("vision_tower" in k for k in changed)
    with safe_open(shipped / "learnt.safetensors", "pt") as stored:
        own = set(stored.keys())
    assert not any("vision_tower" in k for k in own) and any("visual_compressor" in k for k in own)
    assert sum(file.stat().st_size for file in shipped.iterdir()) < 3e6
    assert list(result["budgets"]) == ["144", "9", "4"]
    assert result["training"]["steps"] == [2, 1, 1] and result["n"] == 22
    page = (shipped / "README.md").read_text()
    assert "| 144 |" in page and "| 9 |" in page and "| **overall** |" in page
