"""Prompts with as many placeholders for an image as the method leaves of it, counted before it is seen."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.models.transformers.multimodal import (
    MultiModalProcessingInfo,
    MultiModalProcessor,
)
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import PromptUpdateDetails
from vllm.multimodal.processing.context import InputProcessingContext

from foveate.core.compressor import Compressor
from foveate.engines.vllm import positions, served
from foveate.hosts import features, reading, saving, traits

OURS = (served.METHOD, served.POSITIONS)
SAVED = "saved with the model"  # the name of a checkpoint's own method
FIELDS = ("method", "size", "seconds")
SECONDS = "second_per_grid_ts"  # between two steps of a video, where the model tells time
LAID = ("image_grid_thw", "video_grid_thw", "image_sizes")  # what says how an image's patches lie


def field(modality: str, name: str) -> str:
    """What an image is sent to the model with: one of FIELDS. "size" is uncompressed."""
    return f"{modality}_foveate_{name}"


def written(text: str) -> Tensor:
    """A text as vLLM sends it along with an image."""
    return torch.tensor([*text.encode(), 0], dtype=torch.uint8)


def read(value: Tensor) -> str:
    """The text that `written` wrote."""
    return bytes(value.flatten().tolist()).decode().rstrip("\0")


class Context(InputProcessingContext):
    """vLLM's, whose processors of transformers hear nothing of us: some take no argument they do not know."""

    def get_merged_mm_kwargs(self, kwargs: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """What the server and a request say, without what they say to us."""
        merged = super().get_merged_mm_kwargs(kwargs, **more)
        return {name: value for name, value in merged.items() if name not in OURS}


class Info(MultiModalProcessingInfo):
    """Knows the server's method. Memory is reserved for images with all tokens: a request may want them."""

    def __init__(self, ctx: InputProcessingContext):
        super().__init__(Context(ctx.model_config, ctx.tokenizer))
        self.method = lru_cache(64)(self._method)  # of a text

    @cached_property
    def told(self) -> dict[str, Any]:
        """What the server was told of us. Raises ValueError for what cannot be served."""
        given = self.ctx.model_config.get_multimodal_config().mm_processor_kwargs or {}
        told = {name: given[name] for name in OURS if name in given}
        served.check_policy(self.get_hf_config(), told)
        if served.METHOD in told:
            self.method(told[served.METHOD])
        elif self.saved:
            self.method(SAVED)
        else:
            return told
        served.check_positions(self.get_hf_config(), told)
        return told

    @cached_property
    def saved(self) -> bool:
        """Whether the model was saved with a method."""
        return saving.said(self.get_hf_config()) is not None

    @cached_property
    def outline(self) -> nn.Module | None:
        """The base model without weights, to try methods on: in the engine a request would end it.

        None beside an engine in this very process, where vLLM has changed transformers' classes: there the
        engine's own error reaches whoever asks.
        """
        try:
            with torch.device("meta"):
                return traits.base_of(reading.untrained(copy.deepcopy(self.get_hf_config())))
        except AssertionError:
            return None

    def asked(self, kwargs: Mapping[str, Any]) -> str:
        """The method of a request: its own, the server's, or the checkpoint's; empty for none.

        Raises ValueError for what cannot be served, and for positions that are not the server's.
        """
        config, told = self.get_hf_config(), self.told
        policy = served.positions(config, told)
        if kwargs.get(served.POSITIONS, policy) != policy:
            raise ValueError(f"{served.POSITIONS}: the server says {policy!r}, for all requests")
        text = kwargs.get(served.METHOD, told.get(served.METHOD, SAVED if self.saved else ""))
        if text != "":
            self.method(served.named(text))
            served.check_positions(config, told)
        return text

    def _method(self, text: str) -> Compressor:
        """The method of a name, without weights. Raises ValueError where this model cannot have it."""
        config = self.get_hf_config()
        saved = text == SAVED
        found = served.of_checkpoint(config, "meta") if saved else served.of_text(text, config)
        if self.outline is not None:
            try:
                features.fitting(self.outline, found)
            except (NotImplementedError, ValueError, TypeError) as error:
                raise ValueError(f"{text}: {error}") from error
        return found

    def _get_num_mm_tokens(self, **sizes: Any) -> Any:
        kwargs = self.ctx.get_merged_mm_kwargs({})
        return self.get_hf_processor()._get_num_multimodal_tokens(**sizes, **kwargs)


class Processor(MultiModalProcessor):
    """vLLM's own, whose expansions lose the placeholders of tokens that will be gone."""

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """vLLM's, by which it reserves memory, with a word behind each image as `apply` wants one."""
        made, config = super().get_dummy_inputs(*args, **kwargs), self.info.get_hf_config()
        marks = {getattr(config, f"{modality}_token_id", None) for modality in traits.MODALITIES}
        word = next(token for token in range(len(marks) + 1) if token not in marks)
        prompt = [new for token in made.prompt for new in (token, word)[: 1 + (token in marks)]]
        return replace(made, prompt=prompt if self._apart else made.prompt)

    @property
    def _apart(self) -> bool:
        """Whether kept tokens keep positions that only the text around an image tells."""
        config = self.info.get_hf_config()
        return served.counts_in_three(config) and served.keeps_places(config, self.info.told)

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """A prompt with its placeholders. Raises ValueError where kept tokens cannot keep their positions."""
        out = super().apply(*args, **kwargs)
        if self._apart:
            ranges = [one for some in out["mm_placeholders"].values() for one in some]
            images = [(one.offset, one.offset + one.length) for one in ranges]
            positions.check_text(out["prompt_token_ids"], images)
        return out

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        text = self.info.asked(hf_kwargs)
        out = super()._apply_hf_processor_main(mm_items, hf_kwargs)
        for modality in traits.MODALITIES:
            ids, sizes = (out.get(f"{modality}_replacement_{name}") for name in ("ids", "sizes"))
            if ids is not None:
                token = self._token(modality)
                whole = [int((one == token).sum()) for one in ids.split(sizes.tolist())]
                out[field(modality, "method")] = [written(text)] * len(whole)
                out[field(modality, "size")] = torch.tensor(whole)
        if SECONDS in out:  # vLLM takes them from what the model's encoder is handed
            out[field("video", "seconds")] = torch.as_tensor(out[SECONDS])
        return out

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        names = [(m, field(m, name)) for m in traits.MODALITIES for name in FIELDS]
        ours = {name: (m, hf_inputs.pop(name)) for m, name in names if name in hf_inputs}
        fields = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))
        for name, (modality, value) in ours.items():
            hf_inputs[name] = value
            fields[name] = MultiModalFieldConfig.batched(modality, keep_on_cpu=True)
        return fields

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        """vLLM's, with expansions that are as long as what will be left, and no longer.

        It takes what an expansion repeats most for the token of embeddings, which of a short one is not sure.
        """
        left = {}
        for modality, items in out_mm_kwargs.items():
            token = self._token(modality)
            some = [self._shortened(modality, item) for item in items]
            left[modality] = [PromptUpdateDetails.select_token_id(ids, token) for ids in some]
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        return [replace(one, replacement=left[one.modality].__getitem__) for one in updates]

    def _token(self, modality: str) -> int:
        """The id that stands for an embedding."""
        return traits.placeholder_id(SimpleNamespace(config=self.info.get_hf_config()), modality)

    def _shortened(self, modality: str, item: Any) -> list[int]:
        """An image's expansion without the embedding tokens that will be gone; what is around them stays.

        Raises ValueError where the method cannot say how many, or text stands between the tokens.
        """
        ids, config = item[f"{modality}_replacement_ids"].data, self.info.get_hf_config()
        if not (text := read(item[field(modality, "method")].data)):
            return ids.tolist()
        embeds = ids == self._token(modality)
        where = embeds.nonzero()[:, 0]
        if len(where) > 1 and int(where.diff().max()) > 1:
            raise ValueError(
                f"{text}: {config.model_type} puts text between the tokens of an image, and vLLM would not "
                "know where it belongs once some are gone"
            )
        given = {name: item[name].data for name in LAID if name in item}
        tiles = 1 if given else int(item[f"num_{modality}_patches"].data)
        try:
            grid = features.layout(config, len(where), tiles, modality, **given)
        except NotImplementedError as error:
            raise ValueError(f"{text}: {error}") from error
        kept = served.left(self.info.method(text), text, grid)
        return ids[~embeds | (embeds.cumsum(0) <= kept)].tolist()
