"""The command line and the process around it: signals, and streams that are closed, full, of few letters."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time

import malformed_calls as calls
import pytest
from PIL import Image

from foveate import __main__
from foveate.cli import output, run, said
from foveate.embedded import PATH
from foveate.keeping import stopping

STOPPED = f"foveate: {stopping.STOPPED}\n"
NAME = os.fsdecode(b"caf\xe9")  # in no encoding that knows more than bytes


@pytest.fixture
def picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (96, 96), "navy").save(tmp_path / "a.png")
    return "a.png"


# What people typed, said again.


@pytest.mark.parametrize(
    ("text", "typed", "says"),
    [
        ("no x\x1b[31m: want y", [], r"no x\x1b[31m: want y"),
        ("no a\nb: want y", ["a\nb"], r"no a\nb: want y"),
        ("no a\nb: want y", ["--set", "k=a\nb"], r"no a\nb: want y"),
        ("first line\n  second line", [], "first line second line"),
        ("no caf\udce9", [], r"no caf\xe9"),
        ("no \u202egnp", [], r"no \u202egnp"),
        ("é → ✓", [], "é → ✓"),
    ],
)
def test_nothing_unseen_is_said(text, typed, says):
    assert said.line(text, typed) == says


@pytest.mark.parametrize("value", ["x" * 10_000, "word " * 2_000, "'" * 10_000, "\x1b" * 10_000])
@pytest.mark.parametrize("quote", [str, repr])
def test_long_values_are_cut_and_what_is_wanted_is_not(value, quote):
    line = said.line(f"--keep {quote(value)}: want a share", [value])
    assert line.startswith("--keep ") and line.endswith(": want a share")
    assert len(line) < 300 and "letters) …" in line
    assert len(said.line("a b " * 10_000)) < 2_100


def test_a_long_question_is_not_echoed(capsys, picture):
    question = "what is the sign " * 600
    assert run(["ask", picture, question]) == 2
    err = capsys.readouterr().err
    assert "the model takes" in err and len(err) < 300
    assert run(["ask", picture, "what ?", question]) == 2
    err = capsys.readouterr().err
    assert "is a word too many: foveate ask takes IMAGE QUESTION" in err and len(err) < 500


ASK, EVAL, TRAIN = "ask a.png x", "eval --method", "train patchqa --set"
TOO_MUCH = [  # words with spaces between them
    (
        f"{ASK} --limit 3",
        "--limit is an option of compare, leaderboard, eval, audit, calibrate, draw scales",
    ),
    (f"{ASK} --metod y", "nearest: --method; there are --model, --method"),
    ("draw layers a.png x --lyers 2", "unknown option of foveate draw layers '--lyers'"),
    ("methods fastv", "'fastv' is a word too many: foveate methods takes options and no more"),
    ("compare --out ", "'--out': it is empty, want a path"),
    ("compare --limit 10000000000", " 2147483647"),
    ("compare --seed 4294967296", "4294967295"),
    ("eval --max-new-tokens 1" + "0" * 30, " 100000"),
    ("compare --scenes 1" + "0" * 400, " 1000"),
    (f"{EVAL} fastv --keep 1" + "0" * 30, "want at most 2147483647 tokens"),
    (f"{EVAL} fastv --keep ٣", "keep='٣': want an int >= 1"),
    (f"{EVAL} fastv --keep 1_0", "keep='1_0': want an int >= 1"),
    (f"{EVAL} pool --set stride=1" + "0" * 30, "want an int <= 2147483647"),
    (f"{EVAL} random --set seed=-1", "seed=-1: want an int >= 0"),
    (f"{EVAL} llava_stf --set hidden=2000000000", "weights: want at most 2,000,000,000"),
    (f"{EVAL} fastv --set layer=" + "[" * 5_000, "want a whole number, such as 2"),
    (f"{EVAL} fastv --set layer=" + "-" * 90_000 + "1", "want a whole number"),
    ("compare --methods fastv(layer=" + "[" * 5_000 + ")", "--methods fastv"),
    (f"{EVAL} visionzip --set contextual=1e400", "want a number, such as 0.15625"),
    ("bench --batch-sizes 10000000000", "want whole numbers from 1 with commas"),
    ("bench --new-tokens " + "9" * 5_000, "none above 100000"),
    ("draw layers a.png x --layers ²", "want whole numbers from 0"),
    (f"{TRAIN} steps=1" + "0" * 30, "want at most 2147483647"),
    (f"{TRAIN} steps=1000000000", "48,000,000,000: patchqa has 10,000,000 scenes"),
    (f"{TRAIN} seed=4294967296", "want a whole number from 0 to 4294967295"),
    (f"{TRAIN} epochs=inf", "want a number, such as 1.0"),
    (f"{TRAIN} trains.language=1e400", "want a number"),
    (f"{TRAIN} arguments.keep=1e400", "arguments.keep=inf: want finite numbers"),
    (f"{TRAIN} lora.rank=" + "(" * 5_000, "want a whole number"),
    ("ask a.png \udcff", r"no UTF-8: \xff"),
    (f"{ASK} --device \0", r"--device '\x00': want auto, cpu, cuda"),
    ("train patchqa --device meta", "--device 'meta': want auto, cpu"),
    ("bench --device ", "--device '': want auto"),
]


@pytest.mark.parametrize(("words", "says"), TOO_MUCH, ids=[ascii(w)[1:40] for w, _ in TOO_MUCH])
def test_what_no_machine_takes_is_refused_with_the_bound(capsys, picture, words, says):
    started = time.process_time()
    assert run(words.split(" ")) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("foveate: ")
    assert says in err and len(err) < 1_500
    assert time.process_time() - started < 20


def test_no_scene_is_made_for_more_questions_than_there_are():
    from foveate.cli.values import MOST_PROMPTS
    from foveate.patchqa import PatchQA

    with pytest.raises(ValueError, match=f"n=10000000000: the test split has {MOST_PROMPTS:,}"):
        PatchQA("test").examples(10_000_000_000)


# Signals.


@pytest.fixture
def heeded():
    """The process as the command line has it, and afterwards as it was."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before, hook = {n: signal.getsignal(n) for n in numbers}, sys.unraisablehook
    signal.signal(signal.SIGINT, signal.default_int_handler)  # workers of the tests ignore it
    stopping.heed()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    sys.unraisablehook = hook


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "name", sorted(calls.commands().keys() - {"benchmarks"})
)  # that only prints
def test_every_command_stops_in_order(capsys, picture, monkeypatch, heeded, name, number):
    monkeypatch.setattr(output, "hush", lambda: signal.raise_signal(number))
    good = {**calls.GOOD, "image": picture, **calls.FIGURES.get(name.split()[-1], {})}
    arguments = [p for p in calls.commands()[name].params if p.param_type_name == "argument"]
    words = [*name.split(), *(good[p.name] for p in arguments)]
    assert run([*words, *(["--model", "small"] if name == "methods" else [])]) == 1
    assert capsys.readouterr() == ("", STOPPED)


def test_while_it_is_still_being_loaded(capsys, monkeypatch, heeded):
    class Loading:
        def __getattr__(self, name):
            if name != "main":
                raise AttributeError
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setitem(sys.modules, "foveate.cli", Loading())
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert f"{ended.value.code}\n" == STOPPED  # a text is printed, and the exit code is 1


def test_a_second_signal_changes_nothing_while_things_are_closed(heeded):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)


def test_an_interrupt_that_python_swallows_comes_again(capsys, heeded):
    class Closing:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Closing()
        time.sleep(5)
    assert capsys.readouterr().err == ""


def test_signals_that_the_process_ignores_stay_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    term, hook = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    try:
        stopping.heed()  # as a shell's background job, or under nohup
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, term)
        sys.unraisablehook = hook


def test_ctrl_c_twice_in_a_bar_leaves_the_terminal_sane(tmp_path):
    """A real process on a terminal of its own, stopped when its bar has hidden the cursor."""
    ours, theirs = pty.openpty()
    words = ["eval", "--limit", "300", "--out", str(tmp_path / "out"), "--batch-size", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "foveate", *words],
        stdout=subprocess.PIPE,
        stderr=theirs,
        stdin=theirs,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as a shell starts it
    ) as process:
        os.close(theirs)
        seen = b""
        while b"questions" not in seen and b"identity" not in seen:
            seen += read(ours)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        while piece := read(ours):
            seen += piece
        assert process.stdout.read() == b""
    os.close(ours)
    assert process.returncode == 1
    assert seen.endswith(STOPPED.encode().replace(b"\n", b"\r\n"))
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l")  # the cursor is there again
    assert b"Traceback" not in seen and seen.count(b"foveate:") == 1
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or calls.half(path) == ""


def read(terminal: int) -> bytes:
    """What stands on a terminal; nothing once nobody writes there any more. Fails after two minutes."""
    assert select.select([terminal], [], [], 120)[0], "nothing happens"
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


# Streams.


def stream(monkeypatch, name, target, **how):
    """A standard stream of this process that leads elsewhere."""
    made = open(target, "w", **how) if not isinstance(target, io.BytesIO) else None  # noqa: PTH123, SIM115
    made = made or io.TextIOWrapper(target, **how)
    monkeypatch.setattr(sys, name, made)
    return made


@pytest.mark.parametrize(
    "words", [["methods"], ["methods", "--json"], ["--help"], ["train", "--list"]]
)
def test_a_full_disk_behind_stdout_is_one_line(capsys, monkeypatch, words):
    stream(monkeypatch, "stdout", "/dev/full")
    assert run(words) == 1
    sys.stdout.close()  # and Python finds nothing to complain about at the end
    assert capsys.readouterr().err == "foveate: No space left on device\n"


def test_a_reader_who_has_enough_is_no_error(capsys, monkeypatch):
    ours, theirs = os.pipe()
    os.close(ours)
    stream(monkeypatch, "stdout", theirs)
    assert run(["methods"]) == 1
    sys.stdout.close()
    assert capsys.readouterr().err == ""


def test_an_error_of_the_system_leaves_stdout_alone(capfd, monkeypatch):
    module = sys.modules["foveate.cli.methods"]
    monkeypatch.setattr(module, "describe", lambda *_: open("/no/such/file"))  # noqa: PTH123, SIM115
    assert run(["methods"]) == 1
    assert capfd.readouterr() == ("", "foveate: No such file or directory: /no/such/file\n")
    monkeypatch.undo()
    assert run(["methods"]) == 0
    assert "fastv" in capfd.readouterr().out


def test_nobody_hears_of_the_error(monkeypatch):
    stream(monkeypatch, "stderr", "/dev/full")
    assert run(["nonsense"]) == 2
    sys.stderr.close()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_letters_that_a_stream_lacks(picture, monkeypatch, encoding):
    written = io.BytesIO()
    stream(monkeypatch, "stdout", written, encoding=encoding)
    words = ["ask", picture, "what does the sign say → ?", "--max-new-tokens", "1"]
    assert run([*words, "--method", "stride", "--keep", "0.5"]) == 0
    shown = written.getvalue().decode(encoding)
    assert ("144 → 72 (50 %)" if encoding == "utf-8" else "144 -> 72 (50 %)") in shown
    assert run([*words, "--json"]) == 0
    assert run(["ask", picture, "\U0001f600 ?", "--max-new-tokens", "1", "--json"]) == 0
    text = written.getvalue().decode(encoding)[len(shown) :]
    first, end = json.JSONDecoder().raw_decode(text)
    assert first["question"] == words[2]
    assert json.loads(text[end:])["question"] == "\U0001f600 ?"


def test_closed_streams(tmp_path):
    """A real process: what is closed leads nowhere, and no file that it opens becomes its stdout."""
    foveate = f"{sys.executable} -m foveate"
    script = f"{foveate} --help >&- || exit 3; {foveate} nonsense 2>&-; test $? = 2 || exit 4; "
    script += f"{foveate} nonsense >&- 2>&- <&-; test $? = 2 || exit 5"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Paths that are no UTF-8.


def test_images_pictures_and_folders_of_any_name(capsys, picture, tmp_path):
    image, drawn, out = f"{NAME}.png", f"kept {NAME}.png", f"out {NAME}"
    shutil.copy(picture, image)
    words = ["ask", image, "what ?", "--max-new-tokens", "1", "--picture", drawn]
    assert run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["picture"] == drawn
    assert run(words) == 0
    assert r"what was kept: kept caf\xe9.png" in capsys.readouterr().out
    assert Image.open(drawn).width > 100
    assert run(["ask", f"no {image}", "what ?"]) == 2
    assert capsys.readouterr().err == "foveate: no such image: no caf\\xe9.png\n"
    assert run(["eval", "--limit", "1", "--max-new-tokens", "1", "--out", out, "--json"]) == 0
    (file,) = (tmp_path / out).rglob("*.json")
    assert json.loads(file.read_text())["n"] == json.loads(capsys.readouterr().out)["n"] == 1


def test_a_model_of_any_name(capsys, picture, tmp_path):
    shutil.copytree(PATH, NAME)
    assert run(["ask", picture, "what ?", "--max-new-tokens", "1", "--model", NAME, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == r"caf\xe9"
