"""Public LLaVA-STF checkpoints, as LLaVA's own code saves them, into models that transformers loads."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foveate.convert.config import feature_layer, llava_config, text_config, tower_config
from foveate.convert.connector import attachable, parted
from foveate.convert.files import Weights, read, refuse_unmerged, weight_files
from foveate.convert.weights import check, fill
from foveate.core.compressor import Compressor
from foveate.hosts import assemble, reading
from foveate.hosts.attach import compress
from foveate.hosts.files import few
from foveate.keeping.provenance import filling

TOWER = "model.vision_tower.vision_tower."
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
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

    Raises ValueError for weights that are missing, left over, there twice, of another shape or not
    finite, for a config.json that is broken, another code's or at odds with them, for a LoRA that is not
    merged, for a LLaVA without LLaVA-STF, and where `out` is there already; OSError where a file or the
    tower cannot be read.
    """
    source, out = Path(source), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already: want a new folder")
    model, processor, method = _parts(source, vision, language, vision_layers)
    compress(model, method, positions="renumbered")
    return _saved(model, processor, out)


def _parts(
    source: Path, vision: str | None, language: str | None, vision_layers: Sequence[int] | None
) -> Parts:
    """The parts of a whole checkpoint, or of the first stage's file and what it is put onto."""
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    refuse_unmerged(source)
    if source.is_dir() and not weight_files(source) and (source / "mm_projector.bin").exists():
        source = source / "mm_projector.bin"
    if not source.is_dir():
        return _onto(source, vision, language, vision_layers)
    if language is not None:
        raise ValueError(f"language={language}: {source} is a whole checkpoint and has its own")
    return _whole(source, vision, vision_layers)


def _whole(source: Path, vision: str | None, vision_layers: Sequence[int] | None) -> Parts:
    """The parts of a folder as LLaVA's code saves it."""
    said = llava_config(source)
    connector, weights = _weights(source)
    if said.get("tie_word_embeddings", False):
        weights = _tied(weights, source)
    dtype = next(iter(weights.values())).dtype
    vision = vision or said["mm_vision_tower"]
    seen, text = tower_config(vision, said), text_config(said, source)
    processor = assemble.processor_of(vision, str(source), seen)
    if said.get("image_aspect_ratio") == "pad":
        assemble.pad_to_square(processor)

    if (words := len(processor.tokenizer)) > text.vocab_size:
        text.vocab_size = -(-words // 64) * 64
    model = assemble.skeleton(seen, text, processor, feature_layer(said))
    assemble.renew_projector(model, dtype, torch.Generator().manual_seed(0))
    method = attachable(connector, model, vision_layers, source)
    if not any(name.startswith(TOWER) for name in weights):
        model.model.vision_tower = assemble.vision_tower(vision, dtype=dtype)
    for name in {EMBEDDING, HEAD} & weights.keys():
        if len(weights[name]) == said["vocab_size"]:
            weights[name] = _grown(weights[name], text.vocab_size)
    weights = {name: value.to(dtype) for name, value in weights.items()}
    fill(model, weights, _names(model), source)
    model.tie_weights()
    if (source / "generation_config.json").exists():
        model.generation_config = reading.generation_config(source)
    return model, processor, method


def _weights(source: Path) -> tuple[Weights, Weights]:
    """The connector's weights and all others of a folder, without what is reckoned."""
    weights = read(*weight_files(source))
    connector, weights = parted(
        {name: value for name, value in weights.items() if not RECKONED.search(name)}, source
    )
    if not weights:
        raise ValueError(f"{source}: want weights, pytorch_model*.bin or *.safetensors")
    check(connector | weights, source)
    return connector, weights


def _onto(
    file: Path, vision: str | None, language: str | None, vision_layers: Sequence[int] | None
) -> Parts:
    """The parts of the first stage's file and of the model it is put onto."""
    if language is None:
        raise ValueError(
            f"{file} is a connector alone: language= says what it goes onto, a LLaVA-1.5 as transformers "
            "saves it, or with vision= a language model"
        )
    connector, rest = parted(read(file), file)
    if rest:
        raise ValueError(f"{file} holds {few([*rest])}: want a connector's weights and no others")
    check(connector, file)
    config = reading.config(language)
    if hasattr(config, "mm_vision_tower"):
        raise ValueError(
            f"language={language} is as LLaVA's code saves it: want a LLaVA as transformers does"
        )
    sees = hasattr(config, "vision_config")
    if sees == (vision is not None):
        has = "a tower of its own, leave out vision=" if sees else "no tower, want vision="
        raise ValueError(f"language={language} has {has}")
    if sees:
        model = reading.model(language, dtype="auto")
        processor = reading.processor(language)
    else:
        dtype = config.dtype or torch.float32
        model, processor = assemble.assemble(vision, language, dtype=dtype)
    return model, processor, attachable(connector, model, vision_layers, file)


def _saved(model: nn.Module, processor: Any, out: Path) -> Path:
    """Written into a new folder beside `out` and moved there: `out` is whole or it is not there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f"{out.name}.") as beside:
        made = Path(beside) / "model"
        with filling(made):
            model.save_pretrained(made, max_shard_size="5GB")
            processor.save_pretrained(made)
        return made.replace(out)


def _tied(weights: Weights, source: Path) -> Weights:
    """With the head that the embedding is. Raises ValueError for another head than that."""
    embedding = weights.get(EMBEDDING)
    if embedding is None:
        return weights
    if not torch.equal(weights.get(HEAD, embedding), embedding):
        raise ValueError(
            f"{source}: config.json says tie_word_embeddings, but {HEAD} is not {EMBEDDING}: want it false "
            "in config.json where the head is its own, or no head in the weights"
        )
    return weights | {HEAD: embedding}


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
