"""The loop of one run: steps, looking at their losses, scoring, saving, in the order they happen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.utils.tensorboard import SummaryWriter

from ffvit.data.images import Images
from ffvit.errors import DivergedError, ModelError, RunStoppedError
from ffvit.hardware.ranks import all_gather, on_rank_zero
from ffvit.inference.evaluator import BATCH, Evaluator
from ffvit.models.weights import save_weights
from ffvit.run_folder import Run
from ffvit.signals import StopSignals
from ffvit.training.checkpoint import WHOLE, Progress, check_finite, load_checkpoint, save_checkpoint
from ffvit.training.nonfinite import IN_A_ROW
from ffvit.training.progress import TrainingDisplay
from ffvit.training.schedule import lr_at
from ffvit.training.setup import Setup
from ffvit.training.unreadable import UnreadableImages

CHECK_EVERY = 1.0
"""Seconds, about, between looks at the losses on the device (one synchronisation), the clock and the stop signal."""

SAVE_EVERY = 600.0
"""Seconds after which a checkpoint is written within an epoch; one is written after each epoch in any case."""


class Trainer:
    """A run as it trains.

    Args:
        setup: What it trains with.
        run: Where it writes.
        display: Where to show progress.
    """

    def __init__(self, setup: Setup, run: Run, display: TrainingDisplay) -> None:
        self.setup, self.run, self.display = setup, run, display
        self.fabric, self.recipe, self.splits = setup.fabric, setup.config.recipe, setup.splits
        self.order, self.step = setup.order, setup.step
        validation = self.splits.validation
        self.validation = self.evaluator(validation) if validation is not None else None
        self.progress = Progress()
        self.unreadable = self._unreadable()
        self.began = self.saved = self.checked = time.monotonic()
        self.seconds_before = 0.0
        self.check_after = 1  # steps
        self.first_skipped = "the loss was not finite"
        self.alone_asked: Callable[[], bool] = lambda: False

    def evaluator(self, images: Images) -> Evaluator:
        """Scores this run's network on images."""
        setup = self.setup
        classes, workers = self.splits.classes, setup.config.hardware.workers
        return Evaluator(self.fabric, images, setup.preprocess, classes, BATCH, workers)

    def resume(self) -> None:
        """Continue from the run's checkpoint, if it has come to one."""
        step = self.step
        if self.run.has_checkpoint:
            self.progress = load_checkpoint(
                self.run, self.fabric, step.plain, step.ema, step.plain_optimizer, self.display.say
            )
            self.unreadable = self._unreadable()
        if self.fabric.is_global_zero:
            self.run.truncate_metrics(self.progress.epoch)

    def fit(self) -> None:
        """Train to the end of the recipe.

        Raises:
            RunStoppedError: Interrupted, a loss that is not finite, a full disk, or too many bad images.
        """
        progress = self.progress
        self.began = self.saved = self.checked = time.monotonic()
        self.seconds_before = progress.seconds
        self.display.begin(self.share())
        with self.curves() as curves, StopSignals(self.display.say) as stop:
            self.alone_asked = lambda: self.fabric.world_size == 1 and stop.asked
            while self.share() < 1 or progress.step:  # its last epoch may have been stopped before it was scored
                began, images_before = time.monotonic(), progress.images
                self.train_epoch(stop)
                images_per_second = (progress.images - images_before) / (time.monotonic() - began)
                try:
                    self.end_epoch(images_per_second, curves)
                except _AskedWhileScoringError:
                    self.save()
                    raise self.stopped(stop) from None
                except ModelError:
                    if not progress.skipped_in_a_row:
                        raise
                    raise self.diverged(", and the network's answers are no longer finite") from None
                self.sync_and_check([], stop)

    def train_epoch(self, stop: StopSignals) -> None:
        """The steps of an epoch, or those that are left of it."""
        progress = self.progress
        self.order.epoch, self.order.first_step = progress.epoch, progress.step
        micro_batches = iter(self.setup.loader)
        unchecked: list[Tensor] = []
        for number in range(progress.step, self.order.steps if self.share() < 1 else 0):
            self.step.lr = lr_at(self.recipe, self.share(number) * self.recipe.epochs)
            batches = [next(micro_batches) for _ in range(self.order.micro_batches)]
            for batch in batches:
                self.unreadable.add(batch.bad)
            unchecked.append(self.step(progress.epoch, number, batches))
            progress.images += self.recipe.batch_size
            progress.step = number + 1
            if len(unchecked) >= self.check_after or progress.step == self.order.steps or self.alone_asked():
                out_of_time = self.sync_and_check(unchecked, stop)
                unchecked.clear()
                if out_of_time:
                    return

    def share(self, step: int | None = None) -> float:
        """Share of the run that is done before a step (default: the next)."""
        if self.recipe.minutes is not None:
            return min(1.0, self.fabric.broadcast(self.seconds()) / (self.recipe.minutes * 60))
        step = self.progress.step if step is None else step
        return (self.progress.epoch + step / self.order.steps) / self.recipe.epochs

    def seconds(self) -> float:
        """Seconds that the run has taken, those before an interruption included."""
        return self.seconds_before + time.monotonic() - self.began

    def sync_and_check(self, unchecked: list[Tensor], stop: StopSignals) -> bool:
        """Fetch the losses of the last steps, and act on what all processes know; True when the time is up.

        Args:
            unchecked: What the last steps returned, still on the device.
            stop: Whether someone asked to stop.

        Raises:
            RunStoppedError: A loss was not finite, too many images are bad, or someone asked to stop.
        """
        mine = torch.stack(unchecked).tolist() if unchecked else []
        progress, now = self.progress, time.monotonic()
        check_after = int(CHECK_EVERY * len(mine) / (now - self.checked)) if mine else self.check_after
        self.checked = now
        due = now - self.saved > SAVE_EVERY
        of_all = all_gather(self.fabric, (mine, stop.asked, progress.bad_images, due, check_after))
        *_, due, check_after = of_all[0]  # the first process's clock holds for all
        self.check_after = max(1, min(check_after, 50))
        steps = list(zip(*(losses for losses, *_ in of_all), strict=True))
        losses = [sum(loss for loss, _ in step) / len(step) for step in steps]
        for back, loss, step in zip(reversed(range(len(losses))), losses, steps, strict=True):
            self.count(loss, made=step[0][1] == 1, back=back)
        for _, _, bad, *_ in of_all:
            progress.bad_images.update(bad)
        self.unreadable.check()
        share = self.share()
        if losses:
            self.display.step(self.epoch_name(), share, progress.images, losses[-1], self.step.lr)
        asked = any(asked for _, asked, *_ in of_all)
        if asked or due:
            self.save()
        if asked and share < 1:
            raise self.stopped(stop)
        return share >= 1

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
            f"(after {progress.images - back * self.recipe.batch_size:,} images)"
        )
        if progress.skipped_in_a_row == 1:
            self.display.say(f"{what} {where}: the step is left out, {progress.skipped} so far")
            self.first_skipped = f"{what} {where}"
        if progress.skipped_in_a_row >= IN_A_ROW:
            raise self.diverged(f", and stayed so for {progress.skipped_in_a_row} steps")

    def diverged(self, since: str) -> DivergedError:
        """What to raise where the run will not recover by itself."""
        kept = "the last good checkpoint is kept" if self.run.has_checkpoint else "no checkpoint was written yet"
        return DivergedError(
            f"{self.first_skipped}{since}; {kept}. "
            "A lower --lr, a --recipe.clip-grad-norm, or --precision 32-true may help"
        )

    def stopped(self, stop: StopSignals) -> RunStoppedError:
        """What to raise once the checkpoint is written that someone asked for."""
        return stop.error(f"stopped; resume with: ffvit train --out {self.run.path} --resume")

    def pause(self, _: int) -> None:
        """Between two batches that are scored: a large validation split must not keep anyone waiting who asked to stop.

        Several processes go on to the next check: they have to stop together.
        """
        if self.alone_asked():
            raise _AskedWhileScoringError

    def end_epoch(self, images_per_second: float, curves: SummaryWriter | None) -> None:
        """Score the weights and their average on the validation split, keep the best, write the epoch down, save."""
        progress, step = self.progress, self.step
        check_finite(step.plain, self.fabric, progress.epoch)  # scoring would fail, too, but not say why
        row: dict[str, Any] = {
            "epoch": progress.epoch + 1,
            "images": progress.images,
            "loss": float(np.mean(progress.losses)) if progress.losses else float("nan"),
            "lr": step.lr,
        }
        if self.validation is not None:
            self.display.scoring("validation split")
            candidates: dict[str, tuple[nn.Module, nn.Module]] = {"weights": (step.network, step.plain)}
            if step.ema is not None:
                candidates["average"] = (step.ema.network, step.ema.network)
            for name, (network, plain) in candidates.items():
                with step.eagerly():
                    predictions, bad = self.validation(network, self.pause)
                self.unreadable.add(bad)
                loss = float(predictions.loss.mean(dtype=np.float64))
                row[name] = {"top1": float(predictions.correct.mean()), "loss": loss}
                self.keep_if_best(name, plain, row)
        row |= {"images_per_second": images_per_second, "seconds": self.seconds()}
        progress.epoch, progress.step, progress.losses = progress.epoch + 1, 0, []
        if curves is not None:  # the first process
            self.run.append_metrics(row)
            for key, value in _flat(row):
                curves.add_scalar(key, value, row["images"])
        self.unreadable.write()
        self.save()
        epochs = self.recipe.epochs if self.recipe.minutes is None else None
        self.display.epoch(row, epochs, len(progress.bad_images))

    def keep_if_best(self, name: str, network: nn.Module, row: dict[str, Any]) -> None:
        """Write `best.safetensors` if this candidate has the highest top-1 on the validation split (then: lowest loss)."""
        best, here = self.progress.best, row[name]
        if not best or (here["top1"], -here["loss"]) > (best["top1"], -best["loss"]):
            self.progress.best = {"epoch": row["epoch"], "which": name, **here}
            self.save_weights(self.run.best_file, network)

    def save_weights(self, path: Path, network: nn.Module, temperature: float | None = None) -> None:
        """Write a file of weights, gathered from all processes by the first."""
        state = cast("dict[str, Tensor]", get_model_state_dict(network, options=WHOLE))
        on_rank_zero(
            self.fabric, lambda: save_weights(path, network, self.splits.classes, state, temperature=temperature)
        )

    def save(self) -> None:
        """Write the checkpoint, unless the last steps were not finite: the weights before them may be the fault."""
        if self.progress.skipped_in_a_row:
            return
        self.saved = time.monotonic()
        self.progress.seconds = self.seconds()
        step = self.step
        save_checkpoint(self.run, self.fabric, step.plain, step.ema, step.plain_optimizer, self.progress)

    def curves(self) -> AbstractContextManager[SummaryWriter | None]:
        """TensorBoard's curves, over images seen; what a resumed run will draw again is cut off."""
        if not self.fabric.is_global_zero:
            return nullcontext()
        return SummaryWriter(str(self.run.path / "tensorboard"), purge_step=self.progress.images + 1)

    def epoch_name(self) -> str:
        """The running epoch as people count."""
        of = f"/{self.recipe.epochs}" if self.recipe.minutes is None else ""
        return f"epoch {self.progress.epoch + 1}{of}"

    def _unreadable(self) -> UnreadableImages:
        allowed, reasons = self.setup.config.data.bad_images, self.progress.bad_images
        file, images = self.run.bad_images_file, self.splits.count
        return UnreadableImages(self.fabric, file, images, allowed, self.display.say, reasons)


class _AskedWhileScoringError(Exception):
    """Someone asked to stop before the epoch was scored."""


def _flat(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{key}/{inner}", number) for inner, number in value.items())
        elif key not in ("epoch", "images"):
            yield f"training/{key}", value
