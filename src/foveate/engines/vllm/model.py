"""vLLM's class for transformers' multimodal models, with a method between its encoder and its prompt."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.transformers import TransformersMultiModalForCausalLM
from vllm.model_executor.models.transformers.multimodal import (
    MultiModalDummyInputsBuilder,
    MultiModalMixin,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import PlaceholderRange

from foveate.core.compressor import Compressor
from foveate.engines.vllm import positions, served
from foveate.engines.vllm.processor import (
    FIELDS,
    SAVED,
    SECONDS,
    Info,
    Processor,
    field,
    read,
)
from foveate.hosts import features, traits


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=Info, dummy_inputs=MultiModalDummyInputsBuilder
)
class FoveateForConditionalGeneration(TransformersMultiModalForCausalLM):
    """Images are compressed before they meet the text; an image without a method stays as it is.

    visual_compressor  the method that a checkpoint was saved with, under which vLLM finds its weights
    places             whether tokens bring their positions along
    """

    supports_multimodal_pruning = True
    supported_video_pruning_methods = ("evs",)

    def __init__(self, *, vllm_config: Any, prefix: str = ""):
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        multimodal = vllm_config.model_config.get_multimodal_config()
        told = multimodal.mm_processor_kwargs or {}
        served.check_policy(self.config, told)
        self.places = served.keeps_places(self.config, told)
        if self.places:  # vLLM asks for positions where a video is thinned, whoever does it
            multimodal.video_pruning_rate = multimodal.video_pruning_rate or 0.5
        method = served.of_checkpoint(self.config)
        if method is None:
            self.ignore_unexpected_prefixes.append("visual_compressor.")
        else:
            served.check_positions(self.config, told)
            like = next(self.model.parameters())
            self.visual_compressor = method.to(device=like.device, dtype=like.dtype)

    def _method(self, text: str) -> Compressor:
        return self.visual_compressor if text == SAVED else served.of_text(text, self.config)

    def _process_vision_input(
        self, modality: str, pixel_values: Any, num_patches: Tensor, **kwargs: Any
    ) -> list[Tensor]:
        """(M, D) of each image. Images of one method are encoded together."""
        told, size, seconds = (kwargs.pop(field(modality, name), None) for name in FIELDS)
        texts, sizes = [read(text) for text in told], size.flatten().tolist()
        axes = self._axes(modality, sizes, self._laid(kwargs, seconds))
        if not any(texts):  # as they came: of some models one cannot be told from another
            left = super()._process_vision_input(modality, pixel_values, num_patches, **kwargs)
            return list(map(self._placed, left, axes))
        counts, pixels = num_patches.flatten().tolist(), pixel_values
        if isinstance(pixel_values, Tensor):
            pixels = pixel_values.split(counts)
        found: dict[int, Tensor] = {}
        for text in dict.fromkeys(texts):
            mine = [i for i, other in enumerate(texts) if other == text]
            own = {name: _some(value, mine, len(texts)) for name, value in kwargs.items()}
            some, place = [pixels[i] for i in mine], [axes[i] for i in mine]
            if text:
                left = self._compressed(modality, text, some, place, own)
            else:
                units = num_patches.new_tensor([counts[i] for i in mine])
                whole = super()._process_vision_input(modality, _joined(some), units, **own)
                left = zip(whole, place, strict=True)
            found.update(zip(mine, left, strict=True))
        return [self._placed(*found[i]) for i in range(len(texts))]

    def _compressed(
        self,
        modality: str,
        text: str,
        pixels: Sequence[Tensor],
        axes: Sequence[Tensor],
        given: dict[str, Any],
    ) -> list[tuple[Tensor, Tensor]]:
        """What is left of each image, and where it stood."""
        joined = _joined(pixels)
        if not isinstance(joined, Tensor):  # one by one, so that none is padded to another's size
            alone = (
                self._compressed(modality, text, [one[None]], [axis], _row(given, i, len(pixels)))
                for i, (one, axis) in enumerate(zip(pixels, axes, strict=True))
            )
            return [x for some in alone for x in some]
        method = self._method(text)
        own = getattr(type(self.model), f"get_{modality}_features")
        name = list(inspect.signature(own).parameters)[1]
        given = {n: v.to(joined.device) if isinstance(v, Tensor) else v for n, v in given.items()}
        sizes = [axis.shape[1] for axis in axes]
        return features.features(
            self.model, method, sizes, modality, axes, **{name: joined, **given}
        )

    def _laid(self, given: dict[str, Any], seconds: Tensor | None) -> dict[str, Tensor]:
        """What says how images lie, one row each, where the model's positions have three axes.

        seconds: between two steps of each video, which the model's encoder does not take.
        """
        if not (self.places and served.counts_in_three(self.config)):
            return {}
        given = given if seconds is None else {**given, SECONDS: seconds}
        names = inspect.signature(self.model.get_rope_index).parameters
        return {name: value.cpu() for name, value in given.items() if name in names}

    def _axes(self, modality: str, sizes: Sequence[int], laid: dict[str, Tensor]) -> list[Tensor]:
        """(A, size) the places of each image's tokens, uncompressed, as the model counts positions."""
        device = next(self.model.parameters()).device
        if not laid:
            return [torch.arange(size, device=device)[None] for size in sizes]
        found = []
        for i, size in enumerate(sizes):
            ids = torch.zeros(1, size, dtype=torch.long)
            kinds = torch.full_like(ids, 1 + traits.MODALITIES.index(modality), dtype=torch.int)
            mine = {name: value[i : i + 1] for name, value in laid.items()}
            place = self.model.get_rope_index(input_ids=ids, mm_token_type_ids=kinds, **mine)[0]
            found.append(place[:, 0].to(device))
        return found

    def _placed(self, x: Tensor, place: Tensor) -> Tensor:
        return positions.carrying(x, place) if self.places else x

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: Any = None, **kwargs: Any
    ) -> Tensor:
        """As vLLM's. Raises RuntimeError where a runner did not ask for the positions that came along."""
        width = self.text_config.hidden_size
        if any(x.shape[-1] != width for x in multimodal_embeddings or ()):
            raise RuntimeError(
                "this vLLM does not ask tokens for their positions: on a CPU, "
                "--worker-cls foveate.engines.vllm.worker.Worker"
            )
        return super().embed_input_ids(input_ids, multimodal_embeddings, **kwargs)

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: Any
    ) -> tuple[Tensor, int]:
        """(3, S) positions of a prompt whose images are yet to be seen, and how far later ones lie ahead."""
        images = [_stands(one) for one in mm_features]
        cut = any(now < whole for _, now, whole in images)
        if not cut and (not self.places or served.counts_in_three(self.config)):
            return super().get_mrope_input_positions(input_tokens, mm_features)
        if not self.places:  # counted anew, on all axes alike
            return torch.arange(len(input_tokens)).expand(3, -1).clone(), 0
        position = positions.laid_out(len(input_tokens), images)
        if served.counts_in_three(self.config):
            position = self._whole_prompt(input_tokens, mm_features, position[0])
        return position, self._ahead(position)

    def _whole_prompt(self, input_tokens: list[int], mm_features: Any, column: Tensor) -> Tensor:
        """(3, S) positions in the prompt with all its images' tokens. column (S,): the place there."""
        whole = []
        for i, token in enumerate(input_tokens):
            missing = int(column[i]) - len(whole)
            whole += [input_tokens[i - 1]] * missing + [token]
        moved = []
        for one in mm_features:
            begin, _, size = _stands(one)
            at = PlaceholderRange(offset=int(column[begin]), length=size)
            moved.append(replace(one, mm_position=at))
        return super().get_mrope_input_positions(whole, moved)[0][:, column]

    def _ahead(self, position: Tensor) -> int:
        """How far what follows a prompt lies ahead of its columns."""
        three = served.counts_in_three(self.config)
        following = position.max() + 1 if three else position[2, 0]
        return int(following) - position.shape[1]

    def recompute_mrope_positions(
        self,
        input_ids: Any,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[Sequence[Tensor], Tensor, int]:
        """The tokens of a chunk without what they brought along, and the positions they stand at."""
        delta = self._ahead(mrope_positions)
        if not multimodal_embeddings:
            return multimodal_embeddings, mrope_positions, delta
        width = self.text_config.hidden_size
        each = [positions.carried(x, width) for x in multimodal_embeddings]
        tokens, place, number = zip(*each, strict=True)
        visual = traits.is_visual(self.model, torch.as_tensor(input_ids))
        column = visual.nonzero()[:, 0]
        column = column[column >= num_computed_tokens][: sum(map(len, tokens))]
        place, number = torch.cat(place, dim=1), torch.cat(number)
        landed = positions.landed(mrope_positions, column, place, number)
        return list(tokens), landed, delta

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As vLLM's. Where a model has one axis and tokens bring positions along, it reads the first row."""
        given = intermediate_tensors, inputs_embeds
        if not self.places or served.counts_in_three(self.config):
            return super().forward(input_ids, positions, *given, **kwargs)
        return super(MultiModalMixin, self).forward(input_ids, positions[0].contiguous(), *given)


def _joined(pixels: Sequence[Tensor]) -> Tensor | list[Tensor]:
    """Pixels of several images in one; as they are where they are of other sizes."""
    if len({one.shape[1:] for one in pixels}) == 1:
        return torch.cat(list(pixels))
    return list(pixels)


def _some(value: Any, index: list[int], of: int) -> Any:
    """Those of an argument with one entry for each image; whatever else as it is."""
    if isinstance(value, Tensor) and len(value) == of:
        return value[index]
    return [value[i] for i in index] if isinstance(value, list) and len(value) == of else value


def _row(given: dict[str, Any], i: int, of: int) -> dict[str, Any]:
    return {name: _some(value, [i], of) for name, value in given.items()}


def _stands(image: Any) -> tuple[int, int, int]:
    """Where an image's tokens begin in a prompt, how many they are, and how many they would be."""
    at, size = image.mm_position, int(image.data[field(image.modality, "size")].data)
    if at.is_embed is None:
        return at.offset, at.length, size
    return at.offset + int(at.is_embed.nonzero()[0, 0]), int(at.is_embed.sum()), size
