"""Training a network: what was asked for, made ready, run, and scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ffvit.config import recipe as recipes
from ffvit.config.architecture import Architecture, Network
from ffvit.config.base import parse
from ffvit.config.data import Data, absolute_path
from ffvit.config.hardware import Hardware
from ffvit.config.recipe import Recipe
from ffvit.data.sources import shortened
from ffvit.data.split_record import check_split, record_split, write_record
from ffvit.data.splits import Splits, open_splits
from ffvit.errors import DiskFullError, RunFolderError
from ffvit.files.atomic_write import is_disk_full, remove_leftovers
from ffvit.files.lock import FolderLock
from ffvit.files.output_folder import study_of
from ffvit.hardware.fabric import Fabric
from ffvit.hardware.launch import start_fabric
from ffvit.hardware.precision import precision_of
from ffvit.hardware.ranks import name_lost_ranks, on_rank_zero
from ffvit.models.description import preprocess_of
from ffvit.run_folder import Config, Run, free_folder
from ffvit.signals import exit_on_signal
from ffvit.terminal import Terminal
from ffvit.training.checkpoint import Progress, load_checkpoint
from ffvit.training.final_evaluation import evaluate_at_end
from ffvit.training.initial_network import initial_network, network_to_start_from, teacher_network
from ffvit.training.loggers import check_loggers
from ffvit.training.loop import fit
from ffvit.training.progress import TrainingDisplay
from ffvit.training.setup import Setup, set_up

STOPPED = "stopped while nothing had to be saved; resume with --resume, or with the same command if there is no run folder yet"


def configure(
    model: str | Architecture | Network | None = None,
    data: str | Path | Data | None = None,
    recipe: str | Recipe | None = None,
    *,
    image_size: int | tuple[int, int] | None = None,
    hardware: Hardware | None = None,
    seed: int = 0,
    start_from: str | Path | None = None,
    loggers: Sequence[str] = ("tensorboard",),
) -> Config:
    """The configuration of a training, with the defaults filled in.

    Args:
        model: A name of ours or of timm's, or an `Architecture`. Default: what the weights to start from say of their
            network, else ff_micro for the digits, else ff_tiny.
        data: A folder, a list, a data set that timm opens, or a `Data` that also says how it is split.
        recipe: A name or a `Recipe`. Default: `digits` for the digits, else `small`.
        image_size: Image size in pixels, (height, width) or one number for a square. Default: the network's own.
        hardware: Devices and precision. Default: one device, a GPU if there is one.
        seed: The same seed gives the same numbers.
        start_from: Weights to start from (a file or run folder), or `pretrained` for the published ones.
        loggers: Where metrics go beside metrics.jsonl: some of tensorboard, csv, wandb, mlflow.

    Raises:
        UserError: The seed is no whole number from 0 on, or no recipe has that name.
    """
    if not isinstance(data, Data):
        data = parse(Data, {"source": str(data)}, "data") if data is not None else Data()
    data = data.located()
    digits = data.source == "digits"
    if recipe is None:
        recipe = "digits" if digits else "small"
    if isinstance(recipe, str):
        recipe = recipes.named_recipe(recipe)
    if recipe.teacher is not None:
        recipe = recipe.replace(teacher=absolute_path(recipe.teacher))
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if start_from not in (None, "pretrained"):
        start_from = absolute_path(str(start_from))
        own = network_to_start_from(start_from, size)
        if own is not None and (model is None or (size is not None and model == own.name)):
            model, size = own, None
    if model is None:
        model = "ff_micro_patch2_8" if digits else "ff_tiny_patch16_224"
    if isinstance(model, Architecture):
        model = Network(architecture=model)
    elif isinstance(model, str):
        model = Network(name=model)
    if size is not None:
        model = model.replace(img_size=size)
    fields = {
        "network": model,
        "data": data,
        "recipe": recipe,
        "hardware": hardware or Hardware(),
        "seed": seed,
        "loggers": loggers,
        "start_from": start_from,
    }
    return parse(Config, fields, "")


def run_config(
    config: Config, out: str | Path | None = None, overwrite: bool = False, console: Console | None = None
) -> Run:
    """Train what a configuration says, and evaluate on the test split."""
    fabric, path = begin(config, out, overwrite)
    lock = FolderLock(path, "run")

    def make_folder(config: Config) -> Run:
        return on_rank_zero(fabric, lambda: Run.create(path, config, overwrite, lock))

    return _run(fabric, config, lock, make_folder, console, study=study_of(path))


def begin(config: Config, out: str | Path | None, overwrite: bool) -> tuple[Fabric, Path]:
    """Start the processes of a new run, and check that its folder may be made.

    Raises:
        UserError: It may not, or a device or a package is missing.
    """
    check_loggers(config.loggers)
    fabric = start_fabric(config.hardware)
    name = f"{config.network.title}-{Path(config.data.source).stem or 'data'}"
    path = Path(on_rank_zero(fabric, lambda: str(out if out is not None else free_folder(name))))
    on_rank_zero(fabric, lambda: Run.check_writable(path, config, overwrite))
    return fabric, path


def resume(out: str | Path, hardware: Hardware | None = None, console: Console | None = None) -> Run:
    """Resume a run from its last checkpoint, or from its start if it has none yet; the same as if it had never stopped.

    Args:
        out: The run folder.
        hardware: Another machine than the run's own, if given.
        console: Where to show progress.

    Raises:
        UserError: It is no run folder, its checkpoint is damaged, it is finished, or another process writes to it.
        RunStoppedError: As `train`.
    """
    run = Run(out)
    if run.summary() is not None:
        raise RunFolderError(f"{run.path}: this run is finished; its figures are in {run.summary_file}")
    config = run.config
    if run.has_checkpoint:
        config = config.replace(start_from=None)  # all weights come from it
    if hardware is not None:
        config = config.replace(hardware=hardware)
    check_loggers(config.loggers)
    fabric = start_fabric(config.hardware)
    lock = FolderLock(run.path, "run")
    on_rank_zero(fabric, lock.acquire)
    return _run(fabric, config, lock, lambda _: run, console, begun=run)


def _run(
    fabric: Fabric,
    config: Config,
    lock: FolderLock,
    make_folder: Callable[[Config], Run],
    console: Console | None,
    begun: Run | None = None,
    study: Path | None = None,
) -> Run:
    """Train and score; the run folder is made only once everything that was asked for has proved possible.

    Args:
        fabric: The processes.
        config: What to compute.
        lock: On the run folder; released at the end.
        make_folder: Makes the run folder.
        console: Where to show progress.
        begun: The run that is resumed.
        study: The folder of the study that a new run belongs to.
    """
    run: Run | None = None
    try:
        with (
            name_lost_ranks(fabric),
            exit_on_signal(STOPPED, done=lambda: run is not None and run.summary_file.is_file()),
            TrainingDisplay(console or Terminal(), shown=fabric.is_global_zero) as display,
        ):
            setup, about, record = prepare(fabric, config, begun, study, display)
            if config.start_from not in (None, "pretrained"):
                config = config.replace(preprocess=setup.preprocess)
            run = make_folder(config)
            for table in record:
                write_record(table, run.split_file)
            progress = Progress()
            if begun is not None:
                progress = _resume(setup, run, display)
                about = f"as it was after {progress.images:,} images" if progress.images else about
            display.say(as_table(headline(setup, run.path, about)))
            chosen = fit(setup, run, progress, display)
            display.say(evaluate_at_end(setup, run, progress, chosen, display))
    except OSError as error:
        if is_disk_full(error):
            raise DiskFullError("the disk is full: free some space, then resume with --resume") from None
        raise
    finally:
        lock.release()
    assert run is not None
    return run


def prepare(
    fabric: Fabric, config: Config, begun: Run | None, study: Path | None, display: TrainingDisplay
) -> tuple[Setup, str, list[pd.DataFrame]]:
    """Open the images, build the network and set up; see `_run`.

    Returns:
        What the run trains with, words on where its initial weights came from, and on the first process the record of
        its images that is to be written.

    Raises:
        UserError: Something that was asked for is not possible.
    """
    with fabric.rank_zero_first():  # one process downloads, the others find it done
        splits = open_splits(config.data)
    record: list[pd.DataFrame] = []  # the first process's alone: of a million images it is large
    on_rank_zero(fabric, lambda: record.extend(_checked_images(config, splits, begun, study, display)))
    torch.manual_seed(config.seed)
    network, about = initial_network(config, len(splits.classes))
    teacher = teacher_network(config.recipe, len(splits.classes), preprocess_of(network).in_chans)
    return set_up(fabric, config, network, teacher, splits, display.say), about, record


def _resume(setup: Setup, run: Run, display: TrainingDisplay) -> Progress:
    """Put the run's last checkpoint back, if it has come to one, and hand back how far it is."""
    fabric, step, progress = setup.fabric, setup.step, Progress()
    for folder in (run.path, run.checkpoint_file.parent):
        on_rank_zero(fabric, partial(remove_leftovers, folder))
    if run.has_checkpoint:
        progress = load_checkpoint(run, fabric, step.plain, step.ema, step.plain_optimizer, display.say)
    if fabric.is_global_zero:
        run.truncate_metrics(progress.epoch)
    return progress


def _checked_images(
    config: Config, splits: Splits, begun: Run | None, study: Path | None, display: TrainingDisplay
) -> list[pd.DataFrame]:
    """The record of a run's images to be written; nothing, if it has one already, which they were compared with.

    Raises:
        UserError: They are not those that the run, or the study that it belongs to, began with.
    """
    source = config.data.source
    if begun is not None and begun.split_file.is_file():
        advice = (
            "With others, images would move between training and test: put them back as they were, or begin a new run "
            "with another --out"
        )
        check_split(begun.split_file, splits, source, advice)
        return []
    if begun is not None and begun.has_checkpoint:
        display.say(f"{begun.split_file} is missing: whether the images are those the run began with cannot be told")
    record = record_split(splits, source)
    if study is not None and (study / "split.csv.gz").is_file():
        advice = "All runs of a study need the same: put them back as they were, or begin a new study"
        check_split(study / "split.csv.gz", splits, source, advice, same_split=False)
    return [record]


def headline(setup: Setup, folder: Path, about: str) -> dict[str, str]:
    """What is about to happen, in a few lines."""
    config, fabric, step, takes = setup.config, setup.fabric, setup.step, setup.preprocess
    parameters = sum(weight.numel() for weight in step.plain.parameters())
    length = f"{config.recipe.minutes:g} minutes" if config.recipe.minutes else f"{config.recipe.epochs} epochs"
    how = ", compiled" * step.compiled
    if step.recomputed:
        how += f", {step.recomputed} recomputed in the backward pass: memory is short"
    where = f"{fabric.world_size} x {fabric.device.type}, {precision_of(fabric)}{how}"
    return {
        "network": f"{config.network.title}, {parameters / 1e6:.2f} M parameters, {about}",
        "images": f"{takes.img_size[0]} x {takes.img_size[1]} px, {takes.in_chans} channel{'s' * (takes.in_chans > 1)}; {setup.splits.account}",
        "classes": f"{len(setup.splits.classes):,}: {shortened(setup.splits.classes, 10)} (numbered from 0, {config.data.class_order} order)",
        "recipe": f"{length}, {config.recipe.batch_size} images a step, rate {config.recipe.peak_lr:.1e}",
        "hardware": f"{where}, {setup.workers} loading processes per device",
        "run folder": str(folder),
    }


def as_table(rows: Mapping[str, str]) -> Table:
    """Lines with a word in front of each."""
    table = Table.grid(padding=(0, 2))
    for name, words in rows.items():
        table.add_row(Text(name, "bold"), Text(words))
    return table
