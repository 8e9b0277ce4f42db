"""SparseVLM, arXiv:2410.04417."""

import math

import pytest
import torch
from calling import close
from families import FAMILIES, ONE, SHORT, TEXT, TWO
from probes import Looks
from test_sight import looked, recorded

from foveate import Context, SparseVLM, VisualTokens, sparsevlm
from foveate.core.compressor import language
from foveate.methods.sparsevlm import TABLES


def of(x, valid=None):
    return VisualTokens.of(x, valid)


def rate(vision, text):
    """The raters by plain loops: a softmax over the words for each token, its mean, above the mean."""
    total = [0.0] * len(text)
    for v in vision:
        logits = [sum(a * b for a, b in zip(v, t, strict=True)) for t in text]
        most = max(logits)
        shares = [math.exp(one - most) for one in logits]
        total = [was + s / sum(shares) for was, s in zip(total, shares, strict=True)]
    mean = [t / len(vision) for t in total]
    return [m > sum(mean) / len(mean) for m in mean]


def test_raters_are_the_words_that_the_image_is_most_like():
    draw = torch.Generator().manual_seed(3)
    vision, text = torch.randn(2, 6, 4, generator=draw), torch.randn(2, 5, 4, generator=draw)
    valid = torch.arange(6) < torch.tensor([6, 4])[:, None]
    said = torch.arange(5) < torch.tensor([3, 5])[:, None]
    context = Context(text=text * said[..., None], text_mask=said)
    got = SparseVLM().raters(of(vision * valid[..., None], valid), context)
    assert got[0].tolist() == [*rate(vision[0].tolist(), text[0, :3].tolist()), False, False]
    assert got[1].tolist() == rate(vision[1, :4].tolist(), text[1].tolist())


def test_where_no_word_stands_out_all_rate():
    x, said = torch.ones(2, 3, 2), torch.tensor([[True, False], [True, True]])
    got = SparseVLM().raters(of(x), Context(text=torch.ones(2, 2, 2), text_mask=said))
    assert torch.equal(got, said)


@pytest.mark.parametrize("table", [192, 128, 96, 64])
@pytest.mark.parametrize("version", [1, 2])
def test_the_published_tables(version, table):
    """Of 576 tokens; version 1 gives ⌊⌊.3 d⌋ + 1⌋/10 clusters back, and one, for d that it drops."""
    tokens, method = of(torch.randn(1, 576, 4)), sparsevlm(table=table, version=version)
    assert [part.site.layer for part in method.parts()] == [3, 7, 16]
    came = 576
    for part, kept in zip(method.parts(), TABLES[version][table], strict=True):
        tokens = part(tokens, Context(prompt_attention=torch.rand(tokens.valid.shape)))
        clusters = (int(0.3 * (came - kept)) + 1) // 10 + 1 if version == 1 else 0
        came = kept + clusters
        assert tokens.counts.tolist() == [came]


def test_a_budget_is_the_last_cut_and_earlier_ones_never_leave_less():
    for keep, want in ((64, [300, 200, 64]), (250, [300, 250, 250]), (1.0, [576] * 3)):
        tokens, found = of(torch.randn(1, 576, 2)), []
        for part in sparsevlm(keep).parts():
            tokens = part(tokens, Context(prompt_attention=torch.rand(tokens.valid.shape)))
            found += tokens.counts.tolist()
        assert found == want


def clustered(x, score, keep):
    """What version 1 makes of one image, by plain loops: (patches, vector) of each token, by first patch."""
    order = sorted(range(len(x)), key=lambda i: -score[i])
    kept, dropped = sorted(order[:keep]), order[keep:]
    again = sorted(dropped[: int(0.3 * len(dropped)) + 1])
    if not dropped:
        return [([i], x[i]) for i in kept]
    c = len(again) // 10 + 1
    gap = [[math.dist(x[i], x[j]) / len(x[0]) ** 0.5 for j in again] for i in again]
    density = [math.exp(-sum(g * g for g in sorted(row)[:c]) / c) for row in gap]
    far = max(max(row) for row in gap)
    rank = []
    for i, row in enumerate(gap):
        denser = [g for g, d in zip(row, density, strict=True) if d > density[i]]
        rank.append(density[i] * (min(denser) if denser else far))
    centres = sorted(sorted(range(len(again)), key=lambda i: -rank[i])[:c])
    groups = {i: [i] for i in centres}
    for i in set(range(len(again))) - set(centres):
        groups[min(centres, key=lambda k: gap[i][k])].append(i)
    found = [([i], x[i]) for i in kept]
    for members in groups.values():
        patches = sorted(again[i] for i in members)
        rows = [x[p] for p in patches]
        found.append((patches, [sum(column) / len(rows) for column in zip(*rows, strict=True)]))
    return sorted(found)


def test_what_is_dropped_comes_back_as_clusters():
    draw, lengths = torch.Generator().manual_seed(5), [90, 40, 7, 3]
    valid = torch.arange(90) < torch.tensor(lengths)[:, None]
    x = torch.randn(4, 90, 3, generator=draw) * valid[..., None]
    score = torch.rand(4, 90, generator=draw)
    out = SparseVLM(4, recycle=True)(of(x, valid), Context(prompt_attention=score))
    for row, n in enumerate(lengths):
        want = clustered(x[row, :n].tolist(), score[row, :n].tolist(), min(4, n))
        assert int(out.counts[row]) == len(want)
        for token, (patches, vector) in enumerate(want):
            assert (out.owner[row] == token).nonzero()[:, 0].tolist() == patches
            torch.testing.assert_close(out.x[row, token], torch.tensor(vector))


def test_clusters_of_clusters_are_plain_means():
    """A token that carries three patches counts as one."""
    x = torch.tensor([[[0.0], [0.0], [0.0], [8.0], [9.0]]])
    tokens = of(x).merge(torch.tensor([[0, 0, 0, 1, 2]]), 3)
    score = torch.tensor([[0.2, 0.3, 0.5]])
    method = SparseVLM(1, recycle=True)
    out = method(tokens, Context(prompt_attention=score))
    assert out.counts.tolist() == [2]  # ⌊.3 · 2⌋ + 1 comes back, alone
    assert out.owner.tolist() == [[-1, -1, -1, 0, 1]]
    tokens = of(torch.cat([x, 7 + torch.zeros(1, 3, 1)], 1)).merge(
        torch.tensor([[0, 0, 0, 1, 2, 3, 4, 5]]), 6
    )
    score = torch.tensor([[0.5, 0.4, 0.9, 0.1, 0.1, 0.1]])
    out = method(tokens, Context(prompt_attention=score))
    assert out.x.flatten().tolist() == [4.0, 9.0]
    assert out.owner.tolist() == [[0, 0, 0, 0, 1, -1, -1, -1]]


class Rated(Looks):
    """Looks, and goes by every second word of those behind an image."""

    def raters(self, tokens, context):
        self.asked = tokens, context
        return context.text_mask & (torch.arange(context.text_mask.shape[1]) % 2 == 0)


class Everybody(Looks):
    """Looks, and does not choose."""

    def raters(self, tokens, context):
        return None


@pytest.mark.parametrize("name", sorted(FAMILIES))
@torch.no_grad()
def test_the_host_takes_the_mean_over_the_raters_rows(name):
    """Of each image its own; beside a compressor that hears all."""
    family = FAMILIES[name]
    model, bare = family.model(), family.model("eager")
    for prompts in ((ONE, TEXT, TWO), (SHORT,)):
        for padding in ("left", "right"):
            inputs = family.inputs(prompts, padding)
            rated = Rated(language(2), ["prompt_attention"])
            everybody = Everybody(language(2), ["prompt_attention"])
            _, context, _ = looked(model, inputs, rated, everybody)
            with recorded() as calls:
                bare(**inputs)
            ((_, weights),) = list(calls.values())[-family.layers :][1]
            ids, real = inputs["input_ids"], inputs["attention_mask"].bool()
            words = real & ~torch.isin(ids, family.placeholders)
            tokens, heard = rated.asked
            for i, stand in enumerate(family.stands(prompts, ids)):
                b, columns = stand.prompt, stand.patches
                P, rows = len(columns), weights[b].mean(0)
                behind = words[b].clone()
                behind[: max(columns)] = False
                speak = behind.nonzero()[:, 0]
                close(context.prompt_attention[i, :P], rows[speak[::2]].mean(0)[columns])
                ((_, other),) = everybody.seen
                close(other.prompt_attention[i, :P], rows[words[b]].mean(0)[columns])
                asked = bare.get_input_embeddings()(ids[b, speak])
                close(heard.text[i][heard.text_mask[i]], asked)
                assert tokens.counts[i] == P


def test_wrong_arguments():
    with pytest.raises(ValueError, match="layer >= 1"):
        SparseVLM(layer=0)
    with pytest.raises(ValueError, match="share=2"):
        SparseVLM(share=2)
    with pytest.raises(ValueError, match="table=100: want one of 192, 128, 96, 64"):
        sparsevlm(table=100)
    with pytest.raises(ValueError, match="version=3: want one of 1, 2"):
        sparsevlm(version=3)
