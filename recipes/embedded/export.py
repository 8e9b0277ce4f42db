"""Turn a checkpoint into the files the package ships: python recipes/embedded/export.py"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from model import build
from processor import build_processor, build_tokenizer
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel, ProcessorMixin

from foveate.keeping.provenance import write

PACKAGE = Path(__file__).parents[2] / "src/foveate/embedded/model"
WEIGHTS = "model.safetensors"


def export(checkpoint: Path, out: Path) -> None:
    """What a checkpoint of `train.py` holds, as the package ships it."""
    tokenizer = build_tokenizer()
    model = build(tokenizer)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    ship(model, build_processor(tokenizer), out)


def ship(model: PreTrainedModel, processor: ProcessorMixin, out: Path) -> None:
    """Weights in bfloat16, to be computed with in float32, and the processor."""
    model.to(torch.bfloat16).save_pretrained(out)
    processor.save_pretrained(out)
    # Plain from_pretrained follows the configuration: half the file, none of the rounding.
    path = out / "config.json"
    config = json.loads(path.read_text())
    config["dtype"] = config["text_config"]["dtype"] = config["vision_config"]["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def share(folder: Path, other: Path) -> None:
    """Leave out of a shipped folder what the one beside it holds bit for bit; an index tells."""
    own, theirs = stored(folder), stored(other)
    learnt = {
        name: weight
        for name, weight in own.items()
        if name not in theirs or not torch.equal(weight, theirs[name])
    }
    (folder / WEIGHTS).unlink()  # it would be read instead of the index
    shared = f"../{other.name}/{WEIGHTS}"
    indexed(folder, learnt, "learnt.safetensors", dict.fromkeys(own.keys() - learnt.keys(), shared))


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a shipped folder."""
    with safe_open(folder / WEIGHTS, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict


def indexed(
    folder: Path, own: Mapping[str, torch.Tensor], file: str, elsewhere: Mapping[str, str]
) -> None:
    """Write a folder's own weights to a file, and an index of them and of those that lie elsewhere."""
    save_file(dict(own), folder / file, {"format": "pt"})
    (folder / file).chmod(0o644)  # as the other files are, and not for the owner's eyes alone
    places = dict(elsewhere) | dict.fromkeys(own, file)
    size = sum((folder / name).stat().st_size for name in set(places.values()))
    index = {"metadata": {"total_size": size}, "weight_map": places}
    write(folder / f"{WEIGHTS}.index.json", json.dumps(index, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/embedded.pt"))
    parser.add_argument("--out", type=Path, default=PACKAGE)
    options = parser.parse_args()
    export(options.checkpoint, options.out)
