"""One run of a study, in a process of its own: begun, or gone on with from its checkpoint."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
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


def run_job(config: Config, folder: Path, log: Path, threads: int) -> Outcome:
    """Do a run, from its checkpoint if it has one, with its words going to a log file.

    Args:
        config: What to compute.
        folder: The run folder.
        log: Where its words go; added to.
        threads: How many the processor may spend on it; the last bits of the result depend on it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as words, contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
        try:
            if config.hardware.devices * config.hardware.nodes > 1:
                return launched(command(config, folder, log), log)
            _here(config, folder, threads, words)
        except UserError as error:
            return Outcome("refused", str(error))
        except RunStoppedError as error:
            if error.asked:
                return Outcome("stopped", str(error))
            return Outcome("crashed" if isinstance(error, OutOfMemoryError) else "refused", str(error))
        except BaseException as error:  # whatever it is, a run's fault must not end the study
            traceback.print_exc(file=words)
            return Outcome("crashed", f"{type(error).__name__}: {error}")
    return Outcome("done")


def _here(config: Config, folder: Path, threads: int, words: Any) -> None:
    import torch

    from ffvit.training.train import resume, run_config

    torch.set_num_threads(threads)
    if config.hardware.workers is None and device_type(config.hardware) == "cpu":
        config = config.replace(hardware=config.hardware.replace(workers=threads - 1))  # no more than it was given
    console = Terminal(file=words, width=120)
    if _has_checkpoint(folder):
        resume(folder, hardware=config.hardware, console=console)
        return
    _begin_again(folder)
    run_config(config, out=folder, console=console)


def _begin_again(folder: Path) -> None:
    """Empty the folder of a run that was killed before its first checkpoint, perhaps before its configuration was written.

    Raises:
        UserError: Another process is at this run, or files lie there that ffvit did not write.
    """
    if folder.is_dir():
        with FolderLock(folder, "run"):
            clear(folder, RUN)


def command(config: Config, folder: Path, log: Path) -> list[str]:
    """What a user would type to do a run over several processes, from its checkpoint if it has one."""
    if _has_checkpoint(folder):
        return ["ffvit", "train", "--out", str(folder), "--resume"]
    _begin_again(folder)
    file = log.with_suffix(".yaml")
    with atomic_path(file) as temporary:
        temporary.write_text(config.to_yaml())
    return ["ffvit", "train", "--out", str(folder), "--config", str(file)]


def _has_checkpoint(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and Run(folder).has_checkpoint


def launched(command: list[str], log: Path) -> Outcome:
    """Run such a command to its end: the processes it starts find each other as ever."""
    with log.open("a") as words:
        code = subprocess.run(  # noqa: S603
            [sys.executable, "-m", *command], stdout=words, stderr=words, check=False
        ).returncode
    last = log.read_text().strip().splitlines()[-1:] or [""]
    return Outcome("done") if code == 0 else Outcome("refused" if code == 2 else "crashed", last[0])


def process(
    send: Callable[[Outcome], None], wait_for_parent: Callable[[], Any], environment: dict[str, str], *job: Any
) -> None:
    """What a run's own process does: apart from the terminal's signals, and gone as soon as the study is."""
    os.setpgid(0, 0)  # Ctrl-C is the study's to answer: it asks each run to save and stop
    os.environ.update(environment)
    # Loading processes are started as in any run: off the server they would not notice that their run has died.
    multiprocessing.set_start_method(None, force=True)

    def leave_with_parent() -> None:
        wait_for_parent()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    send(run_job(*job))
