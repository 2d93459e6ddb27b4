"""Loggers: what they are given, what a resumed run does with them, and what happens where one cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import ffvit
from commands import here
from ffvit.config.architecture import Network
from ffvit.run_folder import Config, Run
from ffvit.training import loggers
from ffvit.training.loggers import open_loggers


def new_run(folder: Path, *names: str) -> Run:
    return Run.create(folder, Config(network=Network(name="ff_micro_patch2_8"), recipe=ffvit.Recipe(), loggers=names))


def log_epochs(run: Run, *epochs: int, say: Callable[[str], None] = print) -> None:
    with open_loggers(run, 100 * (epochs[0] - 1), say) as log:
        for epoch in epochs:
            row = {"epoch": epoch, "images": 100 * epoch, "loss": 1 / epoch, "weights": {"top1": 0.5}}
            run.append_metrics(row)
            log({"training/loss": 1 / epoch, "weights/top1": 0.5}, row["images"])


def test_the_table_has_the_epochs_of_a_resumed_run_once(tmp_path):
    run = new_run(tmp_path / "run", "csv")
    log_epochs(run, 1, 2, 3)
    run.truncate_metrics(1)
    with open_loggers(run, 100, print):
        assert list(pd.read_csv(run.path / "metrics.csv")["epoch"]) == [1]
    log_epochs(run, 2)
    table = pd.read_csv(run.path / "metrics.csv")
    assert list(table) == ["epoch", "images", "loss", "weights/top1"]
    assert table.to_numpy().tolist() == [[1, 100, 1.0, 0.5], [2, 200, 0.5, 0.5]]
    assert not (run.path / "tensorboard").exists()


def test_curves_drop_the_epochs_that_a_resumed_run_does_again(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = new_run(tmp_path / "run", "tensorboard")
    log_epochs(run, 1, 2, 3)
    log_epochs(run, 2)
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("training/loss")] == [100, 200]


@pytest.mark.parametrize("service", ["wandb", "mlflow"])
def test_a_service_goes_on_with_the_same_run(tmp_path, monkeypatch, service):
    """On this machine alone. Skipped where the extra is not installed."""
    package = pytest.importorskip(service)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    run = new_run(tmp_path / "run", service)
    log_epochs(run, 1)
    name = loggers._ids(run)[service]
    log_epochs(run, 2)
    assert loggers._ids(run) == {service: name}
    if service == "wandb":
        parts = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
        assert parts
        assert all(part.endswith(f"-{name}") for part in parts)
    else:
        history = package.MlflowClient().get_metric_history(name, "training/loss")
        assert [(point.step, point.value) for point in history] == [(100, 1.0), (200, 0.5)]
        assert package.get_run(name).data.params["network.name"] == "ff_micro_patch2_8"


def test_a_service_that_fails_does_not_stop_the_run(tmp_path, monkeypatch):
    @loggers.contextmanager
    def failing(_run, _images):
        def log(_metrics, images):
            if images > 100:
                raise ConnectionError("no route")

        yield log

    monkeypatch.setitem(loggers.SERVICES, "mlflow", failing)
    run, said = new_run(tmp_path / "run", "mlflow", "csv"), []
    log_epochs(run, 1, 2, 3, say=said.append)
    assert said == ["mlflow: metrics are no longer sent there (no route)"]
    assert len(pd.read_csv(run.path / "metrics.csv")) == 3


def test_a_service_that_cannot_be_opened_is_said_in_one_sentence(tmp_path, monkeypatch):
    def refused(_run, _images):
        raise RuntimeError("no key")

    monkeypatch.setitem(loggers.SERVICES, "wandb", refused)
    with pytest.raises(ffvit.UserError, match=r"^--loggers wandb: no key; then resume with --resume$"):
        log_epochs(new_run(tmp_path / "run", "wandb"), 1)


def test_a_missing_package_is_found_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    done = here("train", "--loggers", "csv,wandb", cwd=tmp_path)
    assert "--loggers wandb: the package is not installed: pip install 'ffvit[wandb]' [E-PACKAGE]" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [("tensorbord", "got 'tensorbord', did you mean 'tensorboard'?"), ("csv,tensorboard,wand", "--loggers: must be")],
)
def test_an_unknown_logger(given, sentence):
    assert sentence in here("train", "--loggers", given).stderr


def test_a_run_remembers_its_loggers(tmp_path):
    asked = ffvit.api.config_of(ffvit.config.commands.Train(loggers="none"))
    assert asked.loggers == ()
    asked = ffvit.api.config_of(ffvit.config.commands.Train(loggers="csv, tensorboard"))
    assert asked.loggers == ("csv", "tensorboard")
    (tmp_path / "config.yaml").write_text(asked.to_yaml())
    again = ffvit.api.config_of(ffvit.config.commands.Train(config=tmp_path / "config.yaml"))
    assert again.loggers == asked.loggers
    assert ffvit.api.config_of(ffvit.config.commands.Train()).loggers == ("tensorboard",)
