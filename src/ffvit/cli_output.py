"""What the command line prints of a result, and the exit code it makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffvit import api
from ffvit.command_function import console_of
from ffvit.config import commands, data_commands, deploy_commands, inference_commands, insight_commands
from ffvit.errors import DataError, OutputError, UserError
from ffvit.terminal import Terminal

if TYPE_CHECKING:
    from ffvit.data.check.check import Check
    from ffvit.data.loader_benchmark import Stages
    from ffvit.inference.evaluate import Score
    from ffvit.insight.findings import Inspection


def _evaluate(command: inference_commands.Evaluate) -> None:
    from ffvit.hardware.ranks import is_rank_zero
    from ffvit.inference.report import report
    from ffvit.inference.robustness_report import robustness_report

    score: Score = api.RUN[inference_commands.Evaluate](command)
    if not is_rank_zero():
        return
    console, stderr = Terminal(), Terminal(stderr=True)
    console.print(report(score.evaluation, f"{command.weights} on {score.data}", score.warnings))
    robustness = robustness_report(score, str(command.weights), str(command.reference))
    if robustness is not None:
        console.print(robustness)
    for bad in score.bad:
        stderr.say(f"not read: {bad}")
    json_file = command.json or _written_in_the_run(command, score, "evaluation.json")
    if json_file is not None:
        console.say(f"figures in {json_file}")
    figure = command.figure
    if figure is None and score.robustness is not None:
        figure = _written_in_the_run(command, score, "corruptions.png")
    if figure is not None:
        console.say(f"picture in {figure}")
    if command.predictions is not None:
        console.say(f"predictions in {command.predictions}")


def _written_in_the_run(command: inference_commands.Evaluate, score: Score, name: str) -> Path | None:
    """The file of this name in the run folder, written; None where there is none, it cannot be, or another size was scored."""
    from ffvit.files.output_file import check_output, is_evaluation, is_plot
    from ffvit.inference.evaluation_files import draw_corruptions, write_figures

    folder = Path(str(command.weights))
    if not folder.is_dir() or command.image_size is not None:
        return None
    option, kind, is_ours, write = {
        "evaluation.json": ("--json", "file with figures of an evaluation", is_evaluation, write_figures),
        "corruptions.png": ("--figure", "picture that ffvit drew", is_plot, draw_corruptions),
    }[name]
    try:
        check_output(folder / name, option, kind, is_ours)
        write(score, command.weights, command.reference, folder / name)
    except OutputError as error:  # a run that others share may well be read-only
        Terminal().say(f"{name} is not written: {error}")
        return None
    return folder / name


def _predict(command: inference_commands.Predict) -> None:
    from ffvit.inference.predict import write_predictions

    if not write_predictions(api.RUN[inference_commands.Predict](command), command.format, Terminal()):
        raise DataError("none of these images could be read")


def _inspect(command: insight_commands.Inspect) -> None:
    from ffvit.insight.report.tables import terminal_table

    inspection: Inspection = api.RUN[insight_commands.Inspect](command)
    console = Terminal()
    if inspection.networks:
        console.print(terminal_table(inspection))
    for warning in inspection.warnings:
        console.say(f"Warning: {warning}.")
    if command.json is not None:
        console.say(f"numbers in {command.json}")
    console.say(f"open {command.out}")


def _export(command: deploy_commands.Export) -> None:
    from ffvit.exporting.report import report

    Terminal().print(report(api.RUN[deploy_commands.Export](command)))


def _resize(command: deploy_commands.Resize) -> None:
    Terminal().say(f"weights in {api.RUN[deploy_commands.Resize](command)}")


def _convert(command: deploy_commands.Convert) -> None:
    from ffvit.conversion.report import report

    Terminal().print(report(api.RUN[deploy_commands.Convert](command)))


def _check(command: data_commands.Check) -> int:
    check: Check = api.RUN[data_commands.Check](replace(command, out=command.out or Path("check.csv"), verbose=True))
    return int(check.serious)


def _prepare(command: data_commands.Prepare) -> None:
    Terminal().say(str(api.RUN[data_commands.Prepare](command)))


def _models(command: commands.ListModels) -> None:
    from ffvit.profiling.listing import print_models

    print_models(command.pattern, Terminal())


def _benchmark_data(command: data_commands.BenchmarkData) -> None:
    stages: Stages = api.RUN[data_commands.BenchmarkData](command)
    console = Terminal()
    console.print(stages.table())
    console.print(stages.summary(), markup=False, highlight=False)


def _doctor(command: commands.Doctor) -> int:
    from ffvit.doctor import doctor

    return int(doctor(command.out, Terminal()))


def _print_all(command: commands.Command) -> None:
    """Carry out a command whose result is what it prints, so that --quiet does not hide it."""
    api.RUN[type(command)](replace(command, verbose=True))


def _run(command: commands.Command) -> None:
    """Carry out a command that returns nothing to print."""
    api.RUN[type(command)](command)


def _print_run(command: commands.Train) -> None:
    from ffvit.training.dry_run import forecast_run

    if command.resume:
        raise UserError("--dry-run checks a run that is to begin: leave out --resume")
    config, console = api.config_of(command), Terminal()
    forecast = forecast_run(config, command.out, command.overwrite, console_of(command))
    if forecast is not None:
        forecast.show(console)
        console.say(f"\n{config.to_yaml()}")


def _print_plan(command: commands.Compare) -> None:
    from ffvit.study.forecast import make_forecast, show_forecast
    from ffvit.study.plan_options import plan_of

    plan, console = plan_of(command), Terminal()
    show_forecast(plan, make_forecast(plan, command.jobs), console)
    console.say(f"\n{plan.to_yaml()}")


SHOW: dict[type[commands.Command], Callable[[Any], int | None]] = {
    commands.Train: _run,
    inference_commands.Evaluate: _evaluate,
    inference_commands.Predict: _predict,
    insight_commands.Inspect: _inspect,
    deploy_commands.Resize: _resize,
    deploy_commands.Convert: _convert,
    deploy_commands.Export: _export,
    deploy_commands.Serve: _run,
    commands.Compare: _run,
    commands.Report: _print_all,
    data_commands.Check: _check,
    data_commands.Prepare: _prepare,
    deploy_commands.Push: _run,
    commands.ListModels: _models,
    commands.Benchmark: _print_all,
    data_commands.BenchmarkData: _benchmark_data,
    commands.Doctor: _doctor,
}
"""Carries out a command and prints its result."""

DRY_RUNS: dict[type[commands.Command], Callable[[Any], None]] = {
    commands.Train: _print_run,
    commands.Compare: _print_plan,
}
"""Prints what a command would do."""
