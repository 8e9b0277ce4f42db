"""How a model is asked where people compare numbers: the papers' protocol, which checkpoints do not carry."""

from __future__ import annotations

import copy
from typing import Any

import transformers
from PIL import Image

from foveate.chat import prompt
from foveate.core.compressor import Compressor, Tower
from foveate.core.ops import choice

PROTOCOLS = ("llava",)
FAMILIES = {"LlavaProcessor": "llava", "LlavaNextProcessor": "llava_next"}
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
# LLaVA's v1, of Vicuna: images first in a turn; an answer is closed by the end token, and nothing else.
CHAT = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] != 'system' %}"
    + SYSTEM
    + "{% elif messages[0]['content'] is string %}"
    "{{ messages[0]['content'] }}{% else %}"
    "{% for part in messages[0]['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{% for message in messages if message['role'] != 'system' %}"
    "{% if loop.first or loop.previtem['role'] != 'assistant' %}{{ ' ' }}{% endif %}"
    "{{ 'ASSISTANT: ' if message['role'] == 'assistant' else 'USER: ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)


def protocol(processor: Any, name: str = "llava") -> Any:
    """A processor that asks as a protocol does; the one that is given stays as it is.

    "llava" is that of LLaVA-1.5 and of the methods measured on it: the system prompt and turns of LLaVA's v1,
    and images padded to squares in their mean colour, where `llava-hf/llava-1.5-7b-hf` crops them and says
    no system prompt. LLaVA-NeXT keeps its own tiles. What it asks of `compress`, `as_published` says.

    Raises ValueError for other protocols, and for processors of models that were not trained with this one:
    it fits LLaVA-1.5 and LLaVA-NeXT on Vicuna.
    """
    choice("protocol", name, PROTOCOLS)
    _check_fits(processor, name)
    own = copy.copy(processor)
    own.chat_template = CHAT
    if FAMILIES[type(processor).__name__] == "llava":
        try:
            own.image_processor = squared(processor.image_processor)
        except ValueError as error:
            raise ValueError(f"protocol {name!r}: {error}") from error
    return own


def as_published(method: Compressor) -> dict[str, str]:
    """How `compress` has to treat a method for the numbers of its paper: its positions and newlines.

    What stands before the language model is counted anew there, and LLaVA-NeXT's newlines are left out. What
    acts inside keeps both, as FastV and LLaVolta do; PyramidDrop counts anew. EVS, though before the language
    model, keeps both. Raises TypeError for what is no compressor.
    """
    if not isinstance(method, Compressor):
        raise TypeError(
            f"want a foveate.Compressor, made with its arguments, got {method!r}: of a name, "
            "foveate.sized(foveate.METHODS[name], model, …) makes one"
        )
    inside = any(part.site.tower == Tower.language and part.site.layer for part in method.every())
    told = [part.renumbered for part in method.every() if part.renumbered is not None]
    if not inside and not told:
        return {"positions": "renumbered", "newlines": "none"}
    return {"positions": "renumbered"} if any(told) else {}


def squared(images: Any) -> Any:
    """An image processor that pads to squares of the mean colour, with the settings of this one.

    CLIP's, which cannot, becomes LLaVA's. Raises ValueError for others that cannot.
    """
    name = type(images).__name__
    if hasattr(images, "pad_to_square"):
        images = copy.deepcopy(images)
    elif "CLIP" in name:
        settings = {k: v for k, v in images.to_dict().items() if k != "image_processor_type"}
        images = getattr(transformers, name.replace("CLIP", "Llava"))(**settings)
    else:
        raise ValueError(f"{name} cannot pad images to a square")
    images.do_pad = True
    return images


def padded(processor: Any, image: Image.Image) -> Image.Image:
    """An image with what its processor pads it with, where that makes squares of it."""
    images = processor.image_processor
    if not (hasattr(images, "pad_to_square") and images.do_pad):
        return image
    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(255 * mean) for mean in images.image_mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _check_fits(processor: Any, name: str) -> None:
    kind, families = type(processor).__name__, " and ".join(FAMILIES.values())
    wanted = f"protocol {name!r} is for the families {families} on Vicuna"
    if kind not in FAMILIES:
        raise ValueError(
            f"{wanted}, and {kind} is of another: leave it out, each asks as it was trained"
        )
    own = prompt(processor, "…")
    if "USER: " not in own or not own.endswith("ASSISTANT:"):
        raise ValueError(
            f"{wanted}, which say 'USER: … ASSISTANT:', and this {kind} says {own!r}: leave it out, each "
            "asks as it was trained"
        )
