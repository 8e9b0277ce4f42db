"""Build src/foveate/patchqa/assets.npz: textures, glyphs, handwritten digits and shape masks.

Run once per PatchQA version; needs scikit-image, scikit-learn and a folder with Matplotlib's fonts:

    python recipes/patchqa_assets/build.py --fonts .../matplotlib/mpl-data/fonts/ttf
"""

import argparse
from pathlib import Path

import numpy as np
from glyphs import glyphs
from PIL import Image, ImageFilter
from shapes import shape_masks
from skimage import data
from sklearn.datasets import load_digits

OUT = Path(__file__).parents[2] / "src/foveate/patchqa/assets.npz"
# Share of every photo that training sees; no pixel is in two splits.
TRAIN_WIDTH = 0.6
TEXTURES = {
    "brick": (data.brick, None, (0.75, 0.6)),
    "grass": (data.grass, None, (0.75, 0.6)),
    "gravel": (data.gravel, None, (0.75, 0.6)),
    "stars": (data.hubble_deep_field, None, (0.45, 0.36)),
    "wood": (data.coffee, (482, 0, 600, 400), (1.6, 1.35)),
}


def textures() -> dict[str, np.ndarray]:
    """Photo textures cut into splits, with zero mean and a standard deviation of about 28."""
    tiles = {}
    for name, (load, box, scales) in TEXTURES.items():
        photo = Image.fromarray(load()).convert("RGB")
        photo = photo.crop(box) if box else photo
        if photo.height > photo.width:
            photo = photo.transpose(Image.Transpose.ROTATE_90)
        for scale in scales:
            size = (int(photo.width * scale), int(photo.height * scale))
            small = photo.resize(size, Image.Resampling.BOX)
            tile = normalized(evened(small) if name == "wood" else np.asarray(small, float))
            for split, part in (wood_parts if name == "wood" else parts)(tile):
                made = sum(key.startswith(f"{split}/texture/{name}/") for key in tiles)
                tiles[f"{split}/texture/{name}/{made}"] = part
    return tiles


def parts(tile: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Left part for training, right part halved between validation and test."""
    cut, half = int(tile.shape[1] * TRAIN_WIDTH), tile.shape[0] // 2
    return [("train", tile[:, :cut]), ("val", tile[:half, cut:]), ("test", tile[half:, cut:])]


def wood_parts(tile: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Both ends for training, the middle for the rest: the wood changes along its length."""
    (height, width), share = tile.shape[:2], TRAIN_WIDTH / 2
    first, last = int(width * share), int(width * (1 - share))
    middle = tile[:, first:last]
    ends = [("train", tile[:, :first]), ("train", tile[:, last:])]
    return [*ends, ("val", middle[: height // 2]), ("test", middle[height // 2 :])]


def evened(photo: Image.Image, reach: int = 16) -> np.ndarray:
    """The photo with equal brightness and contrast everywhere: the wood is half out of focus."""
    soft = ImageFilter.GaussianBlur(reach)
    pixels = np.asarray(photo, float)
    detail = pixels - np.asarray(photo.filter(soft), float)
    energy = Image.fromarray(np.clip(np.abs(detail) * 4, 0, 255).astype(np.uint8)).filter(soft)
    return detail / (np.asarray(energy, float).mean(axis=2, keepdims=True) + 4)


def normalized(photo: np.ndarray) -> np.ndarray:
    """Less colour, zero mean and equal contrast, as int8; one channel where all three agree."""
    photo = 0.6 * photo.mean(axis=2, keepdims=True) + 0.4 * photo
    photo = photo - photo.mean(axis=(0, 1))
    tile = np.clip(np.round(photo * (28 / photo.std()) / 4) * 4, -128, 124).astype(np.int8)
    grey = (tile == tile[..., :1]).all()
    return tile[..., :1] if grey else tile


def digits() -> dict[str, np.ndarray]:
    """Handwritten digits, (n, 18, 18) from 0 to 15; the training ones also turned and resized."""
    source = load_digits()
    place = np.arange(len(source.target)) % 20
    chosen = {"train": place < 14, "val": (place >= 14) & (place < 17), "test": place >= 17}
    found = {}
    for split, mine in chosen.items():
        turns = (0, -14, 14) if split == "train" else (0,)
        drawn = [digit(x, turn) for turn in turns for x in source.images[mine]]
        found[f"{split}/digits"] = np.stack(drawn)
        found[f"{split}/digit_values"] = np.tile(source.target[mine], len(turns)).astype(np.uint8)
    return found


def digit(pixels: np.ndarray, turn: int) -> np.ndarray:
    """One 8x8 scan enlarged to 18x18; a turned one also changes its proportions a little."""
    scan = Image.fromarray(np.round(np.clip(pixels / 16, 0, 1) * 255).astype(np.uint8))
    width, height = {0: (72, 72), -14: (60, 72), 14: (66, 66)}[turn]
    page = Image.new("L", (72, 72), 0)
    large = scan.resize((width, height), Image.Resampling.BICUBIC)
    page.paste(large, ((72 - width) // 2, (72 - height) // 2))
    page = page.rotate(turn, Image.Resampling.BICUBIC).resize((18, 18), Image.Resampling.BOX)
    return np.round(np.asarray(page, float) / 17).astype(np.uint8)


def main() -> None:
    """Write the asset file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fonts", type=Path, required=True)
    fonts = parser.parse_args().fonts
    arrays = textures() | digits() | shape_masks() | glyphs(fonts)
    np.savez_compressed(OUT, **arrays)
    print(f"{OUT}: {OUT.stat().st_size / 1e6:.2f} MB, {len(arrays)} arrays")


if __name__ == "__main__":
    main()
