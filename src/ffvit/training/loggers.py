"""Where a run's metrics go beside metrics.jsonl: TensorBoard, a CSV table, Weights & Biases, MLflow.

A resumed run goes on in the same places. TensorBoard and the table drop the epochs that it does again; the services cannot,
and get them a second time. The libraries are used directly: Fabric's CSV logger deletes what was there, and Lightning's
loggers for the services need all of Lightning.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pandas as pd
from torch.utils.tensorboard import SummaryWriter

from ffvit.errors import MissingPackageError, UserError
from ffvit.files.atomic_write import atomic_path
from ffvit.files.json_file import read_json
from ffvit.run_folder import Run

Log = Callable[[Mapping[str, float], int], None]
"""Takes an epoch's metrics, named as in `weights/top1`, and the images seen so far."""


def check_loggers(names: Sequence[str]) -> None:
    """Check that the packages of loggers are installed.

    Raises:
        UserError: One is not.
    """
    for name in names:
        if name in SERVICES and importlib.util.find_spec(name) is None:
            raise MissingPackageError(f"--loggers {name}: the package is not installed: pip install 'ffvit[{name}]'")


@contextmanager
def open_loggers(run: Run, images: int, say: Callable[[str], None]) -> Iterator[Log]:
    """Open the loggers of a run.

    Args:
        run: Its configuration says which.
        images: How many it has seen so far.
        say: Told when a service fails: the run goes on without it.

    Raises:
        UserError: A service cannot be used.
    """
    with ExitStack() as stack:
        logs: dict[str, Log] = {}
        for name in run.config.loggers:
            try:
                logs[name] = stack.enter_context((FILES | SERVICES)[name](run, images))
            except Exception as error:
                if name in FILES:
                    raise
                raise UserError(f"--loggers {name}: {error}; then resume with --resume") from None

        def log(metrics: Mapping[str, float], images: int) -> None:
            for name, write in list(logs.items()):
                try:
                    write(metrics, images)
                except Exception as error:
                    if name in FILES:
                        raise
                    say(f"{name}: metrics are no longer sent there ({error})")
                    del logs[name]

        yield log


@contextmanager
def _tensorboard(run: Run, images: int) -> Iterator[Log]:
    # What a resumed run will draw again is cut off.
    with SummaryWriter(str(run.path / "tensorboard"), purge_step=images + 1) as curves:

        def log(metrics: Mapping[str, float], images: int) -> None:
            for name, value in metrics.items():
                curves.add_scalar(name, value, images)

        yield log


@contextmanager
def _csv(run: Run, _images: int) -> Iterator[Log]:
    def write() -> None:
        with atomic_path(run.path / "metrics.csv") as temporary:
            pd.json_normalize(run.metrics(), sep="/").to_csv(temporary, index=False)

    if run.metrics():
        write()
    yield lambda _metrics, _images: write()


@contextmanager
def _wandb(run: Run, _images: int) -> Iterator[Log]:
    import wandb

    name = _ids(run).get("wandb") or secrets.token_hex(4)
    with wandb.init(
        id=name,
        resume="allow",
        project=os.environ.get("WANDB_PROJECT", "ffvit"),
        name=run.path.name,
        config=run.config.model_dump(mode="json"),
        settings=wandb.Settings(silent=True),
    ) as logged:
        _keep_id(run, "wandb", name)
        logged.define_metric("images")
        logged.define_metric("*", step_metric="images")
        yield lambda metrics, images: logged.log({**metrics, "images": images})


@contextmanager
def _mlflow(run: Run, _images: int) -> Iterator[Log]:
    import mlflow

    kept = _ids(run).get("mlflow")
    with mlflow.start_run(run_id=kept, run_name=run.path.name) as active:
        _keep_id(run, "mlflow", active.info.run_id)
        if kept is None:
            fields = pd.json_normalize(run.config.model_dump(mode="json"))
            mlflow.log_params({str(name): fields[name][0] for name in fields})
        yield lambda metrics, images: mlflow.log_metrics(dict(metrics), step=images)


def _ids(run: Run) -> dict[str, str]:
    """What services call the run."""
    if not run.loggers_file.is_file():
        return {}
    return read_json(run.loggers_file, "delete it to log from here on to a new place")


def _keep_id(run: Run, service: str, name: str) -> None:
    with atomic_path(run.loggers_file) as temporary:
        temporary.write_text(json.dumps({**_ids(run), service: name}) + "\n")


Open = Callable[[Run, int], AbstractContextManager[Log]]
FILES: dict[str, Open] = {"tensorboard": _tensorboard, "csv": _csv}
SERVICES: dict[str, Open] = {"wandb": _wandb, "mlflow": _mlflow}
"""Loggers whose packages are optional, and which may fail while a run goes on."""
