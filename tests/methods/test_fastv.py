"""FastV, arXiv:2403.06764."""

import pytest
import torch
from families import ONE, TWO, Llava

import foveate
from foveate import FastV


@pytest.mark.parametrize("layer", [1, 2, 4])
def test_scores_are_the_last_rows_of_the_layer_before(layer):
    """The one row computed under SDPA is that of eager attention's whole matrix."""
    family = Llava()
    for prompts, padding in (((ONE,), "left"), ((ONE, TWO), "left"), ((ONE, TWO), "right")):
        inputs = family.inputs(prompts, padding)
        model = family.model("eager")
        with torch.no_grad():
            whole = model(**inputs, output_attentions=True).attentions[layer - 1].mean(1)
            model = foveate.compress(family.model("sdpa"), FastV(4, layer))
            with foveate.trace(model) as seen:
                model(**inputs)
        image = 0
        for row, prompt in enumerate(prompts):
            last = int(inputs["attention_mask"][row].nonzero()[-1])
            columns = (inputs["input_ids"][row] == 99).nonzero()[:, 0]
            for part in columns.split(family.patches):
                step = seen.steps[0]
                torch.testing.assert_close(
                    step.scores[image], whole[row, last, part], atol=1e-6, rtol=1e-5
                )
                best = whole[row, last, part].topk(4).indices.sort().values
                assert (step.owner[image] >= 0).nonzero()[:, 0].tolist() == best.tolist()
                image += 1
            assert prompt.images == len(columns) // family.patches


def test_layer_zero_has_no_layer_before():
    with pytest.raises(ValueError, match="layer >= 1"):
        FastV(layer=0)
