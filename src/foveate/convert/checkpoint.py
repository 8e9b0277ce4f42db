"""Public LLaVA-STF checkpoints, as LLaVA's own code saves them, into models that transformers loads."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from foveate.compressor import Compressor
from foveate.convert.connector import attachable, own_names
from foveate.convert.weights import files, fill, read
from foveate.hosts import assemble
from foveate.hosts.attach import compress

LANGUAGES = {
    "llava": "llama",
    "llava_llama": "llama",
}  # model_type in LLaVA's config → transformers'
TOWER = "model.vision_tower.vision_tower."
# What older checkpoints hold besides weights: it is reckoned from the config.
RECKONED = re.compile(r"(rotary_emb\.inv_freq|embeddings\.position_ids)$")
Parts = tuple[nn.Module, Any, Compressor]  # model, processor, connector


def convert_llava_stf(
    source: str | Path,
    out: str | Path,
    vision: str | None = None,
    language: str | None = None,
    vision_layers: Sequence[int] | None = None,
) -> Path:
    """Save a public LLaVA-STF so that `foveate.from_pretrained(out)` is it. arXiv:2506.07138.

    source         a folder as LLaVA's code saves it: config.json, weights, tokenizer; or the first stage's
                   file, mm_projector.bin, which holds the connector alone
    out            the new folder: a LlavaForConditionalGeneration, its processor, and the connector
    vision         the tower, a folder or Hub id; unless given, what mm_vision_tower in config.json names.
                   Its weights are used where the checkpoint holds none
    language       with the file: a LLaVA-1.5 as transformers saves it, or a language model
    vision_layers  the hidden states that are fused with the selected one, in the order of the weights;
                   unless given, evenly spaced: of CLIP-L's, where eight are fused in all, 21, 18, … 3

    Windows and widths are read off the shapes. The projector that transformers wants beside the connector
    has no weights in such a checkpoint: it gets random ones, always the same, and never runs. New tokens
    get the mean of all embeddings, so that greedy decoding never says one. Weights stay on disk until they
    are written, and nothing else is read from their files.

    Raises ValueError for weights that are missing, left over or of another shape, for a LLaVA without
    LLaVA-STF, and where `out` is there already; OSError where a file or the tower cannot be read.
    """
    source, out = Path(source), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already: want a new folder")
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    if source.is_dir() and not files(source) and (source / "mm_projector.bin").exists():
        source = source / "mm_projector.bin"
    if source.is_dir() and language is not None:
        raise ValueError(f"language={language}: {source} is a whole checkpoint and has its own")
    if source.is_dir():
        model, processor, method = _whole(source, vision, vision_layers)
    else:
        model, processor, method = _onto(source, vision, language, vision_layers)
    compress(model, method, positions="renumbered")
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, max_shard_size="5GB")
    processor.save_pretrained(partial)
    return partial.replace(out)


def _whole(source: Path, vision: str | None, vision_layers: Sequence[int] | None) -> Parts:
    """The parts of a folder as LLaVA's code saves it."""
    said = _config(source)
    weights = {name: value for file in files(source) for name, value in read(file).items()}
    connector = own_names(weights)
    weights = {n: w for n, w in weights.items() if not RECKONED.search(n) and not own_names({n: w})}
    if not weights:
        raise ValueError(f"{source}: want weights, pytorch_model*.bin or *.safetensors")
    dtype = next(iter(weights.values())).dtype
    vision = vision or said["mm_vision_tower"]
    seen = _tower_config(vision, said)
    processor = assemble.processor_of(vision, str(source), seen)
    if said.get("image_aspect_ratio") == "pad":
        assemble.pad_to_square(processor)

    text = _text_config(said)
    if (words := len(processor.tokenizer)) > text.vocab_size:
        text.vocab_size = -(-words // 64) * 64
    model = assemble.skeleton(seen, text, processor, said.get("mm_vision_select_layer", -2))
    assemble.renew_projector(model, dtype, torch.Generator().manual_seed(0))
    method = attachable(connector, model, vision_layers, source)
    if not any(name.startswith(TOWER) for name in weights):
        model.model.vision_tower = assemble.vision_tower(vision, dtype=dtype)
    for name in {"model.embed_tokens.weight", "lm_head.weight"} & weights.keys():
        if len(weights[name]) == said["vocab_size"]:
            weights[name] = _grown(weights[name], text.vocab_size)
    weights = {name: value.to(dtype) for name, value in weights.items()}
    fill(model, weights, _names(model), source)
    return model, processor, method


def _onto(
    file: Path, vision: str | None, language: str | None, vision_layers: Sequence[int] | None
) -> Parts:
    """The parts of the first stage's file and of the model it is put onto."""
    if language is None:
        raise ValueError(
            f"{file} is a connector alone: language= says what it goes onto, a LLaVA-1.5 as transformers "
            "saves it, or with vision= a language model"
        )
    connector = own_names(read(file))
    config = AutoConfig.from_pretrained(language)
    if hasattr(config, "mm_vision_tower"):
        raise ValueError(
            f"language={language} is as LLaVA's code saves it: want a LLaVA as transformers does"
        )
    sees = hasattr(config, "vision_config")
    if sees == (vision is not None):
        has = "a tower of its own, leave out vision=" if sees else "no tower, want vision="
        raise ValueError(f"language={language} has {has}")
    if sees:
        model = AutoModelForImageTextToText.from_pretrained(language, dtype="auto")
        processor = AutoProcessor.from_pretrained(language)
    else:
        dtype = config.dtype or torch.float32
        model, processor = assemble.assemble(vision, language, dtype=dtype)
    return model, processor, attachable(connector, model, vision_layers, file)


def _config(source: Path) -> dict[str, Any]:
    """What LLaVA's config.json says. Raises ValueError for another's, and for what cannot be kept."""
    path = source / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    said = json.loads(path.read_text())
    if "mm_vision_tower" not in said:
        raise ValueError(
            f"{path} names no mm_vision_tower: want a checkpoint as LLaVA's code saves it"
        )
    allowed = {
        "model_type": tuple(LANGUAGES),
        "mm_vision_select_feature": ("patch",),
        "image_aspect_ratio": ("pad", "square", None),
        "mm_use_im_start_end": (False,),
    }
    for name, values in allowed.items():
        if said.get(name, values[0]) not in values:
            raise ValueError(
                f"{path}: {name} is {said[name]!r}: want {' or '.join(map(str, values))}"
            )
    return said


def _text_config(said: dict[str, Any]) -> Any:
    """The language model's part of LLaVA's config."""
    kind = LANGUAGES[said.get("model_type", "llava")]
    known = {*AutoConfig.for_model(kind).to_dict(), "rope_theta", "rope_scaling"}
    known -= {"architectures", "model_type", "transformers_version", "_name_or_path"}
    return AutoConfig.for_model(kind, **{n: v for n, v in said.items() if n in known})


def _tower_config(vision: str, said: dict[str, Any]) -> Any:
    try:
        seen = assemble.vision_config(vision)
    except (OSError, ValueError) as error:
        raise OSError(
            f"the vision tower {vision} cannot be read: vision= names a folder or Hub id of it"
        ) from error
    if said.get("mm_hidden_size", seen.hidden_size) != seen.hidden_size:
        raise ValueError(
            f"mm_hidden_size is {said['mm_hidden_size']}, the tower {vision} has {seen.hidden_size}"
        )
    return seen


def _names(model: nn.Module) -> dict[str, str]:
    """How LLaVA's names begin → how the model's do."""
    inner = "model.vision_tower.vision_model."
    named = any(name.startswith(inner) for name in model.state_dict())
    tower = inner if named else "model.vision_tower."
    return {
        f"{TOWER}vision_model.": tower,
        TOWER: tower,
        "lm_head.": "lm_head.",
        "model.": "model.language_model.",
    }


def _grown(rows: Tensor, count: int) -> Tensor:
    """With further rows, the mean of those there are: their logit is never the largest."""
    mean = rows.float().mean(dim=0, keepdim=True).to(rows.dtype)
    return torch.cat([rows, mean.expand(count - len(rows), -1)])
