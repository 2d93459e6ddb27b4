"""The results of a study's runs, read from their folders: a row a run, and the predictions image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from ffvit.errors import RunFolderError
from ffvit.files.atomic_write import atomic_path
from ffvit.files.csv_formulas import escape_formula
from ffvit.files.json_file import AnyObject, read_json
from ffvit.inference.predictions import read_predictions
from ffvit.profiling.count import count_described
from ffvit.run_folder import Run
from ffvit.study.arms import Arm
from ffvit.study.corrupted import read_shares
from ffvit.study.findings import Key
from ffvit.study.folder import Study
from ffvit.study.jobs import Job
from ffvit.study.plan import Plan


@dataclass(frozen=True, eq=False)
class Result:
    """A finished run that counts."""

    job: Job
    summary: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    predictions: pd.DataFrame
    corrupted: Float[np.ndarray, " images"] | None = None
    """Under which share of the corruptions each test image is predicted correctly; None: not scored on them."""

    @property
    def key(self) -> Key:
        """Its seed and fold: runs of different arms with the same key are a pair."""
        return self.job.key

    @property
    def correct(self) -> Bool[np.ndarray, " images"]:
        """Whether each test image was predicted correctly."""
        return self.predictions["correct"].to_numpy(dtype=bool)


def read_results(jobs: Sequence[Job]) -> list[Result]:
    """The finished runs among these."""
    results = []
    for job in jobs:
        if not job.trained():
            continue
        run = Run(job.folder)
        summary = read_json(run.summary_file, f"delete {run.path} to have the run done again with --resume", _Summary)
        predictions = read_predictions(run.predictions_file)
        shares = read_shares(run.path, job.corruptions, len(predictions))
        results.append(Result(job, summary, run.metrics(), predictions, shares))
    return results


class _Value(AnyObject):
    value: float


class _Test(AnyObject):
    top1: _Value
    loss: _Value
    balanced_accuracy: float
    macro_f1: float
    images: int


class _Summary(AnyObject):
    """What a study needs of a run's summary."""

    test: _Test
    weights: str
    images_seen: int
    parameters: int
    seconds: float


def paired_results(arm: Sequence[Result], reference: Sequence[Result]) -> list[tuple[Result, Result]]:
    """The runs of two arms that have seed and fold in common, in order.

    Raises:
        UserError: Two runs of a pair predicted different images.
    """
    by_key = {result.key: result for result in reference}
    pairs = [(result, by_key[result.key]) for result in sorted(arm, key=_order) if result.key in by_key]
    for mine, theirs in pairs:
        if not mine.predictions["image"].equals(theirs.predictions["image"]):
            raise RunFolderError(
                f"{mine.job.folder} and {theirs.job.folder} predicted different test images (some could not be read, or "
                "the folder of images changed between them), so they cannot be paired"
            )
    return pairs


def _order(result: Result) -> tuple[int, int]:
    return result.key[0], result.key[1] or 0


def write_results(study: Study, plan: Plan, arms: Sequence[Arm], results: Sequence[Result], classes: int) -> Path:
    """Write `results.csv`, a row a run: the same runs make the same bytes, however often they were interrupted."""
    rows = []
    place = {arm.name: number for number, arm in enumerate(arms)}
    for result in sorted(results, key=lambda result: (place[result.job.arm], *_order(result))):
        job, summary, test = result.job, result.summary, result.summary["test"]
        arm, recipe = arms[place[job.arm]], job.config.recipe
        row: dict[str, Any] = {
            "arm": escape_formula(arm.name),
            "role": arm.role,
            "seed": job.seed,
            "fold": job.fold,
            "top1": test["top1"]["value"],
            "loss": test["loss"]["value"],
            "balanced_accuracy": test["balanced_accuracy"],
            "macro_f1": test["macro_f1"],
            "test_images": test["images"],
            "weights": summary["weights"],
            "epochs": recipe.epochs if recipe.minutes is None else None,
            "images_seen": summary["images_seen"],
            "parameters": summary["parameters"],
            "flops": count_described(arm.network, classes).flops,
        }
        if plan.corruptions:
            row["corrupted_top1"] = None if result.corrupted is None else result.corrupted.mean()
        if plan.search is not None:
            row |= {field: getattr(recipe, field) for field in plan.search.fields}
        rows.append(row)
    with atomic_path(study.results_file) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")
    return study.results_file
