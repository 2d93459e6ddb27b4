"""The preprocessing inside exported files beside Pillow's: how exact it is, and how long it takes.

python benchmarks/resize.py

On scikit-learn's two photographs, in several sizes, bicubic to 224 pixels. CPU time on one thread, medians.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import process_time

import numpy as np
import torch
from PIL import Image
from script import run
from sklearn.datasets import load_sample_images
from torch.nn.functional import interpolate

from ffvit.config.preprocess import Preprocess
from ffvit.data.transforms import LazyImage, evaluation_transform
from ffvit.exporting.program import Preprocessing

TAKES = Preprocess(img_size=(224, 224), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""What comes out are levels, divided by 255."""


def native(image: torch.Tensor) -> torch.Tensor:
    """PyTorch's own antialiased resize of the shorter side to 256, and the central crop."""
    height, width = image.shape[1:3]
    scale = 256 / min(height, width)
    size = (int(height * scale), int(width * scale))
    resized = interpolate(image.permute(0, 3, 1, 2).float(), size, mode="bicubic", antialias=True)
    top, left = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    return resized[:, :, top : top + 224, left : left + 224].round().clamp(0, 255)


def main(*, calls: int = 20) -> None:
    """Compare and time."""
    torch.set_num_threads(1)
    print(f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, 1 thread\n")
    pillow, inside = evaluation_transform(TAKES), Preprocessing(TAKES).eval()
    ways: dict[str, Callable[[Image.Image], np.ndarray]] = {
        "Pillow": lambda photo: pillow(LazyImage(photo, "")).pixels,
        "matrices": lambda photo: _levels(255 * inside(_batch(photo))),
        "`interpolate(antialias=True)`": lambda photo: _levels(native(_batch(photo))),
    }
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    exact = [photo.resize(size) for photo in photos for size in ((500, 375), (640, 427), (333, 500))]
    small, large = photos[0].resize((500, 375)), photos[0].resize((4000, 3000))
    print(
        "| bicubic to 224 | largest difference from Pillow | pixels that differ | 500 x 375 | 4000 x 3000 |\n|---|---|---|---|---|"
    )
    for name, way in ways.items():
        differences = [np.abs(way(photo).astype(int) - ways["Pillow"](photo)) for photo in exact]
        most, share = max(each.max() for each in differences), np.mean([(each > 0).mean() for each in differences])
        times = [1000 * _seconds(way, photo, calls) for photo in (small, large)]
        print(
            f"| {name} | {most} of 255 levels | {100 * share:.3g} % | {times[0]:.1f} ms | {times[1]:.0f} ms |",
            flush=True,
        )


def _batch(photo: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(photo).copy())[None]


def _levels(batch: torch.Tensor) -> np.ndarray:
    return batch[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


def _seconds(way: Callable[[Image.Image], np.ndarray], photo: Image.Image, calls: int) -> float:
    times = []
    for _ in range(calls):
        start = process_time()
        way(photo)
        times.append(process_time() - start)
    return median(times)


if __name__ == "__main__":
    with torch.inference_mode():
        run(main)
