"""Steps whose loss or gradients are not finite: left out and counted; the run stops if they do not cease."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ffvit.errors import DivergedError
from ffvit.hardware.fabric import Fabric
from ffvit.run_folder import Run
from ffvit.training.checkpoint import Progress

IN_A_ROW = 10
"""Steps that are not finite, after which a run stops."""


class NonfiniteGuard:
    """Makes the optimizer's step where the loss and all gradients are finite, and otherwise changes nothing.

    Args:
        fabric: The processes, which decide together.
        network: Its statistics of batches are put back, too.
        optimizer: As it was built.
        waits: Whether to wait for the device's answer. Default: where PyTorch's fused optimizers cannot decide on the device.
    """

    def __init__(self, fabric: Fabric, network: nn.Module, optimizer: Optimizer, waits: bool | None = None) -> None:
        self.fabric, self.optimizer = fabric, optimizer
        self.scaled = getattr(fabric.strategy.precision, "scaler", None) is not None  # it leaves out steps by itself
        norms = (module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
        self.statistics = [buffer for norm in norms for buffer in norm.buffers()]
        self.before: list[Tensor] = []
        decides: Any = getattr(optimizer, "_step_supports_amp_scaling", False)
        sharded = any(isinstance(weight, DTensor) for weight in network.parameters())
        if waits is None:
            waits = self.scaled or fabric.device.type != "cuda" or not decides or sharded
        self.waits = waits

    def begin(self) -> None:
        """Keep what a forward pass changes."""
        self.before = [statistic.clone() for statistic in self.statistics]

    def put_back(self) -> None:
        """Forget what a forward pass changed."""
        for now, before in zip(self.statistics, self.before, strict=True):
            now.copy_(before)

    def finite(self, loss: Tensor, norm: Tensor | None) -> Tensor:
        """Whether a step is to be made, on all processes: 1 or 0, still on the device.

        Args:
            loss: Of this process's part of the batch.
            norm: Of the gradients, if they were clipped.
        """
        if norm is None:
            weights = (weight for group in self.optimizer.param_groups for weight in group["params"])
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            local = [grad.to_local() if isinstance(grad, DTensor) else grad for grad in gradients]
            norm = torch.nn.utils.get_total_norm(local)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        good = torch.isfinite(loss) if self.scaled else torch.isfinite(loss) & torch.isfinite(norm)
        if self.fabric.world_size > 1:
            good = self.fabric.all_reduce(good.float(), reduce_op="mean") == 1
        return good

    def step(self, optimizer: Any, good: Tensor) -> None:
        """Make the optimizer's step, or none."""
        if not self.waits:
            decided: Any = self.optimizer
            decided.grad_scale, decided.found_inf = None, (~good).float()
            for now, before in zip(self.statistics, self.before, strict=True):
                now.copy_(torch.where(good, now, before))
            optimizer.step()
        elif good:
            optimizer.step()
        else:
            self.put_back()
            optimizer.zero_grad()  # a scaler of fp16 has nothing to say to this step


class SkippedSteps:
    """Counts the steps that were left out.

    Args:
        progress: How far the run is; updated.
        run: Its folder.
        batch_size: Images of a step.
        say: Told of the first of several in a row.
    """

    def __init__(self, progress: Progress, run: Run, batch_size: int, say: Callable[[str], None]) -> None:
        self.progress, self.run, self.batch_size, self.say = progress, run, batch_size, say
        self.first = "the loss was not finite"

    def count(self, loss: float, made: bool, back: int) -> None:
        """Count a step that was made so many steps ago, or left out because it was not finite.

        Raises:
            DivergedError: So many in a row were left out that the run will not recover by itself.
        """
        progress = self.progress
        if made:
            progress.losses.append(loss)
            progress.skipped_in_a_row = 0
            return
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        what = f"the loss became {loss}" if not np.isfinite(loss) else "the gradients were no longer finite"
        where = (
            f"at step {progress.step - back} of epoch {progress.epoch + 1} "
            f"(after {progress.images - back * self.batch_size:,} images)"
        )
        if progress.skipped_in_a_row == 1:
            self.say(f"{what} {where}: the step is left out, {progress.skipped} so far")
            self.first = f"{what} {where}"
        if progress.skipped_in_a_row >= IN_A_ROW:
            raise self.diverged(f", and stayed so for {progress.skipped_in_a_row} steps")

    def diverged(self, since: str) -> DivergedError:
        """What to raise where the run will not recover by itself."""
        kept = "the last good checkpoint is kept" if self.run.has_checkpoint else "no checkpoint was written yet"
        return DivergedError(
            f"{self.first}{since}; {kept}. A lower --lr, a --recipe.clip-grad-norm, or --precision fp32 may help"
        )
