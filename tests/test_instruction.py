"""What a compressor reads of a prompt: the instruction, all of it, in order, and never an answer.

Grows by itself: families from families.FAMILIES. The probe writes what it reads into the tokens.
"""

from __future__ import annotations

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
from calling import close, generated, greedy, last_words, logits, spoken
from families import FAMILIES, ONE, PAD, SHORT, TEXT, TWO
from probes import Asked, PromptRows, Reads

import foveate
from foveate import Chain, FastV, Stride


@pytest.fixture(params=["behind", "in its place"])
def probe(request, family):
    """Behind the projector, or in its place where a family has one."""
    return Reads(family.projected if request.param == "in its place" else None)


@pytest.fixture
def llava():
    """A small LLaVA that a probe reads with, and the probe."""
    model = FAMILIES["llava"].model()
    probe = Reads()
    return foveate.compress(model, probe), probe


def words(family, inputs):
    """(B, S) the real columns that are no placeholder."""
    return inputs["attention_mask"].bool() & ~torch.isin(inputs["input_ids"], family.placeholders)


def some(family, inputs):
    """(B, S) a mask with a gap: of each row's words, every third is nobody's, but not the first."""
    said = words(family, inputs)
    return said & ((said.cumsum(1) - 1) % 3 != 1)


def expected(model, family, prompts, ids, mask):
    """Image by image, the embeddings that a compressor should read."""
    stands = family.stands(prompts, ids)
    return [model.get_input_embeddings()(ids[s.prompt, mask[s.prompt]]).detach() for s in stands]


def is_read(shown, wanted):
    """The words of every image, in order, padded with zeros at the end to the longest."""
    text, mask, _ = shown
    lengths = [len(w) for w in wanted]
    assert text.shape[:2] == mask.shape == (len(wanted), max(lengths))
    for row, real, want in zip(text, mask, wanted, strict=True):
        assert real.tolist() == [i < len(want) for i in range(len(real))]
        assert torch.equal(row[real], want)
        assert not row[~real].any()


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def fresh(probe):
    """What the probe noted since it was last asked."""
    seen, probe.seen = probe.seen, []
    return seen


@torch.no_grad()
@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_forward_and_generate_read_the_same(model, family, probe, padding, told):
    """The whole prompt, or what a mask says of it; cached decoding reads once, recomputing the same."""
    foveate.compress(model, probe)
    for prompts in family.batches().values():
        inputs = family.inputs(prompts, padding)
        mask = some(family, inputs) if told else words(family, inputs)
        given = {"instruction_mask": mask} if told else {}
        first = logits(model, inputs, **given, **family.positions(inputs))[:, -1]
        (shown,) = fresh(probe)
        is_read(shown, expected(model, family, prompts, inputs["input_ids"], mask))
        if padding == "right":
            continue
        with foveate.instruction(mask if told else None):
            cached = generated(model, inputs, 3)
            recomputed = generated(model, inputs, 3, use_cache=False)
        close(cached[:, 0], first, NEAR)
        close(recomputed, cached, NEAR)
        seen = fresh(probe)
        assert len(seen) == 1 + 3 and all(same(again, shown) for again in seen)


@torch.no_grad()
def test_a_batch_is_each_prompt_alone(model, family, probe):
    """Other questions, padding on either side, two images, touching ones, videos, text alone."""
    foveate.compress(model, probe)
    for prompts in family.batches().values():
        for padding in ("left", "right"):
            inputs = family.inputs(prompts, padding)
            mask = some(family, inputs)
            together = logits(model, inputs, **family.positions(inputs), instruction_mask=mask)
            for i, real in enumerate(inputs["attention_mask"].bool()):
                alone = family.single(inputs, prompts, i)
                own = logits(model, alone, instruction_mask=mask[i : i + 1, real])
                close(together[i, real], own[0], NEAR)


NEAR = 2e-5  # of the logits' scale
QUESTIONS, ANSWERS = ([5, 6, 7], [8, 9]), ([40, 41], [42])


def conversation(family, inputs, questions=QUESTIONS, answers=ANSWERS):
    """The prompt with an answer, a question, an answer … behind it; (B, S) masks of what was asked, said."""
    ids, asked = inputs["input_ids"], words(family, inputs)
    said = torch.zeros_like(asked)
    pad = torch.nn.functional.pad
    for question, answer in zip(questions, answers, strict=True):
        ids = torch.cat([ids, torch.tensor([question + answer] * len(ids))], dim=1)
        asked = pad(pad(asked, (0, len(question)), value=True), (0, len(answer)))
        said = pad(pad(said, (0, len(question))), (0, len(answer)), value=True)
    return family.longer(inputs, ids), asked, said


def shown_of(model, probe, batch, asked, said, how):
    """What the probe sees of a conversation, told in one of three ways."""
    labels = batch["input_ids"].masked_fill(~said, -100)
    if how == "labels":
        model(**batch, labels=labels)
    elif how == "instruction_mask":
        model(**batch, labels=labels, instruction_mask=asked)
    else:
        with foveate.instruction(asked), torch.no_grad():
            model(**batch)
    (shown,) = fresh(probe)
    return shown


@pytest.mark.parametrize("how", ["labels", "instruction_mask", "foveate.instruction"])
def test_users_are_read_and_answers_are_not(model, family, probe, how):
    """Another answer, early or late, longer or shorter, changes nothing; another question does."""
    foveate.compress(model.train(how == "labels"), probe)
    prompts = (ONE, TWO)
    inputs = family.inputs(prompts)

    def shown(questions=QUESTIONS, answers=ANSWERS):
        batch, asked, said = conversation(family, inputs, questions, answers)
        found = shown_of(model, probe, batch, asked, said, how)
        is_read(found, expected(model, family, prompts, batch["input_ids"], asked))
        return found

    first = shown()
    for answers in [([50, 41], [42]), ([40, 41], [60]), ([40], [42]), ([40, 41], [42] * 4)]:
        assert same(shown(answers=answers), first)
    for questions in [([5, 6, 30], [8, 9]), ([5, 6, 7], [9, 8]), ([5, 6, 7], [8])]:
        assert not torch.equal(shown(questions=questions)[-1], first[-1])


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False])
def test_beams_and_samples_repeat_what_was_asked(model, family, probe, use_cache):
    """One row of the mask for all beams of a prompt; a beam's score is that of its words."""
    foveate.compress(model, probe)
    prompts = (ONE, TWO)
    inputs = family.inputs(prompts)
    mask = some(family, inputs)
    wanted = expected(model, family, prompts, inputs["input_ids"], mask)
    how = {"num_return_sequences": 2, "use_cache": use_cache}
    scored = {"return_dict_in_generate": True, "output_scores": True}
    with foveate.instruction(mask):
        out = greedy(model, inputs, 4, num_beams=3, **how, **scored)
        seen = fresh(probe)
        assert len(seen) == (1 if use_cache else 4)
        for shown in seen:
            is_read(shown, wanted)
        sampled = model.generate(**inputs, **how, max_new_tokens=3, do_sample=True, top_k=1)
        want = greedy(model, inputs, 3, use_cache=use_cache)
    assert torch.equal(sampled, want.repeat_interleave(2, 0))
    for n in (0, 1):  # of the two sequences returned of each prompt
        total = spoken(model, family, inputs, out.sequences[n::2], 4, mask)
        close(out.sequences_scores[n::2], total, 1e-4)


@torch.no_grad()
def test_beams_that_recompute_write_no_instruction(model, family, probe):
    """Nobody told what was asked, and beams change places: still, the prompt is all that is read."""
    foveate.compress(model, probe)
    inputs = family.inputs((ONE, TWO))
    wanted = expected(model, family, (ONE, TWO), inputs["input_ids"], words(family, inputs))
    cached = greedy(model, inputs, 5, num_beams=4)
    assert torch.equal(greedy(model, inputs, 5, num_beams=4, use_cache=False), cached)
    for shown in fresh(probe):
        is_read(shown, wanted)


@torch.no_grad()
def test_an_instruction_that_stands_in_no_prompt(model, family, probe):
    """Its ids are read as if they stood there: with the prompt's own, nothing changes."""
    foveate.compress(model, probe)
    for prompts in family.batches().values():
        inputs = family.inputs(prompts)
        mask = some(family, inputs)
        want = logits(model, inputs, instruction_mask=mask)
        rows = [ids[m] for ids, m in zip(inputs["input_ids"], mask, strict=True)]
        for side in ("left", "right"):
            ids = torch.nn.utils.rnn.pad_sequence(
                rows, batch_first=True, padding_value=-100, padding_side=side
            )
            assert torch.equal(logits(model, inputs, instruction_ids=ids), want)
        told = []
        for block in (foveate.instruction(mask), foveate.instruction(ids=ids)):
            with block:
                told.append((generated(model, inputs, 3), greedy(model, inputs, 3, num_beams=2)))
        assert same(*told)
        with foveate.instruction(ids=ids):
            again = generated(model, inputs, 3, use_cache=False)
        assert torch.equal(again[:, 0], told[0][0][:, 0])


@pytest.mark.parametrize("reentrant", [True, False])
def test_training_reads_the_same_with_checkpointing(model, family, probe, reentrant):
    """Same loss, same gradients, of the words too."""
    inputs = family.inputs((ONE, TWO, TEXT))
    labels = last_words(inputs)
    mask = some(family, inputs) & (labels == -100)
    foveate.compress(model.train(), probe)
    model.enable_input_require_grads()
    found = []
    for _ in range(2):
        model.zero_grad()
        loss = model(**inputs, labels=labels, instruction_mask=mask, use_cache=False).loss
        loss.backward()
        grads = [p.grad for p in (*probe.parameters(), model.get_input_embeddings().weight)]
        found.append([loss.detach(), *(grad.clone() for grad in grads)])
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for plain, recomputed in zip(*found, strict=True):
        assert plain.abs().sum() > 0
        close(recomputed, plain)


@torch.no_grad()
def test_a_prompt_without_an_instruction(model, family):
    """Refused, with its number; or, by a compressor that can do without, a row of nothing."""
    prompts = (ONE, TEXT, SHORT, TWO)
    inputs = family.inputs(prompts)
    mask = some(family, inputs)
    mask[1:3] = False  # text alone needs none
    model.get_input_embeddings().weight[PAD] += 1  # what a model has for padding need not be zero
    wanted = expected(model, family, prompts, inputs["input_ids"], mask)
    assert [len(w) > 0 for w in wanted] == [True, False, True, True]
    strict, lenient = (Reads(family.projected, optional=optional) for optional in (False, True))
    foveate.compress(model, strict)
    for call in (model, model.model):
        with pytest.raises(ValueError, match="no instruction in prompt 2 of the batch"):
            call(**inputs, instruction_mask=mask)
    with foveate.instruction(mask), pytest.raises(ValueError, match="no instruction in prompt 2 "):
        model.generate(**inputs, num_beams=2, max_new_tokens=2)
    foveate.compress(model, lenient)
    got = model(**inputs, instruction_mask=mask).logits
    (shown,) = fresh(lenient)
    is_read(shown, wanted)
    alone = family.single(inputs, prompts, 2)
    nothing = torch.zeros_like(alone["input_ids"])
    own = logits(model, alone, instruction_mask=nothing)[0]
    close(got[2, -len(own) :], own, NEAR)
    ((text, read, _),) = fresh(lenient)
    assert text.shape == (1, 0, 64) and read.shape == (1, 0)
    with foveate.instruction(ids=torch.full((1, 3), -100)):
        close(generated(model, alone, 1)[:, 0], got[2:3, -1], NEAR)
    foveate.compress(model, Chain(lenient, Asked(None)))
    with pytest.raises(ValueError, match="no instruction"):  # one that needs it is among them
        model(**inputs, instruction_mask=mask)


@torch.no_grad()
def test_a_later_call_reads_nothing(model, family, probe):
    """Decoding and a second turn on a filled cache ignore what told the first call what was asked."""
    foveate.compress(model, probe)
    inputs = family.inputs((ONE,))
    mask = some(family, inputs)
    turn = torch.tensor([[7, 8, 9]])
    whole = family.longer(inputs, torch.cat([inputs["input_ids"], turn], dim=1))
    more = {"input_ids": whole["input_ids"], "attention_mask": whole["attention_mask"]}
    with foveate.instruction(mask):
        cache = model(**inputs, use_cache=True).past_key_values
        in_block = generated(model, {**more, "past_key_values": cache}, 2)
    told = {"instruction_mask": mask, "instruction_ids": turn}
    cache = model(**inputs, instruction_mask=mask, use_cache=True).past_key_values
    assert len(fresh(probe)) == 2
    new = {"input_ids": turn, "attention_mask": whole["attention_mask"]}
    by_keyword = model(**new, past_key_values=cache, **told).logits
    step = torch.tensor([[5]])
    longer = torch.nn.functional.pad(whole["attention_mask"], (0, 1), value=1)
    model(input_ids=step, attention_mask=longer, past_key_values=cache, **told)
    assert not probe.seen
    close(in_block[:, 0], by_keyword[:, -1], NEAR)


@torch.no_grad()
def test_rows_of_attention_are_still_the_prompts(model, family):
    """Ids are the text; which rows look at the image, the mask or the whole prompt says."""
    inputs = family.inputs((ONE, TWO))
    mask, ids = some(family, inputs), torch.tensor([[5, 6], [7, -100]])
    reads, rows = Reads(optional=True), PromptRows(5, layer=2)
    found = []
    with foveate.compressed(model, Chain(reads, rows)), foveate.trace(model) as seen:
        for told in ({"instruction_mask": mask}, {}, {"instruction_mask": mask}):
            model(**inputs, **told, instruction_ids=ids)
            found.append(seen.steps[-1].scores)
    assert [tuple(mask.sum(1)) for _, mask, _ in reads.seen] == [(2, 1, 1)] * 3
    assert torch.equal(found[0].nan_to_num(), found[2].nan_to_num())
    assert not torch.equal(found[0].nan_to_num(), found[1].nan_to_num())


# What holds of the block, whatever the family.


def read_by(model, probe, inputs, **more):
    """How many words the first image got."""
    with torch.no_grad():
        model(**inputs, **more)
    ((_, mask, _),) = fresh(probe)
    return int(mask[0].sum())


def test_an_inner_block_stands_in_for_the_outer_one(llava):
    model, probe = llava
    inputs = FAMILIES["llava"].inputs((ONE,))
    mask = torch.zeros_like(inputs["input_ids"])
    mask[:, -4:] = 1
    last = torch.nn.functional.pad(mask[:, -1:], (mask.shape[1] - 1, 0))
    ids, everything = torch.tensor([[5, 6]]), 9
    with foveate.instruction(mask):
        assert read_by(model, probe, inputs) == 4
        with foveate.instruction(ids=ids):
            assert read_by(model, probe, inputs) == 2
            with foveate.instruction():
                assert read_by(model, probe, inputs) == everything
        assert read_by(model, probe, inputs) == 4
        with pytest.raises(KeyError), foveate.instruction(mask * 0):
            raise KeyError("of somebody's own")
        assert read_by(model, probe, inputs) == 4
        # What the call says itself wins, as a whole.
        assert read_by(model, probe, inputs, instruction_mask=last) == 1
        assert read_by(model, probe, inputs, instruction_ids=ids[:, :1]) == 1
    with foveate.instruction(ids=ids):
        assert read_by(model, probe, inputs, instruction_mask=mask) == 4
        assert read_by(model, probe, inputs, instruction_mask=mask, instruction_ids=ids[:, :1]) == 1
        assert read_by(model, probe, inputs, instruction_ids=ids[:, :1]) == 1
        assert read_by(model, probe, inputs, instruction_mask=None) == 2
        assert read_by(model.model, probe, inputs) == 2
    assert read_by(model, probe, inputs) == everything


def test_threads_do_not_meet(llava):
    """Two threads in blocks of their own, and one that says it has nothing to tell, with an empty one."""
    inputs = FAMILIES["llava"].inputs((ONE,))
    mask, together = some(FAMILIES["llava"], inputs), threading.Barrier(3)

    def read(n):
        probe = Reads()
        model = foveate.compress(FAMILIES["llava"].model(), probe)
        with foveate.instruction(ids=torch.full((1, n), 5) if n else None):
            together.wait()
            count = read_by(model, probe, inputs)
            together.wait()
        return count

    with foveate.instruction(mask), ThreadPoolExecutor(3) as pool:
        assert list(pool.map(read, (0, 2, 3))) == [9, 2, 3]


@pytest.mark.parametrize("method", [Reads, lambda: FastV(4), PromptRows])
@torch.no_grad()
def test_a_thread_does_not_see_the_block_it_was_started_in(method):
    """It reads nobody's words in silence: it says so, with the ways out; and each of them works."""
    model = foveate.compress(FAMILIES["llava"].model(), method())
    inputs = FAMILIES["llava"].inputs((ONE,))
    mask = torch.nn.functional.pad(torch.ones(1, 4, dtype=torch.long), (21, 0))
    mask[:, -1] = 0  # the last row of the prompt is not the instruction's

    def call(block=None, **more):
        with block or nullcontext():
            return logits(model, inputs, **more)

    def in_a_thread(*what, **more):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(*what, **more).result()

    whole = call()
    with foveate.instruction(mask):
        want = call()
        with pytest.raises(RuntimeError, match=r"another thread .*copy_context.* empty"):
            in_a_thread(call)
        with pytest.raises(RuntimeError, match="another thread"):
            in_a_thread(model.generate, **inputs, max_new_tokens=2)
        assert torch.equal(in_a_thread(call, foveate.instruction(mask)), want)
        assert torch.equal(in_a_thread(contextvars.copy_context().run, call), want)
        assert torch.equal(in_a_thread(call, instruction_mask=mask), want)
        assert torch.equal(in_a_thread(call, foveate.instruction()), whole)
        foveate.compress(model, Stride(4))
        in_a_thread(call)  # it reads nothing
        foveate.compress(model, method())
        with foveate.instruction():
            assert torch.equal(call(), whole)
    assert not torch.equal(want, whole)
    assert torch.equal(in_a_thread(call), whole)  # the block is closed
    go = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with foveate.instruction(mask):
            late = pool.submit(lambda: go.wait() and call())
            empty = pool.submit(call, foveate.instruction())
        go.set()  # as with a streamer that is read behind the block
    with pytest.raises(RuntimeError, match="when this one began"):
        late.result()
    assert torch.equal(empty.result(), whole)
    with foveate.instruction():  # this one tells nothing that could be lost
        assert torch.equal(in_a_thread(call), whole)


MASKS = [  # for prompts of 2 × 25
    (TypeError, "mask: want a tensor .* got list", [[True]]),
    (TypeError, r"mask: .* got a bool tensor \(25,\)", torch.ones(25) > 0),
    (ValueError, "values up to 99; token ids are ids=", torch.full((2, 25), 99)),
    *(
        (ValueError, rf"mask: want \(2, 25\).*bool tensor \({B}, {S}\)", torch.ones(B, S) > 0)
        for B, S in ((1, 25), (2, 24), (2, 26), (4, 25))
    ),
]
IDS = [
    (TypeError, "ids: want a tensor .* got str 'What", "What is it?"),
    (TypeError, r"ids: want integers .* float32 tensor \(2, 3\)", torch.ones(2, 3)),
    (TypeError, r"ids: want integers .* bool tensor \(2, 3\)", torch.ones(2, 3) > 0),
    (ValueError, r"ids: want \(2, tokens\).*\(3, 2\)", torch.full((3, 2), 5)),
    (ValueError, "ids: 1000 is no token of a vocabulary of 100", torch.full((2, 1), 1000)),
    (ValueError, "ids: -1 is no token .* padding is -100", torch.full((2, 1), -1)),
]


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "error", "says", "value"),
    [*(("mask", *case) for case in MASKS), *(("ids", *case) for case in IDS)],
)
def test_what_does_not_fit_is_told_with_its_numbers(llava, name, error, says, value):
    model, _ = llava
    inputs = FAMILIES["llava"].inputs((ONE, SHORT))
    with pytest.raises(error, match=says), foveate.instruction(**{name: value}):
        greedy(model, inputs, 2, num_beams=2)
    if name == "ids":
        with pytest.raises(error, match="instruction_ids: "):
            model(**inputs, instruction_ids=value)
    assert torch.isfinite(model(**inputs).logits).all()


@torch.no_grad()
def test_a_mask_is_as_long_as_its_prompt_though_a_call_is_longer(llava):
    """Guesses of an assistant stand behind the prompt; a later turn on a new cache is a longer prompt."""
    model, probe = llava
    inputs = FAMILIES["llava"].inputs((ONE,))
    mask = some(FAMILIES["llava"], inputs)
    with pytest.raises(ValueError, match=r"foveate\.instruction\(mask\)"):
        greedy(model, inputs, 8, prompt_lookup_num_tokens=3)
    fresh(probe)
    with foveate.instruction(mask):
        guessed = greedy(model, inputs, 8, prompt_lookup_num_tokens=3)
        assert torch.equal(guessed, greedy(model, inputs, 8))
        assert [int(m.sum()) for _, m, _ in fresh(probe)] == [int(mask.sum())] * 2
        long = FAMILIES["llava"].longer(inputs, guessed)
        with pytest.raises(ValueError, match=r"mask: want \(1, 33\).* bool tensor \(1, 25\)"):
            model(**long)
        model(**long, instruction_mask=mask)


def test_placeholders_are_no_words(llava):
    """Nor in ids: a placeholder's id need not be in the vocabulary."""
    model, probe = llava
    family = FAMILIES["llava"]
    inputs = family.inputs((ONE,))
    ids = torch.tensor([[family.image_id, 5, family.image_id, 6]])
    assert read_by(model, probe, inputs, instruction_ids=ids) == 2
    everywhere = torch.ones_like(inputs["input_ids"])
    assert read_by(model, probe, inputs, instruction_mask=everywhere) == 9


def test_training_wants_to_know_what_is_asked(llava):
    """Ids tell it; a mask tells it; nothing does not, however well a compressor can do without."""
    model, probe = llava
    inputs = FAMILIES["llava"].inputs((ONE,))
    probe.optional = probe.needs
    model.train()
    with pytest.raises(ValueError, match="training without labels"):
        model(**inputs)
    model(**inputs, instruction_ids=torch.tensor([[5]]))
    with foveate.instruction(some(FAMILIES["llava"], inputs)):
        model(**inputs)
    assert [mask.sum().item() for _, mask, _ in probe.seen] == [1, 6]
    foveate.compress(model, FastV(4))
    with pytest.raises(ValueError, match="training without labels"):  # it reads rows, not words
        model(**inputs, instruction_ids=torch.tensor([[5]]))


@pytest.mark.parametrize(
    ("method", "end"),
    [
        (Reads(), "refused"),
        (Reads(optional=True), "fine"),
        (Chain(Reads(optional=True), FastV(4)), "refused"),
        (Stride(4), None),
    ],
)
def test_support_says_what_is_read(method, end):
    notes = foveate.support(FAMILIES["llava"].model(), method).notes
    notes = [note for note in notes if "instruction" in note]
    assert len(notes) == (end is not None)
    assert all("foveate.instruction" in note and note.endswith(end) for note in notes)


def test_a_plain_trainer_hands_it_on(llava, tmp_path):
    """What a collator adds reaches the compressor, though the model's signature does not name it."""
    from transformers import Trainer, TrainingArguments

    model, probe = llava
    batch = FAMILIES["llava"].inputs((ONE, SHORT))
    batch["labels"] = last_words(batch, 1)
    mask = some(FAMILIES["llava"], batch)
    args = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, use_cpu=True, report_to=[], save_strategy="no"
    )
    counts = []
    for told in ({"instruction_mask": mask}, {"instruction_ids": mask[:, :2] + 5}):
        collate = lambda rows, told=told: batch | told  # noqa: E731
        Trainer(model, args, data_collator=collate, train_dataset=[0, 1]).train()
        ((_, read, _),) = fresh(probe)
        counts.append(read.sum(1).tolist())
    assert counts == [[6, 3], [2, 2]]
