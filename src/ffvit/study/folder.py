"""The study folder: the plan, the runs, and what was made of them.

| file | what |
|---|---|
| `study.yaml` | the plan, frozen by its hash when the first run starts |
| `arms.yaml` | every arm spelled out, matched as the plan says |
| `split.csv.gz` | the images as they were when it began |
| `ledger.jsonl` | every change of the plan and every report, with its time |
| `baselines.json` | what trivial methods reach on the same images |
| `search/` | the run folders of the trials |
| `runs/` | the run folders that count |
| `logs/` | the output of the runs |
| `failures.csv` | runs that crashed, and why |
| `costs.json` | what each arm costs to use, measured |
| `results.csv` | a row a run, with nothing in it that depends on time |
| `report.html`, `report.md`, `figures/` | the report |
"""

from __future__ import annotations

import csv
import io
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

FORMAT = 3
"""The format of a study folder; studies of another one are not resumed."""

_CHANGEABLE = {
    "title", "seeds", "side_seeds", "margin", "reference", "comparisons", "sequential", "max_seeds", "minutes", "published",
    "hardware", "factors", "controls", "compromises", "corruptions",
}  # fmt: skip
"""Fields of a plan that may change while its runs stay what they are (arms may only be added: `forecast` checks)."""


class StudyInputs(Value):
    """What a study's runs depend on, as it was when the study began."""

    matched: MatchedArms
    classes: int
    images: str  # what images there are, in a sentence
    train_images: int  # of each repetition, as the next two
    validation_images: int
    test_images: int
    drawn: tuple[str, ...]  # the splits that are drawn at random, anew for every repetition: `test`, `validation`
    groups: int | None = None  # in how many groups the images lie, if they are grouped
    threads: int  # CPU threads a run, on which the last bits of its result depend
    outlook: tuple[str, ...] = ()  # what the plan can show, computed before its runs, a sentence each
    format: int = FORMAT
    fixed: dict[str, Any]  # the fields of the plan that its runs depend on

    @property
    def redrawn_test(self) -> bool:
        """Whether every repetition is tested on images of its own draw."""
        return "test" in self.drawn and bool(self.fixed.get("redraw", True))


def fixed_fields(plan: Plan) -> dict[str, Any]:
    """The fields of a plan that its runs depend on."""
    return plan.model_dump(mode="json", exclude=_CHANGEABLE)


def input_paths(plan: Plan) -> dict[str, Path]:
    """The files and folders that a study's runs read, by what they are: the study must not replace them."""
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
        """Every change of the plan, and every report."""
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
            make_folder(path, STUDY, held, overwrite, input_paths(plan))
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
        check_writable(path, STUDY, overwrite, input_paths(plan) if plan is not None else None)
        if plan is not None:
            check_outside(path, plan.data.source)

    @property
    def plan(self) -> Plan:
        """What the study is."""
        return read_plan(self.plan_file)

    def check(self, plan: Plan) -> None:
        """Check that the runs that are there are part of a plan.

        Raises:
            UserError: Something differs that runs depend on; says what.
        """
        inputs = self.inputs()
        before = inputs.fixed if inputs is not None else fixed_fields(self.plan)
        if changed := differences(before, fixed_fields(plan)):
            raise RunFolderError(
                f"{self.plan_file}: the plan was changed since the study began: {'; '.join(changed[:5])}. Its runs are "
                "of the old plan: put it back as it was, or give the new one another --out"
            )

    def replan(self, plan: Plan) -> None:
        """Write a changed plan, frozen by its hash, and note the change.

        Raises:
            UserError: As `check`.
        """
        self.check(plan)
        self.note_plan()  # as a person may have edited it, before it is replaced
        frozen = {"sha256": plan_hash(plan), "since": self.ledger.events()[0]["time"]}
        self._write(self.plan_file, plan.to_yaml() + yaml.safe_dump({"frozen": frozen}))
        self.note_plan()

    def note_plan(self) -> None:
        """Note the plan in the ledger, if it is not the last one there."""
        self.ledger.note_plan(self.plan, finished=len(list(self.path.glob("runs/*/*/summary.json"))))

    def inputs(self) -> StudyInputs | None:
        """What its runs depend on, as it was when the study began; None before."""
        if not self.arms_file.exists():
            return None
        fields = read_yaml(self.arms_file)
        if isinstance(fields, dict) and fields.get("format", 1) != FORMAT:
            raise RunFolderError(
                f"{self.path}: this study was begun by another version of ffvit (format {fields.get('format', 1)}, now "
                f"{FORMAT}), whose runs cannot be mixed with those of this one. Its report stays as it is in "
                f"{self.report_file.name}; begin a new study with another --out"
            )
        return parse(StudyInputs, fields, str(self.arms_file))

    def write_inputs(self, inputs: StudyInputs) -> None:
        """Write what its runs depend on."""
        self._write(self.arms_file, inputs.to_yaml())

    def remove_leftovers(self) -> None:
        """Remove the temporary files of a process that was killed; called by the process that holds the lock."""
        for folder in (self.path, self.path / "figures"):
            remove_leftovers(folder)

    def note_failure(self, job: Job, reason: str) -> None:
        """Add a run's failure to the list."""
        row = io.StringIO()
        table = csv.writer(row)
        if not self.failures_file.exists():
            table.writerow(("run", "reason"))
        table.writerow((str(job.folder.relative_to(self.path)), escape_formula(" ".join(reason.split()))))
        before = self.failures_file.read_bytes() if self.failures_file.exists() else b""
        with atomic_path(self.failures_file) as temporary:
            temporary.write_bytes(before + row.getvalue().encode(errors="surrogateescape"))

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
        """Write what was measured."""
        self._write(self.costs_file, json.dumps(costs, indent=2) + "\n")

    def baselines(self) -> dict[str, Any]:
        """What trivial methods reached, by seed and name."""
        if not self.baselines_file.exists():
            return {}
        return read_json(self.baselines_file, "delete it, and they are computed again", _Baselines)

    def write_baselines(self, baselines: dict[str, Any]) -> None:
        """Write what trivial methods reached."""
        self._write(self.baselines_file, json.dumps(baselines, indent=2) + "\n")

    @staticmethod
    def _write(path: Path, text: str) -> None:
        with atomic_path(path) as temporary:
            temporary.write_text(text)
