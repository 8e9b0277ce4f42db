"""Make the runs of the board that are missing: one file each, small enough to keep."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from foveate.bench.count import counts
from foveate.bench.measure import prefills
from foveate.evaluate.plans import Plan
from foveate.evaluate.prompts import told
from foveate.evaluate.work import Work
from foveate.hosts.attach import compress
from foveate.hosts.twins import twin
from foveate.keeping.provenance import content, dumps, record, sealed, unsealed, write
from foveate.keeping.shared import Ranks, shared
from foveate.leaderboard.runs import Entry

FORMAT = 1
ALL = "all"  # the kind of questions that have none: each weighs the same
PAIRS = 9  # prefills of either model, in turn
COSTS = ("total", "scorer", "connector", "equivalent_tokens", "kv_bytes")


def file(folder: Path, entry: Entry) -> Path:
    """Where a run's result is."""
    return folder / f"{entry.name}.json"


def result(folder: Path, entry: Entry) -> dict[str, Any] | None:
    """A run's result, of this very key; None before it is made."""
    text = content(file(folder, entry))
    found = None if text is None else unsealed(text)
    fits = found is not None and (found.get("format"), found.get("key")) == (FORMAT, entry.key)
    return found if fits else None


def missing(folder: Path, entries: Sequence[Entry]) -> list[Entry]:
    """The runs that are still to be made."""
    return [entry for entry in entries if result(folder, entry) is None]


def make(
    runs: Sequence[tuple[Work, Entry]],
    folder: Path,
    advance: Callable[[int, str], None] = lambda by, what: None,
) -> None:
    """Ask and time what is missing of these runs, and write what came of each.

    Several processes share them through the folder. Where a work has a folder of its own, all answers are
    kept there too.
    """

    def there(one: tuple[Work, Entry]) -> bool:
        return result(folder, one[1]) is not None

    for work, entry in shared(runs, there, lambda one: file(folder, one[1]), Ranks.here()):
        (document,) = replace(work, timing=False).runs([entry.plan], advance)
        answers = [document["answers"][example.key] for example in work.examples]
        found = {
            "format": FORMAT,
            "key": entry.key,
            "what": entry.what,
            "right": marks(answers),
            "kinds": [example.kind or ALL for example in work.examples],
            "groups": {
                example.kind or ALL: example.group if example.kind else ALL
                for example in work.examples
            },
            "scenes": scenes(work),
            "recall": document["recall"],
            "tokens": document["tokens"],
            "tokens_before": document["tokens_before"],
            "cost": {name: document["cost"][name] for name in COSTS if name in document["cost"]},
            "time": timed(work, entry.plan) if work.timing else None,
            "circumstances": record(work.seed, work.loaded.model.device),
        }
        write(file(folder, entry), dumps(sealed(found)))


def marks(answers: Sequence[Mapping[str, Any]]) -> str | list[float]:
    """What each answer is worth: a letter each where all are right or wrong."""
    found = [float(answer["right"]) for answer in answers]
    return "".join(str(int(one)) for one in found) if {*found} <= {0.0, 1.0} else found


def scenes(work: Work) -> list[int]:
    """For every question the number of its scene: those about the same pictures are about one."""
    digests = [
        hashlib.sha1(b"".join(map(_seen, example.images))).hexdigest() for example in work.examples
    ]
    numbers = {digest: number for number, digest in enumerate(dict.fromkeys(digests))}
    return [numbers[digest] for digest in digests]


def _seen(image: Image.Image | Path) -> bytes:
    return str(image).encode() if isinstance(image, Path) else image.tobytes()


def timed(work: Work, plan: Plan, pairs: int = PAIRS) -> dict[str, Any] | None:
    """A prompt's prefill beside the bare model, and beside a prompt of so many tokens; None of no method."""
    if plan.compressor is None or plan.own is not None:
        return None
    some, own = work.examples[:1], work.of(plan)
    (inputs, asked), method = work.inputs(some, own), plan.acting(some)
    with told(plan.compressor, asked):
        layers = counts(own.model, inputs, method)["tokens_per_layer"]
        small = compress(twin(own.model), method, **plan.how)
        models = {"bare": own.model, "method": small}
        found = prefills(models, inputs, {"method": layers}, pairs)["method"]
    ratios = {name: found[name]["wall"]["median"] for name in ("to_bare", "to_limit")}
    return json.loads(
        json.dumps({**ratios, "prefill_s": found["prefill_s"]["median"], "pairs": pairs})
    )
