"""The leaderboard: what a run depends on, rows from results, and pages that anybody can make again."""

import json
import re
from dataclasses import replace

import pytest

from foveate import DivPrune, Fovea, embedded, leaderboard
from foveate.cli import run
from foveate.core.spec import Spec
from foveate.evaluate.plans import Loaded
from foveate.evaluate.work import Work
from foveate.leaderboard import figures, page
from foveate.leaderboard import made as made_room
from foveate.leaderboard import runs as room
from foveate.methods import METHODS
from foveate.tasks import examples


@pytest.fixture(scope="module")
def work():
    return Work(
        Loaded(*embedded.load(), "embedded"), "patchqa", examples("patchqa", 22), batch_size=22
    )


def asked(work, *slugs, keeps=(0.25,)):
    return leaderboard.entries(work, [Spec(slug, METHODS[slug]) for slug in slugs], keeps)[0]


@pytest.fixture(scope="module")
def made(work, tmp_path_factory):
    """A small board of few questions, made once."""
    folder = tmp_path_factory.mktemp("board")
    every = asked(work, "random", "divprune")
    leaderboard.make([(work, one) for one in every], folder)
    return folder, every


def test_baselines_are_always_there_and_chance_has_three_seeds(work):
    every = asked(work, "random", "divprune", keeps=(0.5, 0.25))
    told = [(e.key["method"], e.key["keep"], e.key["seed"]) for e in every]
    assert told[0] == ("identity", 1.0, None)
    assert [t for t in told if t[0] == "random"] == [
        ("random", k, s) for k in (0.5, 0.25) for s in (0, 1, 2)
    ]
    assert {t[0] for t in told} == {
        "identity",
        "downsample",
        "blind",
        "oracle",
        "random",
        "divprune",
    }
    assert len({e.name for e in every}) == len(every)


def test_all_methods_that_need_no_training_are_on_it(work):
    every, _ = leaderboard.entries(work, None, (0.25,))
    methods = {e.key["method"] for e in every}
    assert {"fastv", "visionzip", "cdpruner", "fovea", "pool"} <= methods
    assert not {"meteor", "llava_stf", "depthwise"} & methods
    asking = {e.key["method"] for e in every if e.what["question"]}
    assert {"fastv", "pyramiddrop", "dart", "sparsevlm", "cdpruner", "vscan"} <= asking
    assert not {"divprune", "visionzip", "fovea", "tome", "v2drop"} & asking
    inside = {e.key["method"] for e in every if e.what["inside"]}
    assert {"fastv", "v2drop", "vscan"} <= inside and not {"tome", "divprune", "fovea"} & inside


def test_a_finished_run_is_found_again_and_another_budget_is_not(work, made):
    folder, every = made
    assert leaderboard.missing(folder, every) == []
    more = asked(work, "random", "divprune", keeps=(0.25, 0.125))
    assert {(e.key["method"], e.key["keep"]) for e in leaderboard.missing(folder, more)} == {
        (name, 0.125) for name in ("downsample", "oracle", "random", "divprune")
    }
    changed = [replace(e, key={**e.key, "code": "other"}) for e in every]
    assert len(leaderboard.missing(folder, changed)) == len(every)
    spoiled = folder / f"{every[0].name}.json"
    text = spoiled.read_text()
    spoiled.write_text(text.replace('"right": "', '"right": "1'))  # not as it was written
    assert leaderboard.missing(folder, every) == every[:1]
    spoiled.write_text(text)


def test_a_prefill_is_timed_beside_the_bare_model_and_a_short_prompt(work):
    every = {one.key["method"]: one for one in asked(work, "divprune")}
    found = made_room.timed(work, every["divprune"].plan, pairs=1)
    assert found["to_bare"] > 0 and found["to_limit"] > 0 and found["pairs"] == 1
    assert made_room.timed(work, every["oracle"].plan, pairs=1)["to_limit"] > 0
    assert made_room.timed(work, every["blind"].plan) is None


def test_rows_say_what_the_answers_say(made):
    folder, _ = made
    results = figures.read(folder)
    rows = {row.method: row for row in figures.rows(results)}
    by = {(r["key"]["method"], r["key"]["seed"]): r["right"] for r in results}
    bare, small, mine = by["identity", None], by["downsample", None], by["divprune", None]
    row, n = rows["divprune"], len(mine)
    assert row.right["overall"][0] == pytest.approx(mine.count("1") / n)  # 22: each kind twice
    hard = [m for m, s in zip(mine, small, strict=True) if s == "0"]
    assert row.hard == pytest.approx(hard.count("1") / len(hard))
    assert row.lost == pytest.approx(sum(b > m for m, b in zip(mine, bare, strict=True)) / n)
    assert row.won == pytest.approx(sum(b < m for m, b in zip(mine, bare, strict=True)) / n)
    assert row.tokens == row.layers == 36 and 0 < row.recall < 1
    assert rows["random"].seeds == 3
    drawn = [by["random", seed].count("1") / n for seed in (0, 1, 2)]
    assert rows["random"].right["overall"][0] == pytest.approx(sum(drawn) / 3)
    assert row.front and not rows["oracle"].front and not row.question
    assert rows["blind"].right["fine"][0] == 0 and rows["oracle"].recall == 1


def test_pages_are_the_same_bytes_for_the_same_results(made, tmp_path):
    results = figures.read(made[0])
    first = [path.read_bytes() for path in page.write(results, tmp_path / "a")]
    assert [path.read_bytes() for path in page.write(results[::-1], tmp_path / "b")] == first
    text, html, chart = (data.decode() for data in first)
    assert "Without training use `divprune`" in text and "| `divprune` |" in text
    data = json.loads(re.search(r"const rows = (.*);\n", html)[1])
    assert len(data) == len(figures.rows(results))
    assert chart.startswith("<?xml") and "divprune" in chart
    assert not re.search(r"(src|href)=", html)  # it needs nothing else


def test_advice_tells_who_is_as_good_and_when_training_pays():
    """Rows of one budget, their numbers made up."""
    likeness = {"fine": (0.5, 0.1)}

    def row(method, right, half=0.02, **more):
        plain = dict.fromkeys(("hard", "easy", "lost", "won", "recall", "to_bare", "to_limit"))
        kind = dict.fromkeys(("question", "inside", "baseline", "trained"), False)
        numbers = {"macs": 1.0, "scorer": 0.0, "kv_bytes": 1.0, "tokens": 36.0, "layers": 36.0}
        own = {"task": "t", "model": method, "method": method, "keep": 0.25, "seeds": 1, "n": 9}
        score = {"right": {"overall": (right, half), **likeness}}
        return figures.Row(**{**plain, **kind, **numbers, **own, **score, **more})

    bare = row("identity", 1.0, keep=1.0, layers=144.0, baseline=True)
    late = row("e", 0.99, layers=60.0)  # as many at the end, and not in the mean
    board = [bare, row("a", 0.9), row("b", 0.88), row("c", 0.7), late, row("d", 0.95, trained=True)]
    (at,) = page.advice(board)
    assert at["free"].method == "a" and at["trained"].method == "d" and at["tokens"] == 36
    assert [r.method for r in at["near"]] == ["b"]
    told = page.parts(board, "t")
    assert [name for name, _ in told["before the language model"]] == ["a", "b", "c", "e"]
    assert told["trained"][0][1][0].method == "d"
    assert page.advice([]) == []


def test_a_key_follows_the_code_and_not_its_comments(tmp_path, monkeypatch):
    one, other = room.code([DivPrune(4)], "divprune"), room.code([Fovea(4)], "fovea")
    assert one != other and one == room.code([DivPrune(9)], "divprune")
    file = room.PACKAGE / "methods" / "divprune.py"
    used = {u.name for u in room.Used(file, None).uses()}
    assert {"budget", "cosine", "VisualTokens"} <= used and "windows" not in used
    copy = tmp_path / "x.py"
    copy.write_text('def f(x):\n    """Says."""\n    return x + 1\n')
    plain = room.Used(copy, None).told()
    again, changed = tmp_path / "y.py", tmp_path / "z.py"
    again.write_text('def f(x):\n    """Says otherwise."""\n    # why\n    return x+1\n')
    changed.write_text("def f(x):\n    return x + 2\n")
    assert room.Used(again, None).told() == plain != room.Used(changed, None).told()
    does, says = tmp_path / "v.py", tmp_path / "w.py"
    does.write_text("class A:\n    def forward(self): ...\n")
    says.write_text(does.read_text() + "    def left(self): ...\n    def __str__(self): ...\n")
    assert room.Used(does, None).told() == room.Used(says, None).told()
    empty, given = tmp_path / "t.py", tmp_path / "u.py"
    empty.write_text(does.read_text() + "    new: int | None = None\n")
    given.write_text(does.read_text() + "    new: int = 3\n")
    told = [room.Used(file, None).told() for file in (does, empty, given)]
    assert told[0] == told[1] != told[2]
    assert "left_by_view" not in {
        u.name for u in room.Used(room.PACKAGE / "methods" / "visionzip.py", None).uses()
    }


def test_the_command_makes_what_is_missing_and_no_more(capsys, tmp_path):
    out, pages_at = tmp_path / "runs", tmp_path / "pages"
    words = [
        "leaderboard",
        "--methods",
        "stride",
        "--tasks",
        "patchqa",
        "--keeps",
        "0.25",
        "--limit",
        "11",
        "--no-timing",
    ]
    words += ["--trained", "", "--out", str(out), "--pages", str(pages_at)]
    assert run([*words, "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 5 and not any(line.startswith("done") for line in listed)
    assert run([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in told["rows"]][-1] == "stride" and len(told["pages"]) == 3
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").glob("*.json")}
    pages = {file: file.read_bytes() for file in (tmp_path / "pages").iterdir()}
    assert len(files) == 5
    next(iter(files)).unlink()
    assert run([*words, "--list"]) == 0
    assert sum(line.startswith("done") for line in capsys.readouterr().out.splitlines()) == 4
    (tmp_path / "pages" / "leaderboard.md").unlink()
    left = list(files)[1:]
    assert run([*words]) == 0
    assert all(file.stat().st_mtime_ns == files[file] for file in left)
    assert {file for file in pages if file.exists()} == set(pages)
    assert run([*words, "--page"]) == 0
    assert run([*words, "--page", "--out", str(tmp_path / "none")]) == 2
    assert "none yet: leave --page out" in capsys.readouterr().err


def test_a_switch_makes_a_row_of_its_own(work, made):
    """Merged or not, a method has two rows, and two files."""
    folder, every = made
    merged = replace(work, loaded=replace(work.loaded, switches={"dropped": "merged"}))
    (one,) = (e for e in asked(merged, "divprune") if e.key["method"] == "divprune")
    assert one.what["switches"] == ["merged"] and one.name.endswith("divprune-0.25-merged")
    (plain,) = (e for e in every if e.key["method"] == "divprune")
    results = figures.read(folder)
    (first,) = (r for r in results if r["key"]["method"] == "divprune")
    rows = figures.rows([*results, {**first, "key": one.key, "what": one.what}])
    assert {"divprune", "divprune, merged"} <= {row.method for row in rows}
    assert plain.name != one.name
