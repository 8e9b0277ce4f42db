"""How far one gets without looking: the best guess from the words of the question alone."""

from collections import Counter, defaultdict

from .scene import Example
from .task import PatchQA
from .words import KINDS


def language_prior(task: PatchQA, n: int = 5000, learn_from: int = 20_000) -> dict[str, float]:
    """Accuracy by kind, and their mean as "overall", of the most frequent answer to each text.

    The answers are learnt from training scenes and tried on n questions of the task. A text never
    seen in training gets the most frequent answer of its kind.
    """
    by_text, by_kind = defaultdict(Counter), defaultdict(Counter)
    for index in range(learn_from // 10):
        for question in PatchQA("train", task.seed, questions=10)[index].questions:
            by_text[question.text][question.answer] += 1
            by_kind[question.kind][question.answer] += 1
    right = Counter()
    examples = task.examples(n)
    for example in examples:
        right[example.kind] += _guess(example, by_text, by_kind) == example.answer
    asked = Counter(example.kind for example in examples)
    scores = {kind: right[kind] / asked[kind] for kind in KINDS}
    return scores | {"overall": sum(scores.values()) / len(scores)}


def _guess(example: Example, by_text: dict[str, Counter], by_kind: dict[str, Counter]) -> str:
    seen = by_text.get(example.question) or by_kind[example.kind]
    return seen.most_common(1)[0][0]
