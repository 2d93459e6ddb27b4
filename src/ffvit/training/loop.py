"""The loop of one run: steps, checks of their losses, scores, checkpoints, in the order they happen."""

from __future__ import annotations

import time
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from ffvit.errors import ModelError, RunStoppedError
from ffvit.hardware.ranks import all_gather
from ffvit.inference.predictions import Predictions
from ffvit.run_folder import Run
from ffvit.signals import StopSignals
from ffvit.training.checkpoint import Progress, check_finite, gather_weights, save_checkpoint
from ffvit.training.loggers import Log, open_loggers
from ffvit.training.nonfinite import SkippedSteps
from ffvit.training.progress import TrainingDisplay
from ffvit.training.schedule import lr_at
from ffvit.training.setup import Setup
from ffvit.training.unreadable import UnreadableImages

CHECK_EVERY = 1.0
"""Seconds, about, between checks of the losses on the device (one synchronisation), the clock and the stop signal."""

SAVE_EVERY = 600.0
"""Seconds after which a checkpoint is written within an epoch; one is written after each epoch in any case."""


def fit(setup: Setup, run: Run, progress: Progress, display: TrainingDisplay) -> Predictions | None:
    """Train to the end of the recipe.

    Args:
        setup: What the run trains with.
        run: Where it writes.
        progress: How far it is; updated.
        display: Where to show progress.

    Returns:
        What the best weights predict for the validation split, unless they were scored before the run was resumed.

    Raises:
        RunStoppedError: Interrupted, a loss that is not finite, a full disk, or too many bad images.
    """
    loggers = open_loggers(run, progress.images, display.say) if setup.fabric.is_global_zero else nullcontext()
    with loggers as log, StopSignals(display.say) as stop:
        trainer = Trainer(setup, run, progress, display, stop, log)
        trainer.train()
        return trainer.best_predictions


class Trainer:
    """A run as it trains; see `fit`.

    Args:
        setup: What the run trains with.
        run: Where it writes.
        progress: How far it is; updated.
        display: Where to show progress.
        stop: Whether someone asked to stop.
        log: Takes the metrics of each epoch; on the first process only.
    """

    def __init__(
        self,
        setup: Setup,
        run: Run,
        progress: Progress,
        display: TrainingDisplay,
        stop: StopSignals,
        log: Log | None,
    ) -> None:
        self.setup, self.run, self.progress, self.display = setup, run, progress, display
        self.stop, self.log = stop, log
        self.fabric, self.recipe, self.step = setup.fabric, setup.config.recipe, setup.step
        self.unreadable = UnreadableImages(setup, run, progress, display.say)
        self.skipped = SkippedSteps(progress, run, self.recipe.batch_size, display.say)
        self.began = self.saved = self.checked = time.monotonic()
        self.seconds_before = progress.seconds
        self.check_after = 1  # steps
        self.best_predictions: Predictions | None = None

    def train(self) -> None:
        """Train epoch by epoch."""
        progress = self.progress
        self.display.begin(self.share())
        while self.share() < 1 or progress.step:  # the last epoch may have been stopped before it was scored
            began, images_before = time.monotonic(), progress.images
            self.train_epoch()
            images_per_second = (progress.images - images_before) / (time.monotonic() - began)
            try:
                self.end_epoch(images_per_second)
            except ModelError:
                if not progress.skipped_in_a_row:
                    raise
                raise self.skipped.diverged(", and the network's answers are no longer finite") from None
            self.sync_and_check([])

    def train_epoch(self) -> None:
        """Make the steps of an epoch, or those that are left of it."""
        setup, progress, order = self.setup, self.progress, self.setup.order
        order.epoch, order.first_step = progress.epoch, progress.step
        micro_batches = iter(setup.loader)
        unchecked: list[Tensor] = []
        for number in range(progress.step, order.steps if self.share() < 1 else 0):
            self.step.lr = lr_at(self.recipe, self.share(number) * self.recipe.epochs)
            batches = [next(micro_batches) for _ in range(order.micro_batches)]
            for batch in batches:
                self.unreadable.add(batch.bad)
            unchecked.append(self.step(progress.epoch, number, batches))
            progress.images += self.recipe.batch_size
            progress.step = number + 1
            if len(unchecked) >= self.check_after or progress.step == order.steps or self.stops_alone():
                out_of_time = self.sync_and_check(unchecked)
                unchecked.clear()
                if out_of_time:
                    return

    def sync_and_check(self, unchecked: list[Tensor]) -> bool:
        """Fetch the losses of the last steps, and act on what all processes know; True when the time is up.

        Args:
            unchecked: What the last steps returned, still on the device.

        Raises:
            RunStoppedError: Losses were not finite, too many images are bad, or someone asked to stop.
        """
        progress, now = self.progress, time.monotonic()
        own_losses = torch.stack(unchecked).tolist() if unchecked else []
        check_after = self.check_after
        if own_losses:
            check_after = int(CHECK_EVERY * len(own_losses) / (now - self.checked))
        self.checked = now
        due = now - self.saved > SAVE_EVERY
        gathered = all_gather(self.fabric, (own_losses, self.stop.asked, progress.bad_images, due, check_after))
        losses_by_process, asked, bad_images, dues, checks_after = zip(*gathered, strict=True)
        self.check_after = max(1, min(checks_after[0], 50))  # the first process's clock holds for all
        steps = list(zip(*losses_by_process, strict=True))
        losses = [sum(loss for loss, _ in step) / len(step) for step in steps]
        for back, loss, step in zip(reversed(range(len(steps))), losses, steps, strict=True):
            self.skipped.count(loss, made=step[0][1] == 1, back=back)
        for bad in bad_images:
            progress.bad_images.update(bad)
        self.unreadable.check()
        share = self.share()
        if losses:
            epochs = f"/{self.recipe.epochs}" if self.recipe.minutes is None else ""
            self.display.step(f"epoch {progress.epoch + 1}{epochs}", share, progress.images, losses[-1], self.step.lr)
        if any(asked) or dues[0]:
            self.save()
        if any(asked) and share < 1:
            raise self.stopped()
        return share >= 1

    def end_epoch(self, images_per_second: float) -> None:
        """Score, keep the best weights, write the epoch down, save."""
        progress = self.progress
        check_finite(self.step.plain, self.fabric, progress.epoch)  # scoring would fail, too, but not say why
        loss = float(np.mean(progress.losses)) if progress.losses else float("nan")
        scores = self.score()
        training = {"loss": loss, "lr": self.step.lr}
        timing = {"images_per_second": images_per_second, "seconds": self.seconds()}
        row = {"epoch": progress.epoch + 1, "images": progress.images, **training, **scores, **timing}
        progress.epoch, progress.step, progress.losses = progress.epoch + 1, 0, []
        if self.log is not None:  # the first process
            self.run.append_metrics(row)
            groups = {"training": training | timing, **scores}
            self.log({f"{key}/{name}": value for key in groups for name, value in groups[key].items()}, progress.images)
        self.unreadable.write()
        self.save()
        epochs = self.recipe.epochs if self.recipe.minutes is None else None
        self.display.epoch(row, epochs, len(progress.bad_images))

    def score(self) -> dict[str, dict[str, float]]:
        """Score the weights and their average on the validation split; the best of the run go to `best.safetensors`."""
        setup, progress, step = self.setup, self.progress, self.step
        if setup.validation is None:
            return {}
        self.display.scoring("validation split")
        candidates = {"weights": step.plain} | ({"average": step.ema.network} if step.ema is not None else {})
        scores = {}
        for name, network in candidates.items():
            with step.eagerly():
                predictions, bad = setup.validation(network, self.stop_while_scoring)
            self.unreadable.add(bad)
            top1, loss = float(predictions.correct.mean()), float(predictions.loss.mean(dtype=np.float64))
            scores[name] = {"top1": top1, "loss": loss}
            best = progress.best
            if not best or (top1, -loss) > (best["top1"], -best["loss"]):
                progress.best = {"epoch": progress.epoch + 1, "which": name, **scores[name]}
                self.best_predictions = predictions
                gather_weights(self.fabric, self.run.best_file, network, setup.splits.classes)
        return scores

    def save(self) -> None:
        """Write the checkpoint, unless the last steps were not finite: the weights before them may be the fault."""
        if self.progress.skipped_in_a_row:
            return
        self.saved = time.monotonic()
        self.progress.seconds = self.seconds()
        step = self.step
        save_checkpoint(self.run, self.fabric, step.plain, step.ema, step.plain_optimizer, self.progress)

    def share(self, step: int | None = None) -> float:
        """Share of the run that is done before a step (default: the next)."""
        if self.recipe.minutes is not None:
            return min(1.0, self.fabric.broadcast(self.seconds()) / (self.recipe.minutes * 60))
        step = self.progress.step if step is None else step
        return (self.progress.epoch + step / self.setup.order.steps) / self.recipe.epochs

    def seconds(self) -> float:
        """Seconds that the run has taken, those before an interruption included."""
        return self.seconds_before + time.monotonic() - self.began

    def stops_alone(self) -> bool:
        """Whether this process is to stop now; several go on to the next check, to stop together."""
        return self.fabric.world_size == 1 and self.stop.asked

    def stop_while_scoring(self, _images: int) -> None:
        """Stop between two batches that are scored: who asked must not wait for a large validation split."""
        if self.stops_alone():
            self.save()
            raise self.stopped()

    def stopped(self) -> RunStoppedError:
        """What to raise once the checkpoint is written that someone asked for."""
        return self.stop.error(f"stopped; resume with: ffvit train --out {self.run.path} --resume")
