"""What is read from disk: no code of it runs, whole models alone answer, and what is broken is named."""

import io
import json
import random
import sys
from pathlib import Path

import pytest
import torch
from mutations import copied, mutate, put, rewritten
from safetensors.torch import load_file, save_file

import foveate
from foveate.cli import run
from foveate.embedded import MODELS, PATH
from foveate.hosts import files, reading

STF = MODELS["embedded-llava_stf"]
SHOP = Path(__file__).parents[1] / "examples" / "shop.png"
ASK = ["ask", str(SHOP), "what does the sign say ?"]
ANSWER = "D 2 X"
WEIGHTS = load_file(PATH / "model.safetensors")
NAMES = sorted(WEIGHTS)


@pytest.fixture
def saved(tmp_path):
    """A copy of the embedded model, to break."""
    return copied(PATH, tmp_path / "model")


def asked(capsys, folder, *more):
    """Exit code, answer and errors of one question; never a traceback or an unexpected error."""
    code = run([*ASK, "--model", str(folder), *more])
    out, err = capsys.readouterr()
    assert "Traceback" not in err and "foveate: unexpected" not in err and "<class" not in err
    assert code == 0 or (out == "" and err.startswith("foveate: ") and err.count("\n") == 1)
    assert code in (0, 1, 2)
    return code, out.partition("\n")[0], err


def refused(capsys, folder, *words):
    """The one line with which a model is refused."""
    code, _, err = asked(capsys, folder)
    assert code and all(word in err for word in words), err
    return err


def reweighted(folder, change):
    """The folder with other weights."""
    put(folder, "model.safetensors", None)
    weights = {name: value.clone() for name, value in WEIGHTS.items()}
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


# No code of a checkpoint runs.

MAP = {
    "AutoConfig": "evil.Config",
    **dict.fromkeys(("AutoModel", "AutoModelForCausalLM"), "evil.Model"),
    **dict.fromkeys(("AutoModelForImageTextToText", "AutoProcessor"), "evil.Model"),
    "AutoImageProcessor": "evil.Model",
    "AutoTokenizer": ["evil.Model", "evil.Model"],
}
ELSEWHERE = {name: f"owner/name--{code}" for name, code in MAP.items() if isinstance(code, str)}


def mapped(said, **more):
    said.update({"auto_map": MAP} | more)


def without(name):
    return lambda said: (said.pop(name), None)[1]


def config(**more):
    return "config.json", lambda said: mapped(said, **more)


def tokenizer(said):
    mapped(said, tokenizer_class="Evil")


def image_processor(said):
    mapped(said["image_processor"], image_processor_type="Evil")


# Whether the model answers all the same; files and their changes, one after the other.
FOREIGN = {
    "a kind transformers knows": (True, config()),
    "a kind it does not": (False, config(model_type="evil")),
    "another kind of model": (False, config(model_type="bert")),
    "code of another repository": (False, config(model_type="evil", auto_map=ELSEWHERE)),
    "a processor": (False, ("processor_config.json", lambda s: mapped(s, processor_class="Evil"))),
    "a tokenizer": (True, ("tokenizer_config.json", tokenizer)),
    "a tokenizer, of no processor's": (
        True,
        ("tokenizer_config.json", tokenizer),
        ("processor_config.json", without("processor_class")),
    ),
    "an image processor": (False, ("processor_config.json", image_processor)),
    "every file": (
        True,
        *(
            (name, mapped)
            for name in ("config.json", "generation_config.json", *files.PROCESSOR)
            if name != files.VIDEO
        ),
    ),
}


class Terminal(io.StringIO):
    """Somebody who says yes to everything, and counts what was asked."""

    asked = 0

    def isatty(self):
        return True

    def readline(self, *_):
        self.asked += 1
        return "yes\n"


@pytest.fixture
def foreign(saved, monkeypatch):
    """Makes a model whose code would leave a file; afterwards nothing ran and nobody was asked."""
    ran, terminal = saved.parent / "ran", Terminal()
    code = f"open({str(ran)!r}, 'w')\nclass Config: ...\nclass Model: ...\n"
    monkeypatch.setattr(sys, "stdin", terminal)

    def make(case):
        put(saved, "evil.py", code)
        (saved / "custom_generate").mkdir()
        put(saved / "custom_generate", "generate.py", code)
        for name, change in FOREIGN[case][1:]:
            rewritten(saved, name, change)
        return saved

    yield make
    assert not ran.exists() and not terminal.asked
    assert not any("evil" in name for name in sys.modules)


@pytest.mark.parametrize("case", FOREIGN)
def test_code_of_a_model_never_runs(foreign, capsys, case):
    folder = foreign(case)
    if FOREIGN[case][0]:
        assert asked(capsys, folder)[:2] == (0, ANSWER)
    else:
        refused(capsys, folder, f"{folder} wants to run code of its own (auto_map", "runs none")


COMMANDS = [
    "eval --limit 1 --model {}",
    "draw tokens {shop} what --model {}",
    "bench --methods stride --model {}",
    "compare --limit 1 --methods stride --out {}/out --model {}",
    "train patchqa --set model={} --set steps=1 --out {}/out",
    "methods --model {}",
]
TRAINED = "compare --limit 1 --trained {} --methods stride --keeps 0.5 --scenes 0 --no-timing --out {}/out"
CONVERT = "convert {}/../connector.bin {}/out --language {}"


@pytest.mark.parametrize("command", [*COMMANDS, TRAINED, CONVERT])
def test_code_of_a_model_runs_in_no_command(foreign, capsys, command):
    folder = foreign("a kind it does not")
    torch.save({"mm_projector.0.weight": torch.zeros(4, 4)}, folder.parent / "connector.bin")
    words = command.replace("{shop}", str(SHOP)).replace("{}", str(folder))
    assert run(words.split()) in (1, 2)
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "wants to run code of its own (auto_map, config.json)" in err


def test_python_reads_as_the_command_line_does(foreign):
    folder = foreign("a kind it does not")
    with pytest.raises(ValueError, match="wants to run code of its own"):
        foveate.from_pretrained(folder)
    with pytest.raises(OSError, match="wants to run code of its own"):
        reading.model(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("trust_remote_code", True), ("ignore_mismatched_sizes", True)),
        *(("output_loading_info", True), ("use_safetensors", False)),
        *(("weights_only", False), ("gguf_file", "model.gguf")),
    ],
)
def test_keywords_that_would_read_more_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}=.*foveate.compress"):
        foveate.from_pretrained(STF, **{name: value})


@pytest.mark.parametrize("sharded", [False, True])
def test_pickles_are_no_weights(saved, capsys, sharded):
    put(saved, "model.safetensors", None)
    name = "pytorch_model-00001-of-00001.bin" if sharded else "pytorch_model.bin"
    torch.save(WEIGHTS, saved / name)
    if sharded:
        index = {"metadata": {}, "weight_map": dict.fromkeys(WEIGHTS, name)}
        put(saved, "pytorch_model.bin.index.json", json.dumps(index))
    refused(capsys, saved, f"{saved} holds its weights in {name}", "foveate reads safetensors")
    with pytest.raises(ValueError, match="reads safetensors and no pickles"):
        reading.model(saved)
    if sharded:  # nor under the other index
        put(saved, "model.safetensors.index.json", json.dumps(index))
        refused(capsys, saved, f"index.json names {name}: foveate reads safetensors alone")


# Only whole models answer.

LACKS = "the weights lack {} of the model's 147 tensors"


def filled(value, *names):
    """All tensors, or some, of one value."""
    return lambda w: w.update({n: torch.full_like(w[n], value) for n in names or NAMES})


NO_NUMBERS = "numbers that are NaN or infinite"
HALVED = {  # changes, and what is said of them
    "one missing": (
        lambda w: w.pop(NAMES[5]),
        [LACKS.format(1), "layers.0.post_attention_layernorm.weight"],
    ),
    "no tower": (
        lambda w: [w.pop(n) for n in NAMES if "vision" in n],
        [LACKS.format(87), "vision_tower", "and 83 more"],
    ),
    "none of them": (
        lambda w: (w.clear(), w.update(a=torch.zeros(3))),
        [LACKS.format(147), "embed_tokens.weight", "and 143 more"],
    ),
    "another shape": (
        lambda w: w.update({NAMES[5]: torch.zeros(3, 4)}),
        ["1 of the model's 147 tensors have other shapes", "is (3, 4), want (128,)"],
    ),
    "a row of NaN": (
        filled(torch.nan, NAMES[5]),
        ["layers.0.post_attention_layernorm.weight has 128 of 128", "NaN"],
    ),
    "NaN": (filled(torch.nan), [NO_NUMBERS]),
    "an infinite row": (lambda w: w[NAMES[9]][0].fill_(-torch.inf), [NO_NUMBERS]),
    "whole numbers": (
        lambda w: w.update({NAMES[0]: w[NAMES[0]].int()}),
        [NAMES[0], "hold whole numbers: want floats"],
    ),
    "zeros": (filled(0.0), ["weight matrices hold zeros alone"]),
}


@pytest.mark.parametrize("case", HALVED)
def test_a_model_that_is_not_whole_does_not_answer(saved, capsys, case):
    change, says = HALVED[case]
    refused(capsys, reweighted(saved, change), str(saved), *says)


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.update({n: t.bfloat16() for n, t in w.items()}),
        lambda w: w.update({"lm_head.weight": w["language_model.model.embed_tokens.weight"] + 0}),
        lambda w: w.update(nobodys=torch.zeros(3)),
    ],
    ids=["half", "tied twice", "one more"],
)
def test_what_is_whole_answers(saved, capsys, change):
    assert asked(capsys, reweighted(saved, change)) == (0, ANSWER, "")


def test_shards_are_all_there(saved, capsys):
    shards = {"a.safetensors": NAMES[:70], "b.safetensors": NAMES[70:]}
    put(saved, "model.safetensors", None)
    index = {name: file for file, names in shards.items() for name in names}
    index = {"metadata": {}, "weight_map": index}
    put(saved, "model.safetensors.index.json", json.dumps(index))
    for file, names in shards.items():
        save_file({n: WEIGHTS[n] for n in names}, saved / file, metadata={"format": "pt"})
    assert asked(capsys, saved)[:2] == (0, ANSWER)
    save_file({n: WEIGHTS[n] for n in NAMES[71:]}, saved / "b.safetensors", {"format": "pt"})
    refused(capsys, saved, LACKS.format(1))
    put(saved, "b.safetensors", None)
    refused(capsys, saved, "index.json names files that are not there: b.safetensors")
    put(saved, "model.safetensors.index.json", '{"weight_map": {}}')
    refused(capsys, saved, "index.json has no metadata: want an object")


def test_the_compressors_own_weights_are_no_news(capfd):
    model = foveate.from_pretrained(STF)
    assert foveate.is_compressed(model)
    assert capfd.readouterr() == ("", "")


def test_a_model_larger_than_its_weights_takes_no_memory(saved, capsys):
    rewritten(saved, "config.json", lambda s: s["text_config"].update(hidden_size=10**9))
    refused(capsys, saved, "the weights are not those of config.json: 147 tensors of 2,232,448")


# Broken files, by name.

RAW = (PATH / "model.safetensors").read_bytes()
JSONS = ["config", "processor_config", "tokenizer", "tokenizer_config", "generation_config"]
BROKEN = [
    *((f"{name}.json", '{"a": ', f"{name}.json is not JSON") for name in JSONS),
    *((f"{name}.json", "[1]", f"{name}.json holds a list: want an object") for name in JSONS),
    *((f"{name}.json", "folder", f"{name}.json is a folder: want a file") for name in JSONS),
    *((f"{name}.json", b"\xff\xfe{", f"{name}.json is not text in UTF-8") for name in JSONS),
    ("config.json", "{}", "config.json: model_type is not there"),
    ("config.json", '{"model_type": 5}', "config.json: model_type is 5"),
    ("config.json", '{"model_type": "lava"}', "config.json: model_type 'lava' is unknown to trans"),
    ("config.json", '{"model_type": "bert"}', "a bert is no model of images and text"),
    ("config.json", None, "has no config.json, so it is no saved model: it holds chat_template"),
    ("config.json", '{"a":' * 5000 + "1" + "}" * 5000, "config.json is nested too deep"),
    ("model.safetensors", RAW[:-5000], "model.safetensors is no whole safetensors file (4,477,264"),
    ("model.safetensors", RAW[:500], "model.safetensors is no whole safetensors file (500 bytes)"),
    ("model.safetensors", b"", "model.safetensors is no whole safetensors file (0 bytes)"),
    ("model.safetensors", b"no header" * 99, "model.safetensors is no whole safetensors file"),
    ("model.safetensors", "folder", "model.safetensors is a folder"),
    ("model.safetensors", None, "model.safetensors is not there: the weights are missing"),
    ("tokenizer.json", "{}", "the tokenizer cannot be read"),
    ("tokenizer.json", None, "the tokenizer cannot be read"),
    ("tokenizer_config.json", None, "neither eos_token nor pad_token: tokenizer_config.json"),
    ("processor_config.json", None, "processor_config.json missing; save it beside the model"),
    ("chat_template.jinja", "{% if %}", "chat template cannot ask a question: Expected an expr"),
    ("chat_template.jinja", "{{ x.y.z }}", "chat template cannot ask a question: 'x' is undefined"),
    ("chat_template.jinja", "hello", "chat template cannot ask a question: The total number of"),
    ("chat_template.jinja", "folder", "chat_template.jinja is a folder"),
    ("generation_config.json", '{"eos_token_id": "x"}', "eos_token_id is 'x': want the number of"),
    ("generation_config.json", '{"use_cache": []}', "use_cache is []: want true or false"),
]


@pytest.mark.parametrize(
    ("name", "content", "says"), BROKEN, ids=[f"{n} {str(c)[:12]!r}" for n, c, _ in BROKEN]
)
def test_what_is_broken_is_named(saved, capsys, name, content, says):
    refused(capsys, put(saved, name, content), str(saved), says)


def inside(*keys, **values):
    """A change of the settings under these keys."""

    def change(said):
        for key in keys:
            said = said[key]
        said.update(values)

    return change


LAYERS = "num_hidden_layers"
SETTINGS = [
    ("config", ["text_config"], {LAYERS: 10**12}, "num_hidden_layers is 1000000"),
    ("config", ["text_config"], {LAYERS: -1}, "num_hidden_layers is -1: want 0"),
    ("config", ["text_config"], {LAYERS: "6"}, "expected int, got str"),
    ("config", ["text_config"], {LAYERS: 9}, "the weights lack 27 of the model"),
    ("config", ["text_config"], {"hidden_act": "zelu"}, "'zelu' is missing or unknown"),
    ("config", [], {"text_config": []}, "'text_config' with value []"),
    ("config", [], {"image_token_index": 7}, "without the image token, id 7 by config.json"),
    ("config", ["vision_config"], {"patch_size": 7}, "2 of the model's 147 tensors have other"),
    ("processor_config", [], {"patch_size": 0}, "cannot ask a question"),
    ("processor_config", [], {"patch_size": 7}, "169 placeholders for 144 visual tokens"),
    ("processor_config", [], {"processor_class": "Nobody"}, "want one of images and text"),
]


@pytest.mark.parametrize(("name", "keys", "values", "says"), SETTINGS)
def test_settings_that_cannot_be(saved, capsys, name, keys, values, says):
    refused(capsys, rewritten(saved, f"{name}.json", inside(*keys, **values)), says)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "model.safetensors"])
def test_other_commands_name_what_is_broken(saved, capsys, command, name):
    if name != "config.json" and command.startswith("methods"):
        pytest.skip("it reads the config alone")
    if name == "model.safetensors":
        reweighted(saved, lambda weights: weights.pop(NAMES[5]))
    else:
        put(saved, name, "{")
    assert run(command.replace("{shop}", str(SHOP)).replace("{}", str(saved)).split()) == 1
    says = (
        LACKS.format(1) if name == "model.safetensors" else f"foveate: {saved / name} is not JSON"
    )
    assert says in capsys.readouterr().err


def test_a_trained_row_that_cannot_be_asked(saved, capsys):
    template = (PATH / "chat_template.jinja").read_text()
    put(saved, "chat_template.jinja", template.replace("<image>", ""))
    words = ["--limit", "1", "--out", str(saved.parent / "out"), "--trained", str(saved)]
    assert run(["compare", *words]) == 1
    assert f"{saved}: its processor and chat template cannot ask" in capsys.readouterr().err


# What a checkpoint says of its compressor.

IDENTITY = {"compressor": "Identity", "arguments": {}}
DEEP = IDENTITY
for _ in range(12):
    DEEP = {"links": [DEEP]}


def made(name, *nothing, **arguments):
    return {"compressor": name, "arguments": list(nothing) or arguments}


NO = made("No")
NODES = [
    *((bad, f" is {bad!r}: want an object") for bad in ("x", [], "", False)),
    ({}, ".arguments is not there: want an object"),
    ({"arguments": {}}, ".compressor is not there: want a name"),
    (made(5), ".compressor is 5: want a name"),
    (made("Nope"), ": the checkpoint's compressor 'Nope' is not one"),
    (made("FastV", 1), ".arguments is [1]: want an object"),
    (made("FastV", keep="x"), ".arguments cannot be: keep='x'"),
    (
        made("FastV", kepe=1),
        ": the checkpoint's FastV has kepe=1, this foveate's takes keep, layer",
    ),
    (made("FastV", keep=10**40), " keep is huge: want"),
    ({"links": []}, " cannot be: a chain of nothing"),
    ({"links": "x"}, ".links is 'x': want a list"),
    ({"links": [IDENTITY, 5]}, ".links[1] is 5: want an object"),
    ({"links": [IDENTITY, NO]}, ".links[1]: the checkpoint's"),
    ({"stages": [IDENTITY], "arguments": {}}, ".arguments.until is not there: want a list"),
    ({"stages": [IDENTITY], "arguments": {"until": []}}, " has 1 stages and 0 ends of them"),
    ({"stages": [IDENTITY], "arguments": {"until": [0.5]}}, " cannot be: stages must end at"),
    (DEEP, " is nested too deep"),
    (IDENTITY | {"version": 9}, ".version is 9: this foveate reads up to 1"),
    (IDENTITY | {"version": "1"}, ".version is '1': want a whole number"),
    (IDENTITY | {"positions": "sideways"}, ".positions is 'sideways': want original or"),
    (IDENTITY | {"positions": [5]}, ".positions is [5]: want original or renumbered"),
]


@pytest.mark.parametrize(("node", "says"), NODES)
def test_compressors_that_cannot_be(saved, capsys, node, says):
    rewritten(saved, "config.json", lambda said: said.update(visual_compression=node))
    where = f"{saved / 'config.json'}:"
    refused(capsys, saved, where + (says if "huge" in says else " visual_compression"), says)


def test_a_compressor_larger_than_its_weights_takes_no_memory(tmp_path, capsys):
    folder = copied(STF, tmp_path / "model")
    rewritten(folder, "config.json", inside("visual_compression", "arguments", hidden=10**9))
    refused(capsys, folder, "has spatial.mlp.0.weight (512, 1024), the compressor wants (10000")


# Names of models.


def test_names_of_a_folder(saved, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(saved.parent))
    monkeypatch.chdir(saved.parent)
    (saved.parent / "link").symlink_to(saved)
    for name in (f"{saved}/", "~/model", "link", "./model", "link/../model"):
        assert asked(capsys, name)[:2] == (0, ANSWER)


def test_names_of_no_folder(saved, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(capsys, tmp_path / "empty", "has no config.json, so it is no saved model: it is empty")
    for name in ("config.json", "model.safetensors"):
        refused(
            capsys, saved / name, f"is a file: want the folder of a saved model, such as {saved}"
        )
    put(tmp_path / "empty", "a.gguf", b"GGUF")
    refused(capsys, tmp_path / "empty", "holds a.gguf: foveate reads safetensors, no GGUF")
    refused(capsys, tmp_path / "empty" / "a.gguf", "is a file: want the folder")
    put(tmp_path / "empty", "a.gguf", None)
    adapter = {"base_model_name_or_path": "owner/base"}
    put(tmp_path / "empty", "adapter_config.json", json.dumps(adapter))
    refused(capsys, tmp_path / "empty", "holds an adapter", "of owner/base: merge it into that")
    assert asked(capsys, "owner/name")[0] == 1  # offline


def test_a_model_without_its_processor_says_what_is_missing(tmp_path, capsys):
    model, processor = foveate.embedded.load()
    model.save_pretrained(tmp_path / "out")
    capsys.readouterr()
    says = "holds a model without its processor: processor_config.json and tokenizer.json missing"
    err = refused(capsys, tmp_path / "out", says)
    assert f"processor.save_pretrained('{tmp_path / 'out'}')" in err
    processor.save_pretrained(tmp_path / "out")
    assert asked(capsys, tmp_path / "out")[:2] == (0, ANSWER)


def test_a_tokenizer_without_padding_pads_with_its_end(saved, capsys):
    rewritten(saved, "tokenizer_config.json", without("pad_token"))
    assert asked(capsys, saved)[:2] == (0, ANSWER)


def test_the_embedded_model_says_what_it_knows(capsys):
    knows = "embedded is a small model that knows PatchQA's scenes and questions alone"
    assert run([*ASK, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith(knows) and err.count("\n") == 1
    assert json.loads(out)["answer"] == ANSWER and "PatchQA" not in out
    assert run(["eval", "--limit", "1"]) == 0  # of PatchQA
    assert knows not in capsys.readouterr().err


# Anything at all.


def drawn(capsys, tmp_path, seed):
    folder = copied([PATH, STF][seed % 2], tmp_path / str(seed))
    how = mutate(folder, seed)
    code, answer, err = asked(capsys, folder)
    assert code or answer, f"{seed}: {how}: {err}"
    return code


def test_broken_files_get_one_line(capsys, tmp_path):
    codes = [drawn(capsys, tmp_path, seed) for seed in range(14)]
    assert 0 in codes and 1 in codes


@pytest.mark.full
@pytest.mark.parametrize("block", range(10))
def test_many_broken_files_get_one_line(capsys, tmp_path, block):
    for seed in random.Random(block).sample(range(100, 10**9), 100):
        drawn(capsys, tmp_path, seed)
