"""The loop of one run: batch, mixing, network, loss, step, average, look, score, save, in the order they happen."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from ffvit.config.data import bad_image_limit
from ffvit.data.images import BadImageError, Images
from ffvit.data.loader import Batch, NormalizeOnDevice, training_loader, worker_count
from ffvit.data.sampler import TrainingOrder
from ffvit.data.shards.remote import remote_blocks
from ffvit.data.splits import Splits
from ffvit.data.transforms import training_transform
from ffvit.errors import BadImagesError, ConfigError, DivergedError, ModelError, OutOfMemoryError, RunStoppedError
from ffvit.files.atomic_write import atomic_path
from ffvit.files.csv_formulas import escape_formula
from ffvit.hardware.devices import is_out_of_memory, keep_freed_memory
from ffvit.hardware.launch import shard
from ffvit.hardware.ranks import all_gather, local_world_size, on_rank_zero
from ffvit.inference.evaluator import BATCH, Evaluator
from ffvit.models.compiling import compile_blocks
from ffvit.models.create import preprocess_of, set_preprocess
from ffvit.models.weights import save_weights
from ffvit.run_folder import Config, Run
from ffvit.seeding import seed_of, seed_torch
from ffvit.signals import StopSignals
from ffvit.training.auto_tuning import has_free_memory, loading_workers, should_compile, should_recompute
from ffvit.training.checkpoint import WHOLE, Progress, check_finite, load_checkpoint, save_checkpoint
from ffvit.training.ema import EMA
from ffvit.training.losses import Criterion, class_weights
from ffvit.training.mixup import MixupCutmix
from ffvit.training.nonfinite import IN_A_ROW, NonfiniteGuard
from ffvit.training.optimizer import build_optimizer
from ffvit.training.progress import TrainingDisplay
from ffvit.training.schedule import lr_at
from ffvit.training.stochastic_depth import DropPathSampler

CHECK_EVERY = 1.0
"""Seconds, about, between looks at the losses on the device (one synchronisation), the clock and the stop signal."""

SAVE_EVERY = 600.0
"""Seconds after which a checkpoint is written within an epoch; one is written after each epoch in any case."""


class Trainer:
    """A run's moving parts. Set `run`, where it writes, before `fit`.

    Args:
        fabric: The processes and devices.
        config: What to compute.
        network: With its start values.
        teacher: To distil from, or None.
        splits: The images.
        display: Where to show progress.
    """

    run: Run

    def __init__(
        self,
        fabric: Fabric,
        config: Config,
        network: nn.Module,
        teacher: nn.Module | None,
        splits: Splits,
        display: TrainingDisplay,
    ) -> None:
        self.fabric, self.config, self.splits, self.display = fabric, config, splits, display
        self.recipe, self.seed = config.recipe, config.seed
        self.preprocess = preprocess_of(network).with_recipe(self.recipe)
        set_preprocess(network, self.preprocess)

        blocks, ahead = remote_blocks(splits.train) or (None, None)
        self.order = TrainingOrder(
            images=len(splits.train),
            seed=self.seed,
            batch_size=self.recipe.batch_size,
            group_size=self.recipe.mixup_group_size,
            repeats=self.recipe.aug_repeats,
            probabilities=_balanced(splits) if self.recipe.balance == "sampler" else None,
            process=fabric.global_rank,
            processes=fabric.world_size,
            micro_batch=config.machine.micro_batch,
            blocks=blocks,
            ahead=ahead,
        )
        if not self.order.steps:
            raise ConfigError(
                f"recipe.batch_size {self.recipe.batch_size} is more than the {len(splits.train)} training images; "
                f"try --recipe.batch-size {2 ** int(np.log2(max(2, len(splits.train) // 8)))}"
            )
        if self.recipe.batch_size < 2 * fabric.world_size * self.order.micro_batches:
            raise ConfigError(
                f"recipe.batch_size {self.recipe.batch_size} is too small to share over {fabric.world_size} devices"
            )
        self.finish = NormalizeOnDevice(self.preprocess.mean, self.preprocess.std)
        self.mixing = MixupCutmix(self.recipe, len(splits.classes), self.seed)
        weights = class_weights(splits.train.labels, len(splits.classes)) if self.recipe.balance == "weights" else None
        self.criterion = Criterion(self.recipe, weights, teacher, self.preprocess.mean, self.preprocess.std)
        self.criterion.to(fabric.device)

        self.plain = network  # the network without what Fabric puts around it
        if teacher is not None and hasattr(network, "set_distilled_training"):
            cast("Any", network).set_distilled_training(True)
        self.depth = DropPathSampler(network, self.recipe.batch_size)
        decay = self.recipe.ema_decay
        self.average = EMA(network, decay, self.recipe.ema_warmup) if decay is not None else None
        if config.machine.strategy != "fsdp":  # a network that has to be sharded is estimated where it is
            network.to(fabric.device)
        at_once = -(-self.recipe.batch_size // (fabric.world_size * self.order.micro_batches))
        self.recomputed = should_recompute(network, at_once, fabric)
        if self.recomputed is None and has_free_memory(network, at_once, fabric):
            keep_freed_memory()
        self.workers, self.loader = self.loading(network, at_once)
        self.compiled = should_compile(config.machine, network, self.recipe, len(splits.train), fabric.device)
        if self.compiled:
            compile_blocks(network)
        self.network = fabric.setup_module(network)
        if self.average is not None:
            if config.machine.strategy == "fsdp":
                shard(self.average.network, fabric.strategy.device_mesh)
            self.average.network.to(fabric.device)
        self._optimizer = build_optimizer(network, self.recipe)
        self.optimizer = fabric.setup_optimizers(self._optimizer)
        self.bad_images_to_tell = 1
        self.finite = NonfiniteGuard(fabric, network, self._optimizer)
        self.first_skipped = "the loss was not finite"
        self.pieces = 1  # a micro-batch is cut into so many if the device's memory is too small for it

        self.alone_asked: Callable[[], bool] = lambda: False
        self.validation = self.scorer(splits.validation) if splits.validation is not None else None
        self.progress = Progress()

    def loading(self, network: nn.Module, at_once: int) -> tuple[int, DataLoader[Batch]]:
        """How many processes load the training images, and what they bring."""
        takes = self.preprocess
        transform = training_transform(self.recipe, takes.img_size, takes.in_chans, takes.mean)
        shape = (takes.in_chans, *takes.img_size)
        loader = partial(
            training_loader, self.splits.train, transform, shape, self.order, self.seed, device=self.fabric.device
        )
        workers = self.config.machine.workers
        if workers is None:
            workers = worker_count(self.splits.train, local_world_size(self.fabric), self.fabric.device)
            if self.config.machine.strategy != "fsdp":  # a network that has to be sharded does not answer yet
                workers = loading_workers(loader(0), network, at_once, self.fabric, workers)
        return workers, loader(workers)

    def scorer(self, images: Images) -> Evaluator:
        """Scores this run's network on images."""
        return Evaluator(
            self.fabric,
            images,
            self.preprocess,
            self.splits.classes,
            BATCH,
            self.config.machine.workers,
        )

    def eagerly(self) -> AbstractContextManager[object]:
        """Where networks answer as they are written, whatever they train as: so they answer the same anywhere."""
        return torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()

    def go_on(self) -> None:
        """Continue from the run's checkpoint, if it has come to one."""
        if self.run.has_checkpoint:
            self.progress = load_checkpoint(
                self.run, self.fabric, self.plain, self.average, self._optimizer, self.display.say
            )
        if self.fabric.is_global_zero:
            self.run.truncate_metrics(self.progress.epoch)

    def fit(self) -> None:
        """Train to the end of the recipe.

        Raises:
            RunStoppedError: Interrupted, a loss that is not finite, a full disk, or too many bad images.
        """
        progress, recipe = self.progress, self.recipe
        self.began = self.saved = self.looked = time.monotonic()
        self.look_after = 1
        self.seconds_before = progress.seconds
        self.display.begin(self.share())
        with self.curves() as curves, StopSignals(self.display.say) as interruption:
            self.alone_asked = lambda: self.fabric.world_size == 1 and interruption.asked
            while self.share() < 1 or progress.step:  # its last epoch may have been stopped before it was scored
                self.order.epoch, self.order.first_step = progress.epoch, progress.step
                epoch_began, images_before = time.monotonic(), progress.images
                micro_batches = iter(self.loader)
                unseen: list[Tensor] = []
                for step in range(progress.step, self.order.steps if self.share() < 1 else 0):
                    rate = lr_at(recipe, self.share(step) * recipe.epochs)
                    for group in self.optimizer.param_groups:
                        group["lr"] = rate
                    unseen.append(
                        self.step(progress.epoch, step, [next(micro_batches) for _ in range(self.order.micro_batches)])
                    )
                    progress.images += recipe.batch_size
                    progress.step = step + 1
                    if len(unseen) >= self.look_after or progress.step == self.order.steps or self.alone_asked():
                        out_of_time = self.look(unseen, interruption)
                        unseen.clear()
                        if out_of_time:
                            break
                images_a_second = (progress.images - images_before) / (time.monotonic() - epoch_began)
                try:
                    self.end_epoch(images_a_second, curves)
                except _AskedWhileScoringError:
                    self.save()
                    raise self.stopped(interruption) from None
                except ModelError:
                    if not progress.skipped_in_a_row:
                        raise
                    raise self.diverged(", and the network's answers are no longer finite") from None
                self.look([], interruption)

    def share(self, step: int | None = None) -> float:
        """Share of the run that is done before a step (default: the next)."""
        if self.recipe.minutes is not None:
            return min(1.0, self.fabric.broadcast(self.seconds()) / (self.recipe.minutes * 60))
        step = self.progress.step if step is None else step
        return (self.progress.epoch + step / self.order.steps) / self.recipe.epochs

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def seconds(self) -> float:
        """Seconds that the run has taken, those before an interruption included."""
        return self.seconds_before + time.monotonic() - self.began

    def step(self, epoch: int, step: int, batches: list[Batch]) -> Tensor:
        """One step of the optimizer, made if all is finite.

        Returns:
            The batch's loss (this process's part of it) and whether the step was made (1 or 0), still on the device.
        """
        self.finite.begin()
        while True:
            try:
                loss = self._gradients(epoch, step, batches)
                break
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
            self.finite.put_back()
            if self.fabric.device.type == "cuda":
                torch.cuda.empty_cache()
            self.display.say(
                f"memory is short: computing each batch in {self.pieces} parts (the result stays the same)"
            )
        norm = None
        if self.recipe.clip_grad_norm is not None:
            norm = self.fabric.clip_grad_norm(
                self.network, self.optimizer, max_norm=self.recipe.clip_grad_norm, error_if_nonfinite=False
            )
        made = self.finite.finite(loss, norm)
        self.finite.step(self.optimizer, made)
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.plain, epoch * self.order.steps + step)
        return torch.stack((loss, made.to(loss.dtype)))

    def _gradients(self, epoch: int, step: int, batches: list[Batch]) -> Tensor:
        total = torch.zeros((), device=self.fabric.device)
        for number, loaded in enumerate(batches):
            self.note(loaded.bad)
            batch = loaded.to(self.fabric.device)
            images = self.finish(batch)
            images, targets, weights = self.mixing(images, batch.labels, batch.weights, batch.groups, epoch, step)
            whole = (images, targets, weights, torch.tensor(batch.positions))
            cuts = list(zip(*(each.tensor_split(self.pieces) for each in whole), strict=True))
            for cut, (some, their_targets, their_weights, places) in enumerate(cuts):
                last = number == len(batches) - 1 and cut == len(cuts) - 1
                # All that is drawn within the network is seeded here, so going on needs no generator's state.
                self.depth.make(seed_of(self.seed, epoch, step), places.tolist(), self.fabric.device)
                place = self.fabric.global_rank, number, cut
                seed_torch(seed_of(self.seed, epoch, step, *place), self.fabric.device)
                with self.fabric.no_backward_sync(self.network, enabled=not last):
                    output = self.network(some)
                    with self.fabric.autocast():
                        losses = self.criterion(output, their_targets, some)
                    # Processes average their gradients, so each counts its images as a share of the whole batch.
                    loss = (losses * their_weights).sum() * self.fabric.world_size / self.recipe.batch_size
                    self.fabric.backward(loss)
                total += loss.detach()
        return total

    def look(self, unseen: list[Tensor], interruption: StopSignals) -> bool:
        """Fetch the losses of the last steps, and act on what all processes know; True when the time is up.

        Raises:
            RunStoppedError: A loss was not finite, too many images are bad, or someone asked to stop.
        """
        mine = torch.stack(unseen).tolist() if unseen else []
        progress, now = self.progress, time.monotonic()
        steps_a_look = int(CHECK_EVERY * len(mine) / (now - self.looked)) if mine else self.look_after
        self.looked = now
        due = now - self.saved > SAVE_EVERY
        of_all = all_gather(self.fabric, (mine, interruption.asked, progress.bad_images, due, steps_a_look))
        *_, due, steps_a_look = of_all[0]  # the first process's clock holds for all
        self.look_after = max(1, min(steps_a_look, 50))
        steps = list(zip(*(its for its, *_ in of_all), strict=True))
        losses = [sum(loss for loss, _ in step) / len(step) for step in steps]
        for back, loss, step in zip(reversed(range(len(losses))), losses, steps, strict=True):
            self.count(loss, made=step[0][1] == 1, back=back)
        for _, _, bad, *_ in of_all:
            progress.bad_images.update(bad)
        self._check_bad_images()
        share = self.share()
        if losses:
            self.display.step(self.epoch_name(), share, progress.images, losses[-1], self.rate)
        asked = any(asked for _, asked, *_ in of_all)
        if asked or due:
            self.save()
        if asked and share < 1:
            raise self.stopped(interruption)
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
            "A lower --recipe.lr, a --recipe.clip-grad-norm, or --precision 32-true may help"
        )

    def stopped(self, interruption: StopSignals) -> RunStoppedError:
        """What to raise once the checkpoint is written that someone asked for."""
        return interruption.error(f"stopped; go on with: ffvit train --out {self.run.path} --resume")

    def pause(self, _: int) -> None:
        """Between two batches that are scored: a large validation split must not keep anyone waiting who asked to stop.

        Several processes go on to the next look: they have to stop together.
        """
        if self.alone_asked():
            raise _AskedWhileScoringError

    def _check_bad_images(self) -> None:
        """Say how many images could not be read, at the first and whenever their number has doubled; stop at the limit."""
        bad, images = self.progress.bad_images, self.splits.count
        allowed = self.config.data.bad_images
        if len(bad) > (limit := bad_image_limit(allowed, images)):
            self.write_bad_images()
            raise BadImagesError(
                f"{len(bad):,} images could not be read, more than --data.bad-images {allowed:g} allows ({limit:,} of "
                f"{images:,}); they are listed in {self.run.bad_images_file}"
            )
        if len(bad) >= self.bad_images_to_tell:
            self.bad_images_to_tell = 2 * len(bad)
            name, reason = next(reversed(bad.items()))
            self.write_bad_images()
            self.display.say(
                f"{len(bad):,} of {images:,} images could not be read so far, and are left out (the last: {name}: {reason}); "
                f"they are listed in {self.run.bad_images_file}"
            )

    def note(self, bad: list[BadImageError]) -> None:
        """Keep images that could not be read for the list."""
        for each in bad:
            self.progress.bad_images.setdefault(each.name, each.reason)

    def end_epoch(self, images_a_second: float, curves: SummaryWriter | None) -> None:
        """Score the weights and their average on the validation split, keep the best, write the epoch down, save."""
        progress = self.progress
        check_finite(self.plain, self.fabric, progress.epoch)  # scoring would fail, too, but not say why
        row: dict[str, Any] = {
            "epoch": progress.epoch + 1,
            "images": progress.images,
            "loss": float(np.mean(progress.losses)) if progress.losses else float("nan"),
            "lr": self.rate,
        }
        if self.validation is not None:
            self.display.scoring("validation split")
            candidates: dict[str, tuple[nn.Module, nn.Module]] = {"weights": (self.network, self.plain)}
            if self.average is not None:
                candidates["average"] = (self.average.network, self.average.network)
            for name, (network, plain) in candidates.items():
                with self.eagerly():
                    answers, bad = self.validation(network, self.pause)
                self.note(bad)
                row[name] = {"top1": float(answers.correct.mean()), "loss": float(answers.loss.mean(dtype=np.float64))}
                self.keep_if_best(name, plain, row)
        row |= {"images_per_second": images_a_second, "seconds": self.seconds()}
        progress.epoch, progress.step, progress.losses = progress.epoch + 1, 0, []
        if curves is not None:  # the first process
            self.run.append_metrics(row)
            for key, value in _flat(row):
                curves.add_scalar(key, value, row["images"])
        self.write_bad_images()
        self.save()
        epochs = self.recipe.epochs if self.recipe.minutes is None else None
        self.display.epoch(row, epochs, len(self.progress.bad_images))

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

    def write_bad_images(self) -> None:
        """List the images that could not be read."""
        bad: dict[str, str] = {}
        for its in all_gather(self.fabric, self.progress.bad_images):
            bad.update(its)
        self.progress.bad_images = bad
        if bad and self.fabric.is_global_zero:
            with (
                atomic_path(self.run.bad_images_file) as temporary,
                temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
            ):
                rows = [[escape_formula(cell) for cell in row] for row in sorted(bad.items())]
                csv.writer(file).writerows([("image", "reason"), *rows])

    def save(self) -> None:
        """Write the checkpoint, unless the last steps were not finite: the weights before them may be the fault."""
        if self.progress.skipped_in_a_row:
            return
        self.saved = time.monotonic()
        self.progress.seconds = self.seconds()
        save_checkpoint(self.run, self.fabric, self.plain, self.average, self._optimizer, self.progress)

    def curves(self) -> AbstractContextManager[SummaryWriter | None]:
        """TensorBoard's curves, over images seen; what a run gone on will draw again is cut off."""
        if not self.fabric.is_global_zero:
            return nullcontext()
        return SummaryWriter(str(self.run.path / "tensorboard"), purge_step=self.progress.images + 1)

    def epoch_name(self) -> str:
        """The running epoch as people count."""
        of = f"/{self.recipe.epochs}" if self.recipe.minutes is None else ""
        return f"epoch {self.progress.epoch + 1}{of}"


class _AskedWhileScoringError(Exception):
    """Someone asked to stop before the epoch was scored."""


def _balanced(splits: Splits) -> np.ndarray:
    """Probabilities by which every class is drawn equally often."""
    labels = splits.train.labels
    each = 1.0 / np.bincount(labels)[labels]
    return each / each.sum()


def _flat(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{key}/{inner}", number) for inner, number in value.items())
        elif key not in ("epoch", "images"):
            yield f"training/{key}", value
