"""A compressor of your own, with weights: trained on PatchQA, saved, loaded again, asked."""

from dataclasses import replace

import torch
from torch import nn
from transformers import AutoConfig, AutoProcessor

from foveate import Compressor, Site, Tower, from_pretrained, last_counts
from foveate.embedded import PATH
from foveate.evaluate import encode
from foveate.tasks import examples, records
from foveate.train import RECIPES, run


class Gated(Compressor):
    """The mean of every `stride` tokens, each as loud as a learned gate lets it be: no paper."""

    def __init__(self, width: int, stride: int = 4, layer: int = 1):
        super().__init__()
        self.width, self.stride, self.site = width, stride, Site(Tower.language, layer)
        self.gate = nn.Linear(width, 1)

    def forward(self, tokens, context):
        B, N, _ = tokens.x.shape
        into = torch.arange(N, device=tokens.x.device).expand(B, N) // self.stride
        loud = tokens.carry(tokens.x * 2 * self.gate(tokens.x).sigmoid())
        return loud.merge(into, -(-N // self.stride))

    def arguments(self):
        return {"width": self.width, "stride": self.stride, "layer": self.site.layer}


def main(out="out/train_your_own", **changes):
    own = Gated.for_model(AutoConfig.from_pretrained(PATH))  # as wide as the model
    trains = {"language": 3e-4, "compressor": 1e-2}
    card = {"name": "own", "model": str(PATH), "method": own, "trains": trains, "shrink": 1.0}
    card |= {"batch": 16, "micro_batch": 16, "steps": 30}
    recipe = replace(RECIPES["patchqa"](), **card | changes)
    run(recipe, out, records(recipe), resume=True, advance=lambda *now: print(*now))

    model, processor = from_pretrained(out, method=own).eval(), AutoProcessor.from_pretrained(out)
    asked = examples("patchqa", 1, seed=0)[0]
    inputs, _ = encode(processor, [(asked.images, asked.question)])
    said = model.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
    print(asked.question, processor.decode(said, skip_special_tokens=True), last_counts(model))
    return model


if __name__ == "__main__":
    main()
