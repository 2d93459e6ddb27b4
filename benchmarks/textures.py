"""Real images for the trainings that the docs quote: `pip install scikit-image`, then `python benchmarks/textures.py textures`.

Ten classes, each cut from one of the pictures that scikit-image ships: 60 training images from its left part, 30 test
images from what is right of it. Cuts are squares of 64 to 119 px; half of them are grey, so that colour alone tells little.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cyclopts
import numpy as np
from PIL import Image

import ffvit

PICTURES = {
    "brick": "brick.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "stars": "hubble_deep_field.jpg",
    "tissue": "ihc.png",
    "retina": "retina.jpg",
    "motorcycle": "motorcycle_left.png",
    "moon": "moon.png",
}
LEFT = 0.65


def main(out: Path) -> None:
    """Write train/ and val/ with a folder for each class.

    Parameters
    ----------
    out
        A new folder.
    """
    try:
        import skimage
    except ImportError:
        raise ffvit.UserError("the pictures come with scikit-image: pip install scikit-image") from None
    if out.exists():
        raise ffvit.UserError(f"{out} exists")
    draws = np.random.default_rng(0)
    for name, file in PICTURES.items():
        picture = Image.open(Path(skimage.data_dir) / file).convert("RGB")
        middle = int(picture.width * LEFT)
        for part, left, right, count in (("train", 0, middle, 60), ("val", middle, picture.width, 30)):
            folder = out / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                side = int(draws.integers(64, min(120, right - left - 1, picture.height - 1)))
                x, y = int(draws.integers(left, right - side)), int(draws.integers(0, picture.height - side))
                cut = picture.crop((x, y, x + side, y + side)).convert("L" if draws.random() < 0.5 else "RGB")
                cut.save(folder / f"{number:03}.jpg", quality=90)


if __name__ == "__main__":
    try:
        cyclopts.run(main)
    except ffvit.UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
