"""The thread that owns the model, and what waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from foveate.evaluate.plans import Loaded, Plan
from foveate.hosts import attach
from foveate.serve.choice import key
from foveate.serve.limits import Limits, Refused
from foveate.serve.meters import Meters
from foveate.serve.rows import Row, late

Answer = Callable[[Sequence[Row]], None]  # answers a batch, or sees to it that others do

WRONG = (ValueError, NotImplementedError)  # what a model says of a prompt that it cannot take


class Engine:
    """One model that answers what waits, in batches of the same method and budget.

    Everything public may be called from any thread; the model is only ever touched by its own. answer: what
    a batch is given to, its method being on the model.
    """

    def __init__(self, loaded: Loaded, limits: Limits, meters: Meters, answer: Answer):
        self.loaded, self.limits, self.meters, self._given = loaded, limits, meters, answer
        self._bell = threading.Condition()
        self._reading, self._closing = 0, False
        self._waiting: list[Row] = []
        self._running: list[Row] = []
        self._away: list[Row] = []  # that others answer
        self._attached: str | None = None
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for a request while it is read.

        Raises Refused: 503 once the server closes, 429 when all places are taken.
        """
        with self._bell:
            if self._closing:
                raise Refused(503, "the server is about to stop and takes no more requests")
            if self._here() >= self.limits.queue:
                why = f"{self.limits.queue} requests are here already: come back later"
                raise Refused(429, why)
            self._reading += 1
        try:
            yield
        finally:
            with self._bell:
                self._reading -= 1

    def _here(self) -> int:
        """How many requests there are. With the bell in hand."""
        self._away = [row for row in self._away if not (row.over or row.cancelled)]
        rows = len(self._waiting) + len(self._running) + len(self._away)
        return self._reading + rows

    def submit(self, row: Row) -> None:
        """Let a request wait for its answer."""
        with self._bell:
            self._waiting.append(row)
            self.meters.queue.set(len(self._waiting))
            self._bell.notify()

    def cancel(self, row: Row) -> None:
        """Nobody waits for it any more: it leaves the queue, or its batch at the next step."""
        row.cancel()
        with self._bell:
            if row in self._waiting:
                self._waiting.remove(row)
                self.meters.queue.set(len(self._waiting))

    def close(self) -> None:
        """Take nothing more; what is here is answered."""
        with self._bell:
            self._closing = True
            self._bell.notify()

    @property
    def taking(self) -> bool:
        """Whether it takes requests and can answer them."""
        return self._thread.is_alive() and not self._closing

    @property
    def idle(self) -> bool:
        """Whether nobody is here."""
        with self._bell:
            return not self._here()

    def join(self, seconds: float) -> None:
        """Wait for the thread to end, once nothing is left."""
        self._thread.join(seconds)

    def _work(self) -> None:
        while rows := self._next():
            self._answer(rows)
            with self._bell:
                self._running, self._away = [], self._away + rows

    def _next(self) -> list[Row]:
        """Those at the front that go together; none once all is answered and the server closes."""
        with self._bell:
            while not self._waiting:
                if self._closing and not self._reading:
                    return []
                self._bell.wait(1.0)
            first = self._waiting[0]
            most = 1 if first.wanted.looks else self.limits.batch
            rows = [row for row in self._waiting if row.batch == first.batch][:most]
            self._waiting = [row for row in self._waiting if row not in rows]
            self.meters.queue.set(len(self._waiting))
            self._running = rows
            return rows

    def _answer(self, rows: Sequence[Row]) -> None:
        """Answer rows together; where that fails, each alone, so that none pays for another."""
        now = time.monotonic()
        for row in rows:
            if row.wanted.end < now:
                row.refuse(late())
        rows = [row for row in rows if not row.over and not row.cancelled]
        if not rows:
            return
        try:
            self._attach(rows[0].wanted.plan)
            self._given(rows)
        except Exception as error:
            if len(rows) == 1:
                rows[0].refuse(_refused(error))
                return
            for row in rows:
                row.begin()
                self._answer([row])

    def _attach(self, plan: Plan) -> None:
        """Let a method act on the model, unless it does already."""
        if self._attached == (wanted := key(plan)):
            return
        self._attached = None
        attach.restore(self.loaded.model)
        if plan.compressor is not None:
            attach.compress(self.loaded.model, plan.compressor, **plan.how)
        self._attached = wanted


def _refused(error: Exception) -> Refused:
    """What a client hears of an error: 400 where the prompt does not fit, 500 for everything else."""
    why = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, WRONG):
        return Refused(400, why)
    logging.getLogger(__name__).error("a request failed", exc_info=error)
    return Refused(500, f"{type(error).__name__}: {why}")
