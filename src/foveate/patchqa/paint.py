"""Paint one picture: a background, perhaps a sign, perhaps a digit, and objects, one per cell."""

import numpy as np

from .assets import Assets
from .dice import Dice
from .scene import DIGIT_REGION, SIGN_REGION, Picture, Thing
from .words import BACKGROUNDS, CHARACTERS, COLORS, SHAPES, SIZES

CELL = 24  # the largest object fits one cell, so objects never overlap
PLATES = (((235, 235, 225), 20), ((250, 225, 120), 20), ((40, 45, 60), 240))  # plate and ink
# Twelve directions as whole numbers: cosine and sine times 64.
TURNS = ((64, 0), (62, 17), (55, 32), (45, 45), (32, 55), (17, 62))
TURNS += tuple((-y, x) for x, y in TURNS)


def paint(dice: Dice, assets: Assets, size: int, objects: tuple[int, int], text: str) -> Picture:
    """Paint a picture of size x size pixels; all the truth about it comes with it."""
    name, canvas = background(dice, assets, size)
    regions = np.zeros((size, size), dtype=np.uint8)
    cells = [(row, column) for row in range(size // CELL) for column in range(size // CELL)]
    sign = (
        paint_sign(dice, assets.glyphs[text], canvas, regions, cells) if dice.chance(75) else None
    )
    digit = paint_digit(dice, assets, canvas, regions, cells) if dice.chance(65) else None
    count = min(dice.between(*objects), len(cells))
    looks = zip(
        *(cluster(dice, tuple(options), count) for options in (SHAPES, COLORS)), strict=True
    )
    things = tuple(
        paint_thing(dice, assets, canvas, regions, cells, look, number + 1)
        for number, look in enumerate(looks)
    )
    canvas *= dice.between(225, 281)
    canvas >>= 8
    canvas += (dice.grain(size, size) * 3)[..., None]
    pixels = np.clip(canvas, 0, 255).astype(np.uint8)
    return Picture(pixels, regions, things, sign, digit, name)


def background(dice: Dice, assets: Assets, size: int) -> tuple[str, np.ndarray]:
    """A photo texture or a pattern in a random muted colour, (size, size, 3) int32 in 0..255."""
    name = dice.pick(BACKGROUNDS)
    level = dice.between(85, 165)
    base = np.array([level + dice.between(-14, 14) for _ in range(3)], dtype=np.int32)
    if name in assets.textures:
        relief = crop(dice, dice.pick(assets.textures[name]), size)
        relief = relief * dice.between(180, 280) >> 8
    else:
        relief = (pattern(dice, name, size) * dice.between(18, 32))[..., None] >> 6
    return name, np.clip(base + relief, 0, 255)


def crop(dice: Dice, tile: np.ndarray, size: int) -> np.ndarray:
    """A random window of a texture, perhaps mirrored; a texture too small is continued in mirrors."""
    height, width = (max(side - size, side // 2) for side in tile.shape[:2])
    y, x = dice(height), dice(width)
    window = tile[y : y + size, x : x + size]
    missing = [(0, size - side) for side in window.shape[:2]]
    if missing != [(0, 0), (0, 0)]:
        window = np.pad(window, [*missing, (0, 0)], mode="symmetric")
    return window[:, ::-1] if dice.chance(50) else window


def pattern(dice: Dice, name: str, size: int) -> np.ndarray:
    """A drawn pattern, (size, size), from -64 to 64, in whole-number arithmetic only."""
    y, x = np.ogrid[:size, :size]
    period, dx, dy = dice.between(9, 16), dice(64), dice(64)
    x, y = x + dx, y + dy
    if name == "plain":
        return ((x - dx) * dice.between(-50, 50) + (y - dy) * dice.between(-50, 50)) // size
    if name == "dots":
        middle = period // 2
        far = (x % period - middle) ** 2 + (y % period - middle) ** 2
        return np.where(14 * far < period * period, 90, -38)
    if name == "checker":
        on = (x // period + y // period) % 2
    elif name == "zigzag":
        bend = abs(x % (2 * period) - period)
        on = (y + bend) % period * 2 // period
    else:
        a, b = dice.pick(TURNS)
        on = (a * x + b * y) // (32 * period) % 2
    return on * 128 - 64


def cluster(dice: Dice, options: tuple[str, ...], count: int) -> list[str]:
    """Random options, often with one repeated, so that there is something to count."""
    favourite, share = dice.pick(options), dice.pick((0, 0, 50, 75))
    return [favourite if dice.chance(share) else dice.pick(options) for _ in range(count)]


def blend(window: np.ndarray, mask: np.ndarray, color: np.ndarray | int) -> None:
    """Lay a colour over a window of the canvas, as opaque as the mask says (0..128)."""
    window += (color - window) * mask[..., None] >> 7


def paint_sign(dice, glyphs, canvas, regions, cells) -> str:
    """Put a plate with three characters somewhere and take its cells."""
    height, width = glyphs.shape[2:]
    spans = 2 if width > 8 else 1
    places = [(r, c) for r, c in cells if spans == 1 or (r, c + 1) in cells]
    row, column = dice.pick(places)
    for taken in range(column, column + spans):
        cells.remove((row, taken))
    style, (plate, ink) = dice(len(glyphs)), dice.pick(PLATES)
    plate_width, step = 3 * (width + 1) + 2, width + 1
    slack = (CELL * spans - plate_width) // 2
    top = row * CELL + (CELL - height) // 2 + dice.between(-3, 3)
    left = column * CELL + slack + dice.between(-slack, slack)
    canvas[top : top + height, left : left + plate_width] = plate
    regions[top : top + height, left : left + plate_width] = SIGN_REGION
    said = [dice(len(CHARACTERS)) for _ in range(3)]
    for place, character in enumerate(said):
        x = left + 1 + place * step
        blend(canvas[top : top + height, x : x + width], glyphs[style, character], ink)
        regions[top : top + height, x : x + step] = SIGN_REGION + 1 + place
    return "".join(CHARACTERS[c] for c in said)


def paint_digit(dice, assets, canvas, regions, cells) -> int:
    """Put a handwritten digit on a half-transparent tile into a free cell."""
    row, column = cells.pop(dice(len(cells)))
    which, thickness = dice(len(assets.digits)), dice.between(200, 330)
    mask = np.minimum(assets.digits[which] * thickness >> 8, 128)
    side = mask.shape[0]
    top, left = row * CELL + 3 + dice.between(-3, 3), column * CELL + 3 + dice.between(-3, 3)
    window = canvas[top : top + side, left : left + side]
    dark_ink = dice.chance(50)
    window += ((200 if dark_ink else 53) - window) * 2 // 3
    blend(window, mask, 5 if dark_ink else 250)
    regions[top : top + side, left : left + side] = DIGIT_REGION
    return int(assets.digit_values[which])


def paint_thing(dice, assets, canvas, regions, cells, look, number) -> Thing:
    """Put one object into a free cell."""
    row, column = cells.pop(dice(len(cells)))
    (shape, color), size = look, dice.pick(SIZES)
    mask = dice.pick(assets.shapes[shape, size])
    side = mask.shape[0]
    slack = max((CELL - side) // 2, 0)
    y, x = (k * CELL + CELL // 2 + dice.between(-slack, slack) for k in (row, column))
    top, left = (min(max(k - side // 2, 0), len(canvas) - side) for k in (y, x))
    shade = np.array([c + dice.between(-14, 14) for c in COLORS[color]], dtype=np.int32)
    blend(canvas[top : top + side, left : left + side], mask, shade)
    regions[top : top + side, left : left + side][mask > 50] = number
    center = (left + side // 2, top + side // 2)
    return Thing(shape, color, size, center, (left, top, left + side, top + side))
