"""The functions of `ffvit`: one per command, with the command's fields as keywords. The command line calls the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffvit.command_function import RUN as RUN
from ffvit.command_function import console_of, fields_without, function_of
from ffvit.config import commands, data_commands, deploy_commands, inference_commands, insight_commands
from ffvit.config.architecture import Architecture, Network
from ffvit.config.choices import choose_data, choose_hardware, choose_recipe
from ffvit.config.recipe import named_recipe
from ffvit.errors import UserError

if TYPE_CHECKING:
    from ffvit.conversion.record import Conversion
    from ffvit.data.check.check import Check
    from ffvit.data.images import BadImageError
    from ffvit.data.loader_benchmark import Stages
    from ffvit.data.prepare.prepare import Prepared
    from ffvit.exporting.command import Export
    from ffvit.inference.evaluate import Score
    from ffvit.inference.predictor import Prediction
    from ffvit.insight.findings import Inspection
    from ffvit.run_folder import Config, Run
    from ffvit.study.findings import Findings


@function_of(commands.Train)
def train(command: commands.Train) -> Run:
    """Returns: The finished run.

    Raises:
        UserError: Something that was given cannot be used.
        RunStoppedError: The run was interrupted, its loss was not finite, the disk is full, or too many images were
            unreadable. What was reached is kept, and `resume` continues it.
    """
    from ffvit.training.train import run_config

    if not command.resume:
        return run_config(config_of(command), out=command.out, overwrite=command.overwrite, console=console_of(command))
    if command.out is None:
        raise UserError("--resume needs the run folder to resume: --out FOLDER")
    kept = "out", "resume", "hardware"
    if fields_without(command, *kept) != fields_without(commands.Train(), *kept):
        raise UserError("--resume continues the run with its own settings: give only --out and where to compute")
    return resume(command.out, hardware=command.hardware, verbose=command.verbose)


def config_of(command: commands.Train) -> Config:
    """The configuration that a command asks for: that of its file or the defaults, with the command's fields over it.

    Raises:
        UserError: A value cannot be used.
    """
    from ffvit.run_folder import read_config
    from ffvit.training.train import configure

    model: Any = command.model
    if not isinstance(model, str | Architecture | Network | None):
        raise UserError(
            f"model: must be a name or an Architecture, for a run must build its network again; got {type(model).__name__}. "
            "Weights of a network go in by start_from, its code as a mixer (docs/custom_mixers.md)"
        )
    base = read_config(command.config) if command.config is not None else None
    data = choose_data(command.data, base.data if base else None)
    recipe = base.recipe if base else named_recipe("digits" if data.source == "digits" else "small")
    return configure(
        command.model if command.model is not None else (base.network if base else None),
        data,
        choose_recipe(command.recipe, recipe),
        image_size=command.image_size,
        hardware=choose_hardware(command.hardware, base.hardware if base else None),
        seed=command.seed if command.seed is not None else (base.seed if base else 0),
        loggers=command.loggers if command.loggers is not None else (base.loggers if base else ("tensorboard",)),
        start_from=command.start_from if command.start_from is not None else (base.start_from if base else None),
    )


@function_of(commands.Resume)
def resume(command: commands.Resume) -> Run:
    """Returns: The finished run.

    Raises:
        UserError: It is no run folder, its checkpoint is damaged, it is finished, or another process writes to it.
        RunStoppedError: As for `train`.
    """
    from ffvit.run_folder import Run
    from ffvit.training import train as training

    hardware = None
    if command.hardware is not None:
        hardware = choose_hardware(command.hardware, Run(command.out).config.hardware)
    return training.resume(command.out, hardware=hardware, console=console_of(command))


@function_of(inference_commands.Evaluate)
def evaluate(command: inference_commands.Evaluate) -> Score:
    """Returns: The metrics, the prediction for each image, and the images that could not be read.

    Raises:
        UserError: The weights, the images or a file to write cannot be used.
    """
    from ffvit.files.atomic_write import atomic_path
    from ffvit.hardware.ranks import is_rank_zero
    from ffvit.inference import evaluate as inference
    from ffvit.inference import evaluation_files as files

    given = command.json, command.predictions, command.figure
    json_file, table, figure = given if is_rank_zero() else (None, None, None)
    files.check_files(json_file, table, figure, bool(command.corruptions))
    more = "corruptions", "severities", "shift"
    fields = fields_without(command, "json", "predictions", "figure", "hardware", "seed", *more)
    extra = inference.Extra(
        **{name: getattr(command, name) for name in more}, seed=command.seed or 0, console=console_of(command)
    )
    score = inference.evaluate(**fields, hardware=choose_hardware(command.hardware), extra=extra)
    if json_file is not None:
        files.write_figures(score, command.weights, command.reference, json_file)
    if table is not None:
        with atomic_path(table, "evaluate again") as temporary:
            score.predictions.to_csv(temporary, score.names)
    if figure is not None:
        files.draw_corruptions(score, command.weights, command.reference, figure)
    return score


@function_of(inference_commands.Predict)
def predict(command: inference_commands.Predict) -> Iterator[Prediction | BadImageError]:
    """Yields: For each image in turn its prediction, or the error that says why it could not be read.

    Raises:
        UserError: The weights cannot be used, a path does not exist, there is no image, the engine cannot run here, or
            the network's logits are not finite.
    """
    from ffvit.inference import predict as inference

    fields = fields_without(command, "format", "hardware")
    return inference.predict(**fields, hardware=choose_hardware(command.hardware))


@function_of(insight_commands.Inspect)
def inspect(command: insight_commands.Inspect) -> Inspection:
    """Returns: What was found; the page and the file `json` show it.

    Raises:
        UserError: The weights or images cannot be used, the networks have other classes, or a file exists.
    """
    from ffvit.insight.command import inspect

    return inspect(command, console_of(command))


@function_of(deploy_commands.Export)
def export(command: deploy_commands.Export) -> Export:
    """Returns: The file, and what was measured of it.

    Raises:
        UserError: The weights or images cannot be used, a package is missing, the format lacks something that the network
            needs, the file exists, or it does not predict what the network predicts.
        DiskFullError: The disk is full; nothing is left behind.
    """
    from ffvit.exporting.command import export

    return export(**fields_without(command))


@function_of(deploy_commands.Resize)
def resize(command: deploy_commands.Resize) -> Path:
    """Returns: The file.

    Raises:
        UserError: The weights cannot be used, cannot be resized so, or the file exists.
    """
    from ffvit.conversion.resize import resize

    return resize(**fields_without(command))


@function_of(deploy_commands.Convert)
def convert(command: deploy_commands.Convert) -> Conversion:
    """Returns: How good the network was after each step, and which step was chosen. The folder holds the chosen run.

    Raises:
        UserError: The network has no attention or weights that are not finite, the images are of other classes or too few,
            or the folder cannot be used.
        RunStoppedError: A training was interrupted; what is finished is kept, and `resume` goes on.
    """
    from ffvit.conversion.command import run

    return run(command, console_of(command))


@function_of(deploy_commands.Serve)
def serve(command: deploy_commands.Serve) -> None:
    """Returns: When the process was asked to end (SIGTERM, Ctrl-C) and what it had accepted is answered.

    Raises:
        UserError: The weights, the address or the token cannot be used.
    """
    from ffvit.serving.command import run

    run(command, console_of(command))


@function_of(commands.Compare)
def compare(command: commands.Compare) -> Findings:
    """Returns: What the study found; also in `report.html`, `report.md` and `results.csv` in its folder.

    Raises:
        UserError: Something that was given cannot be used.
        RunStoppedError: The study was interrupted, or runs failed (the report of the others is written).
    """
    from ffvit.run_folder import free_folder
    from ffvit.study import compare as studies
    from ffvit.study.plan_options import plan_of

    plan = plan_of(command)
    study = Path(command.study) if isinstance(command.study, str | Path) else None
    out = study if command.resume and study is not None and study.is_dir() else command.out
    if out is None:
        out = free_folder((study or Path(plan.data.source)).stem or "data", "studies")
    return studies.compare(
        plan,
        out,
        resume=command.resume,
        overwrite=command.overwrite,
        workers=command.jobs,
        cluster=command.cluster,
        console=console_of(command),
    )


@function_of(commands.Report)
def report(command: commands.Report) -> Findings:
    """Returns: What the study found.

    Raises:
        UserError: It is no study folder, or no run of it was begun.
    """
    from ffvit.study import compare as studies

    return studies.report(command.study, console_of(command))


@function_of(data_commands.Check)
def check(command: data_commands.Check) -> Check:
    """Returns: What was found.

    Raises:
        UserError: The images cannot be used as they are, or the list cannot be written.
        RunStoppedError: A process that opens images was killed.
    """
    from ffvit.data.check.check import check
    from ffvit.data.check.report import check_findings_file, check_report, write_findings

    if command.out is not None:
        check_findings_file(command.out)
    found = check(str(command.data), root=command.root, near=command.near)
    console = console_of(command)
    console.print(check_report(found, console.width))
    if command.out is not None:
        written = write_findings(found, command.out)
        console.print(f"\n{written:,} findings in {command.out}", markup=False, highlight=False)
    return found


@function_of(data_commands.Prepare)
def prepare(command: data_commands.Prepare) -> Prepared:
    """Returns: What was made.

    Raises:
        UserError: Something that was given cannot be used.
        RunStoppedError: The disk is full, too many images cannot be read, or it was interrupted.
    """
    from ffvit.data.prepare.prepare import prepare

    return prepare(**fields_without(command), console=console_of(command))


@function_of(deploy_commands.Push)
def push(command: deploy_commands.Push) -> str:
    """Returns: The address of the repository, or the folder that was written.

    Raises:
        UserError: The run is not finished, the name cannot be one, the folder is not empty, or the Hub refuses.
    """
    from ffvit.exporting.push import push

    return push(**fields_without(command), console=console_of(command))


@function_of(commands.ListModels)
def list_models(command: commands.ListModels) -> list[str]:
    """Returns: The names, ours first, then timm's."""
    from ffvit.models.create import list_models

    return list_models(command.pattern)


@function_of(commands.Benchmark)
def benchmark(command: commands.Benchmark) -> dict[str, Any]:
    """Returns: The measurements, as the file `json` holds them.

    Raises:
        UserError: A network, engine, precision, batch size or file cannot be used.
    """
    from ffvit.benchmarking.command import benchmark

    return benchmark(
        **fields_without(command, "batch_size", "json", "roofline", "out"),
        batch=command.batch_size,
        json_file=command.json,
        drawing=command.out if command.roofline else None,
        console=console_of(command),
    )


@function_of(data_commands.BenchmarkData)
def benchmark_data(command: data_commands.BenchmarkData) -> Stages:
    """Returns: The time of each stage.

    Raises:
        UserError: The images cannot be used, or none of them can be read.
    """
    from ffvit.data.loader_benchmark import measure
    from ffvit.data.splits import open_splits

    data = choose_data(command.data)
    splits = open_splits(data)
    console_of(command).print(splits.account, markup=False, highlight=False, soft_wrap=True)
    recipe, size = choose_recipe(command.recipe, named_recipe("small")), (command.image_size, command.image_size)
    config = None
    if command.network is not None:
        from ffvit.training.train import configure

        hardware = choose_hardware({"workers": command.workers})
        config = configure(command.network, data, recipe, image_size=command.image_size, hardware=hardware)
    stages = measure(splits.train, recipe, size, command.workers, command.seconds)
    if config is None:
        return stages
    from ffvit.training.run_speed import measure_loading

    return replace(stages, trained=measure_loading(config, splits))
