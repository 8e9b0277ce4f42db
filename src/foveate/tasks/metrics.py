"""How an answer is scored, by name. A score that cannot be given is None, never a guess."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foveate.tasks.vqa import agreement

# What the official evaluation of VQA needs to give a whole point: three that agree beside one left out.
PEOPLE = 4
NEAR = 0.5  # a text further away than half of its letters has no score
CLOSE = 0.05  # of a number on a chart
LETTERED = "Answer with the option's letter from the given choices directly."
YES, NO = "yes", "no"
LETTER = re.compile(r"\(?([A-Z])\)?(?:[.:),]|\s|$)")
SAID = re.compile(r"(?:answer|option|choice)(?: is)?:? *\(?([A-Z])\b", re.IGNORECASE)


@dataclass(frozen=True)
class Labels:
    """What is known of a question's answer: those that count as right, and what there was to choose from."""

    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


def sound(labels: Labels) -> str | None:
    """Nothing is wrong with any labels."""


def as_it_stands(question: str, labels: Labels) -> str:
    """The question itself."""
    return question


def no_more(answers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """No further numbers."""
    return {}


@dataclass(frozen=True)
class Metric:
    """A way to score an answer.

    source    where it is from
    score     of a prediction, 0 to 1; None where the labels do not allow one
    fault     what is wrong with labels for it; None if nothing is
    asks      what is asked where an answer is scored so, of the question as it stands
    choosing  the model says nothing: the likeliest of the choices is its answer
    more      of all answers, as they stand in a result: further numbers, such as an F1
    """

    name: str
    source: str
    score: Callable[[str, Labels], float | None]
    fault: Callable[[Labels], str | None] = sound
    asks: Callable[[str, Labels], str] = as_it_stands
    more: Callable[[Sequence[Mapping[str, Any]]], dict[str, float]] = no_more
    choosing: bool = False


def labels(example: Any) -> Labels:
    """What is known of the answer to an example."""
    if (many := getattr(example, "answers", None)) is None:
        many = () if example.answer is None else (example.answer,)
    return Labels(tuple(many), tuple(getattr(example, "choices", ())))


def normalised(text: str) -> str:
    """Lower case, single spaces, no ends."""
    return " ".join(text.casefold().split())


def exact(prediction: str, answer: str) -> bool:
    """Exact match, whatever the case and the spacing."""
    return normalised(prediction) == normalised(answer)


def contains(prediction: str, answer: str) -> bool:
    """Whether the answer's words stand in the prediction, one behind the other."""
    words = re.escape(normalised(answer))
    return re.search(rf"(?<!\w){words}(?!\w)", normalised(prediction)) is not None


def similar(prediction: str, answer: str) -> float:
    """Normalised Levenshtein similarity; 0 below a half. Biten et al. 2019, arXiv:1905.13648 (ANLS)."""
    said, wanted = normalised(prediction), normalised(answer)
    share = 1 - edits(said, wanted) / max(len(said), len(wanted), 1)
    return share if share > NEAR else 0.0


def edits(a: str, b: str) -> int:
    """Letters to insert, delete or replace, at least, to make one text the other."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != other))
    return row[-1]


def relaxed(prediction: str, answer: str) -> bool:
    """A number within 5 % of the true one, or the same text. Masry et al. 2022, arXiv:2203.10244."""
    said, wanted = as_number(prediction), as_number(answer)
    if said is None or wanted is None or wanted == 0:
        return exact(prediction, answer)
    return abs(said - wanted) <= CLOSE * abs(wanted)


def as_number(text: str) -> float | None:
    """The number that a text is, 12.5 % being 0.125; None if it is none."""
    text = text.strip().replace(",", "")
    share = text.endswith("%")
    try:
        return float(text.rstrip("% ")) / (100 if share else 1)
    except ValueError:
        return None


def letter(choices: Sequence[str], text: str) -> int | None:
    """Which of the choices a text names: by its letter, by its words, or by the only ones it holds."""
    text = text.strip()
    for found in (LETTER.match(text), SAID.search(text)):
        if found and (which := ord(found[1].upper()) - ord("A")) < len(choices):
            return which
    same = [n for n, choice in enumerate(choices) if exact(text, choice)]
    held = same or [n for n, choice in enumerate(choices) if contains(text, choice)]
    return held[0] if len(held) == 1 else None


def right_choice(labels: Labels) -> int | None:
    """Which choice is right, as a label names it: by its words first, else by its letter."""
    for answer in labels.answers[:1]:
        for n, choice in enumerate(labels.choices):
            if exact(choice, answer):
                return n
        return letter(labels.choices, answer)
    return None


def verdict(text: str) -> str:
    """Yes or no. Li et al. 2023, arXiv:2305.10355 (POPE): no if the first sentence denies, else yes."""
    words = text.split(".")[0].replace(",", " ").casefold().split()
    return NO if {"no", "not"} & {*words} else YES


def matrix(answers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Precision, recall and F1 of "yes", and the share of questions that are answered so."""
    both = [(verdict(a["prediction"]), a["answer"]) for a in answers if a["right"] is not None]
    if not both:
        return {}
    said = sum(p == YES for p, _ in both)
    true = sum(normalised(a) == YES for _, a in both)
    hits = sum(p == YES == normalised(a) for p, a in both)
    found = {"yes": said / len(both)}
    if said:
        found["precision"] = hits / said
    if true:
        found["recall"] = hits / true
    if said + true:
        found["f1"] = 2 * hits / (said + true)
    return found


def best(one: Callable[[str, str], float]) -> Callable[[str, Labels], float | None]:
    """The best score against any of the answers."""
    return lambda said, labels: max((one(said, a) for a in labels.answers), default=None)


def _vqa(said: str, labels: Labels) -> float | None:
    return agreement(said, labels.answers) if len(labels.answers) >= PEOPLE else None


def _few(labels: Labels) -> str | None:
    n = len(labels.answers)
    return f'vqa wants at least {PEOPLE} answers, "answers" has {n}' if 0 < n < PEOPLE else None


def _choice(said: str, labels: Labels) -> float | None:
    right = right_choice(labels)
    return None if right is None else letter(labels.choices, said) == right


def _unchosen(labels: Labels) -> str | None:
    if len(labels.choices) < 2:
        return f'want at least 2 "choices", there are {len(labels.choices)}'
    if labels.answers and right_choice(labels) is None:
        many = f"the {len(labels.choices)} choices"
        return f"the answer {labels.answers[0]!r} is none of {many}: want its letter or its words"
    return None


def lettered(question: str, labels: Labels) -> str:
    """The question with its choices below it, each with a letter, as LLaVA is taught to be asked."""
    lines = [f"{chr(ord('A') + n)}. {choice}" for n, choice in enumerate(labels.choices)]
    return "\n".join((question, *lines, LETTERED))


def _yesno(said: str, labels: Labels) -> float | None:
    return verdict(said) == normalised(labels.answers[0]) if labels.answers else None


def _undecided(labels: Labels) -> str | None:
    other = [a for a in labels.answers if normalised(a) not in (YES, NO)]
    return f"the answer {other[0]!r} is neither yes nor no" if other else None


METRICS = {
    one.name: one
    for one in (
        Metric("exact", "the same text, whatever its case and spaces", best(exact)),
        Metric("contains", "the answer's words stand in what is said", best(contains)),
        Metric("vqa", "Goyal et al. 2017, arXiv:1612.00837: ten people's answers", _vqa, _few),
        Metric("choice", "one of several, by letter or by words", _choice, _unchosen, lettered),
        Metric(
            "likelihood",
            "one of several, the likeliest by token",
            _choice,
            _unchosen,
            choosing=True,
        ),
        Metric("anls", "Biten et al. 2019, arXiv:1905.13648: edited letters", best(similar)),
        Metric("relaxed", "Masry et al. 2022, arXiv:2203.10244: numbers to 5 %", best(relaxed)),
        Metric("yesno", "Li et al. 2023, arXiv:2305.10355 (POPE)", _yesno, _undecided, more=matrix),
        Metric("none", "answers alone, no score", lambda said, labels: None),
    )
}
EXACT, NONE = METRICS["exact"], METRICS["none"]
