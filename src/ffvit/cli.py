"""The command line: one thin function a command. What it does is done by the functions Python users call."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cyclopts
from cyclopts import App, Parameter, Token
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from ffvit import __version__
from ffvit.closed_pipe import survive_closed_pipe
from ffvit.config.base import Value, error_sentences, unvalidated
from ffvit.config.data import BAD_IMAGES, Data
from ffvit.config.hardware import Machine
from ffvit.config.recipe import Recipe
from ffvit.errors import DataError, FfvitError, OutputError, UserError
from ffvit.hardware.ranks import is_rank_zero
from ffvit.signals import reraise_lost_signals
from ffvit.terminal import Terminal, close_log, log, log_exception, log_to

if TYPE_CHECKING:
    from ffvit.run_folder import Config

    RecipeFields = Recipe
else:
    # Of whichever recipe is named: only together with it are they checked. Those that people type first have short names.
    RecipeFields = unvalidated(
        Recipe,
        {
            "epochs": Parameter(name=("epochs", "--epochs")),
            "batch_size": Parameter(name=("batch-size", "--batch-size")),
            "lr": Parameter(name=("lr", "--lr")),
        },
    )


class DataFields(Data):
    """How images are split; which ones, --data itself says."""

    source: Annotated[str, Parameter(parse=False)] = "digits"


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    """A whole number; cyclopts by itself would round 1.5."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"must be a whole number; got {tokens[0].value!r}") from None


def _wholes(kind: Any, tokens: Sequence[Token]) -> list[int]:
    return [_whole(kind, [token]) for token in tokens]


Whole = Parameter(converter=_whole)
Wholes = Parameter(converter=_wholes, consume_multiple=True)

app = App(
    name="ffvit",
    version=__version__,
    help="Do you even need attention? Train, score and compare image classifiers with it and without it.",
    help_epilogue="""Examples:

  ffvit train                              FF-only on handwritten digits
  ffvit train ff_small_patch16_224 --data photos/ --out runs/photos
  ffvit evaluate runs/photos --data photos/val
  ffvit predict runs/photos holiday.jpg --top 3
  ffvit compare --data photos/ --minutes 30
  ffvit check photos/                      broken images, copies, leaks
  ffvit prepare photos/ shards/            a large set as a few files
  ffvit doctor                             what is wrong with this machine""",
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,  # `main` has a word for it
)


@app.command
def train(
    model: str | None = None,
    *,
    data: str | None = None,
    recipe: str | None = None,
    image: Annotated[list[PositiveInt] | None, Wholes] = None,
    out: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    config: Path | None = None,
    start_from: str | None = None,
    seed: Annotated[int | None, Whole] = None,
    dry_run: bool = False,
    log_file: Path | None = None,
    machine: Annotated[Machine | None, Parameter(name="*", group="Machine", show_default=False)] = None,
    data_fields: Annotated[DataFields | None, Parameter(name="--data", group="Images", show_default=False)] = None,
    recipe_fields: Annotated[
        RecipeFields | None, Parameter(name="--recipe", group="Recipe", show_default=False)
    ] = None,
) -> None:
    """Train a network and evaluate it on a held-out test split.

    Parameters
    ----------
    model
        A network of ours or of timm's (`ffvit models` lists them). Default: ff_micro_patch2_8 for the digits, else
        ff_tiny_patch16_224.
    data
        Images: digits; a folder with train/ and val/ (and test/), of class folders or of shards; a .csv or .parquet
        list; or what timm opens: torch/cifar10, hfds/..., wds/... Default: digits.
    recipe
        deit (the paper's), small or digits; single fields are changed below. Default: digits for the digits, else small.
    image
        Image size in pixels: one number for a square, or height and width. Default: the network's own.
    out
        The run folder. Default: a new one in runs/.
    resume
        Resume the run in --out from its last checkpoint, or from its start if it had come to none.
    overwrite
        Replace the run folder in --out.
    config
        Run what a config.yaml says again; other arguments change it.
    start_from
        Weights to start from: a file, a run folder, or `pretrained` for the published ones.
    seed
        Same seed, same numbers. Default: 0.
    dry_run
        Print the whole configuration and stop.
    log_file
        Also append everything that is printed to this file, each line with its time and the rank of its process.
    machine
        Where to compute.
    data_fields
        How the images are split.
    recipe_fields
        Single fields of the recipe.
    """
    from ffvit.training.train import resume as go_on
    from ffvit.training.train import run_config

    if log_file is not None:
        log_to(log_file)
    if resume:
        given = (model, data, recipe, image, config, start_from, seed, data_fields, recipe_fields)
        if out is None:
            raise UserError("--resume needs the run folder to resume: --out FOLDER")
        if overwrite or any(each is not None for each in given):
            raise UserError("--resume goes on with the run as it was begun: give it only --out and where to compute")
        with survive_closed_pipe():
            go_on(out, machine=_changed(_config_of(out).machine, machine) if machine else None)
        return
    chosen = _chosen(model, data, recipe, image, config, start_from, seed, machine, data_fields, recipe_fields)
    if dry_run:
        Terminal().say(chosen.to_yaml())
        return
    with survive_closed_pipe():
        run_config(chosen, out=out, overwrite=overwrite)


@app.command
def evaluate(
    weights: Path,
    *,
    data: str | None = None,
    model: str | None = None,
    batch_size: Annotated[PositiveInt, Whole] = 256,
    crop: float | None = None,
    interpolation: Literal["bicubic", "bilinear"] | None = None,
    pixel_backend: Literal["pillow", "fast"] | None = None,
    root: Path | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    predictions: Path | None = None,
    machine: Annotated[Machine | None, Parameter(name="*", group="Machine", show_default=False)] = None,
) -> None:
    """Score weights on images: accuracy with its uncertainty, calibration, classes, mistakes.

    Example: `ffvit evaluate linear-base-checkpoint.pth --data /data/imagenet/val`

    Parameters
    ----------
    weights
        A run folder, or a file: ours, the paper's released checkpoints, DeiT's and timm's ViT.
    data
        As for train; classes are matched to the network's by name. Of digits, the test split. The data of the run that
        the weights are from, which is the default, are scored on its own test split.
    model
        The network's name, for weights that do not say.
    batch_size
        Images at once on each device.
    crop
        Share of the resized image that the central crop keeps. Default: as the weights say.
    interpolation
        How images are resized. Default: likewise.
    pixel_backend
        What decodes and resizes images: Pillow, bit for bit as timm, or the faster libraries. Default: likewise.
    root
        Where a data set that timm opens lies.
    json_file
        Write the figures here too. Default: `evaluation.json` beside the weights of a run.
    predictions
        Write the answer to every image to this .csv.
    machine
        Where to compute.
    """
    from ffvit.files.atomic_write import atomic_path
    from ffvit.files.output_file import check_output, is_evaluation, is_predictions
    from ffvit.inference.evaluate import evaluate as score
    from ffvit.inference.report import report

    if is_rank_zero():
        if json_file is not None:
            check_output(json_file, "--json", "file with figures of an evaluation", is_evaluation)
        if predictions is not None:
            check_output(predictions, "--predictions", "list of predictions", is_predictions)
    result = score(
        weights,
        data,
        model=model,
        machine=machine,
        batch_size=batch_size,
        crop=crop,
        interpolation=interpolation,
        pixel_backend=pixel_backend,
        root=root,
    )
    if not is_rank_zero():
        return
    console, stderr = Terminal(), Terminal(stderr=True)
    console.print(report(result.evaluation, f"{weights} on {result.data}", result.warnings))
    for bad in result.bad:
        stderr.say(f"not read: {bad}")
    if json_file is None and weights.is_dir():
        json_file = weights / "evaluation.json"
        try:
            check_output(json_file, "--json", "file with figures of an evaluation", is_evaluation)
        except OutputError as error:  # a run that others share may well be read-only
            console.say(f"evaluation.json is not written: {error}")
            json_file = None
    if json_file is not None:
        figures = {
            "weights": str(weights),
            "data": result.data,
            "bad_images": len(result.bad),
            "used_in_training": result.used_in_training,
            **result.evaluation.to_dict(),
        }
        with atomic_path(json_file, "evaluate again") as temporary:
            temporary.write_text(json.dumps(figures, indent=2) + "\n")
        console.say(f"figures in {json_file}")
    if predictions is not None:
        with atomic_path(predictions, "evaluate again") as temporary:
            result.answers.to_csv(temporary, result.names)
        console.say(f"answers in {predictions}")


@app.command
def predict(
    weights: Path,
    images: Annotated[list[Path], Parameter(negative=())],
    *,
    top: Annotated[PositiveInt, Whole] = 5,
    format: Literal["table", "csv", "json"] = "table",  # noqa: A002 (the option's name)
    model: str | None = None,
    engine: Literal["auto", "torch", "compiled", "onnx", "openvino"] = "auto",
    machine: Annotated[Machine | None, Parameter(name="*", group="Machine", show_default=False)] = None,
) -> None:
    """Name what pictures show, with calibrated probabilities.

    Example: `ffvit predict runs/flowers photo.jpg folder/ --top 3 --format csv`

    Parameters
    ----------
    weights
        A run folder, or a file of weights.
    images
        Image files, and folders of them at any depth.
    top
        How many classes each image gets.
    format
        A table to read, or csv (image, rank, class, probability) or json (a line an image) for programs.
    model
        The network's name, for weights that do not say.
    engine
        What answers. auto: PyTorch; for more than a minute's images whatever is measured to be the fastest here.
    machine
        Where to compute.
    """
    from ffvit.inference.predict import predict as predictions
    from ffvit.inference.predict import write_predictions

    read = write_predictions(
        predictions(weights, images, top=top, model=model, machine=machine, engine=engine), format, Terminal()
    )
    if not read:
        raise DataError("none of these images could be read")


@app.command
def prepare(
    source: str,
    out: Path,
    *,
    max_side: Annotated[PositiveInt | None, Whole] = None,
    quality: Annotated[PositiveInt | None, Whole] = None,
    shard_size: PositiveFloat = 256.0,
    workers: Annotated[PositiveInt | None, Whole] = None,
    bad_images: NonNegativeFloat = BAD_IMAGES,
    root: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Pack images into shards: a few large files, each image checked, quick to read on any disk.

    Examples:
      ffvit prepare photos/ shards/                       bytes as they are
      ffvit prepare /data/imagenet shards/ --max-side 512           made smaller

    A prepare that was stopped goes on when the same command is given again.

    Parameters
    ----------
    source
        Images, as for train.
    out
        A folder for the shards.
    max_side
        Make images with a longer side this small, as JPEGs. Default: none is.
    quality
        Of these JPEGs (default: 90). Given, every JPEG is encoded anew.
    shard_size
        MiB of a shard, about.
    workers
        Processes to work with. Default: one a core.
    bad_images
        Unreadable images to leave out (and list) before it stops: below 1 a share of all, but at least 3; from 1 a number.
    root
        Where a data set that timm opens lies.
    overwrite
        Replace what was prepared in the folder before.
    """
    from ffvit.data.prepare.prepare import prepare as pack

    console = Terminal()
    prepared = pack(
        source,
        out,
        root=root,
        max_side=max_side,
        quality=quality,
        shard_size=shard_size,
        workers=workers,
        bad_images=bad_images,
        overwrite=overwrite,
        console=console,
    )
    console.say(str(prepared))


@app.command
def models(pattern: str = "*ff_*") -> None:
    """List networks: parameters, operations, published accuracy and its source.

    Examples: `ffvit models 'ff_*'`, `ffvit models 'deit*'`

    Parameters
    ----------
    pattern
        Names to list, with * and ? as in a shell; ours and timm's.
    """
    from ffvit.profiling.listing import print_models

    print_models(pattern, Terminal())


@app.command
def compare(
    networks: list[str] | None = None,
    *,
    data: str | None = None,
    study: Path | None = None,
    out: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    recipe: str | None = None,
    image: Annotated[list[PositiveInt] | None, Wholes] = None,
    seeds: Annotated[PositiveInt | None, Whole] = None,
    side_seeds: Annotated[NonNegativeInt | None, Whole] = None,
    folds: Annotated[PositiveInt | None, Whole] = None,
    minutes: PositiveFloat | None = None,
    match: Literal["epochs", "flops", "parameters", "time", "latency"] | None = None,
    margin: NonNegativeFloat | None = None,
    controls: Annotated[bool | None, Parameter(negative="--no-controls")] = None,
    search: Annotated[bool | None, Parameter(negative="--no-search")] = None,
    sequential: Annotated[bool | None, Parameter(negative="--no-sequential")] = None,
    max_seeds: Annotated[PositiveInt | None, Whole] = None,
    workers: Annotated[PositiveInt | None, Whole] = None,
    cluster: str | None = None,
    dry_run: bool = False,
    log_file: Path | None = None,
    machine: Annotated[Machine | None, Parameter(name="*", group="Machine", show_default=False)] = None,
    data_fields: Annotated[DataFields | None, Parameter(name="--data", group="Images", show_default=False)] = None,
    recipe_fields: Annotated[
        RecipeFields | None, Parameter(name="--recipe", group="Recipe", show_default=False)
    ] = None,
) -> None:
    """Compare networks in a controlled study: a table, a verdict with its uncertainty, a report.

    Examples:
      ffvit compare                            the question, on handwritten digits
      ffvit compare --data photos/ --minutes 30          on your images, in a time
      ffvit compare ff_small_patch16_224 deit_small_patch16_224 --data photos/
      ffvit compare --study plan.yaml                         a plan's runs (--dry-run prints a plan)
      ffvit compare --study studies/photos --resume            what is left to do

    Parameters
    ----------
    networks
        Networks to compare as they are, ours and timm's. Default: feed-forward and attention in one
        backbone that fits the images and the time, with controls.
    data
        Images, as for train. Default: digits.
    study
        A plan (.yaml), or the folder of a study that was begun; other arguments change it.
    out
        The study folder. Default: a new one in studies/.
    resume
        Resume the study in --study or --out.
    overwrite
        Replace the study folder in --out.
    recipe
        deit, small or digits; single fields are changed below.
    image
        Image size in pixels for all networks: one number for a square, or height and width.
    seeds
        Repetitions: each draws its own split, searches its own learning rate, and trains every arm. Default: 5, or what
        the minutes allow.
    side_seeds
        Repetitions of arms outside the main comparison. Default: all.
    folds
        Cross-validate over so many folds, for small sets.
    minutes
        What the whole study may take, planning, searches, baselines and report included. Default: 30, where the plan is
        chosen for you.
    match
        What all arms have equal: epochs, training FLOPs, parameters, training time, or latency.
    margin
        Equivalent means within so many points of top-1. Default: 1.
    controls
        Also train the body without mixing and with a random one, and trivial baselines on pixels. Default: yes.
    search
        In each repetition, tune each arm's learning rate alike, by validation loss. Default: yes.
    sequential
        Add seeds until every comparison is conclusive, or --max-seeds is reached (error rates hold).
    max_seeds
        With --sequential. Default: 20.
    workers
        Runs at once. Default: one a GPU, or as many as fit in CPU and RAM.
    cluster
        Address of a Ray cluster to run on; `auto` for the one this machine belongs to.
    dry_run
        Print the plan with predicted time and memory, and stop.
    log_file
        Also append everything that is printed to this file, each line with its time. Each run also has its own log in
        the study folder.
    machine
        Where one run computes.
    data_fields
        How the images are split.
    recipe_fields
        Single fields of the recipe.
    """
    from ffvit.run_folder import free_folder
    from ffvit.study import compare as studies
    from ffvit.study.forecast import make_forecast, show_forecast
    from ffvit.study.plan_options import make_plan

    if log_file is not None:
        log_to(log_file)
    folder = out if study is None else study if study.is_dir() else out
    if resume and folder is None:
        raise UserError("--resume needs the study to resume: --study FOLDER")
    if study is not None and study.is_dir() and not resume and out is None:
        raise UserError(f"{study} is a study that was begun: resume it (--resume), or give a new one --out")
    plan = make_plan(
        networks=networks or [],
        source=data,
        study=study if study is not None else folder if resume else None,
        recipe=recipe,
        recipe_fields=recipe_fields,
        data_fields=data_fields,
        image=image,
        machine=machine,
        minutes=minutes,
        changes={
            "seeds": seeds,
            "side_seeds": side_seeds,
            "folds": folds,
            "match": match,
            "margin": margin,
            "controls": controls,
            "search": search,
            "sequential": sequential,
            "max_seeds": max_seeds,
        },
    )
    console = Terminal()
    if dry_run:
        show_forecast(plan, make_forecast(plan, workers), console)
        console.say(f"\n{plan.to_yaml()}")
        return
    name = study.stem if study is not None else Path(plan.data.source).stem or "data"
    where = folder if folder is not None and (resume or folder is out) else free_folder(name, "studies")
    with survive_closed_pipe():
        studies.compare(
            plan, where, resume=resume, overwrite=overwrite, workers=workers, cluster=cluster, console=console
        )


@app.command
def check(
    data: str,
    *,
    near: Annotated[int, Parameter(converter=_whole, validator=cyclopts.validators.Number(gte=0, lte=32))] = 9,
    out: Path = Path("check.csv"),
    root: Path | None = None,
) -> None:
    """Look at every image before training: broken ones, copies, leaks, odd ones.

    Leaves with exit code 1 if something serious was found: broken images, images in two splits or under two labels,
    classes that one split lacks.

    Examples:
      ffvit check /data/flowers               every image of every split opened
      ffvit check flowers.csv --out flowers-check.csv
      ffvit check torch/cifar10 --near 0      only exact copies

    Parameters
    ----------
    data
        Images, as for train.
    near
        How many of 128 bits may differ in the hashes of images that look alike, 0 to 32. 9 finds photographs that were
        re-encoded, resized or cropped by 1 %; 15 crops by 3 %; 0 looks for exact copies alone. Images whose shorter
        side is under 32 pixels are not compared.
    out
        The list of findings, a line for each image and problem.
    root
        Where a data set that timm opens lies.
    """
    from ffvit.data.check.check import check as look_at
    from ffvit.data.check.report import check_findings_file, check_report, write_findings

    check_findings_file(out)
    checked = look_at(data, root=root, near=near)
    console = Terminal()
    console.print(check_report(checked, console.width))
    count = write_findings(checked, out)
    console.say(f"\n{count:,} findings in {out}")
    if checked.serious:
        sys.exit(1)


@app.command
def report(study: Path) -> None:
    """Make the report of a study anew, from its runs alone.

    Example: `ffvit report studies/flowers`

    Parameters
    ----------
    study
        The study folder.
    """
    from ffvit.study.compare import report

    report(study, Terminal())


@app.command
def doctor(out: Path = Path()) -> None:
    """Check this machine: device, libraries, memory, disk, processes; says what is wrong and what to do.

    Exits with 1 if something is broken.

    Parameters
    ----------
    out
        The folder in which runs will be written.
    """
    from ffvit.doctor import doctor as look

    if look(out, Terminal()):
        sys.exit(1)


benchmark = App(name="benchmark", help="Measure how fast things are on this machine.", help_format="plaintext")
app.command(benchmark)


@benchmark.default
def benchmark_networks(
    networks: list[str] | None = None,
    *,
    engines: str = "torch",
    precisions: str | None = None,
    batch: Annotated[PositiveInt | None, Whole] = None,
    image: Annotated[PositiveInt | None, Whole] = None,
    rounds: Annotated[PositiveInt, Whole] = 5,
    seconds: PositiveFloat = 1.0,
    train: Annotated[bool, Parameter(negative="--no-train")] = True,
    accelerator: Literal["auto", "cpu", "cuda"] = "auto",
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    roofline: bool = False,
    out: Path = Path("roofline.png"),
) -> None:
    """Networks measured side by side: images a second, latency, memory, and how near they come to this machine's limit.

    Examples:
      ffvit benchmark ff_base_patch16_224 deit_base_patch16_224 mixer_b16_224
      ffvit benchmark runs/flowers --engines torch,compiled,onnx,openvino --precisions fp32,int8
      ffvit benchmark --roofline               where the time goes: a picture
      ffvit benchmark data photos/             how fast images are read

    Parameters
    ----------
    networks
        Names of ours or of timm's, run folders, files of weights. A run's network is also scored on its test images,
        if an engine or precision is measured that may change its answers. Default: ff_tiny_patch16_224 and
        deit_tiny_patch16_224; with --roofline ff_base_patch16_224.
    engines
        What predicts: torch, compiled, onnx, openvino; several with commas between them.
    precisions
        fp32, bf16, int8; several with commas. Default: fp32, and bf16 where this machine is fast at it.
    batch
        Images at once. Default: 8, on a GPU 128.
    image
        Side of the image in pixels. Default: the network's own.
    rounds
        Turns: every round measures everything once, and what is printed are medians over rounds.
    seconds
        Time of each measurement in a round, about.
    train
        Also measure steps of training.
    accelerator
        What computes. Default: the first GPU, if there is one.
    json_file
        Write every round's numbers there.
    roofline
        Instead, time each part of one network, and draw it under what this machine's memory and arithmetic allow.
    out
        Where that picture goes, a PNG.
    """
    from ffvit.benchmark.command import benchmark as measure

    measure(
        networks or [],
        engines=_listed(engines),
        precisions=_listed(precisions) if precisions is not None else None,
        batch=batch,
        image=image,
        rounds=rounds,
        seconds=seconds,
        train=train,
        accelerator=accelerator,
        json_file=json_file,
        drawing=out if roofline else None,
        console=Terminal(),
    )


@benchmark.command(name="data")
def benchmark_data(
    data: str,
    *,
    recipe: str = "small",
    image: Annotated[PositiveInt, Whole] = 224,
    workers: Annotated[NonNegativeInt | None, Whole] = None,
    seconds: PositiveFloat = 1.0,
    data_fields: Annotated[DataFields | None, Parameter(name="--data", group="Images", show_default=False)] = None,
) -> None:
    """Images a second at each stage on their way to a training batch, and which stage is the limit.

    Parameters
    ----------
    data
        Images, as in `ffvit train --data`.
    recipe
        deit, small or digits: how they are augmented.
    image
        Side of what a network takes, in pixels.
    workers
        Loading processes. Default: one a core.
    seconds
        Time for each of the stages.
    data_fields
        How the images are split.

    Examples:
    --------
    ffvit benchmark data /data/imagenet --recipe deit
    """
    from ffvit.config import recipe as recipes
    from ffvit.data.loader_benchmark import measure
    from ffvit.data.splits import open_splits

    splits = open_splits(_changed(Data(), data_fields).replace(source=data))
    found = measure(splits.train, recipes.named_recipe(recipe), (image, image), workers, seconds)
    console = Terminal()
    console.say(splits.account)
    console.print(found.table())
    console.print(found.words(), markup=False, highlight=False)


def _listed(words: str) -> list[str]:
    """Words with commas between them."""
    return [word.strip() for word in words.split(",") if word.strip()]


def _chosen(
    model: str | None,
    data: str | None,
    recipe: str | None,
    image: list[int] | None,
    config: Path | None,
    start_from: str | None,
    seed: int | None,
    machine: Machine | None,
    data_fields: Data | None,
    recipe_fields: Value | None,
) -> Config:
    """The configuration: from a file or the defaults, with what was given on the command line put over it."""
    from ffvit.config import recipe as recipes
    from ffvit.run_folder import read_config
    from ffvit.training.train import configure

    base = read_config(config) if config is not None else None
    images = _changed(base.data if base else Data(), data_fields)
    if data is not None:
        images = images.replace(source=data)
    how: Recipe | str | None = recipe if recipe is not None else (base.recipe if base else None)
    if recipe_fields is not None:
        if how is None:
            how = "digits" if images.source == "digits" else "small"
        how = _changed(recipes.named_recipe(how) if isinstance(how, str) else how, recipe_fields)
    if image is not None and len(image) > 2:
        raise UserError(f"--image: give one number for a square, or height and width; got {len(image)} numbers")
    return configure(
        model if model is not None else (base.network if base else None),
        images,
        how,
        image=(image[0], image[-1]) if image is not None else None,
        machine=_changed(base.machine if base else Machine(), machine),
        seed=seed if seed is not None else (base.seed if base else 0),
        start_from=start_from if start_from is not None else (base.start_from if base else None),
    )


def _changed(value: Any, given: Value | None) -> Any:
    """A value with the fields that were given on the command line put over its own."""
    if given is None:
        return value
    return value.replace(**{name: getattr(given, name) for name in given.model_fields_set})


def _config_of(folder: Path) -> Config:
    from ffvit.run_folder import Run

    return Run(folder).config


_OF_THE_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR)
"""What the system says of a path that was given, rather than of ffvit."""


def main() -> None:
    """What the `ffvit` command runs."""
    # OpenMP's threads burn their time slice while they wait; where other programs share the processor, that is the
    # time the next step needs. Must be set before PyTorch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with reraise_lost_signals():
            app(sys.argv[1:], console=Terminal(), exit_on_error=False, print_error=False)
    except FfvitError as error:
        _fail(f"{error} [{error.code}]", error.exit_code, error.speaks)
    except cyclopts.CycloptsError as error:
        cause = error.__cause__
        words = _sentences(cause, error) if isinstance(cause, ValidationError) else str(error)
        _fail(f"{words.rstrip()} [{UserError.code}]", UserError.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:  # `ffvit models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        log_exception(error)
        if error.errno not in _OF_THE_PATH or not isinstance(error.filename, str):
            raise
        _fail(f"{error.filename}: {error.strerror} [{UserError.code}]", UserError.exit_code)
    except Exception as error:
        log_exception(error)
        raise
    finally:
        close_log()


def _sentences(error: ValidationError, told: cyclopts.CycloptsError) -> str:
    """What pydantic refused on the way in, as the options were typed."""
    kind = next((each for each in (Recipe, Data, Machine) if each.__name__ in error.title), None)
    if kind is None:  # a single option
        name = told.argument.name if told.argument is not None else ""
        return "\n".join(f"{name}: {fault['msg']}; got {fault['input']!r}" for fault in error.errors())
    options = {Recipe: "--recipe.", Data: "--data.", Machine: "--"}[kind]
    lines = (line.split(": ", 1) for line in error_sentences(error, kind, "").splitlines())
    return "\n".join(f"{options}{field.replace('_', '-')}: {words}" for field, words in lines)


def _fail(words: str, code: int, speaks: bool | None = None) -> None:
    """Say what went wrong, once for all processes of a run, and leave."""
    lines = [f"ffvit: {line}" for line in words.splitlines()]
    if speaks if speaks is not None else os.environ.get("LOCAL_RANK", "0") == "0":
        for line in lines:
            Terminal(stderr=True).say(line)
    else:
        log("\n".join(lines))
    sys.exit(code)


if __name__ == "__main__":
    main()
