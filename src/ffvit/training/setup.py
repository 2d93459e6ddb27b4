"""Everything a run needs before its folder is made: the order of the images, the step, the loader, the evaluators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from torch import nn
from torch.utils.data import DataLoader

from ffvit.config.preprocess import Preprocess
from ffvit.data.images import Images
from ffvit.data.loader import Batch, training_loader, worker_count
from ffvit.data.sampler import TrainingOrder
from ffvit.data.shards.remote import remote_blocks
from ffvit.data.splits import Splits
from ffvit.data.transforms import training_transform
from ffvit.errors import ConfigError
from ffvit.hardware.fabric import Fabric
from ffvit.hardware.ranks import local_world_size
from ffvit.inference.evaluator import BATCH, Evaluator
from ffvit.models.description import preprocess_of, set_preprocess
from ffvit.run_folder import Config
from ffvit.training.step import TrainStep

MOST_WORKERS = 16
"""Loading processes of a device by default, at most: more images a second than any device trains on."""


@dataclass
class Setup:
    """What a run trains with.

    Attributes:
        fabric: The processes and devices.
        config: What to compute.
        splits: The images.
        preprocess: How images become the network's input.
        order: The order of the training images.
        step: Makes the steps.
        workers: How many processes load images for each device.
        loader: Brings the micro-batches of an epoch.
        validation: Scores a network on the validation split, if there is one.
    """

    fabric: Fabric
    config: Config
    splits: Splits
    preprocess: Preprocess
    order: TrainingOrder
    step: TrainStep
    workers: int
    loader: DataLoader[Batch]
    validation: Evaluator | None = field(init=False)

    def __post_init__(self) -> None:
        images = self.splits.validation
        self.validation = self.evaluator(images) if images is not None else None

    def evaluator(self, images: Images) -> Evaluator:
        """Scores the run's network on images."""
        return Evaluator(self.fabric, images, self.preprocess, self.splits.classes, BATCH, self.config.hardware.workers)


def set_up(
    fabric: Fabric,
    config: Config,
    network: nn.Module,
    teacher: nn.Module | None,
    splits: Splits,
    say: Callable[[str], None],
) -> Setup:
    """Make ready to train.

    Args:
        fabric: The processes and devices.
        config: What to compute.
        network: With its initial weights; it is wrapped, and told how its images are prepared.
        teacher: To distil from, or None.
        splits: The images.
        say: Told what a person should know while training.

    Raises:
        UserError: The batch does not fit the images or the devices, or what was asked for is not possible here.
    """
    preprocess = preprocess_of(network).with_recipe(config.recipe)
    set_preprocess(network, preprocess)
    order = _order(fabric, config, splits)
    step = TrainStep(fabric, config, network, teacher, splits, preprocess, order, say)
    workers = config.hardware.workers
    if workers is None:
        workers = min(MOST_WORKERS, worker_count(splits.train, local_world_size(fabric), fabric.device))
    transform = training_transform(config.recipe, preprocess)
    loader = training_loader(splits.train, transform, preprocess.shape, order, config.seed, workers, fabric.device)
    return Setup(fabric, config, splits, preprocess, order, step, workers, loader)


def _order(fabric: Fabric, config: Config, splits: Splits) -> TrainingOrder:
    recipe, images = config.recipe, len(splits.train)
    blocks, ahead = remote_blocks(splits.train) or (None, None)
    order = TrainingOrder(
        images=images,
        seed=config.seed,
        batch_size=recipe.batch_size,
        group_size=recipe.mixup_group_size,
        repeats=recipe.aug_repeats,
        probabilities=_balanced(splits) if recipe.balance == "sampler" else None,
        process=fabric.global_rank,
        processes=fabric.world_size,
        micro_batch=config.hardware.micro_batch,
        blocks=blocks,
        ahead=ahead,
    )
    if not order.steps:
        raise ConfigError(
            f"recipe.batch_size {recipe.batch_size} is more than the {images} training images; "
            f"try --batch-size {2 ** int(np.log2(max(2, images // 8)))}"
        )
    if recipe.batch_size < 2 * fabric.world_size * order.micro_batches:
        raise ConfigError(
            f"recipe.batch_size {recipe.batch_size} is too small to share over {fabric.world_size} devices"
        )
    return order


def _balanced(splits: Splits) -> np.ndarray:
    """Probabilities by which every class is drawn equally often."""
    labels = splits.train.labels
    weights = 1.0 / np.bincount(labels)[labels]
    return weights / weights.sum()
