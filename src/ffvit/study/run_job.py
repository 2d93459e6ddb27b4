"""One run of a study, in a process of its own: started, or resumed from its checkpoint."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from ffvit.errors import OutOfMemoryError, RunStoppedError, UserError
from ffvit.files.atomic_write import atomic_path
from ffvit.files.lock import FolderLock
from ffvit.files.output_folder import RUN, clear
from ffvit.hardware.devices import device_type
from ffvit.run_folder import Config, Run
from ffvit.terminal import Terminal


@dataclass(frozen=True)
class Outcome:
    """How a run's process ended: `done`; `stopped` as it was asked to; `refused`, which it would be again; `crashed`."""

    status: Literal["done", "stopped", "refused", "crashed"]
    reason: str = ""


def run_job(config: Config, folder: Path, log: Path, threads: int, corruptions: tuple[str, ...] = ()) -> Outcome:
    """Do a run, from its checkpoint if it has one, with its output appended to a log file; then score it on corruptions."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            console = Terminal(file=output, width=120)
            if (folder / "summary.json").is_file() and corruptions:
                pass  # it is trained, and left to be scored
            elif config.hardware.devices * config.hardware.nodes > 1:
                outcome = run_command(train_command(config, folder, log), log)
                if outcome.status != "done":
                    return outcome
            else:
                _train(config, folder, threads, console)
            if corruptions:
                _score(config, folder, threads, corruptions, console)
        except UserError as error:
            return Outcome("refused", str(error))
        except OutOfMemoryError as error:
            return Outcome("crashed", str(error))
        except RunStoppedError as error:
            return Outcome("stopped" if error.asked else "refused", str(error))
        except BaseException as error:  # whatever it is, a run's fault must not end the study
            traceback.print_exc(file=output)
            return Outcome("crashed", f"{type(error).__name__}: {error}")
    return Outcome("done")


def _train(config: Config, folder: Path, threads: int, console: Terminal) -> None:
    import torch

    from ffvit.training.train import resume, run_config

    torch.set_num_threads(threads)
    config = _with_workers(config, threads)
    if _has_checkpoint(folder):
        resume(folder, hardware=config.hardware, console=console)
    else:
        _clear(folder)
        run_config(config, out=folder, console=console)


def _score(config: Config, folder: Path, threads: int, corruptions: tuple[str, ...], console: Terminal) -> None:
    import torch

    from ffvit.study.corrupted import score_run

    torch.set_num_threads(threads)
    score_run(folder, corruptions, _with_workers(config, threads).hardware, console)


def _with_workers(config: Config, threads: int) -> Config:
    """The configuration with no more loading processes on a processor than threads that the run was given."""
    if config.hardware.workers is None and device_type(config.hardware) == "cpu":
        return config.replace(hardware=config.hardware.replace(workers=threads - 1))
    return config


def train_command(config: Config, folder: Path, log: Path) -> list[str]:
    """The command that does a run over several processes, from its checkpoint if it has one."""
    if _has_checkpoint(folder):
        return ["ffvit", "train", "--out", str(folder), "--resume"]
    _clear(folder)
    file = log.with_suffix(".yaml")
    with atomic_path(file) as temporary:
        temporary.write_text(config.to_yaml())
    return ["ffvit", "train", "--out", str(folder), "--config", str(file)]


def run_command(command: list[str], log: Path) -> Outcome:
    """Run such a command to its end."""
    with log.open("a") as output:
        code = subprocess.run(  # noqa: S603
            [sys.executable, "-m", *command], stdout=output, stderr=output, check=False
        ).returncode
    last = log.read_text().strip().splitlines()[-1:] or [""]
    return Outcome("done") if code == 0 else Outcome("refused" if code == 2 else "crashed", last[0])


def _has_checkpoint(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and Run(folder).has_checkpoint


def _clear(folder: Path) -> None:
    """Empty the folder of a run that was killed before its first checkpoint, perhaps before its configuration was written.

    Raises:
        UserError: Another process is at this run, or files lie there that ffvit did not write.
    """
    if folder.is_dir():
        with FolderLock(folder, "run"):
            clear(folder, RUN)


def process_main(sender: Connection, environment: dict[str, str], *job: Any) -> None:
    """A run's process: it hears none of the terminal's signals, sends its outcome, and ends as soon as the study does."""
    os.setpgid(0, 0)  # Ctrl-C is the study's to answer: it asks each run to save and stop
    os.environ.update(environment)
    # Loading processes are started as in any run: off the server they would not notice that their run has died.
    multiprocessing.set_start_method(None, force=True)
    parent: Any = multiprocessing.parent_process()

    def exit_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
    sender.send(run_job(*job))
