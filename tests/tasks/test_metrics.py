"""Scores by name: what their sources say of cases that can be worked out by hand."""

from __future__ import annotations

import pytest

from foveate.tasks import METRICS
from foveate.tasks.metrics import Labels, as_number, edits, letter, lettered, similar
from foveate.tasks.vqa import agreement, spelled, unmarked


def score(metric: str, said: str, *answers: str, choices: tuple[str, ...] = ()):
    return METRICS[metric].score(said, Labels(answers, choices))


@pytest.mark.parametrize("metric", METRICS)
def test_what_cannot_be_scored_has_no_score(metric):
    assert score(metric, "red") is None


@pytest.mark.parametrize(
    ("metric", "said", "answers", "wanted"),
    [
        ("exact", " Two  Dogs", ("two dogs",), 1),
        ("exact", "two dogs.", ("two dogs",), 0),
        ("exact", "b", ("a", "b"), 1),
        ("contains", "It is a red car.", ("red",), 1),
        ("contains", "It is hundred.", ("red",), 0),
        ("contains", "a red  CAR", ("red car",), 1),
        ("relaxed", "95", ("100",), 1),
        ("relaxed", "94.9", ("100",), 0),
        ("relaxed", "1,050", ("1000",), 1),
        ("relaxed", "12.5%", ("0.125",), 1),
        ("relaxed", "0", ("0",), 1),
        ("relaxed", "0.01", ("0",), 0),
        ("relaxed", "Blue", ("blue",), 1),
        ("yesno", "Yes, there is.", ("yes",), 1),
        ("yesno", "There is no dog. Yes.", ("no",), 1),
        ("yesno", "There is not.", ("no",), 1),
        ("yesno", "A dog", ("yes",), 1),
        ("anls", "hallo", ("hello",), 0.8),
        ("anls", "xyz", ("hello",), 0),
        ("anls", "hello", ("x", "HELLO"), 1),
    ],
)
def test_by_hand(metric, said, answers, wanted):
    assert score(metric, said, *answers) == pytest.approx(wanted)


def test_ten_people():
    """Three of the others are enough; leaving out one who agrees takes one away."""
    ten = ["red"] * 3 + ["blue"] * 7
    assert score("vqa", "blue", *ten) == 1
    assert score("vqa", "red", *ten) == pytest.approx((3 * 2 / 3 + 7) / 10)
    assert score("vqa", "green", *ten) == 0
    assert score("vqa", "red", *(["red"] + ["blue"] * 9)) == pytest.approx(9 / 30)
    assert score("vqa", "red", *["red"] * 3) is None
    assert METRICS["vqa"].fault(Labels(("red",) * 3)) is not None
    assert METRICS["vqa"].fault(Labels()) is None


def test_the_official_normalisation():
    assert unmarked("a-b, c?") == "a b c "
    assert unmarked("1,000") == "1000"
    assert unmarked("3.5 m.") == "3.5 m"
    assert spelled("The two dogs dont") == "2 dogs don't"
    assert spelled("couldntve couldn'tve couldnt've") == "couldntve couldn't've couldn't've"
    assert agreement("Two!", ["2", "2", "2", "two dogs"]) == pytest.approx((3 * 2 / 3 + 1) / 4)
    assert agreement("Two", ["2"] * 10) == 0  # answers that all agree are compared as they stand


CHOICES = ("a cat", "a dog", "Brown")


@pytest.mark.parametrize(
    ("said", "which"),
    [
        ("B", 1),
        ("(b)", None),
        ("(B) a dog", 1),
        ("B.", 1),
        ("The answer is C", 2),
        ("answer: (A)", 0),
        ("a dog", 1),
        ("It is a dog.", 1),
        ("a cat or a dog", None),
        ("Brown", 2),
        ("D", None),
        ("", None),
    ],
)
def test_a_choice_is_named_by_letter_or_by_words(said, which):
    assert letter(CHOICES, said) == which


def test_choices():
    assert score("choice", "B", "a dog", choices=CHOICES) == 1
    assert score("choice", "a dog", "B", choices=CHOICES) == 1
    assert score("choice", "A", "B", choices=CHOICES) == 0
    fault = METRICS["choice"].fault
    assert fault(Labels(("a dog",), CHOICES)) is fault(Labels((), CHOICES)) is None
    assert "none of the 3" in fault(Labels(("a bird",), CHOICES))
    assert "at least 2" in fault(Labels(("a dog",)))
    asked = lettered("Which?", Labels((), CHOICES)).splitlines()
    assert asked[:4] == ["Which?", "A. a cat", "B. a dog", "C. Brown"] and len(asked) == 5


def test_yes_and_no_have_a_table_of_their_own():
    told = [("yes", "yes"), ("yes", "no"), ("no", "yes"), ("no", "no"), ("yes", "yes")]
    answers = [{"prediction": p, "answer": a, "right": p == a} for p, a in told]
    found = METRICS["yesno"].more([*answers, {"prediction": "yes", "answer": None, "right": None}])
    assert found == pytest.approx({"yes": 3 / 5, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3})
    assert METRICS["yesno"].more([]) == {}


def test_parts():
    assert edits("kitten", "sitting") == 3 and edits("", "ab") == 2
    assert similar("ab", "ac") == 0  # half of its letters
    assert as_number(" 50 %") == 0.5 and as_number("five") is None
