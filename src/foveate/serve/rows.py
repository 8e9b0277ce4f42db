"""The rows of a batch: each is drawn, ended and told by itself, whatever the others do."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foveate.evaluate.plans import Plan
from foveate.evaluate.prompts import Ask
from foveate.evaluate.replies import Reply
from foveate.hosts.climbing import Doubtful
from foveate.hosts.trace import Step
from foveate.serve.choice import key
from foveate.serve.limits import Refused

ENDED = ("stop", "length")
BROKEN = "\ufffd"  # ends a text whose last letter lacks bytes


@dataclass(frozen=True)
class Wanted:
    """A request, ready for the model.

    new    tokens of its answer at most
    end    when nobody waits for it any more, on time.monotonic's clock
    seed   of its draws, where the temperature is above 0; None for any
    stops  words that end it
    looks  whether its cost is counted and what was kept is shown; it is then answered alone
    """

    ask: Ask
    plan: Plan
    new: int
    end: float
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stops: tuple[str, ...] = ()
    looks: bool = False


class Look(NamedTuple):
    """The steps of a prefill, and what it cost."""

    steps: list[Step]
    cost: dict[str, float]


class Row:
    """A request on its way: the model's thread writes it, its client reads. Made in an event loop.

    shown    what may be read of the answer so far; it only ever grows
    why      once it has ended: stop, length, late or cancelled
    reply    once its batch is done; look beside it, where that was wanted
    refused  once it has failed
    """

    def __init__(self, wanted: Wanted):
        self.wanted, self.batch = wanted, (key(wanted.plan), wanted.looks)
        self.seed = random.getrandbits(63) if wanted.seed is None else wanted.seed
        self.cancelled = False
        self._task: Future[None] | None = None
        self.reply: Reply | None = None
        self.look: Look | None = None
        self.refused: Refused | None = None
        self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()
        self.begin()

    def begin(self) -> None:
        """Nothing is said yet. Begun again, it comes to say the same."""
        self.ids: list[int] = []
        self.text, self.shown = "", ""
        self.why: str | None = None
        self.dice = torch.Generator().manual_seed(self.seed)
        # Up to where the text is made of the ids, and up to where it was the time before.
        self._read = self._clean = 0

    @property
    def over(self) -> bool:
        """Whether there is nothing more to come."""
        return self.reply is not None or self.refused is not None

    async def news(self) -> None:
        """Wait until something changed. Raises Refused, 504, when its time is over."""
        try:
            async with asyncio.timeout(max(self.wanted.end - time.monotonic(), 0)):
                await self._changed.wait()
        except TimeoutError as error:
            if self.why not in ENDED:
                raise late() from error
            await self._changed.wait()  # it has its answer, and its batch goes on
        self._changed.clear()

    def tell(self) -> None:
        """Let the client look."""
        with contextlib.suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(self._changed.set)

    def refuse(self, refused: Refused) -> None:
        """End without an answer."""
        if not self.over:
            self.refused = refused
            self.tell()

    def end(self, why: str) -> None:
        """There are no more tokens; why counts unless they said themselves that they are all."""
        if self.why is None:
            self.why = why
            self._show()

    def answer(self, reply: Reply) -> None:
        """End with an answer, unless it came too late or for nobody."""
        if self.why == "late":
            self.refuse(late())
        elif self.why != "cancelled":
            self.reply = reply
            self.tell()

    def hand_on(self, task: Coroutine[Any, Any, None]) -> None:
        """Let a task in the row's own event loop see to its answer."""
        self._task = asyncio.run_coroutine_threadsafe(task, self._loop)

    def cancel(self) -> None:
        """Nobody waits any more."""
        self.cancelled = True
        if self._task is not None:
            self._task.cancel()

    def step(self, token: int, decode: Callable[[list[int]], str], ends: Collection[int]) -> None:
        """Hear the next token, and end where it ends."""
        if self.cancelled or time.monotonic() > self.wanted.end:
            self.why = "cancelled" if self.cancelled else "late"
            return
        last = token in ends
        if not last:
            self.ids.append(token)
        before = decode(self.ids[self._clean : self._read])
        now = decode(self.ids[self._clean :])
        full = len(self.ids) >= self.wanted.new
        if last or full or not now.endswith(BROKEN):
            self.text += now[len(before) :]
            self._clean, self._read = self._read, len(self.ids)
        self.why = "stop" if last else "length" if full else None
        self._show()

    def _show(self) -> None:
        """Up to a stop word; before the end, without what one may begin with."""
        found = [at for word in self.wanted.stops if (at := self.text.find(word)) >= 0]
        if found:
            self.text, self.why = self.text[: min(found)], "stop"
        held = 0 if self.why else max((begun(self.text, w) for w in self.wanted.stops), default=0)
        shown = self.text[: len(self.text) - held].strip()
        if shown != self.shown:
            self.shown = shown
            self.tell()


def begun(text: str, word: str) -> int:
    """Letters at the end of a text that a word, not there as a whole, begins with."""
    sizes = range(min(len(text), len(word) - 1), 0, -1)
    return next((n for n in sizes if text.endswith(word[:n])), 0)


def late() -> Refused:
    """What is said when a request's time is over."""
    return Refused(504, "no answer in time (--seconds): ask for fewer tokens, or come back later")


def ends(model: Any) -> set[int]:
    """The tokens that end an answer."""
    found = model.generation_config.eos_token_id
    return {*(found if isinstance(found, list) else [found])} - {None}


class Ends:
    """A stopping criterion of `generate`: called once a step with all rows, it ends each by itself.

    doubtful: which rows climb, of a ladder: they hear nothing and end.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        processor: Any,
        ends: Collection[int],
        doubtful: Doubtful | None = None,
    ):
        self.rows, self.ends, self.doubtful = rows, ends, doubtful
        self.tokenizer = processor.tokenizer

    def __call__(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """(B,) True where a row has ended; ids (B, S)."""
        over = [False] * len(ids) if self.doubtful is None else self.doubtful.over.tolist()
        for row, token, climbs in zip(self.rows, ids[:, -1].tolist(), over, strict=True):
            if row.why is None and not climbs:
                row.step(token, self._decode, self.ends)
        done = [row.why is not None or climbs for row, climbs in zip(self.rows, over, strict=True)]
        return torch.tensor(done, device=ids.device)

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


class Draw:
    """A logits processor of `generate`: the largest of a row is then a draw at its own temperature.

    Each row has its own dice, so who else is in the batch changes nothing.
    """

    def __init__(self, rows: Sequence[Row]):
        self.rows = rows

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """(B, V) with noise in the rows that are drawn, the others as they are."""
        hot = [i for i, row in enumerate(self.rows) if row.wanted.temperature > 0]
        scores = scores.clone() if hot else scores
        for i in hot:
            wanted = self.rows[i].wanted
            cold = (
                scores[i].double() - scores[i].max()
            )  # the largest stays a number however it is heated
            heated = nucleus(cold / wanted.temperature, wanted.top_p)
            even = torch.rand(len(heated), dtype=torch.float64, generator=self.rows[i].dice)
            gumbel = -(-even.log()).log()  # with which the argmax is a draw from the softmax
            scores[i] = (heated + gumbel.to(heated.device)).to(scores.dtype)
        return scores


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Logits (V,) without those that the likelier ones leave no share of top_p."""
    if top_p >= 1:
        return logits
    ranked, order = logits.sort(descending=True)
    shares = ranked.softmax(-1)
    out = order[shares.cumsum(-1) - shares >= top_p]
    return logits.index_fill(0, out, -torch.inf)
