"""A setting in a file, and how `foveate tune` finds one."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from math import comb
from pathlib import Path

import pytest
import torch

import foveate
from foveate import embedded, tasks
from foveate.cli import run
from foveate.cli.ask import chosen_method
from foveate.cli.serve import offer
from foveate.cli.vllm import Told, command
from foveate.cli.wrong import Wrong
from foveate.engines import opening
from foveate.engines.vllm import served
from foveate.evaluate import runs
from foveate.evaluate.bounds import interval, tail, upper
from foveate.evaluate.plans import Loaded, Plan, fitting
from foveate.evaluate.work import Work
from foveate.hosts.whole import fingerprint
from foveate.registry import setting, written
from foveate.registry.setting import Setting
from foveate.serve.limits import Refused
from foveate.tune import Asked, Target, front, search, shown, spans

EXAMPLES = Path(__file__).parents[1] / "examples"
HERE = str(embedded.MODELS["embedded"])
METHOD = "fastv(layer=3, keep=9)"
SWITCHES = {"positions": "renumbered", "dropped": "merged"}


@pytest.fixture(scope="module")
def model():
    return embedded.load()[0]


@pytest.fixture
def file(model, tmp_path):
    """A setting for the embedded model."""
    chosen = Setting(METHOD, "embedded", fingerprint(model), SWITCHES)
    return str(chosen.write(tmp_path / "setting.json"))


def acts(model) -> tuple:
    """What is attached, and how."""
    said = model.config.visual_compression
    return str(model.model.visual_compressor), {name: said.get(name) for name in SWITCHES}


WANTED = ("FastV(keep=9, layer=3)", SWITCHES)


def by_ask(file, capsys):
    picture = str(EXAMPLES / "shop.png")
    assert run(["ask", picture, "what does the sign say ?", "--method", file, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["tokens"]["after"] == 9
    return said["method"], {**SWITCHES, "dropped": said["dropped"]}


def by_eval(file, capsys):
    assert run(["eval", "--limit", "8", "--method", file, "--json"]) == 0
    job = json.loads(capsys.readouterr().out)["job"]
    assert job["method"] == "fastv(layer=3)" and job["keep"] == 9
    return job["compressor"], {name: job[name] for name in SWITCHES}


def by_compress(file, _):
    return acts(foveate.compress(embedded.load()[0], file))


def by_from_pretrained(file, _):
    return acts(foveate.from_pretrained(HERE, file))


def by_serve(file, _):
    return acts(offer(method=file).loaded.model)


def by_harness(file, _):
    return acts(opening.opened("embedded", torch.device("cpu"), {"method": file})[0])


DOORS = (by_ask, by_eval, by_compress, by_from_pretrained, by_serve, by_harness)


@pytest.mark.parametrize("door", DOORS)
def test_every_door_takes_the_file(file, capsys, door):
    assert door(file, capsys) == WANTED


def test_what_is_typed_beside_it(file, capsys):
    """A switch goes before the file's; a budget or an argument does not stand beside it."""
    model = foveate.compress(embedded.load()[0], file, attention="proportional")
    assert model.config.visual_compression["attention"] == "proportional"
    assert acts(model)[1] == SWITCHES
    says = "which says fastv(layer=3, keep=9): leave it out"
    with pytest.raises(ValueError, match=re.escape(f"keep=8 beside {file}, {says}")):
        foveate.compress(model, file, keep=8)
    with pytest.raises(ValueError, match=re.escape(says)):
        opening.arguments({"method": file, "set.layer": 2})
    with pytest.raises(Wrong, match=re.escape(f"--keep 8, --set layer=2 beside {file}, {says}")):
        chosen_method(file, "8", ["layer=2"])


@pytest.mark.parametrize(
    ("held", "says"),
    [
        (None, "No such file or directory; `foveate tune` writes such a file"),
        ("{}", "no setting or ladder as `foveate tune`"),
        ("changed", "no setting or ladder as `foveate tune`"),
        ("code", "a file may name methods, and no code"),
        ("switch", "want one of gone, merged"),
    ],
)
def test_files_that_are_none(file, tmp_path, held, says):
    path = tmp_path / "other.json"
    if held == "code":
        Setting("math:sqrt", "embedded", "").write(path)
    elif held == "switch":
        Setting("stride(keep=9)", "embedded", "", {"dropped": "lost"}).write(path)
    elif held is not None:
        path.write_text(Path(file).read_text().replace("9", "8") if held == "changed" else held)
    with pytest.raises(ValueError, match=re.escape(says)):
        setting.named(str(path))


def test_a_client_names_no_file(file):
    choice = offer(method=file)
    assert acts(choice.loaded.model) == WANTED and choice.plan(None, None) is choice.usual
    assert str(choice.plan(None, 16).compressor) == "FastV(keep=16, layer=3)"
    with pytest.raises(Refused, match=r"no method '.*setting\.json'"):
        choice.plan(file, None)
    with pytest.raises(ValueError, match="no method"):
        served.of_text(file, choice.loaded.model.config)


def test_vllm_takes_what_it_can_serve(tmp_path, monkeypatch):
    def asked(switches):
        chosen = Setting("divprune(keep=9)", "embedded", "", switches)
        path = str(chosen.write(tmp_path / "setting.json"))
        return command(Told("embedded", path, None, [], None, "cpu", "127.0.0.1", 1, None), "")

    told = '{"foveate": "divprune(keep=9)", "foveate_positions": "renumbered"}'
    assert told in asked({"positions": "renumbered"})
    with pytest.raises(Wrong, match="vLLM serves dropped='gone'"):
        asked(SWITCHES)


def test_another_model_is_told(tmp_path, capsys):
    path = str(Setting("stride(keep=9)", "other", "0").write(tmp_path / "setting.json"))
    assert run(["eval", "--limit", "4", "--method", path, "--json"]) == 0
    assert "this setting was chosen for other" in capsys.readouterr().err


def test_bounds_by_hand():
    assert upper(0, 59, 0.05) == pytest.approx(1 - 0.05 ** (1 / 59), rel=1e-9)
    assert upper(59, 59, 0.05) == 1 and interval(0, 9, 0.1)[0] == 0
    low, high = interval(3, 40, 0.1)
    p, q = Fraction(low), Fraction(high)
    assert float(sum(comb(40, k) * q**k * (1 - q) ** (40 - k) for k in range(4))) == (
        pytest.approx(0.05, rel=1e-6)
    )
    assert float(sum(comb(40, k) * p**k * (1 - p) ** (40 - k) for k in range(3))) == (
        pytest.approx(0.95, rel=1e-6)
    )


def test_rounds_double():
    assert spans(1100) == [(0, 64), (64, 128), (128, 256), (256, 512), (512, 1100)]
    assert spans(100) == [(0, 100)] and spans(1) == [(0, 1)]


def one(name, flips, tokens, n=100, moved=0.0):
    return Asked(name, n, flips, moved, tokens * n, tokens, 100.0)


def test_the_front_by_hand():
    """Fewer tokens and less harm; where as many answers differ, what moved less."""
    found = [one("d", 0, 90), one("a", 9, 4), one("worse", 9, 5), one("b", 2, 36, moved=3.0)]
    found += [one("moved", 2, 36, moved=4.0), one("c", 2, 40, moved=1.0)]
    assert [a.plan for a in front(found)] == ["a", "b", "c", "d"]
    assert [a.plan for a in Target("flips", 0.02).steps(found)] == ["d", "c", "b"]
    assert [a.plan for a in Target("tokens", 36).steps(found)] == ["b"]
    assert [a.plan for a in Target("prefill", 0.4).steps(found)] == ["c"]


def test_what_is_shown_ends_at_the_first_that_is_not():
    """Of 200 questions 4 may differ for at most 5 % at 95 %, and 5 not; the fourth is never asked."""
    found, asked = [one(n, 0, 9 * n, moved=1 / n) for n in (1, 2, 3, 4)], []

    def ask(plan):
        asked.append(plan)
        return one(plan, {4: 4, 3: 0, 2: 5, 1: 0}[plan], 9 * plan, n=200)

    told = [*shown(Target("flips", 0.05), found, ask, 0.05)]
    assert asked == [4, 3, 2] and [holds for _, holds in told] == [True, True, False]
    assert tail(4, 200, 0.05) <= 0.05 < tail(5, 200, 0.05)


@pytest.fixture(scope="module")
def grid():
    """A small grid of which everything was asked: plans, and what a span of the questions gave."""
    loaded = Loaded(*embedded.load(), "embedded")
    specs = written.specs("stride,divprune")
    plans = [Plan(str(spec), keep, spec) for spec in specs for keep in (4, 9, 36, 72)]
    plans, _ = fitting(loaded, plans)
    job = Work(loaded, "patchqa", tasks.examples("patchqa", 48), batch_size=48)
    every = {str(plan): job.batch(plan, 0) for plan in [Plan("identity", 1.0), *plans]}

    def ask(some, span):
        told = [every["identity 1.0"], *(every[str(plan)] for plan in some)]
        return [document(answers[slice(*span)]) for answers in told]

    return plans, ask


def document(answers) -> dict:
    cost = sum(a["after"] for a in answers) / len(answers)
    return {"answers": {a["key"]: a for a in answers}, "cost": {"total": cost}}


@pytest.mark.parametrize(
    "target", [Target("tokens", 40), Target("prefill", 0.1), Target("flips", 0.05)]
)
def test_halving_finds_the_best_of_a_grid(grid, target):
    plans, ask = grid
    count = []

    def counted(some, span):
        count.append(len(some) * (span[1] - span[0]))
        return ask(some, span)

    every = search(plans, ask, [(0, 48)])
    rounds = spans(48, 12)
    found = search(plans, counted, rounds, target.within, target.near, fewest=2)
    assert sum(count) < len(plans) * 48 and len(rounds) == 3
    whole = [a for a in found if a.n == 48]
    assert 2 <= len(whole) < 8 and {str(a.plan) for a in found} == {str(p) for p in plans}
    best = target.steps(whole)[-1]
    assert str(best.plan) == str(target.steps(every)[-1].plan)
    assert (best.plan, best.flips) in [(a.plan, a.flips) for a in every]  # of all rounds


def test_tune_goes_on_where_it_was_stopped(tmp_path, capsys, monkeypatch):
    """Nothing is asked twice; what it writes is taken where a method is."""
    out, asked, own = ["--out", str(tmp_path)], [], runs.answers

    def until(most):
        def answers(model, processor, batch, *how):
            if len(asked) == most:
                raise KeyboardInterrupt
            asked.append(tuple(e.key for e in batch))
            return own(model, processor, batch, *how)

        monkeypatch.setattr(runs, "answers", answers)

    words = ["tune", "--keeps", "9", "--limit", "64", "--batch-size", "16", "--tokens", "9", *out]
    words += ["--methods", "stride(layer=0),divprune(layer=0)"]
    until(5)
    assert run([*words, "--json"]) == 1
    until(None)
    capsys.readouterr()
    assert run([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(asked) == 2 * 3 + 2 * 2  # batches of three runs to choose, and of two to show
    assert len({*asked[:6]}) == 2 and not {*asked[:6]} & {*asked[6:]}  # on other questions
    assert told["chosen"]["method"] == "divprune(layer=0, keep=9)"
    assert told["chosen"]["questions"] == 32 == told["questions"]["showing"]
    assert told["chosen"]["at_most"] == upper(told["chosen"]["flips"], 32, 0.05)
    until(len(asked))
    for more, says in (([], "most "), (["--flips", "0.01"], "want one target")):
        assert run([*words, *more]) == (2 if more else 0)
        assert says in "".join(capsys.readouterr())
    assert run([*words, "--tokens", "8"]) == 2
    assert "tokens=8: the least of any candidate is 9" in capsys.readouterr().err
    words[words.index("--tokens") : words.index("--tokens") + 2] = ["--flips", "0.05"]
    assert run(words) == 0  # of 32 questions nothing is shown
    assert "so the setting keeps all" in capsys.readouterr().out
    assert setting.named(str(tmp_path / "setting.json")).slug == "identity"


def test_what_is_no_candidate(tmp_path, capsys):
    for methods, says in (
        ("foveate.methods:FastV", "a setting names methods"),
        ("llava_stf", "it has weights that nobody trained"),
    ):
        words = ["tune", "--limit", "4", "--methods", methods, "--out", str(tmp_path)]
        assert run(words) == 2
        assert says in capsys.readouterr().err


def test_no_label_is_read(tmp_path, capsys):
    """A file of questions alone, of which half choose and the other half show."""
    tasks.examples("patchqa", 1)[0].images[0].save(tmp_path / "a.png")
    asked = [{"image": "a.png", "question": f"what is the {what} ?"} for what in ("sign", "digit")]
    (tmp_path / "mine.json").write_text(json.dumps(asked))
    words = ["tune", "--task", str(tmp_path / "mine.json"), "--methods", "stride(layer=0)"]
    words += ["--keeps", "9", "--prefill", "0.9", "--out", str(tmp_path / "out"), "--json"]
    assert run(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["questions"] == {"choosing": 1, "showing": 1}
    assert told["chosen"]["method"] == "stride(layer=0, keep=9)" and told["chosen"]["prefill"] < 0.9
    (tmp_path / "mine.json").write_text(json.dumps(asked[:1]))
    assert run(words) == 2
    assert "one question: want two" in capsys.readouterr().err
