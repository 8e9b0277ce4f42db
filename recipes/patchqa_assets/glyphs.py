"""Sign characters in many styles: a style is a font, its weight, a slant and a width."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from foveate.patchqa.words import CHARACTERS

FINE = 6
CELLS = {"normal": (16, 10, (11, 12, 13)), "tiny": (9, 6, (7, 8))}  # height, width, capital heights


@dataclass(frozen=True)
class Style:
    """How a set of glyphs is drawn; `font` is a file name, or "Aileron" for the one in Pillow."""

    font: str
    stroke: int = 0
    slant: float = 0.0
    width: float = 1.0


SANS, MONO, SERIF = "DejaVuSans-Bold.ttf", "DejaVuSansMono-Bold.ttf", "DejaVuSerif-Bold.ttf"
THIN, AILERON, MODERN = "DejaVuSans.ttf", "Aileron", "cmss10.ttf"
STYLES = {
    "train": (
        Style(SANS), Style(SANS, slant=-0.18), Style(SANS, slant=0.18), Style(SANS, width=0.85),
        Style(MONO), Style(MONO, slant=0.15), Style(MONO, width=0.85),
        Style(THIN, stroke=2), Style(THIN, stroke=2, slant=-0.12), Style(THIN, width=1.1),
        Style(AILERON, stroke=3), Style(AILERON, stroke=3, slant=0.15), Style(AILERON, stroke=2),
        Style(MODERN, stroke=3), Style(MODERN, stroke=3, slant=-0.15),
        Style(SERIF, width=0.9), Style(SERIF, width=0.9, slant=0.12),
    ),
    "val": (
        Style(SANS, width=0.92, slant=0.09), Style(MONO, slant=-0.1),
        Style(AILERON, stroke=3, slant=-0.1), Style(THIN, stroke=1, slant=0.1),
    ),
    "test": (
        Style(SANS, width=0.9, slant=-0.09), Style(MONO, slant=0.08, width=0.93),
        Style(AILERON, stroke=3, slant=0.07, width=1.05), Style(THIN, stroke=1, slant=-0.07),
    ),
}  # fmt: skip


def glyphs(fonts: Path) -> dict[str, np.ndarray]:
    """`<split>/glyphs/<text>` -> (styles x sizes, characters, height, width), from 0 to 128."""
    sheets = {}
    for split, styles in STYLES.items():
        for text, (height, width, capitals) in CELLS.items():
            versions = [
                [glyph(fonts, style, character, capital, height, width) for character in CHARACTERS]
                for style in styles
                for capital in capitals
            ]
            sheets[f"{split}/glyphs/{text}"] = np.array(versions, dtype=np.uint8)
    return sheets


def glyph(fonts: Path, style: Style, character: str, capital: int, height: int, width: int):
    """One character, its capitals `capital` pixels high, centred in a cell."""
    page = outline(fonts, style, character)
    left, top, right, bottom = page.getbbox()
    page = page.crop((left, top, right, bottom))
    grow = capital * FINE / page.height
    wide = min(round(page.width * grow * style.width), width * FINE)
    page = page.resize((max(wide, 1), capital * FINE), Image.Resampling.BICUBIC)
    cell = Image.new("L", (width * FINE, height * FINE), 0)
    cell.paste(page, ((cell.width - page.width) // 2, (cell.height - page.height) // 2))
    small = cell.resize((width, height), Image.Resampling.BOX)
    return np.round(np.asarray(small, float) * (8 / 255)).astype(np.uint8) * 16


def outline(fonts: Path, style: Style, character: str) -> Image.Image:
    """The character drawn large, slanted."""
    size = 80
    if style.font == "Aileron":
        font = ImageFont.load_default(size)
    else:
        font = ImageFont.truetype(str(fonts / style.font), size)
    page = Image.new("L", (200, 200), 0)
    ImageDraw.Draw(page).text(
        (100, 100), character, font=font, fill=255, anchor="mm", stroke_width=style.stroke
    )
    shear = (1, style.slant, -100 * style.slant, 0, 1, 0)
    return page.transform(page.size, Image.Transform.AFFINE, shear, Image.Resampling.BICUBIC)
