"""Trainers of others: transformers' own, and TRL's, which calls the base model past the head."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from probes import Ragged
from training import Batches, labelled, same, weights
from transformers import Trainer, TrainerCallback, TrainingArguments

import foveate
from foveate import FastV, Stride, TextGuided, embedded

pytestmark = pytest.mark.slow


def arguments(path, **more):
    plain = {"output_dir": str(path), "learning_rate": 1e-3, "max_steps": 4, "use_cpu": True}
    plain |= {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "report_to": []}
    plain |= {"save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
    plain |= {"remove_unused_columns": False}
    return plain | more


def trainer(model, family, path, **more):
    data = Batches(family, 8)
    return Trainer(
        model,
        TrainingArguments(**arguments(path, **more)),
        data_collator=data.together,
        train_dataset=data,
        eval_dataset=Batches(family, 2),
    )


def test_metrics_see_logits_of_the_length_they_know(model, family, tmp_path):
    foveate.compress(model, Stride(3))
    seen = []

    def metrics(prediction):
        seen.append(prediction)
        predicted, labels = prediction.predictions.argmax(-1)[:, :-1], prediction.label_ids[:, 1:]
        return {"accuracy": float((predicted == labels)[labels != -100].mean())}

    run = trainer(model, family, tmp_path)
    run.compute_metrics = metrics
    run.args.prediction_loss_only = False
    run.args.eval_do_concat_batches = True
    report = run.evaluate(ignore_keys=["past_key_values", "image_hidden_states", "hidden_states"])
    batch = labelled(family)
    with torch.no_grad():
        want = model(**batch)
    (prediction,) = seen
    assert prediction.predictions.shape == want.logits.shape
    assert prediction.predictions.shape[:2] == prediction.label_ids.shape
    np.testing.assert_allclose(prediction.predictions, want.logits, rtol=1e-5, atol=1e-6)
    assert report["eval_loss"] == pytest.approx(want.loss.item(), rel=1e-5)


class Stop(TrainerCallback):
    """Ends a run in its middle."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2


def test_resumed_training_is_training_never_stopped(family, attention, tmp_path):
    """With a compressor that learns: its weights and its part of the optimizer come back too.

    The weights are loaded by `from_pretrained`: transformers' own Trainer looks for them under other
    names than it saved them by, and goes on from random ones with a warning, compressed or not.
    """
    often = {"save_strategy": "steps", "save_steps": 2}
    whole = foveate.compress(family.model(attention), Ragged())
    trainer(whole, family, tmp_path / "whole", **often).train()
    half = foveate.compress(family.model(attention), Ragged())
    run = trainer(half, family, tmp_path / "half", **often)
    run.add_callback(Stop())
    run.train()
    saved = tmp_path / "half" / "checkpoint-2"
    back = foveate.from_pretrained(saved, method=Ragged())
    assert same(weights(back), weights(half)) and not same(weights(half), weights(whole))
    back.set_attn_implementation(attention)
    run = trainer(back, family, tmp_path / "half", **often)
    run.train(resume_from_checkpoint=str(saved))
    assert run.state.global_step == 4
    learnt = weights(whole)["model.visual_compressor.gate.weight"]
    assert not torch.equal(learnt, Ragged().gate.weight)
    assert same(weights(back), weights(whole))


def sft(model, family, path, **more):
    import tokenizers
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<pad>": 0, "a": 3}, unk_token="a"))
    data = Batches(family, 8)
    return SFTTrainer(
        model,
        SFTConfig(
            **arguments(path, **more), dataset_kwargs={"skip_prepare_dataset": True}, bf16=False
        ),
        data_collator=data.together,
        train_dataset=Dataset.from_list([data[i] for i in range(8)]),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="a"
        ),
    )


@pytest.mark.parametrize("method", [Stride(5), FastV(0.5, layer=2)], ids=["stride", "fastv"])
def test_trl_computes_the_models_own_loss(model, family, tmp_path, method):
    """SFTTrainer never sees logits: it takes the base model's hidden states to the head in pieces."""
    batch = labelled(family)
    bare = model(**batch).loss.item()
    foveate.compress(model, method)
    own = model(**batch).loss
    own.backward()
    want = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    run = sft(model, family, tmp_path)
    loss = run.compute_loss(model, dict(batch))
    loss.backward()
    assert loss.item() == pytest.approx(own.item(), rel=1e-5) and abs(loss.item() - bare) > 1e-4
    for n, grad in want.items():
        got = model.get_parameter(n).grad
        torch.testing.assert_close(got, grad, atol=1e-5, rtol=1e-3, msg=n)


ELSEWHERE = {"TRL": sft, "label smoothing": partial(trainer, label_smoothing_factor=0.1)}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_loss_computed_elsewhere_may_not_lose_a_penalty(model, family, tmp_path, name):
    """TRL's is made of log-probabilities; and Trainer may take the labels out of the call."""
    foveate.compress(model.train(), Ragged())
    with pytest.raises((NotImplementedError, ValueError), match="penalty"):
        ELSEWHERE[name](model, family, tmp_path).compute_loss(model, labelled(family))


@pytest.mark.parametrize("method", [FastV(0.5), TextGuided(0.5, layer=2)], ids=lambda m: str(m))
def test_trls_conversations_do_not_hide_their_question_in_silence(method):
    """TRL labels all of a conversation but its padding; of prompt and completion, what it is told to."""
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling as Collator

    model, processor = embedded.load()
    foveate.compress(model.train(), method)
    asked = {"role": "user", "content": "What is it?"}
    answer = {"role": "assistant", "content": "red"}

    def batch(**told):
        picture = {"images": [Image.new("RGB", (96, 96), "red")]}
        if told:
            return Collator(processor, **told)(
                [{"prompt": [asked], "completion": [answer]} | picture]
            )
        return Collator(processor)([{"messages": [asked, answer]} | picture])

    with pytest.raises(ValueError, match=r"cover its question.*in TRL, .*completion_only_loss"):
        model(**batch())
    assert torch.isfinite(model(**batch(completion_only_loss=True)).loss)
    foveate.compress(model, Stride(0.5))
    assert torch.isfinite(model(**batch()).loss)
