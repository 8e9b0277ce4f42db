"""Captions, legends, and pictures beside and below each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from foveate.draw.paint import colour, heat

GAP, LINE, SWATCH = 16, 26, 13
INK, EDGE = (40, 40, 40), (150, 150, 150)
SHADES = 6  # sizes that a legend names
RAMP = 96  # pixels of a colour bar


def captioned(pixels: np.ndarray, caption: Image.Image | str, width: int) -> Image.Image:
    """A panel at least `width` wide, so that panels stand in columns, with its caption below."""
    panel = picture(pixels)
    right, bottom = panel.size
    if isinstance(caption, str):
        caption = joined(heading([caption], max(width, right)), down=True, gap=0)
    beside = max(width, right, caption.width) - right
    out = ImageOps.expand(panel, (0, 0, beside, caption.height), "white")
    ImageDraw.Draw(out).rectangle((0, 0, right - 1, bottom - 1), outline=EDGE)
    out.paste(caption, (0, bottom))
    return out


def line(text: str) -> Image.Image:
    """A line of text."""
    font = ImageFont.load_default(15)
    out = Image.new("RGB", (math.ceil(font.getlength(text)), LINE), "white")
    ImageDraw.Draw(out).text((0, 4), text, fill=INK, font=font)
    return out


def legend(sizes: np.ndarray) -> Image.Image:
    """What the colours of a map of sizes mean: each size, or powers of two where there are many."""
    named = np.unique(sizes)
    if len(named) > SHADES:
        powers = 2 ** np.arange(int(np.log2(named[-1])) + 1)
        named = powers[powers >= named[0]][:SHADES]
    words = [line("patches per token ")]
    for size in named:
        swatch = Image.new("RGB", (SWATCH, LINE), "white")
        box = (0, LINE - SWATCH - 6, SWATCH - 1, LINE - 7)
        ImageDraw.Draw(swatch).rectangle(box, fill=tuple(map(int, colour(size))))
        words += [swatch, line(f" {size}   ")]
    return joined(words, down=False, gap=0)


def bar(before: str, behind: str) -> Image.Image:
    """The colours of ranks, low to high, between two words."""
    ramp = np.tile(heat(np.linspace(0, 1, RAMP)), (LINE, 1, 1))
    ramp[: LINE - SWATCH - 6] = ramp[LINE - 6 :] = 255
    return joined([line(f"{before} "), picture(ramp), line(f" {behind}")], down=False, gap=0)


def heading(lines: Sequence[str], width: int) -> list[Image.Image]:
    """Lines of text, broken between words where they are wider than a picture."""
    font, found = ImageFont.load_default(15), []
    for text in lines:
        now = ""
        for word in text.split():
            longer = f"{now} {word}".strip()
            if now and font.getlength(longer) > width:
                found.append(now)
                longer = word
            now = longer
        found.append(now)
    return [line(text) for text in found]


def wrapped(row: Sequence[Image.Image], across: int) -> Image.Image:
    """Panels in rows of at most so many."""
    rows = [joined(row[k : k + across], down=False) for k in range(0, len(row), across)]
    return joined(rows, down=True)


def joined(pictures: Sequence[Image.Image], down: bool, gap: int = GAP) -> Image.Image:
    """Pictures below each other, where a gap is a quarter, or side by side."""
    gap = gap // 4 if down else gap
    tops = [0]
    for picture in pictures:
        tops.append(tops[-1] + picture.size[down] + gap)
    across, along = max(picture.size[not down] for picture in pictures), tops.pop() - gap
    sheet = Image.new("RGB", (across, along) if down else (along, across), "white")
    for picture, at in zip(pictures, tops, strict=True):
        sheet.paste(picture, (0, at) if down else (at, 0))
    return sheet


def picture(pixels: np.ndarray) -> Image.Image:
    """Pixels (H, W, 3), 0 … 255, as an image."""
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
