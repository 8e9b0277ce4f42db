"""Questions about images as a model wants them: its own chat template, or LLaVA's where it has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

Ask = tuple[Sequence[Image.Image], str]  # the images of one prompt, and the question


def prompt(processor: Any, question: str, images: int = 1) -> str:
    """The text of one prompt, up to where the answer begins."""
    if getattr(processor, "chat_template", None) is None:
        marks = f"{getattr(processor, 'image_token', '<image>')}\n" * images
        return f"USER: {marks}{question} ASSISTANT:"
    content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
    turn = [{"role": "user", "content": content}]
    return processor.apply_chat_template(turn, add_generation_prompt=True)


def encode(processor: Any, asks: Sequence[Ask]) -> Any:
    """One padded batch; padding on the left, so that every answer begins at the same column."""
    texts = [prompt(processor, question, len(images)) for images, question in asks]
    start = getattr(processor.tokenizer, "bos_token", None)
    return processor(
        images=[list(images) for images, _ in asks],
        text=texts,
        padding=True,
        padding_side="left",
        add_special_tokens=not (start and texts[0].startswith(start)),
        return_tensors="pt",
    )
