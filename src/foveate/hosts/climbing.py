"""`generate` that climbs: few visual tokens first, more for the prompts whose first token is in doubt.

Letters: B prompts, S columns, T new tokens, V the vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from foveate.core.ops import real
from foveate.hosts import asked, encode, traits, within
from foveate.hosts.aside import Aside
from foveate.hosts.files import Unreadable
from foveate.hosts.whole import fingerprint

ALL = 1.0  # tokens, as a share: no method
NEVER = -1.0  # no doubt is as small
ALONE = "a ladder is shown for greedy answers of one call"


@dataclass(eq=False)
class Climbing:
    """Stands in the place of one model's `generate`: each prompt is answered from as few tokens as will do.

    keeps      budgets of the model's method, fewest tokens first; 1.0 is all tokens, without it
    threshold  nats of entropy of the first token, above which a prompt climbs; at 0 all do
    told       what else is known of the ladder, to be saved with it

    The tower runs once, however far prompts climb.
    """

    model: nn.Module
    keeps: Sequence[int | float]
    threshold: float
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def described(self) -> dict[str, Any]:
        """What config.visual_compression holds of it."""
        return {**self.told, "keeps": list(self.keeps), "threshold": self.threshold}

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """(B, S + T) ids, as the model's own `generate`. Raises ValueError for calls it is not shown for."""
        self._check_climbable()
        for name in ("streamer", "assistant_model", "custom_generate"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"{name} with a ladder: {ALONE}; foveate.restore(model) takes it off"
                )
        return type(self.model).generate(self.model, *args, custom_generate=self.decode, **kwargs)

    def decode(
        self,
        model: nn.Module,
        input_ids: Tensor,
        logits_processor: list[Any],
        stopping_criteria: Any,
        generation_config: Any,
        **kwargs: Any,
    ) -> Tensor:
        """What transformers calls in the place of its own decoding, once the images are encoded."""
        base, ids, cache = traits.base_of(model), input_ids, kwargs.pop("past_key_values", None)
        _check(generation_config, cache)
        aside, said = Aside(kwargs.pop("mm_encoder_outputs", None) or {}), {}
        sees, left = traits.is_visual(base, ids).any(1), list(range(len(ids)))
        for number, keep in enumerate(self.keeps):
            climbs = sees[left] & (number < len(self.keeps) - 1)
            doubtful = Doubtful(self.threshold, generation_config.eos_token_id, climbs)
            some = {name: _of_rows(name, value, left, len(ids)) for name, value in kwargs.items()}
            some |= aside.of_rows(base, ids, left).beside({"input_ids": ids[left]})
            with self.at(keep), asked.of_rows(left):
                found = model._sample(
                    logits_processor=type(logits_processor)([*logits_processor, doubtful]),
                    stopping_criteria=stopping_criteria,
                    generation_config=generation_config,
                    past_key_values=copy.deepcopy(cache),
                    **some,
                )
            said |= dict(zip(left, found, strict=True))
            left = [row for row, over in zip(left, doubtful.over.tolist(), strict=True) if over]
            if not left:
                break
        pad = generation_config._pad_token_tensor
        return pad_sequence(
            [said[n] for n in range(len(ids))], True, 0 if pad is None else int(pad)
        )

    @contextmanager
    def at(self, keep: int | float) -> Iterator[None]:
        """Inside, the model sees with this budget."""
        base = traits.base_of(self.model)
        attachment, first = base.visual_attachment, base.visual_compressor
        resting = attachment.resting
        if every(keep):
            attachment.resting = True
        elif keep != self.keeps[0]:
            base.visual_compressor = first.but(keep=keep)
        try:
            yield
        finally:
            base.visual_compressor, attachment.resting = first, resting

    def _check_climbable(self) -> None:
        """Raise ValueError where higher rungs read other features than the first: the tower runs once."""
        parts = traits.base_of(self.model).visual_compressor.at(1.0).parts()
        behind = every(self.keeps[-1]) and encode.before_projector(parts)
        if len(self.keeps) > 1 and (behind or within.of(parts)):
            raise ValueError(
                f"{type(parts[0]).__name__} acts {parts[0].site.words}, and a higher rung cannot go on from "
                "the features it read: Ladder.answers, which encodes a picture anew for each rung, can"
            )


class Doubtful:
    """Ends the rows that may climb and whose first token is in doubt, right there.

    ends: the tokens that end an answer; climbs (B,) which rows may; `over` (B,) which do, once it was called.
    """

    def __init__(self, threshold: float, ends: Any, climbs: Tensor):
        self.threshold = threshold if threshold > 0 else NEVER
        self.ends = torch.as_tensor([] if ends is None else ends).flatten()
        self.climbs = climbs
        self.over: Tensor | None = None

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """The scores (B, V), with an end alone where the first ones were in doubt."""
        if self.over is None:
            sure = entropy(scores) <= self.threshold
            self.over = ~sure & self.climbs.to(sure.device)
        if not len(self.ends) or not bool(self.over.any()):
            return scores
        ended = scores.new_full(scores.shape[-1:], -torch.inf)
        ended[self.ends.to(scores.device)] = 0.0
        return torch.where(self.over[:, None], ended, scores)


def entropy(scores: Tensor) -> Tensor:
    """(B,) in nats, of the next token at these scores (B, V)."""
    likely = scores.float().log_softmax(-1)
    return -(likely.exp() * likely).nan_to_num(0.0).sum(-1)


def every(keep: int | float) -> bool:
    """Whether a budget is all tokens, which needs no method."""
    return isinstance(keep, float) and keep == ALL


def climbing(model: nn.Module, described: Mapping[str, Any]) -> Climbing:
    """A ladder for a model. described: as `Climbing.described`.

    Raises ValueError for what is none, and for one that was calibrated for other weights.
    """
    keeps, threshold = _checked(described)
    if (known := described.get("fingerprint")) not in (None, fingerprint(model)):
        raise ValueError(
            f"the ladder was calibrated for {described.get('model', 'another model')} (weights {known}), and "
            "this model has others: foveate calibrate makes one for it, foveate.compress(model, …) takes one "
            "budget"
        )
    rest = {k: v for k, v in described.items() if k not in ("keeps", "threshold")}
    return Climbing(model, keeps, threshold, rest)


def _checked(described: Any) -> tuple[list[int | float], float]:
    where = "visual_compression.ladder"
    told = described if isinstance(described, Mapping) else {}
    keeps, threshold = told.get("keeps"), told.get("threshold")
    listed = isinstance(keeps, list | tuple) and len(keeps) > 0
    if not listed or any(real(keep) is None or not keep > 0 for keep in keeps):
        raise Unreadable(f"{where}.keeps is {keeps!r:.80}: want budgets, fewest tokens first")
    if real(threshold) is None or not threshold >= 0:
        raise Unreadable(f"{where}.threshold is {threshold!r:.80}: want nats, 0 or more")
    return [*keeps], float(threshold)


def _check(config: Any, cache: Any) -> None:
    """Raise ValueError for a call that the ladder is not shown for, or that has nowhere to climb."""
    check_greedy(config.do_sample, config.num_beams, config.num_return_sequences)
    if config.return_dict_in_generate:
        raise ValueError(
            "return_dict_in_generate with a ladder: prompts climb apart, and their scores and caches do not "
            "fit into one output; foveate.restore(model) takes it off"
        )
    if cache is not None and int(cache.get_seq_length()):
        raise ValueError(
            "a filled cache with a ladder: its tokens are of one rung; give the whole conversation, its "
            "images from foveate.keep_aside"
        )


def check_greedy(
    do_sample: bool | None = False,
    num_beams: int | None = 1,
    num_return_sequences: int | None = 1,
    **others: Any,
) -> None:
    """Raise ValueError for keywords of `generate` that ask for more than one greedy answer."""
    if do_sample or (num_beams or 1) > 1 or (num_return_sequences or 1) > 1:
        raise ValueError(f"sampling, beams or several sequences with a ladder: {ALONE}")


def _of_rows(name: str, value: Any, rows: Sequence[int], prompts: int) -> Any:
    """A keyword of the model's call, of some of the prompts. Position ids may have axes in front."""
    axis = -2 if name == "position_ids" else 0
    if isinstance(value, Tensor) and value.dim() > 1 and value.shape[axis] == prompts:
        return value.index_select(axis, torch.tensor(rows, device=value.device))
    return value
