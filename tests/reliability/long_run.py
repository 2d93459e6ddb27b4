"""Train on real images for minutes or hours with a fault every few minutes, and compare the end with an undisturbed run.

Run: python tests/reliability/long_run.py --data photos/ --minutes 60

The faults are drawn: SIGKILL, SIGTERM, SIGINT and SIGUSR1, to one process or its group; a loading process killed; the last
checkpoint torn. After each, the run goes on with another number of loading processes. Prints a Markdown table; leaves with
exit code 1 if a single bit differs. The undisturbed run goes on at the same time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil

HOOK = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import kills
from pathlib import Path
kills.listen_to_steps(Path(sys.argv.pop(1)))
from ffvit.training import loop
loop.SAVE_EVERY = float(sys.argv.pop(1))
from ffvit.cli import main
main()
"""
"""Runs the command with a listener that notes a hash of gradients and weights of every step."""

FAULTS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGUSR1", "SIGKILL to the group", "SIGTERM to the group", "loading process killed",
          "checkpoint torn")  # fmt: skip


@dataclass
class Fault:
    """One that happened: seconds of training before it, what it was, how the command ended, images seen by then."""

    at: float
    what: str
    ended: str
    images: int


class Training:
    """`ffvit train` in a process group of its own.

    Args:
        folder: Where its log and hashes go.
        arguments: As a person types them.
        save_every: Seconds between checkpoints within an epoch.
    """

    def __init__(self, folder: Path, arguments: Sequence[object], save_every: float) -> None:
        helpers = str(Path(__file__).resolve().parents[1])
        command = [sys.executable, "-c", HOOK, helpers, folder / "steps", save_every, "train", *arguments]
        self.log = folder / "log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [str(each) for each in command],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            )

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit code, or None if it still goes on after so many seconds."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def workers(self) -> list[psutil.Process]:
        """Its loading processes."""
        return [each for each in psutil.Process(self.process.pid).children(recursive=True) if "pt_data" in each.name()]

    def strike(self, what: str, draw: random.Random) -> str:
        """Inject a fault; what it came to be."""
        if what == "loading process killed":
            workers = self.workers()
            if workers:
                draw.choice(workers).kill()
                return what
            what = "SIGKILL"
        number = signal.SIGKILL if what == "checkpoint torn" else getattr(signal, what.split()[0])
        (os.killpg if "group" in what else os.kill)(self.process.pid, number)
        return what


def tear(run: Path, draw: random.Random) -> None:
    """Cut the last checkpoint off, as a file system that lost its last writes."""
    state = run / "checkpoint" / "state.pt"
    if state.exists():
        os.truncate(state, draw.randrange(state.stat().st_size))


def rows(run: Path) -> list[dict]:
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [{k: v for k, v in json.loads(each).items() if k not in ("seconds", "images_per_second")} for each in lines]


def steps(file: Path) -> dict[tuple[str, str], set[str]]:
    """The hashes of every step, of all times it was made."""
    made: dict[tuple[str, str], set[str]] = {}
    for line in file.read_text().splitlines():
        epoch, step, *hashes = line.split()
        made.setdefault((epoch, step), set()).add(" ".join(hashes))
    return made


def compared(one: Path, other: Path) -> dict[str, bool]:
    """What is the same of two runs."""
    same = {
        f"every epoch's figures ({len(rows(one / 'run'))})": rows(one / "run") == rows(other / "run"),
    }
    for file in ("best.safetensors", "last.safetensors", "predictions.csv"):
        same[file] = (one / "run" / file).read_bytes() == (other / "run" / file).read_bytes()
    its, theirs = steps(one / "steps"), steps(other / "steps")
    same[f"gradients and weights of every step ({len(its):,})"] = its == theirs
    return same


def disturbed(
    folder: Path,
    arguments: Sequence[object],
    every: tuple[float, float],
    draw: random.Random,
    most: int = 1000,
) -> tuple[list[Fault], float]:
    """The same training with faults: so many, as its time allows."""
    run, faults, began = folder / "run", [], time.monotonic()

    def start() -> Training:
        workers = ["--workers", draw.choice([0, 1, 2, 3])]
        if (run / "config.yaml").exists():
            return Training(folder, ["--out", run, "--resume", *workers], 20.0)
        return Training(folder, ["--out", run, *arguments, *workers], 20.0)

    training = start()
    while True:
        code = training.wait(draw.uniform(*every))
        if code == 0:
            return faults, time.monotonic() - began
        if code is not None:
            raise SystemExit(f"the training ended with code {code}; see {training.log}")
        what = training.strike(draw.choice(FAULTS), draw)
        if what == "loading process killed" and training.wait(30) is None:
            ended = "went on"
        else:
            code = training.wait(120)
            if code is None:
                raise SystemExit(f"{what}: the training neither stopped nor went on; see {training.log}")
            ended = signal.Signals(-code).name if code < 0 else f"code {code}"
            if what == "checkpoint torn":
                tear(run, draw)
            if code != 0:
                training = start()
        images = max((row["images"] for row in rows(run)), default=0)
        faults.append(Fault(time.monotonic() - began, what, ended, images))
        if len(faults) >= most:
            raise SystemExit(f"no end after {most} faults: give them more time, --every")
        print(f"{timedelta(seconds=round(faults[-1].at))}  {what}: {ended}", file=sys.stderr, flush=True)


def main() -> None:
    """Both runs, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="images, as `ffvit train --data` takes them")
    parser.add_argument("--minutes", type=float, default=60.0, help="of both runs, about")
    parser.add_argument(
        "--every", type=float, nargs=2, default=(60.0, 240.0), metavar=("LEAST", "MOST"), help="seconds"
    )
    parser.add_argument("--out", type=Path, default=Path("long-run"), help="a new folder for both runs")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("arguments", nargs="*", help="more for `ffvit train`, after --")
    given = parser.parse_args()
    if given.out.exists():
        raise SystemExit(f"{given.out} exists: give a new --out")
    arguments = ["--data", given.data, "--precision", "fp32", *given.arguments]
    probe, whole, struck = (given.out / name for name in ("probe", "undisturbed", "disturbed"))
    for folder in (probe, whole, struck):
        folder.mkdir(parents=True)

    def epochs(count: int) -> list[object]:
        return [*arguments, "--recipe.epochs", count, "--recipe.warmup-epochs", min(1, count / 5)]

    began = time.monotonic()
    run_whole(probe, epochs(2))
    first, second = (
        row["seconds"] for row in map(json.loads, (probe / "run" / "metrics.jsonl").read_text().splitlines())
    )
    count = max(3, round(given.minutes * 60 / (second - first)))
    print(f"an epoch takes {second - first:.0f} s: {count} epochs", file=sys.stderr, flush=True)
    shutil.rmtree(probe)
    with ThreadPoolExecutor() as beside:
        whole_run = beside.submit(run_whole, whole, epochs(count))
        faults, took = disturbed(struck, epochs(count), tuple(given.every), random.Random(given.seed))
        undisturbed = whole_run.result()
    same = compared(whole, struck)
    print(f"| minute | fault | the command ended with | images seen in whole epochs |\n|{'---|' * 4}")
    for each in faults:
        print(f"| {each.at / 60:.1f} | {each.what} | {each.ended} | {each.images:,} |")
    print(f"\n| compared with the undisturbed run | |\n|{'---|' * 2}")
    for what, equal in same.items():
        print(f"| {what} | {'the same, bit for bit' if equal else '**differs**'} |")
    kinds = ", ".join(f"{number} x {what}" for what, number in sorted(Counter(each.what for each in faults).items()))
    print(
        f"\n{len(faults)} faults ({kinds}) in {took / 60:.0f} minutes; undisturbed {undisturbed / 60:.0f} minutes; "
        f"{(time.monotonic() - began) / 60:.0f} minutes in all; {count} epochs of {given.data}."
    )
    sys.exit(not all(same.values()))


def run_whole(folder: Path, arguments: Sequence[object]) -> float:
    """A training that nothing disturbs; its seconds."""
    began = time.monotonic()
    training = Training(folder, ["--out", folder / "run", *arguments], 600.0)
    if training.wait():
        raise SystemExit(f"the undisturbed training failed; see {training.log}")
    return time.monotonic() - began


if __name__ == "__main__":
    main()
