"""Training methods that read what is asked: the words reach them however a batch is computed."""

from __future__ import annotations

import json

import pytest
import small

from foveate.train import run

READS = {"method": "meteor", "arguments": {"keep": 5, "hidden": 16, "depth": 1}}
PLAIN = {"template": "plain", "steps": 3, "trains": {"compressor": 1e-2}}


def captions(folder, asked: list[str], n: int = 24):
    """Pictures and captions; the k-th asks asked[k % …], in LLaVA's form, the image first or last."""
    path = small.data_file(folder, n, text=n + 1)
    found = json.loads(path.read_text())
    for k, one in enumerate(found):
        words, (_, said, *_) = asked[k % len(asked)], one["conversations"]
        where = f"{words}\n<image>" if k % 2 else f"<image>\n{words}"
        one["conversations"] = [{"from": "human", "value": where}, said]
        one["image"] = "1.png"
    path.write_text(json.dumps(found))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same captions, asked for in other words, or in none."""
    asked = {
        "one": ["Describe it.", "Give a brief description of the picture."],
        "other": ["Is it a cat?", "What is red in the picture on the mat?"],
        "some": ["", "Give a brief description of the picture."],
        "none": [""],
    }
    return {name: captions(tmp_path_factory.mktemp(name), w) for name, w in asked.items()}


def trained(card, out, path, **changes):
    return run(card(data=str(path), images=str(path.parent), **changes), out)


def test_the_words_of_a_caption_are_read(card, files, tmp_path):
    """From the first step; who does not read is not touched by them."""
    found = {
        name: small.losses(trained(card, tmp_path / name, files[name], **READS, **PLAIN))
        for name in files
    }
    firsts = {round(losses[0], 7) for losses in found.values()}
    assert len(firsts) == 4
    deaf = {**PLAIN, "trains": {"language": 1e-2}}
    one = trained(card, tmp_path / "deaf one", files["one"], **deaf)
    other = trained(card, tmp_path / "deaf other", files["other"], **deaf)
    assert small.losses(one) == small.losses(other)


def test_they_reach_evaluations(card, files, tmp_path):
    def checked(name):
        path = {"validation": str(files[name]), "evaluate_every": 3}
        done = trained(card, tmp_path / name, files["one"], **READS, **PLAIN, **path)
        return [entry["eval_loss"] for entry in done["history"] if "eval_loss" in entry]

    one, other = checked("one"), checked("other")
    assert len(one) == len(other) == 1 and one != other
