"""Turn a checkpoint into the files the package ships: python recipes/embedded/export.py"""

import argparse
import json
from pathlib import Path

import torch
from model import build
from processor import build_processor, build_tokenizer
from transformers import PreTrainedModel, ProcessorMixin

PACKAGE = Path(__file__).parents[2] / "src/foveate/embedded/model"


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/embedded.pt"))
    parser.add_argument("--out", type=Path, default=PACKAGE)
    options = parser.parse_args()
    export(options.checkpoint, options.out)
