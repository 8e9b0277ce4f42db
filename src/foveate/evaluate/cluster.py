"""A run on a Ray cluster: compressed models are actors, batches are rows, Ray replaces what dies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from foveate.evaluate.plans import Plan
from foveate.evaluate.work import Work

LOCAL = "auto"
BLOCKS = 10_000  # that Ray schedules with ease; of more batches, several are one


@dataclass(frozen=True)
class Cluster:
    """Answers batches on a Ray cluster.

    open     makes the work and the run, in every worker anew, which has to find model and questions
    address  of the cluster; "auto" is the one this machine belongs to, or a new one on it alone
    """

    open: Callable[[], tuple[Work, Plan, Any]]
    address: str = LOCAL

    def __call__(self, starts: Sequence[int]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Where a batch starts, and its answers, as they come. Raises ImportError without Ray.

        A worker that dies is replaced, and its batch asked again.
        """
        if not starts:
            return
        if find_spec("ray") is None:
            raise ImportError('a cluster needs Ray: pip install "foveate[ray]"')
        import ray
        import ray.data

        ray.init(
            None if self.address == LOCAL else self.address,
            ignore_reinit_error=True,
            log_to_driver=False,
        )
        try:
            yield from self._answered(ray, starts)
        finally:
            ray.shutdown()  # it has more to say when it ends

    def _answered(
        self, ray: Any, starts: Sequence[int]
    ) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """The same on a cluster that is there."""
        there = ray.cluster_resources()
        gpus = int(there.get("GPU", 0))
        most = max(1, min(gpus or int(there.get("CPU", 1)), len(starts)))
        rows = ray.data.from_items(
            [{"start": start} for start in starts], override_num_blocks=min(len(starts), BLOCKS)
        )
        answered = rows.map_batches(
            Answering,
            fn_constructor_args=(self.open,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
            num_cpus=0 if gpus else 1,
            num_gpus=1 if gpus else 0,
            max_restarts=-1,
            max_task_retries=-1,
        )
        for row in answered.iter_rows():
            yield int(row["start"]), json.loads(row["answers"])


class Answering:
    """A worker: a model with its compressor, loaded once."""

    def __init__(self, open: Callable[[], tuple[Work, Plan, Any]]):
        self.work, self.one, _ = open()

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """The answers of each batch, as text."""
        found = [json.dumps(self.work.batch(self.one, int(start))) for start in rows["start"]]
        return {"start": rows["start"], "answers": found}
