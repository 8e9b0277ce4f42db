"""What a few hundred answers prove about all others: exact binomial tails, tested in a fixed order.

Learn-then-Test (Angelopoulos et al. 2021, arXiv:2110.01052). Every setting is a hypothesis: "more than `risk`
of all answers would differ". The safest is tested first, and testing ends at the first that cannot be
rejected; so all tests together are wrong with a probability of at most `delta`, however many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, exp, lgamma, log, log1p


def tail(wrong: int, of: int, rate: float) -> float:
    """P(X ≤ wrong) of a binomial X of so many trials at this rate: how surprising it is that no more were."""
    if not (0 <= wrong <= of and 0 < rate < 1):
        raise ValueError(
            f"{wrong} of {of} at a rate of {rate}: want 0 to {of}, and a rate inside 0 to 1"
        )
    whole = lgamma(of + 1)
    terms = (
        whole - lgamma(k + 1) - lgamma(of - k + 1) + k * log(rate) + (of - k) * log1p(-rate)
        for k in range(wrong + 1)
    )
    return min(1.0, sum(map(exp, terms)))


def proven(wrong: Sequence[int], of: int, risk: float, delta: float) -> int | None:
    """The last of these settings of which it is shown that at most `risk` of all answers differ.

    wrong: how many of `of` answers differ at each, in an order that was fixed before anybody looked. With
    probability 1 − delta over the questions, which have to be drawn as those to come are, it is true of all
    up to the one returned. None: not even of the first.
    """
    if not (0 < risk < 1 and 0 < delta < 1):
        raise ValueError(f"risk={risk}, delta={delta}: want both inside 0 to 1")
    last = None
    for setting, count in enumerate(wrong):
        if tail(count, of, risk) > delta:
            break
        last = setting
    return last


def upper(wrong: int, of: int, delta: float) -> float:
    """The largest rate at which no more than so many would be wrong with a probability of delta.

    An exact bound from above (Clopper and Pearson 1934): the rate of all answers is larger with a probability
    of at most delta. Of none wrong it is 1 − delta^(1/of).
    """
    if wrong == of:
        return 1.0
    low, high = 0.0, 1.0
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if tail(wrong, of, middle) > delta else (low, middle)
    return high


def needed(risk: float, delta: float) -> int:
    """How many questions it takes to show a risk, where not one answer differs: (1 − risk)^n ≤ delta."""
    return ceil(log(delta) / log1p(-risk))


def interval(wrong: int, of: int, delta: float) -> tuple[float, float]:
    """Exact bounds from both sides, which do not hold with a probability of at most delta."""
    return 1 - upper(of - wrong, of, delta / 2), upper(wrong, of, delta / 2)
