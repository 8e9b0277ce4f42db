"""Model families as the contract sees them: a small random model, and batches for it.

To put a family under contract: one subclass of Family; one line in FAMILIES.
"""

from .family import LAYERS, Family, Stand, Visual
from .gemma import Gemma3, PaliGemma
from .llava import Llava, LlavaNext, LlavaOnevision, VideoLlava
from .mistral3 import Mistral3
from .prompts import (
    BOS,
    EOS,
    IMAGE,
    MIXED,
    ONE,
    PAD,
    SHORT,
    TEXT,
    TEXT_IDS,
    TOUCHING,
    TWO,
    VIDEO,
    VIDEO_AND_IMAGE,
    VIDEO_ID,
    Prompt,
)
from .qwen import Qwen3VL, Qwen25VL
from .tiled import Idefics3, InternVL, SmolVLM

FAMILIES = {
    family.name: family
    for family in (
        *(Llava(), LlavaNext(), LlavaOnevision(), VideoLlava(), Qwen25VL(), Qwen3VL()),
        *(InternVL(), SmolVLM(), Idefics3(), Gemma3(), PaliGemma(), Mistral3()),
    )
}
