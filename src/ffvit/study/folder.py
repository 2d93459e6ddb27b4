"""The study folder: the plan, the runs, and what was made of them.

| file | what |
|---|---|
| `study.yaml` | the plan, frozen by its hash when the first run starts |
| `arms.yaml` | every arm spelled out, with the budget held |
| `split.csv.gz` | the images as they were when it began |
| `ledger.jsonl` | every change of the plan and every report, with its time |
| `baselines.json` | what trivial methods reach on the same images |
| `search/` | the run folders of the trials |
| `runs/` | the run folders that count |
| `logs/` | what the runs said |
| `failures.csv` | runs that crashed, and why |
| `costs.json` | what each arm costs to use, measured |
| `results.csv` | a row a run, with nothing in it that a clock decides |
| `report.html`, `report.md`, `figures/` | what it shows |
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, InstanceOf, RootModel

from ffvit.config.base import Value, parse
from ffvit.config.strict_yaml import read_yaml
from ffvit.data.folders import check_outside
from ffvit.errors import RunFolderError
from ffvit.files.atomic_write import atomic_path, remove_leftovers
from ffvit.files.csv_formulas import escape_formula, unescape_formula
from ffvit.files.json_file import AnyObject, read_json
from ffvit.files.lock import FolderLock
from ffvit.files.output_folder import STUDY, check_writable, existing_paths, make_folder
from ffvit.study.findings import Cost
from ffvit.study.jobs import Job, differences
from ffvit.study.ledger import Ledger, plan_hash
from ffvit.study.matching import MatchedArms
from ffvit.study.plan import Plan, read_plan

FORMAT = 2
"""What the runs of a study are; another number is another way to split or to search."""

_EXTENDABLE = (
    "title", "seeds", "side_seeds", "margin", "reference", "comparisons", "sequential", "max_seeds", "minutes", "published",
    "hardware", "factors", "controls", "compromises",
)  # fmt: skip
"""Fields of a plan that may change while its runs stay what they are (arms may only be added: `compare` checks)."""


class StudyInputs(Value):
    """What a study stands on, as found when it began.

    Attributes:
        held: Its arms, with the budget held.
        classes: How many the data has.
        images: What images there are, for a person.
        train_images: How many each repetition trains on.
        validation_images: How many it chooses by.
        test_images: How many each repetition is tested on.
        drawn: The parts that are drawn at random, anew for every repetition: `test`, `validation`.
        groups: In how many groups the images lie; None if they are not grouped.
        threads: Processor threads a run, on which the last bits of its result depend.
        outlook: What the plan can show, computed before its runs, a sentence each.
        format: `FORMAT` when it began.
        made_of: The fields of the plan that it follows from.
    """

    held: MatchedArms
    classes: int
    images: str
    train_images: int
    validation_images: int
    test_images: int
    drawn: tuple[str, ...]
    groups: int | None = None
    threads: int
    outlook: tuple[str, ...] = ()
    format: int = 1
    made_of: dict[str, Any]

    @property
    def redrawn_test(self) -> bool:
        """Whether every repetition is tested on images of its own draw."""
        return "test" in self.drawn and bool(self.made_of.get("redraw", True))


def made_of(plan: Plan) -> dict[str, Any]:
    """The fields of a plan that decide what its runs are."""
    return {name: value for name, value in plan.model_dump(mode="json").items() if name not in _EXTENDABLE}


def used_by(plan: Plan) -> dict[str, Path]:
    """What a study's runs read, by what it is: it must not be replaced by the study."""
    places = {
        "the data": plan.data.source,
        "the data set's folder (--data.root)": plan.data.root,
        "the teacher": plan.recipe.teacher,
    }
    return existing_paths(places)


class _Costs(AnyObject):
    machine: str = ""
    arms: dict[InstanceOf[str], Cost] = Field(default_factory=dict)


class _Baseline(AnyObject):
    top1: float
    images: int


class _Baselines(RootModel[dict[str, dict[str, _Baseline]]]):
    pass


class Study:
    """A study folder.

    Args:
        path: The folder.

    Raises:
        UserError: It is no study folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.plan_file.is_file():
            reason = "holds no study.yaml" if self.path.is_dir() else "does not exist"
            raise RunFolderError(f"{self.path}: not a study folder: it {reason}")

    plan_file = property(lambda self: self.path / "study.yaml")
    arms_file = property(lambda self: self.path / "arms.yaml")
    logs = property(lambda self: self.path / "logs")
    split_file = property(lambda self: self.path / "split.csv.gz")
    failures_file = property(lambda self: self.path / "failures.csv")
    costs_file = property(lambda self: self.path / "costs.json")
    results_file = property(lambda self: self.path / "results.csv")
    report_file = property(lambda self: self.path / "report.html")
    baselines_file = property(lambda self: self.path / "baselines.json")

    @property
    def ledger(self) -> Ledger:
        """What was done to the study, and when."""
        return Ledger(self.path / "ledger.jsonl")

    @classmethod
    def create(cls, path: Path, plan: Plan, overwrite: bool = False, lock: FolderLock | None = None) -> Study:
        """A new study folder with its plan in it.

        Args:
            path: The folder.
            plan: What the study is.
            overwrite: Replace a study folder that exists.
            lock: Of the folder; is acquired, and held afterwards. Default: one that is released in the end.

        Raises:
            UserError: As `check_writable`, or the folder cannot be made.
        """
        held = lock or FolderLock(path, "study")
        try:
            make_folder(path, STUDY, held, overwrite, used_by(plan))
            with atomic_path(path / "study.yaml") as temporary:  # first: killed after it, the study can be resumed
                temporary.write_text(plan.to_yaml())
            Ledger(path / "ledger.jsonl").note_plan(plan, finished=0)
        finally:
            if lock is None:
                held.release()
        return cls(path)

    @staticmethod
    def check_writable(path: Path, plan: Plan | None = None, overwrite: bool = False) -> None:
        """Nothing, if a study folder may be made there; see `output_folder.check_writable`.

        Raises:
            UserError: None may.
        """
        check_writable(path, STUDY, overwrite, used_by(plan) if plan is not None else None)
        if plan is not None:
            check_outside(path, plan.data.source)

    @property
    def plan(self) -> Plan:
        """What the study is."""
        return read_plan(self.plan_file)

    def check(self, plan: Plan) -> None:
        """Nothing, if the runs that are there are part of a plan.

        Raises:
            UserError: Something differs that runs depend on; says what.
        """
        ground = self.ground()
        before = ground.made_of if ground is not None else made_of(self.plan)
        if changed := differences(before, made_of(plan)):
            raise RunFolderError(
                f"{self.plan_file}: the plan was changed since the study began: {'; '.join(changed[:5])}. Its runs are "
                "of the old plan: put it back as it was, or give the new one another --out"
            )

    def replan(self, plan: Plan) -> None:
        """Write a changed plan down, frozen by its hash, and note the change.

        Raises:
            UserError: As `check`.
        """
        self.check(plan)
        self.note_plan()  # as a person may have edited it, before it is replaced
        frozen = {"sha256": plan_hash(plan), "since": self.ledger.events()[0]["time"]}
        with atomic_path(self.plan_file) as temporary:
            temporary.write_text(plan.to_yaml() + yaml.safe_dump({"frozen": frozen}))
        self.note_plan()

    def note_plan(self) -> None:
        """Note the plan in the ledger, if it is not the last one there."""
        self.ledger.note_plan(self.plan, finished=len(list(self.path.glob("runs/*/*/summary.json"))))

    def ground(self) -> StudyInputs | None:
        """What the study stands on, as it was when it began."""
        if not self.arms_file.exists():
            return None
        fields = read_yaml(self.arms_file)
        if isinstance(fields, dict) and fields.get("format", 1) != FORMAT:
            raise RunFolderError(
                f"{self.path}: this study was begun by another version of ffvit, which split images and searched rates "
                f"otherwise (format {fields.get('format', 1)}, now {FORMAT}). Its report stays as it is in "
                f"{self.report_file.name}; begin a new study with another --out"
            )
        return parse(StudyInputs, fields, str(self.arms_file))

    def stand_on(self, ground: StudyInputs) -> None:
        """Write down what the study stands on."""
        with atomic_path(self.arms_file) as temporary:
            temporary.write_text(ground.to_yaml())

    def remove_leftovers(self) -> None:
        """Remove what a process that was killed was writing; asked by the process that holds the lock."""
        for inside in (self.path, self.path / "figures"):
            remove_leftovers(inside)

    def note_failure(self, job: Job, reason: str) -> None:
        """Add a run's failure to the list."""
        new = not self.failures_file.exists()
        with self.failures_file.open("a", newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = csv.writer(file)
            if new:
                rows.writerow(("run", "reason"))
            rows.writerow((str(job.folder.relative_to(self.path)), escape_formula(" ".join(reason.split()))))

    def failures(self) -> dict[str, str]:
        """The last failure of each run that had one, by its folder within the study."""
        if not self.failures_file.exists():
            return {}
        with self.failures_file.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = [row for row in csv.reader(line.replace("\0", "") for line in file) if len(row) == 2]
        return {run: unescape_formula(reason) for run, reason in rows[1:]}

    def failed(self) -> frozenset[Path]:
        """The folders of runs that had a failure."""
        return frozenset(self.path / name for name in self.failures())

    def costs(self) -> dict[str, Any]:
        """What was measured of each arm, by name; and of the machine, under `machine`."""
        if not self.costs_file.exists():
            return {}
        return read_json(self.costs_file, "delete it, and it is measured again", _Costs)

    def write_costs(self, costs: dict[str, Any]) -> None:
        """Write down what was measured."""
        with atomic_path(self.costs_file) as temporary:
            temporary.write_text(json.dumps(costs, indent=2) + "\n")

    def baselines(self) -> dict[str, Any]:
        """What trivial methods reached, by seed and name."""
        if not self.baselines_file.exists():
            return {}
        return read_json(self.baselines_file, "delete it, and they are computed again", _Baselines)

    def write_baselines(self, baselines: dict[str, Any]) -> None:
        """Write down what trivial methods reached."""
        with atomic_path(self.baselines_file) as temporary:
            temporary.write_text(json.dumps(baselines, indent=2) + "\n")
