"""A compressed model as lmms-eval 0.7 asks it: `lmms-eval --model foveate`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger
from tqdm import tqdm

from foveate.chat.messages import ask, check_system
from foveate.engines.answers import cut, settings
from foveate.engines.opening import opened
from foveate.evaluate.likelihood import losses
from foveate.evaluate.prompts import Ask
from foveate.evaluate.replies import Reply, answers

MOST_ROUNDS = 100
Messages = list[dict[str, Any]]


class Asked(NamedTuple):
    """One request: its generation_kwargs, what makes its messages, and whether it counts."""

    how: Mapping[str, Any]
    messages: Callable[[], Messages]
    counts: bool


class Foveate(lmms):
    """A model of foveate behind lmms-eval's chat interface.

    pretrained: embedded, a folder or a Hub id; one that was saved compressed comes back so. given: method,
    keep, set.NAME for other arguments of the method, positions, newlines, dropped, attention, protocol and
    dtype. Raises ValueError and TypeError, with the nearest name, for what there is not.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "embedded",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        system_prompt: str = "",
        **given: Any,
    ):
        super().__init__()
        if not str(batch_size).isdecimal() or not int(batch_size):
            raise ValueError(f"batch_size={batch_size}: want a whole number from 1")
        self.batch_size, self.max_batch_size = int(batch_size), max_batch_size
        self.accelerator = Accelerator()
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        alone = self._world_size == 1 and device is not None
        place = torch.device(device) if alone else self.accelerator.device
        self.model, self.processor, notes = opened(pretrained, place, given)
        self.system_prompt = self._resolve_system_prompt(system_prompt)
        self._checked = False  # whether the chat template knows system turns
        for note in notes:
            logger.warning(note)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """An answer to each request, in order."""
        return self._answers([self._asked(one, self._messages) for one in requests])

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """What is said to each request, round by round, until its task ends it.

        Raises ValueError for a task that does not.
        """
        said: list[list[str]] = [[] for _ in requests]
        going = {n: self._asked(one, self._messages) for n, one in enumerate(requests)}
        known: dict[int, Any] = {}
        for number in range(1, MOST_ROUNDS + 1):
            for n, answer in zip(going, self._answers([*going.values()]), strict=True):
                said[n].append(answer.text)
            for n in list(going):
                request = requests[n]
                told = {"previous_output": [*said[n]], "previous_round_info": known.get(n)}
                found = request.args[1](self._document(request), round_idx=number, **told)
                if not isinstance(found, tuple) or found[1]:
                    del going[n]
                    continue
                messages, _, _, known[n] = found
                going[n] = self._asked(request, lambda _, messages=messages: messages)
            if not going:
                return said
        raise ValueError(f"{requests[0].task_name}: round {MOST_ROUNDS} and its task ends none")

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """Of each request's answer the mean loss of its tokens, least being best, and whether it is said.

        So do lmms-eval's own models, whatever its interface says. The pairs are wrapped, since it makes a
        text of bare ones.
        """
        found: list[GenerationResult] = []
        for start in range(0, len(requests), self.batch_size):
            some = requests[start : start + self.batch_size]
            asks = [self._ask(_turn(self._visuals(one, 2), one.args[0])) for one in some]
            given = [one.args[1] for one in some]
            given = [
                text if isinstance(text, str) else text(self._document(one))
                for text, one in zip(given, some, strict=True)
            ]
            found += map(GenerationResult, losses(self.model, self.processor, asks, given))
        return found

    def _asked(self, request: Instance, messages: Callable[[Instance], Messages]) -> Asked:
        pads = (request.metadata or {}).get("__padding_only__", False)
        return Asked(self._how(request), partial(messages, request), not pads)

    def _how(self, request: Instance) -> Mapping[str, Any]:
        return request.args[2]

    def _messages(self, request: Instance) -> Messages:
        return request.args[1](self._document(request))

    def _document(self, request: Instance) -> Any:
        doc, task, split = request.args[-3:]
        return self.task_dict[task][split][doc]

    def _visuals(self, request: Instance, place: int) -> list[Any]:
        """The pictures of a request that brings their function, here among its arguments."""
        bare = len(request.args) <= place or request.args[place] is None
        return [] if bare else request.args[place](self._document(request)) or []

    def _ask(self, messages: Messages) -> Ask:
        images, words = ask(self._apply_system_prompt(messages, self.system_prompt))
        if not isinstance(words, str) and words[0].role == "system" and not self._checked:
            check_system(self.processor, words)
            self._checked = True
        return images, words

    def _answers(self, asked: Sequence[Asked]) -> list[GenerationResult]:
        """The answers, in order; those with other generation_kwargs in batches of their own."""
        groups: dict[str, list[int]] = {}
        for n, one in enumerate(asked):
            groups.setdefault(repr(sorted(one.how.items())), []).append(n)
        batches = [
            rows[start : start + self.batch_size]
            for rows in groups.values()
            for start in range(0, len(rows), self.batch_size)
        ]
        replies: dict[int, Reply] = {}
        begun = time.perf_counter()
        for rows in tqdm(batches, disable=self.rank != 0, desc="Model Responding"):
            how = self._settings(asked[rows[0]].how)
            asks = [self._ask(asked[n].messages()) for n in rows]
            found = answers(self.model, self.processor, asks, how)
            replies |= dict(zip(rows, found, strict=True))
        counted = [reply for n, reply in replies.items() if asked[n].counts]
        if counted:
            _log(counted, time.perf_counter() - begun)
        return [_result(replies[n], one.how.get("until")) for n, one in enumerate(asked)]

    def _settings(self, how: Mapping[str, Any]) -> dict[str, Any]:
        told, idle = settings(how, self.model.generation_config)
        for name in idle:
            logger.warning(f"generation_kwargs: {name} means nothing to foveate and is left out")
        return told


class Simple(Foveate):
    """The same behind lmms-eval's older interface, which alone has multiple choice: `--force_simple`."""

    is_simple = True

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """Raises NotImplementedError: of the chat interface."""
        raise NotImplementedError(
            "several rounds want the chat interface: leave --force_simple out"
        )

    def _how(self, request: Instance) -> Mapping[str, Any]:
        return request.args[1]

    def _messages(self, request: Instance) -> Messages:
        return _turn(self._visuals(request, 2), request.args[0])


def _turn(visuals: Sequence[Any], text: str) -> Messages:
    """One turn of the user: pictures, and a text behind them. A path among them is a video's."""
    kinds = [("video" if isinstance(one, str) else "image", one) for one in visuals]
    content = [{"type": kind, "url": one} for kind, one in kinds]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def _result(reply: Reply, until: str | Sequence[str] | None) -> GenerationResult:
    """An answer, with the tokens that were left of its prompt at the end and those it took."""
    read = None if reply.columns is None else reply.columns[-1]
    return GenerationResult(cut(reply.text, until), TokenCounts(read, reply.made))


def _log(replies: Sequence[Reply], seconds: float) -> None:
    """What lmms-eval writes under "throughput": visual tokens of an image, and seconds of a prefill."""
    made, seen = sum(one.made for one in replies), [one for one in replies if one.before]
    told = {"prefill_seconds": fmean(one.seconds for one in replies)}
    if seen:
        told["visual_tokens_before"] = fmean(one.before for one in seen)
        told["visual_tokens_after"] = fmean(one.after for one in seen)
        told["visual_share_of_layers"] = fmean(one.kept.layer_share for one in seen)
    log_metrics(seconds, made, made / seconds, told)
