"""Real photographs to train on where none can be downloaded: crops of the two that come with scikit-learn.

Run: python tests/photos.py OUT --per-class 40
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

# Where in which photograph a class is found: left, top, right, bottom.
REGIONS = {
    "dahlia": ("flower.jpg", (165, 80, 455, 360)),
    "leaves": ("flower.jpg", (440, 0, 640, 427)),
    "pagoda": ("china.jpg", (60, 90, 360, 400)),
    "sky": ("china.jpg", (330, 0, 640, 190)),
    "trees": ("china.jpg", (340, 270, 640, 427)),
}


def write_photos(
    folder: Path, per_class: int, classes: Sequence[str] = ("dahlia", "leaves", "pagoda", "sky"), seed: int = 0
) -> Path:
    """Write `per_class` JPEGs a class to train/ and a quarter as many, at least two, to val/; returns the folder."""
    draw = np.random.default_rng(seed)
    for part, count in (("train", per_class), ("val", max(2, per_class // 4))):
        for name in classes:
            photo, box = REGIONS[name]
            region = Image.fromarray(load_sample_image(photo)).crop(box)
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                width, height = draw.integers(120, 161), draw.integers(100, 141)
                left, top = draw.integers(region.width - width), draw.integers(region.height - height)
                crop = region.crop((int(left), int(top), int(left + width), int(top + height)))
                crop.save(folder / part / name / f"{number:04d}.jpg", quality=90)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="OUT")
    parser.add_argument("--per-class", type=int, default=40, help="training images of each class")
    parser.add_argument("--classes", nargs="+", choices=REGIONS, default=list(REGIONS)[:4])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(write_photos(given.folder, given.per_class, given.classes, given.seed))
