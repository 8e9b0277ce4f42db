"""The soft accuracy of VQA, with the normalisation of its official evaluation.

Antol et al. 2015, arXiv:1505.00468, and Goyal et al. 2017, arXiv:1612.00837. Written from what that
evaluation does, its oddities included: answers that all agree are compared as they stand, and the ten
people's answers lose their punctuation alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

ENOUGH = 3  # people who agree
ARTICLES = {"a", "an", "the"}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {"none": "0", **{word: str(n) for n, word in enumerate(NUMBERS)}}
MARKS = ';/[]"{}()=+\\_-><@`,?!'
COMMA = re.compile(r"(\d)(,)(\d)")
POINT = re.compile(r"\.(?!\d)")
# Words that people write without their apostrophe, and what they become.
SHORT = """ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd
how'll how's isn't it'd it'll ma'am might've mightn't must've mustn't needn't not've o'clock oughtn't shan't
should've shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's
there'd there're there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's
what've when's where'd where's where've who'd who'll who's who've why'll why're why's won't would've
wouldn't y'all you'd you'll you're you've"""
# Of two apostrophes people leave out either or, where they leave out one, the other.
LONG = """couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've
something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'd've y'all'll you'd've"""
WHOLE = {word.replace("'", ""): word for word in SHORT.split()} | {
    word[:cut] + word[cut + 1 :]: word
    for word in LONG.split()
    for cut in (m.start() for m in re.finditer("'", word))
}


def agreement(said: str, answers: Sequence[str]) -> float:
    """How far what is said agrees with these people: the mean over leaving out each of them.

    min(1, how many of the others say the same / 3).
    """
    said, told = _plain(said), [_plain(answer) for answer in answers]
    if len({*told}) > 1:
        told = [unmarked(answer) for answer in told]
        said = spelled(unmarked(said))
    same = [answer == said for answer in told]
    return sum(min(1.0, (sum(same) - one) / ENOUGH) for one in same) / len(same)


def unmarked(text: str) -> str:
    """Without punctuation: a mark beside a space goes, and all of one do where digits are grouped."""
    out, grouped = text, COMMA.search(text) is not None
    for mark in MARKS:
        beside = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if beside or grouped else " ")
    return POINT.sub("", out)


def spelled(text: str) -> str:
    """Lower case, numbers in digits, no articles, apostrophes where they belong."""
    words = (DIGITS.get(word, word) for word in text.lower().split())
    return " ".join(WHOLE.get(word, word) for word in words if word not in ARTICLES)


def _plain(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
