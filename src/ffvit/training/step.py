"""One training step: normalize, mix, forward, loss, backward, clip, optimizer, moving average, in that order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from ffvit.config.preprocess import Preprocess
from ffvit.data.loader import Batch, NormalizeOnDevice
from ffvit.data.sampler import TrainingOrder
from ffvit.data.splits import Splits
from ffvit.errors import OutOfMemoryError
from ffvit.hardware.devices import is_out_of_memory, keep_freed_memory
from ffvit.hardware.fabric import Fabric
from ffvit.hardware.launch import shard
from ffvit.models.compiling import compile_blocks
from ffvit.run_folder import Config
from ffvit.seeding import seed_of, seed_torch
from ffvit.training.auto_tuning import has_free_memory, should_compile, should_recompute
from ffvit.training.ema import EMA
from ffvit.training.losses import Criterion, class_weights
from ffvit.training.mixup import MixupCutmix
from ffvit.training.nonfinite import NonfiniteGuard
from ffvit.training.optimizer import build_optimizer
from ffvit.training.several_sizes import SeveralSizes
from ffvit.training.stochastic_depth import DropPathSampler


class TrainStep:
    """Makes the steps of a run: holds the network, its moving average and the optimizer.

    Args:
        fabric: The processes and devices.
        config: What to compute.
        network: With its initial weights; it is moved to the device and wrapped.
        teacher: To distil from, or None.
        splits: Only their classes and labels are read.
        preprocess: How images become the network's input.
        order: Says how many images are on a device at once.
        say: Told where a batch is cut because memory is short.

    Attributes:
        plain: The network without what Fabric puts around it.
        network: The network as it is called in training.
        ema: Its moving average, or None.
        recomputed: What is recomputed in the backward pass, or None.
        compiled: Whether its blocks are compiled.
    """

    def __init__(
        self,
        fabric: Fabric,
        config: Config,
        network: nn.Module,
        teacher: nn.Module | None,
        splits: Splits,
        preprocess: Preprocess,
        order: TrainingOrder,
        say: Callable[[str], None],
    ) -> None:
        recipe, sharded = config.recipe, config.hardware.strategy == "fsdp"
        self.fabric, self.recipe, self.seed, self.say = fabric, recipe, config.seed, say
        self.steps_per_epoch = order.steps
        self.normalize = NormalizeOnDevice(preprocess)
        self.mixup = MixupCutmix(recipe, len(splits.classes), config.seed)
        weights = class_weights(splits.train.labels, len(splits.classes)) if recipe.balance == "weights" else None
        self.criterion = Criterion(recipe, weights, teacher, preprocess)
        self.criterion.to(fabric.device)
        if teacher is not None and hasattr(network, "set_distilled_training"):
            cast("Any", network).set_distilled_training(True)

        self.plain = network
        self.resize = SeveralSizes(network, recipe.image_scales)
        self.drop_path = DropPathSampler(network, recipe.batch_size)
        self.ema = EMA(network, recipe.ema_decay, recipe.ema_warmup) if recipe.ema_decay is not None else None
        if not sharded:  # a network that has to be sharded is estimated where it is
            network.to(fabric.device)
        per_device = -(-recipe.batch_size // (fabric.world_size * order.micro_batches))
        self.recomputed = None if recipe.image_scales else should_recompute(network, per_device, fabric)
        if self.recomputed is None and has_free_memory(network, per_device, fabric):
            keep_freed_memory()
        self.compiled = should_compile(config.hardware, network, recipe, len(splits.train), fabric.device)
        if self.compiled:
            compile_blocks(network)
        self.network = fabric.setup_module(network)
        if self.ema is not None:
            if sharded:
                shard(self.ema.network, fabric.strategy.device_mesh)
            self.ema.network.to(fabric.device)
        self.plain_optimizer = build_optimizer(network, recipe)
        self.optimizer = fabric.setup_optimizers(self.plain_optimizer)
        self.guard = NonfiniteGuard(fabric, network, self.plain_optimizer)
        self.pieces = 1  # a micro-batch is cut into so many if the device's memory is too small for it

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @lr.setter
    def lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def eagerly(self) -> AbstractContextManager[object]:
        """Inside, the network runs uncompiled, so that it predicts the same wherever it was trained."""
        return torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()

    def __call__(self, epoch: int, step: int, batches: list[Batch]) -> Tensor:
        """Make one step, unless the loss or the gradients are not finite.

        Args:
            epoch: Counted from 0.
            step: Within the epoch, counted from 0.
            batches: The micro-batches of this process.

        Returns:
            This process's part of the loss and whether the step was made (1 or 0), still on the device.

        Raises:
            OutOfMemoryError: The device is too small even for single images.
        """
        loss = self._gradients_within_memory(epoch, step, batches)
        norm = None
        if self.recipe.clip_grad_norm is not None:
            norm = self.fabric.clip_gradients(
                self.network, self.optimizer, max_norm=self.recipe.clip_grad_norm, error_if_nonfinite=False
            )
        made = self.guard.finite(loss, norm)
        self.guard.step(self.optimizer, made)
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.plain, epoch * self.steps_per_epoch + step)
        return torch.stack((loss, made.to(loss.dtype)))

    def _gradients_within_memory(self, epoch: int, step: int, batches: list[Batch]) -> Tensor:
        """The loss and gradients of a batch; where memory runs out, in twice as many pieces, for the rest of the run."""
        self.guard.begin()
        while True:
            try:
                return self._gradients(epoch, step, batches)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.fabric.world_size > 1 or self.pieces >= len(batches[0].labels):
                    raise OutOfMemoryError(
                        "the device's memory is too small for this batch: use a smaller --micro-batch (the result stays "
                        "the same), --strategy fsdp over several devices, or a smaller network"
                    ) from None
            # Out here, where the error no longer holds what the step had computed.
            self.pieces *= 2
            self.optimizer.zero_grad()
            self.guard.put_back()
            if self.fabric.device.type == "cuda":
                torch.cuda.empty_cache()
            self.say(f"memory is short: computing each batch in {self.pieces} parts (the result stays the same)")

    def _gradients(self, epoch: int, step: int, batches: list[Batch]) -> Tensor:
        total = torch.zeros((), device=self.fabric.device)
        for number, loaded in enumerate(batches):
            batch = loaded.to(self.fabric.device)
            images = self.normalize(batch)
            images, targets, weights = self.mixup(images, batch.labels, batch.weights, batch.groups, epoch, step)
            images = self.resize(images, epoch * self.steps_per_epoch + step)
            whole = (images, targets, weights, torch.tensor(batch.positions))
            pieces = list(zip(*(tensor.tensor_split(self.pieces) for tensor in whole), strict=True))
            for piece, (some, some_targets, some_weights, positions) in enumerate(pieces):
                last = number == len(batches) - 1 and piece == len(pieces) - 1
                # All that is drawn within the network is seeded here, so that resuming needs no generator's state.
                self.drop_path.make(seed_of(self.seed, epoch, step), positions.tolist(), self.fabric.device)
                seed_torch(seed_of(self.seed, epoch, step, self.fabric.global_rank, number, piece), self.fabric.device)
                with self.fabric.no_backward_sync(self.network, enabled=not last):
                    output = self.network(some)
                    with self.fabric.autocast():
                        losses = self.criterion(output, some_targets, some)
                    # Processes average their gradients, so each counts its images as a share of the whole batch.
                    loss = (losses * some_weights).sum() * self.fabric.world_size / self.recipe.batch_size
                    self.fabric.backward(loss)
                total += loss.detach()
        return total
