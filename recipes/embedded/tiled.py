"""Make the embedded model's twin for large pictures, LLaVA-NeXT's way: python recipes/embedded/tiled.py

Nothing is trained. Its weights are those of the embedded model: the index points at their file, so that there
is no second copy. An image_newline of zeros says nothing to a model that never saw one.
Writes src/foveate/embedded/tiled/ with its card.
"""

import argparse
from pathlib import Path

import torch
from export import WEIGHTS, indexed
from processor import CHAT, build_tokenizer
from safetensors import safe_open
from transformers import LlavaNextConfig
from transformers.models.llava_next import LlavaNextProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from foveate.embedded import MODELS, PATH
from foveate.hosts import reading
from foveate.keeping.provenance import write

NAME = "embedded-tiled"
TILES = 2  # a side, each of the pixels that the tower sees
NEWLINE = "newline.safetensors"  # a model.safetensors would be read instead of the index

CARD = """---
license: apache-2.0
pipeline_tag: image-text-to-text
library_name: transformers
---
# The embedded model of foveate, with tiles

foveate's embedded model as a `LlavaNextForConditionalGeneration`, for pictures of 192 × 192 pixels: it sees
each as a whole and in four tiles of 96 × 96, **{tokens} visual tokens** (144 of the whole, a map of 24 × 24,
24 newlines). Tower, projector and language model are the embedded model's own weights, which
`model.safetensors.index.json` finds in the folder beside this one; move the two together, or
`save_pretrained` to a folder of its own. `image_newline` is zero.

**It was never trained on tiles**, and answers accordingly: it is what training begins with, as
`foveate train patchqa_2x` does. Recipe: `recipes/embedded/tiled.py` in foveate's repository.

## Use

```python
from foveate import embedded

model, processor = embedded.load(name="embedded-tiled")
```
"""


def config() -> LlavaNextConfig:
    """The embedded model's, read as LLaVA-NeXT's: a picture as a whole and in 2 × 2 tiles."""
    given = reading.config(PATH)
    pixels = TILES * given.vision_config.image_size
    return LlavaNextConfig(
        vision_config=given.vision_config,
        text_config=given.text_config,
        image_token_index=given.image_token_id,
        image_grid_pinpoints=[[pixels, pixels]],
        image_seq_length=given.image_seq_length,
        vision_feature_layer=given.vision_feature_layer,
        vision_feature_select_strategy=given.vision_feature_select_strategy,
        projector_hidden_act=given.projector_hidden_act,
        tie_word_embeddings=given.tie_word_embeddings,
        architectures=["LlavaNextForConditionalGeneration"],
        dtype="float32",
    )


def processor(given: LlavaNextConfig) -> LlavaNextProcessor:
    """Pictures of any size to a whole and four tiles, text in LLaVA-1.5's template."""
    pixels = given.vision_config.image_size
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": pixels},
        crop_size={"height": pixels, "width": pixels},
        image_grid_pinpoints=given.image_grid_pinpoints,
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
    )
    return LlavaNextProcessor(
        images,
        build_tokenizer(),
        patch_size=given.vision_config.patch_size,
        vision_feature_select_strategy=given.vision_feature_select_strategy,
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )


def make(out: Path) -> None:
    """Write the folder, beside that of the embedded model."""
    given = config()
    given.save_pretrained(out)
    reading.generation_config(PATH).save_pretrained(out)
    processor(given).save_pretrained(out)
    newline = torch.zeros(given.text_config.hidden_size, dtype=torch.bfloat16)
    shared = f"../{PATH.name}/{WEIGHTS}"
    with safe_open(out / shared, "pt") as stored:
        places = dict.fromkeys(stored.keys(), shared)
    indexed(out, {"image_newline": newline}, NEWLINE, places)
    write(out / "README.md", card(given))


def card(given: LlavaNextConfig) -> str:
    """The model card."""
    side = TILES * given.vision_config.image_size // given.vision_config.patch_size
    return CARD.format(tokens=given.image_seq_length + side * (side + 1))


def main() -> None:
    """Make it as it is shipped."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    make(MODELS[NAME])


if __name__ == "__main__":
    main()
