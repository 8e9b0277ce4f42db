"""What LLaVA's config.json says, as configs of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from foveate.hosts import assemble
from foveate.hosts.files import read_object

LANGUAGES = {
    "llava": "llama",
    "llava_llama": "llama",
}  # model_type in LLaVA's config → transformers'
ALLOWED = {
    "model_type": tuple(LANGUAGES),
    "mm_vision_select_feature": ("patch",),
    "image_aspect_ratio": ("pad", "square", None),
    "mm_use_im_start_end": (False,),
}  # the first is what a silent config means
COUNTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)


def llava_config(source: Path) -> dict[str, Any]:
    """The settings of a checkpoint. Raises ValueError for another code's, and for what cannot be kept."""
    path = source / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    said = read_object(path)
    if not isinstance(said.get("mm_vision_tower"), str):
        raise ValueError(
            f"{path} names no mm_vision_tower: want a checkpoint as LLaVA's code saves it"
        )
    for name, values in ALLOWED.items():
        if said.get(name, values[0]) not in values:
            raise ValueError(
                f"{path}: {name} is {said[name]!r}: want {' or '.join(map(str, values))}"
            )
    for name in COUNTS:
        if type(said.get(name)) is not int or said[name] < 1:
            found = repr(said[name]) if name in said else "not there"
            raise ValueError(f"{path}: {name} is {found}: want a whole number >= 1")
    return said


def text_config(said: dict[str, Any], source: Path) -> Any:
    """The language model's part. Raises ValueError for settings that transformers refuses."""
    kind = LANGUAGES[said.get("model_type", "llava")]
    known = {*AutoConfig.for_model(kind).to_dict(), "rope_theta", "rope_scaling"}
    known -= {"architectures", "model_type", "transformers_version", "_name_or_path"}
    try:
        return AutoConfig.for_model(kind, **{n: v for n, v in said.items() if n in known})
    except (StrictDataclassError, TypeError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{source / 'config.json'} makes no {kind}: {why}") from error


def tower_config(vision: str, said: dict[str, Any]) -> Any:
    """The tower's own. Raises OSError where there is none, ValueError for one of other sizes."""
    try:
        seen = assemble.vision_config(vision)
    except (OSError, ValueError) as error:
        raise OSError(
            f"the vision tower {vision} cannot be read: vision= names a folder or Hub id of it"
        ) from error
    if not hasattr(seen, "patch_size"):
        raise ValueError(f"{vision} is a {seen.model_type}: want a vision tower, a CLIP or SigLIP")
    if said.get("mm_hidden_size", seen.hidden_size) != seen.hidden_size:
        raise ValueError(
            f"mm_hidden_size is {said['mm_hidden_size']}, the tower {vision} has {seen.hidden_size}"
        )
    depth, layer = seen.num_hidden_layers, feature_layer(said)
    if type(layer) is not int or not -depth - 1 <= layer <= depth:
        raise ValueError(
            f"mm_vision_select_layer is {layer!r}: the tower {vision} has hidden states 0 to {depth}, or "
            f"{-depth - 1} to -1 from its end"
        )
    return seen


def feature_layer(said: dict[str, Any]) -> int:
    """The hidden state of the tower that the connector reads."""
    return said.get("mm_vision_select_layer", -2)
