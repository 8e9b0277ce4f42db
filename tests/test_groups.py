"""Budgets of groups of tokens, against plain loops."""

import torch

from foveate.core.groups import apportioned, top_of_each


def test_each_group_keeps_its_highest_and_equals_go_to_the_earlier():
    score = torch.tensor([[1.0, 3.0, 3.0, 2.0, 9.0, 0.0, 5.0]])
    group = torch.tensor([[0, 0, 0, 2, 2, 2, 0]])
    valid = torch.tensor([[True] * 6 + [False]])
    kept = top_of_each(score, group, torch.tensor([[1, 5, 2]]), valid)
    assert kept.tolist() == [[False, True, False, True, True, False, False]]
    assert not top_of_each(score, group, torch.zeros(1, 3, dtype=torch.long), valid).any()


def test_of_random_groups_too():
    draw = torch.Generator().manual_seed(0)
    score = torch.randint(0, 5, (6, 40), generator=draw).float()
    group = torch.randint(0, 4, (6, 40), generator=draw)
    n = torch.randint(0, 9, (6, 4), generator=draw)
    valid = torch.arange(40) < torch.tensor([[40], [1], [33], [7], [0], [20]])
    kept = top_of_each(score, group, n, valid)
    for b in range(6):
        want = set()
        for g in range(4):
            mine = [i for i in range(40) if valid[b, i] and group[b, i] == g]
            want |= {*sorted(mine, key=lambda i: (-float(score[b, i]), i))[: int(n[b, g])]}
        assert {*kept[b].nonzero()[:, 0].tolist()} == want


def shared(n, weight, room):
    """Rounded down, then one each to the heaviest with room; once more for what found none."""
    given = [0] * len(room)
    while sum(given) < min(n, sum(room)):
        left = n - sum(given)
        free = [g for g in range(len(room)) if given[g] < room[g]]
        total = sum(weight[g] for g in free)
        share = {g: weight[g] / total if total else 1 / len(free) for g in free}
        more = {g: int(left * share[g] + 1e-12) for g in free}
        for g in sorted(free, key=lambda g: -share[g])[: left - sum(more.values())]:
            more[g] += 1
        given = [min(room[g], given[g] + more.get(g, 0)) for g in range(len(room))]
    return given


def test_a_number_is_shared_out_by_weight():
    """7 by 5 : 3 : 2 is 3.5, 2.1, 1.4: 3, 2, 1, and one more to the first.

    Where that has room for 2 alone, the others share what is over: 2 by 3 : 2 is 1, 0, and one to the first.
    """
    n, weight = torch.tensor([[7], [7], [0], [99]]), torch.tensor([[5.0, 3.0, 2.0]] * 4)
    room = torch.tensor([[9, 9, 9], [2, 9, 9], [9, 9, 9], [1, 2, 3]])
    assert apportioned(n, weight, room).tolist() == [[4, 2, 1], [2, 4, 1], [0, 0, 0], [1, 2, 3]]


def test_random_numbers_too_and_weights_of_nothing():
    draw = torch.Generator().manual_seed(1)
    weight = torch.rand(30, 6, generator=draw) * torch.randint(0, 2, (30, 6), generator=draw)
    room = torch.randint(0, 12, (30, 6), generator=draw)
    n = torch.randint(0, 50, (30, 1), generator=draw)
    found = apportioned(n, weight, room)
    for b in range(30):
        want = shared(int(n[b]), weight[b].double().tolist(), room[b].tolist())
        assert found[b].tolist() == want
