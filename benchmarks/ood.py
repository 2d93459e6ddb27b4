"""The table of docs/none_of_these.md: how well four scores tell images of none of the classes from test images.

python benchmarks/ood.py runs/digits [RUN ...]

The runs are of networks for handwritten digits. The threshold of each score lets 95 % of the validation images pass, as
in `ffvit.inference.ood`. Printed: the share of test images that pass, and of the others the share that does not, with the
area under the ROC curve in brackets.

- MSP: the highest probability (Hendrycks and Gimpel, 2017)
- max logit: the highest logit (Hendrycks et al., 2022)
- energy: what ffvit uses (Liu et al., 2020)
- kNN: the distance to the 10th nearest of at most 1,000 training images, in normalised features (Sun et al., 2022)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from script import run
from sklearn.datasets import load_sample_images
from sklearn.metrics import roc_auc_score
from torch import nn

import ffvit
from ffvit.data.decode import open_image
from ffvit.data.images import Images
from ffvit.data.loader import NormalizeOnDevice
from ffvit.inference.ood import KEPT, energy_score
from ffvit.inference.run_images import evenly_spaced, splits_of
from ffvit.run_folder import Run

COUNT = 400
NEIGHBOUR = 10
Drawn = list[Image.Image]


def patches(draw: np.random.Generator) -> Drawn:
    """Of the two photographs that scikit-learn brings, 32 to 300 px wide."""
    found = []
    for photo in load_sample_images().images:
        for _ in range(COUNT // 2):
            side = int(draw.integers(32, 300))
            top, left = (draw.integers(length - side) for length in photo.shape[:2])
            found.append(Image.fromarray(photo[top : top + side, left : left + side]))
    return found


def noise(draw: np.random.Generator) -> Drawn:
    return [Image.fromarray(draw.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(COUNT)]


def smooth_noise(draw: np.random.Generator) -> Drawn:
    small = [Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(COUNT)]
    return [image.resize((64, 64), Image.Resampling.BICUBIC) for image in small]


def shapes(draw: np.random.Generator) -> Drawn:
    """Triangles, filled quadrangles, lines of five strokes and rectangles, white on black."""
    found = []
    for number in range(COUNT):
        image = Image.new("RGB", (64, 64))
        pen, points = ImageDraw.Draw(image), [(int(x), int(y)) for x, y in draw.integers(8, 56, (6, 2))]
        if number % 4 == 0:
            pen.polygon(points[:3], outline="white", width=5)
        elif number % 4 == 1:
            pen.polygon(points[:4], fill="white")
        elif number % 4 == 2:
            pen.line(points, fill="white", width=5)
        else:
            pen.rectangle([8, 8, *points[0]], outline="white", width=5)
        found.append(image)
    return found


def letters(draw: np.random.Generator) -> Drawn:
    """Capital letters but I, O and S, white on black."""
    font, found = ImageFont.load_default(56), []
    for number in range(COUNT):
        image, (x, y) = Image.new("RGB", (64, 64)), draw.integers(28, 37, 2)
        letter = "ABCDEFGHJKLMNPQRTUVWXYZ"[number % 23]
        ImageDraw.Draw(image).text((int(x), int(y)), letter, fill="white", font=font, anchor="mm")
        found.append(image)
    return found


OTHERS: dict[str, Callable[[np.random.Generator], Drawn]] = {
    "photographs": patches, "noise": noise, "smooth noise": smooth_noise, "shapes": shapes, "letters": letters,
}  # fmt: skip


SCORES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "MSP": lambda _, logits, _train: torch.from_numpy(logits).softmax(1).amax(1).numpy(),
    "max logit": lambda _, logits, _train: logits.max(1),
    "energy": lambda _, logits, _train: energy_score(logits),
    "kNN": lambda features, _, train: np.sort(features @ train.T, axis=1)[:, -NEIGHBOUR],
}
"""Of features and logits, given the features of training images: the higher, the more like the training."""


def outputs(network: nn.Module, predictor: ffvit.Predictor, images: Drawn) -> tuple[np.ndarray, np.ndarray]:
    """Normalised features and logits."""
    levels = torch.from_numpy(np.stack([predictor.prepare(image) for image in images])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        tokens = network.forward_features(NormalizeOnDevice(predictor.preprocess).normalized(levels))
        features, logits = network.forward_head(tokens, pre_logits=True), network.forward_head(tokens)
    return (features / features.norm(dim=1, keepdim=True)).numpy(), logits.numpy()


def decoded(images: Images) -> Drawn:
    chosen = evenly_spaced(images, 1000)
    return [open_image(chosen, index) for index in range(len(chosen))]


def main(*runs: Path) -> None:
    """Score and print."""
    torch.set_num_threads(1)
    for folder in runs:
        finished, network = Run(folder), ffvit.load(folder)
        splits, predictor = splits_of(finished), ffvit.Predictor(folder, hardware=ffvit.Hardware(accelerator="cpu"))
        assert splits.validation is not None
        (train, _), kept, test = (
            outputs(network, predictor, decoded(split)) for split in (splits.train, splits.validation, splits.test)
        )
        others = {name: outputs(network, predictor, draw(np.random.default_rng(0))) for name, draw in OTHERS.items()}
        top1 = finished.summary()["test"]["top1"]["value"]
        print(f"\n{folder}: top-1 {100 * top1:.1f} %, {len(kept[1])} validation images, {len(test[1])} test images\n")
        print(f"| score | test images that pass | {' | '.join(others)} |\n|---{'|---' * (1 + len(others))}|")
        for name, score in SCORES.items():
            threshold, own = np.quantile(score(*kept, train), 1 - KEPT, method="lower"), score(*test, train)
            cells = []
            for other in others.values():
                theirs = score(*other, train)
                truth = np.repeat([1, 0], (len(own), len(theirs)))
                area = roc_auc_score(truth, np.concatenate([own, theirs]))
                cells.append(f"{100 * (theirs < threshold).mean():.0f} % ({area:.2f})")
            print(f"| {name} | {100 * (own >= threshold).mean():.0f} % | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    run(main)
