"""A batch answered by the model itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from foveate.evaluate.costs import costs, probes
from foveate.evaluate.plans import Loaded
from foveate.evaluate.replies import answers
from foveate.hosts import attach
from foveate.hosts.climbing import Doubtful
from foveate.serve.meters import Meters
from foveate.serve.rows import Draw, Ends, Look, Row, ends


class Generating:
    """Answers a batch before it returns. The method is on the model already."""

    def __init__(self, loaded: Loaded, meters: Meters):
        self.loaded, self.meters = loaded, meters
        self._ends = ends(loaded.model)

    def __call__(self, rows: Sequence[Row]) -> None:
        """Answer rows of one method. Raises whatever the model does."""
        model, processor = self.loaded.model, self.loaded.processor

        def how(which: Sequence[int], doubtful: Doubtful | None) -> dict[str, Any]:
            some = [rows[i] for i in which]
            for row in some:
                row.begin()  # again, where it climbs
            return {
                "max_new_tokens": max(row.wanted.new for row in some),
                "do_sample": False,
                "num_beams": 1,
                "logits_processor": [Draw(some)],
                "stopping_criteria": [Ends(some, processor, self._ends, doubtful)],
            }

        asks, looks = [row.wanted.ask for row in rows], rows[0].wanted.looks
        seen = attach.trace(model) if looks and attach.is_compressed(model) else nullcontext()
        watched = probes(model, processor, asks) if looks else []
        start = time.perf_counter()
        with seen as trace:
            replies = answers(model, processor, asks, how)
        whole, prefill = time.perf_counter() - start, sum(reply.seconds for reply in replies)
        self.meters.decode.observe(max(whole - prefill, 0))
        self.meters.note(replies, [len(images) for images, _ in asks])
        for row, reply in zip(rows, replies, strict=True):
            if looks:
                read = {"columns": reply.columns, "words": reply.words}
                steps = [] if trace is None else trace.steps
                row.look = Look(steps, costs(model, watched, [read]))
            row.end("length")
            row.answer(reply)
