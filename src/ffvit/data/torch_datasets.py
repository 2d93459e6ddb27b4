"""The images of a run as PyTorch data sets, for a training loop of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.utils.data import Dataset

from ffvit.config.choices import DataChoice, RecipeChoice, choose_data, choose_recipe
from ffvit.config.preprocess import Preprocess
from ffvit.config.recipe import named_recipe
from ffvit.data.images import Images
from ffvit.data.random_erasing import erase
from ffvit.data.splits import open_splits
from ffvit.data.transforms import LazyImage, Transform, evaluation_transform, training_transform
from ffvit.errors import DataError
from ffvit.models.description import classes_of, preprocess_of, set_preprocess


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images with their labels: normalized, `channels height width`. Any `DataLoader` takes it.

    An image that cannot be read raises `BadImageError`, which names it.
    """

    def __init__(self, images: Images, transform: Transform, preprocess: Preprocess) -> None:
        self.images, self.transform = images, transform
        self.mean, self.std = (torch.tensor(levels).view(-1, 1, 1) for levels in (preprocess.mean, preprocess.std))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Float32[Tensor, "channels height width"], int]:
        pixels, erased = self.transform(LazyImage(self.images.read(index), self.images.name(index)))
        image = torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1).div_(255).sub_(self.mean).div_(self.std)
        return erase(image[None], torch.tensor([erased]))[0], int(self.images.labels[index])


class Datasets(NamedTuple):
    """The splits of the images: `train` is augmented; `validation`, if there is one, and `test` are not."""

    train: ImageDataset
    validation: ImageDataset | None
    test: ImageDataset
    classes: tuple[str, ...]


def open_datasets(data: DataChoice, network: nn.Module, recipe: RecipeChoice = None) -> Datasets:
    """The images of `ffvit train`, split, augmented and prepared as there, for a loop of your own.

    How images are prepared is noted on the network, so that `ffvit.save_weights` keeps it.

    Args:
        data: As for `ffvit.train`.
        network: Made by `create_model` or `load`, with as many classes as the data.
        recipe: What augments and crops: as for `ffvit.train`. Default: `digits` for the digits, else `small`.

    Raises:
        UserError: The images cannot be used, or the network has another number of classes.
    """
    chosen = choose_data(data).located()
    base = choose_recipe(recipe, named_recipe("digits" if chosen.source == "digits" else "small"))
    splits = open_splits(chosen)
    if classes_of(network) != len(splits.classes):
        raise DataError(
            f"{Path(chosen.source).name}: has {len(splits.classes):,} classes, and the network {classes_of(network):,}: "
            f"make it with ffvit.create_model(..., num_classes={len(splits.classes)})"
        )
    preprocess = preprocess_of(network).with_recipe(base)
    set_preprocess(network, preprocess)
    plain = evaluation_transform(preprocess)
    return Datasets(
        ImageDataset(splits.train, training_transform(base, preprocess), preprocess),
        None if splits.validation is None else ImageDataset(splits.validation, plain, preprocess),
        ImageDataset(splits.test, plain, preprocess),
        splits.classes,
    )
