"""Ask a picture: one function per kind of question, each with answers as level as we could make them."""

from collections import Counter
from collections.abc import Callable, Sequence

from .dice import Dice
from .scene import DIGIT_REGION, SIGN_REGION, Picture, Question, Thing
from .words import COLORS, COLUMNS, DIRECTIONS, GROUP, ROWS, SHAPES

APART = 10  # pixels between two centres before "left of" or "above" is asked
COLOR_NAMES = tuple(COLORS)
Regions = tuple[int, ...]  # of a picture, by number
# Question, answer and the regions it asks about; or the picture has nothing to ask about.
Asked = tuple[str, str, Regions] | None


def ask(dice: Dice, picture: Picture, kind: str) -> Question | None:
    """A random question of this kind about the picture, or None if it cannot be asked."""
    asked = ASK[kind](dice, picture)
    if not asked:
        return None
    text, answer, about = asked
    return Question(text, answer, kind, GROUP[kind], about)


def ask_many(dice: Dice, picture: Picture, kinds: Sequence[str], n: int) -> tuple[Question, ...]:
    """Up to n different questions, their kinds drawn from `kinds`."""
    found: dict[str, Question] = {}
    for _ in range(3 * n):
        question = ask(dice, picture, dice.pick(kinds))
        if question and question.text not in found:
            found[question.text] = question
            if len(found) == n:
                break
    return tuple(found.values())


def _sign(dice: Dice, picture: Picture) -> Asked:
    return picture.sign and ("what does the sign say ?", " ".join(picture.sign), (SIGN_REGION,))


def _digit(dice: Dice, picture: Picture) -> Asked:
    if picture.digit is None:
        return None
    return "what digit is handwritten ?", str(picture.digit), (DIGIT_REGION,)


def _background(dice: Dice, picture: Picture) -> Asked:
    return "what is the background ?", picture.background, ()


def _color(dice: Dice, picture: Picture) -> Asked:
    thing = _only_one(dice, picture, lambda thing: thing.shape)
    return thing and (f"what color is the {thing.shape} ?", thing.color, _numbers(picture, thing))


def _shape(dice: Dice, picture: Picture) -> Asked:
    thing = _only_one(dice, picture, lambda thing: thing.color)
    return thing and (
        f"what shape is the {thing.color} object ?",
        thing.shape,
        _numbers(picture, thing),
    )


def _size(dice: Dice, picture: Picture) -> Asked:
    thing = _only_one(dice, picture, _name)
    return thing and (f"what size is the {_name(thing)} ?", thing.size, _numbers(picture, thing))


def _place(dice: Dice, picture: Picture) -> Asked:
    side = len(picture.pixels)
    near = [_ninths(thing, side, margin=4) for thing in picture.objects]
    clear = [
        (thing, cells)
        for thing in picture.objects
        if len(cells := _ninths(thing, side, margin=3)) == 1
        and sum(not cells.isdisjoint(other) for other in near) == 1
    ]
    if not clear:
        return None
    thing, ((row, column),) = dice.pick(clear)
    return (
        f"what object is in the {ROWS[row]} {COLUMNS[column]} ?",
        _name(thing),
        _numbers(picture, thing),
    )


def _count(dice: Dice, picture: Picture) -> Asked:
    if dice.chance(30):
        everything = _numbers(picture, *picture.objects)
        return "how many objects are there ?", str(len(everything)), everything
    if dice.chance(50):
        options, seen = SHAPES, Counter(thing.shape for thing in picture.objects)
    else:
        options, seen = COLOR_NAMES, Counter(thing.color for thing in picture.objects)
    # The number first, the word after: else nearly every answer would be "one".
    numbers = sorted(set(seen.values()))
    number = 0 if dice.chance(12) else dice.pick([n for n in numbers for _ in range(min(n, 3))])
    word = dice.pick([option for option in options if seen[option] == number])
    meant = [thing for thing in picture.objects if word in (thing.shape, thing.color)]
    return f"how many {word} objects are there ?", str(number), _numbers(picture, *meant)


def _exists(dice: Dice, picture: Picture) -> Asked:
    present = {(thing.color, thing.shape) for thing in picture.objects}
    if dice.chance(50):
        color, shape = dice.pick(sorted(present))
        meant = [thing for thing in picture.objects if (thing.color, thing.shape) == (color, shape)]
        return f"is there a {color} {shape} ?", "yes", _numbers(picture, *meant)
    for _ in range(20):
        # Mostly hard ones: both words are in the picture but not together, or one of them is.
        colors = COLOR_NAMES if dice.chance(40) else [thing.color for thing in picture.objects]
        shapes = SHAPES if dice.chance(40) else [thing.shape for thing in picture.objects]
        color, shape = dice.pick(colors), dice.pick(shapes)
        if (color, shape) not in present:
            return f"is there a {color} {shape} ?", "no", ()
    return None


def _side(dice: Dice, picture: Picture) -> Asked:
    pair = _two(dice, picture)
    if not pair:
        return None
    axis = dice(2)
    if abs(_gap(pair, axis)) < APART:
        axis = 1 - axis
    gap, claim = _gap(pair, axis), dice(2)
    if abs(gap) < APART:
        return None
    word = ("left of", "right of", "above", "below")[2 * axis + claim]
    answer = "yes" if (gap > 0) == (claim == 1) else "no"
    text = f"is the {_name(pair[0])} {word} the {_name(pair[1])} ?"
    return text, answer, _numbers(picture, *pair)


def _direction(dice: Dice, picture: Picture) -> Asked:
    pair = _two(dice, picture)
    if not pair:
        return None
    gaps = _gap(pair, 0), _gap(pair, 1)
    axis = int(abs(gaps[1]) > abs(gaps[0]))
    if 2 * abs(gaps[axis]) < 3 * abs(gaps[1 - axis]):
        return None
    text = f"where is the {_name(pair[0])} relative to the {_name(pair[1])} ?"
    return text, DIRECTIONS[2 * axis + (gaps[axis] > 0)], _numbers(picture, *pair)


ASK: dict[str, Callable[[Dice, Picture], Asked]] = {
    "sign": _sign,
    "digit": _digit,
    "color": _color,
    "shape": _shape,
    "size": _size,
    "place": _place,
    "count": _count,
    "exists": _exists,
    "side": _side,
    "direction": _direction,
    "background": _background,
}


def _name(thing: Thing) -> str:
    return f"{thing.color} {thing.shape}"


def _numbers(picture: Picture, *things: Thing) -> Regions:
    """The regions of these objects."""
    return tuple(picture.objects.index(thing) + 1 for thing in things)


def _unique(picture: Picture, key: Callable[[Thing], str]) -> list[Thing]:
    seen = Counter(map(key, picture.objects))
    return [thing for thing in picture.objects if seen[key(thing)] == 1]


def _only_one(dice: Dice, picture: Picture, key: Callable[[Thing], str]) -> Thing | None:
    found = _unique(picture, key)
    return dice.pick(found) if found else None


def _two(dice: Dice, picture: Picture) -> tuple[Thing, Thing] | None:
    found = _unique(picture, _name)
    if len(found) < 2:
        return None
    first = found.pop(dice(len(found)))
    return first, dice.pick(found)


def _gap(pair: tuple[Thing, Thing], axis: int) -> int:
    return pair[0].center[axis] - pair[1].center[axis]


def _ninths(thing: Thing, side: int, margin: int) -> set[tuple[int, int]]:
    """The cells (row, column) of a 3x3 grid that the centre touches with this margin."""
    columns, rows = (
        {min(max(3 * (c + m) // side, 0), 2) for m in (-margin, margin)} for c in thing.center
    )
    return {(row, column) for row in rows for column in columns}
