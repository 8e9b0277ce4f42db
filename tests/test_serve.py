"""Of our own server, what works without its extra: limits, pictures, choices and rows."""

from __future__ import annotations

import asyncio
import base64
import io
import ipaddress
import json
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from foveate.cli import run
from foveate.cli.wrong import Failed
from foveate.evaluate.plans import BARE, Plan
from foveate.serve import pictures
from foveate.serve.choice import key
from foveate.serve.limits import Limits, Refused
from foveate.serve.rows import Draw, Row, Wanted, begun, nucleus

serve = import_module("foveate.cli.serve")  # its name in the package is the command
ROOT = Path(__file__).parents[1]
WORDS = {0: "a ", 1: "b", 2: " c", 3: "�", 4: "é"}


def decode(ids):
    """A letter of two tokens is broken until its second is there."""
    return "".join(WORDS[i] for i in ids).replace("�é", "é")


def said(ids, **how):
    """What of a row may be read after each token; and why it ended."""

    async def steps():
        row, shown = Row(wanted(**how)), []
        for token in ids:
            row.step(token, decode, {9})
            shown.append(row.shown)
            if row.why:
                break
        return shown, row.why

    return asyncio.run(steps())


def wanted(**how):
    """A request without a model."""
    usual = {"new": 9, "end": time.monotonic() + 60}
    return Wanted(([], ""), Plan(BARE, 1.0), **{**usual, **how})


@pytest.mark.parametrize(
    ("ids", "how", "shown", "why"),
    [
        ([0, 1, 2, 9], {}, ["a", "a b", "a b c", "a b c"], "stop"),
        ([0, 1, 2], {"new": 2}, ["a", "a b"], "length"),
        ([1, 3, 4, 9], {}, ["b", "b", "bé", "bé"], "stop"),
        ([1, 3], {"new": 2}, ["b", "b�"], "length"),
        ([0, 1, 2, 2], {"stops": ("c",)}, ["a", "a b", "a b"], "stop"),
        ([0, 1, 2, 1], {"stops": ("b cd",)}, ["a", "a", "a", "a b c"], None),
        ([0], {"end": 0.0}, [""], "late"),
    ],
)
def test_a_row_is_shown_as_far_as_it_is_certain(ids, how, shown, why):
    assert said(ids, **how) == (shown, why)


@pytest.mark.parametrize(
    ("text", "word", "letters"),
    [("abc", "cd", 1), ("abc", "bcd", 2), ("abc", "abc", 0), ("", "a", 0)],
)
def test_what_a_word_may_begin_with_is_held_back(text, word, letters):
    assert begun(text, word) == letters


def test_draws_are_those_of_the_softmax_and_each_row_has_its_own_dice():
    logits = torch.tensor([2.0, 1.0, 0.0, -9.0])

    async def drawn(seeds):
        rows = [Row(wanted(temperature=2.0, seed=seed)) for seed in seeds]
        return Draw(rows)(None, logits.expand(len(rows), 4)).argmax(1)

    found = asyncio.run(drawn(range(4000)))
    shares = found.bincount(minlength=4) / len(found)
    assert torch.allclose(shares.double(), (logits / 2).softmax(0).double(), atol=0.03)
    assert asyncio.run(drawn([7])).item() == found[7]

    async def mixed():
        return Draw([Row(wanted()), Row(wanted(temperature=1.0))])(None, logits.expand(2, 4))

    cold, hot = asyncio.run(mixed())
    assert torch.equal(cold, logits) and not torch.equal(hot, logits)


def test_a_nucleus_holds_the_likeliest_that_make_up_its_share():
    logits = torch.tensor([0.1, 0.5, 0.3, 0.1]).log()
    for top_p, held in ((0.4, [1]), (0.5, [1]), (0.6, [1, 2]), (1.0, [0, 1, 2, 3])):
        assert nucleus(logits, top_p).isfinite().nonzero().flatten().tolist() == held


@pytest.mark.parametrize("name", Limits.__dataclass_fields__)
def test_a_limit_below_1_is_none(name):
    with pytest.raises(ValueError, match=f"{name}=0: want at least 1"):
        Limits(**{name: 0})


def png(size):
    Image.new("L", size).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "status", "why"),
    [
        (png((101, 100)), 413, "101 x 100 pixels: want at most 10,000"),
        (png((100, 100))[:60], 400, "cannot be read"),
        (png((1, 100)), 400, "at least 4"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 400, "PostScript"),
        (b"", 400, "cannot be read"),
    ],
)
def test_pictures_are_looked_at_before_they_are_decoded(data, status, why):
    with pytest.raises(Refused, match=why) as refused:
        pictures.opened(data, Limits(pixels=10_000), 10_000)
    assert refused.value.status == status


def test_data_urls_are_read_and_nothing_else():
    data, limits = png((9, 9)), Limits()
    for url in (
        f"data:image/png;base64,{base64.b64encode(data).decode()}",
        f"data:image/png;base64,{base64.encodebytes(data).decode()}",  # in lines
        "data:image/png," + "".join(f"%{byte:02x}" for byte in data),
    ):
        assert pictures.raw(url, limits, fetch=False) == data
    for url in ("file:///etc/passwd", "/etc/passwd", "ftp://a/b", "", "http://a/b", "HTTPS://a/b"):
        with pytest.raises(Refused, match=r"want a data URL|fetches no pictures"):
            pictures.raw(url, limits, fetch=False)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1%eth0"]
)
def test_no_private_address_is_connected_to_however_it_is_written(address):
    assert not pictures._public(address)
    if ":" not in address:
        number = int(ipaddress.IPv4Address(address))
        high, low = f"{number >> 16:x}", f"{number & 0xFFFF:x}"
        for around in (
            "::ffff:{}:{}",
            "64:ff9b::{}:{}",
            "64:ff9b:1::{}:{}",
            "::{}:{}",
            "2002:{}:{}::",
        ):
            assert not pictures._public(around.format(high, low))
    assert pictures._public("1.1.1.1") and pictures._public("2606:4700:4700::1111")
    assert not pictures._public("fec0::1") and not pictures._public("ff0e::1")


def test_a_temperature_may_be_as_small_as_numbers_get():
    scores = torch.tensor([[1.0, 9.0, 3.0]])
    for temperature in (1e-310, 1e-38, 1e-3):
        row = SimpleNamespace(
            wanted=SimpleNamespace(temperature=temperature, top_p=1.0), dice=torch.Generator()
        )
        assert Draw([row])(torch.zeros(1, 1), scores).argmax(-1).tolist() == [1]


@pytest.fixture(scope="module")
def bare():
    return serve.offer("embedded")


@pytest.fixture(scope="module")
def trained():
    return serve.offer("embedded-fovea")


@pytest.mark.parametrize(
    ("method", "keep", "acts"),
    [
        (None, None, "None"),
        ("identity", None, "None"),
        ("divprune", 9, "DivPrune(keep=9, layer=0)"),
        ("divprune", 1.0, "DivPrune(keep=1.0, layer=0)"),
        ("divprune", "1.0", "DivPrune(keep=1.0, layer=0)"),
        ("fastv(layer=3, keep=0.5)", None, "FastV(keep=0.5, layer=3)"),
    ],
)
def test_a_request_chooses_its_method(bare, method, keep, acts):
    assert str(bare.plan(method, keep).compressor) == acts


def test_a_saved_method_keeps_its_weights_at_any_budget(trained):
    own = trained.usual.compressor
    for method, keep in ((None, 9), ("fovea", 9)):
        made = trained.plan(method, keep).compressor
        assert made.keep == 9 and made is not own
        assert all(map(torch.equal, made.state_dict().values(), own.state_dict().values()))
    assert trained.plan(None, None).compressor is own


@pytest.mark.parametrize(
    ("method", "keep", "why"),
    [
        (None, 9, "say which"),
        ("divprun", 9, "nearest: divprune"),
        ("meteor", 9, "has weights"),
        ("os:system", 9, "no code"),
        ("divprune(keep=9)", 9, "give it once"),
        ("divprune, pool", 9, "want one"),
        ("divprune", True, "keep='True'"),
        ("pool", 0.4, "1/stride"),
    ],
)
def test_what_a_request_cannot_choose_is_said(bare, method, keep, why):
    with pytest.raises(Refused, match=why) as refused:
        bare.plan(method, keep)
    assert refused.value.status == 400


def test_a_batch_is_of_one_method_one_budget_and_the_same_weights(bare, trained):
    plans = [bare.plan("divprune", 9), bare.plan("divprune", 9), bare.plan("divprune", 0.5)]
    assert key(plans[0]) == key(plans[1]) != key(plans[2])
    assert key(trained.plan(None, 9)) != key(trained.plan(None, 9))  # copies
    assert key(trained.usual) == key(trained.plan(None, None))


def test_switches_are_those_of_every_method():
    told = {"positions": "renumbered"}
    for one in (
        serve.offer("embedded", switches=told),
        serve.offer("embedded-fovea", switches=told),
    ):
        assert one.plan("divprune", 9).how["positions"] == "renumbered"
    assert one.usual.how["positions"] == "renumbered"


def test_a_method_of_one_budget_says_so(trained):
    fixed = serve.offer("embedded-llava_stf")
    assert fixed.settled("llava_stf") and not fixed.settled("divprune")
    with pytest.raises(ValueError, match="no code"):
        fixed.settled("os:system")
    assert fixed.settled("pool(stride=4)") and not trained.settled("fovea")
    with pytest.raises(Refused, match="trained for one budget alone"):
        fixed.plan(None, 9)


def test_without_its_extra_the_command_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    assert run(["serve"]) == 1
    assert "pip install 'foveate[serve]'" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said():
    with serve._listening("127.0.0.1", 0) as taken, pytest.raises(Failed, match="cannot listen"):
        serve._listening("127.0.0.1", taken.getsockname()[1])


def test_what_the_page_says_of_the_load_is_so():
    load = json.loads((ROOT / "results" / "serve-load.json").read_text())
    page = " ".join((ROOT / "docs" / "site" / "serve.md").read_text().split())
    ended, memory = load["ended"], load["megabytes"]
    assert f"Of {load['requests']:,} requests by {load['clients']} clients" in page
    assert sum(sum(ends.values()) for ends in ended.values()) == load["requests"]
    assert ended.pop("good").keys() == {"200"} and load["not_as_they_should"] == []
    assert sum(sum(ends.values()) for ends in ended.values()) / load["requests"] == 1 / 20
    assert (
        f"stayed at {memory['last_tenth']:.0f} MB, and was {memory['most']:.0f} MB at most" in page
    )
    assert memory["last_tenth"] / memory["second_tenth"] == pytest.approx(1, abs=0.01)
