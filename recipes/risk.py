"""How a calibrated ladder keeps its word on PatchQA: python recipes/risk.py

`embedded-fovea` answers the same questions at every budget (out/risk; killed, it goes on there). Then, 200
times, some of them are drawn to calibrate on, and all of them say what the ladder really does. What it does
to other questions than those it was calibrated on stands beside it: crowded scenes, tiny signs, and photos
as backgrounds where it has seen patterns alone. Writes results/risk.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from foveate import from_pretrained
from foveate.embedded import MODELS
from foveate.evaluate.plans import BARE, Loaded, Plan, own, spread
from foveate.evaluate.work import Work
from foveate.hosts import attach, reading
from foveate.keeping.provenance import dumps, record, write
from foveate.ladder import Rungs, calibrated, proven
from foveate.ladder.rungs import Way
from foveate.patchqa import PatchQA
from foveate.patchqa.words import PHOTOS
from foveate.tasks import examples

ROOT = Path(__file__).parents[1]
MODEL, KEEPS = "embedded-fovea", (4, 9, 18, 36, 72)
RISKS, DELTA, DRAWS, DRAWN = (0.01, 0.02, 0.05), 0.05, 200, 1000
TASKS = {"patchqa": 2200, "patchqa-crowded": 880, "patchqa-tiny": 880}


def rungs(task: str, count: int, out: Path) -> Rungs:
    """What came of a task's questions at every budget."""
    path = str(MODELS[MODEL])
    loaded = Loaded(from_pretrained(path).eval(), reading.processor(path), MODEL)
    plans = [one._replace(trained=None) for one in spread(own(loaded), KEEPS)]
    attach.restore(loaded.model)
    work = Work(loaded, task, examples(task, count), batch_size=40, out=out)
    return Rungs.of(work.runs([*plans, Plan(BARE, 1.0)]))


def on_photos(count: int) -> np.ndarray:
    """(count,) bool, which of PatchQA's questions are about a picture whose background is a photo."""
    scenes = PatchQA("test")
    where = [int(one.key.rpartition("-")[2]) for one in examples("patchqa", count)]
    return np.array([scenes[at].pictures[0].background in PHOTOS for at in where])


def alone(found: Rungs, risk: float) -> Way:
    """The fewest tokens of one budget for all questions of which the same is shown, from the top down."""
    last = found.doubt.shape[1] - 1
    down = proven(found.differs.sum(0)[:last][::-1].tolist(), len(found), risk, DELTA)
    rung = last if down is None else last - 1 - down
    return Way(rung, rung)


def kept(every: Rungs, others: dict[str, Rungs], risk: float, seed: int = 0) -> dict[str, Any]:
    """Of many calibrations: how often the bound broke, what it took, and what a budget alone would take."""
    draw, made = np.random.default_rng(seed), []
    for _ in range(DRAWS):
        some = every.some(draw.integers(len(every), size=DRAWN))
        made.append((calibrated(some, risk, DELTA), alone(some, risk)))
    walks = [every.walk(way) for way, _ in made]
    fixed = [every.walk(way) for _, way in made]
    return {
        "risk": risk,
        "broken": sum(bool(walk.differs.mean() > risk) for walk in walks),
        "differ": float(np.mean([walk.differs.mean() for walk in walks])),
        "tokens": spread_of([walk.tokens.mean() for walk in walks]),
        "alone_broken": sum(bool(walk.differs.mean() > risk) for walk in fixed),
        "alone_tokens": spread_of([walk.tokens.mean() for walk in fixed]),
        "elsewhere": {
            task: {
                "differ": float(np.mean([own.walk(way).differs.mean() for way, _ in made])),
                "broken": sum(bool(own.walk(way).differs.mean() > risk) for way, _ in made),
                "tokens": float(np.mean([own.walk(way).tokens.mean() for way, _ in made])),
            }
            for task, own in others.items()
        },
    }


def spread_of(values: list[float]) -> dict[str, float]:
    """Median and the middle nine tenths."""
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    return {"median": middle, "low": low, "high": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the questions")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "risk.json")
    told = parser.parse_args()
    counts = {task: max(int(told.share * n), 22) for task, n in TASKS.items()}
    every = {task: rungs(task, n, ROOT / "out" / "risk") for task, n in counts.items()}
    own, others = every["patchqa"], {t: r for t, r in every.items() if t != "patchqa"}
    photo = on_photos(counts["patchqa"])
    held = own.some(~photo), {"photos": own.some(photo)}
    document = {
        "model": MODEL,
        "keeps": KEEPS,
        "delta": DELTA,
        "draws": DRAWS,
        "drawn": DRAWN,
        "questions": counts,
        "alone": {
            task: {
                str(keep): {"tokens": float(t), "differ": float(d)}
                for keep, t, d in zip(
                    (*KEEPS, 1.0), found.tokens.mean(0), found.differs.mean(0), strict=True
                )
            }
            for task, found in every.items()
        },
        "risks": [kept(own, others, risk) for risk in RISKS],
        "patterns": {
            "questions": {"patterns": int((~photo).sum()), "photos": int(photo.sum())},
            "risks": [kept(*held, risk) for risk in RISKS],
        },
        "circumstances": record(0),
    }
    write(told.out, dumps(document))


if __name__ == "__main__":
    main()
