"""How examples/shop.png was made: one test scene of PatchQA, four times as large."""

from pathlib import Path

from PIL import Image

from foveate.patchqa import PatchQA

SCENE = 246  # a sign, a digit and six shapes on a brick wall; FastV still reads it at a quarter of the tokens

if __name__ == "__main__":
    image = PatchQA("test")[SCENE].images[0]
    large = image.resize((4 * image.width, 4 * image.height), Image.Resampling.BICUBIC)
    large.save(Path(__file__).with_name("shop.png"), optimize=True)
