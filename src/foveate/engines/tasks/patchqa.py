"""PatchQA for lmms-eval, which reads this file beside patchqa.yaml; nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from lmms_eval.api.task import ConfigurableMessagesTask

from foveate import tasks
from foveate.evaluate.score import OVERALL, scores
from foveate.tasks.metrics import exact

WORDS = ("key", "question", "answer", "kind", "group")


class Documents(list):
    """Questions as lmms-eval reads them: by number, with the names of their fields."""

    features = dict.fromkeys(("images", *WORDS))


class PatchQA(ConfigurableMessagesTask):
    """A task of `foveate.tasks`, its questions made on the spot."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__(config={k: v for k, v in config.items() if k != "class"})

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None) -> None:
        """Make the questions: dataset_kwargs says how many, and of which seed."""
        asked, split = dataset_kwargs or {}, self.config.test_split
        found = tasks.examples(self.DATASET_NAME, asked["questions"], asked["seed"])
        bare = [{name: getattr(one, name) for name in WORDS} for one in found]
        whole = [{**doc, "images": one.images} for doc, one in zip(bare, found, strict=True)]
        self.dataset = {split: Documents(whole)}
        self.dataset_no_image = {split: Documents(bare)}


def visual(doc: Mapping[str, Any]) -> list[Any]:
    """The pictures of a question."""
    return [*doc["images"]]


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Whether the answer is right, for each score that it enters."""
    row = {name: doc[name] for name in ("kind", "group")}
    row["right"] = exact(results[0], doc["answer"])
    return {"accuracy": row, row["group"]: row}


def share(name: str, rows: Sequence[Mapping[str, Any]]) -> float:
    """The accuracy of a group, the mean over its kinds."""
    return scores(rows)["accuracy"][name]


overall = partial(share, OVERALL)
fine, local, relational = (partial(share, name) for name in ("fine", "local", "relational"))
background = partial(share, "global")
