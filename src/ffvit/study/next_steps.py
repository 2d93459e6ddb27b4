"""What to do after a study: commands that work as they stand."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from ffvit.files.atomic_write import atomic_path
from ffvit.study.arms import Arm
from ffvit.study.findings import ArmFinding, Comparison
from ffvit.study.plan import Plan
from ffvit.study.results import Result

LONGER = 3
"""How many times as long the winner is trained."""


def next_steps(
    folder: Path,
    plan: Plan,
    comparisons: Sequence[Comparison],
    found: Mapping[str, ArmFinding],
    results: Mapping[str, Sequence[Result]],
) -> tuple[tuple[str, str], ...]:
    """What for, and the command."""
    steps = []
    study = shlex.quote(str(folder))
    if comparisons and plan.folds is None and not all(each.conclusive for each in comparisons[:1]):
        more = max(2 * len(plan.seeds), len(plan.seeds) + 2)
        steps.append(("More repetitions", f"ffvit compare --study {study} --resume --seeds {more}"))
    best = max(
        (arm for arm in found.values() if arm.top1 is not None and arm.role != "control"),
        key=lambda arm: arm.top1.value if arm.top1 is not None else 0.0,
        default=None,
    )
    if best is None:
        return tuple(steps)
    run = max(results[best.name], key=lambda result: result.correct.mean()).job
    path = shlex.quote(str(run.folder))
    if run.config.recipe.minutes is None:
        epochs = LONGER * run.config.recipe.epochs
        steps.append(
            (
                f"Train {best.name} {LONGER} times as long",
                f"ffvit train --config {path}/config.yaml --epochs {epochs} --out runs/{run.folder.parent.name}",
            )
        )
    steps.append((f"Predict with {best.name}", f"ffvit predict {path} IMAGE_OR_FOLDER"))
    ablation = folder / "ablation.yaml"
    if ablation.is_file():
        out = shlex.quote(f"{folder}-ablation")
        steps.append(
            ("See which piece carries the accuracy", f"ffvit compare --study {shlex.quote(str(ablation))} --out {out}")
        )
    return tuple(steps)


def write_ablation(folder: Path, plan: Plan, arm: Arm) -> None:
    """Write `ablation.yaml`: a plan that changes one piece of an arm at a time."""
    its = arm.network.architecture
    if its is None or len({branch.axis for branch in its.block}) < len(its.block):
        return  # a body of timm's, or two branches along one axis, which no path tells apart
    pieces: dict[str, dict[str, object]] = {"as it is": {}}
    if its.position != "none":
        pieces["no position"] = {"network.position": "none"}
    if any(branch.normalised_axis != "features" for branch in its.block):
        pieces["every norm over features"] = {f"network.{branch.axis}.norm": "features" for branch in its.block}
    pieces["no norm"] = {f"network.{branch.axis}.norm": "none" for branch in its.block}
    if its.depth > 1:
        pieces["half the depth"] = {"network.depth": its.depth // 2}
    narrow = its.width // 2
    if narrow and all(narrow % (branch.heads or 1) == 0 for branch in its.block):
        pieces["half the width"] = {"network.width": narrow}
    ablation = Plan(
        title=f"Which piece of {arm.name} carries the accuracy?",
        network=arm.network,
        recipe=arm.recipe,
        data=plan.data,
        hardware=plan.hardware,
        factors={"piece": pieces},
        reference="as it is",
        seeds=(0, 1, 2),
    )
    with atomic_path(folder / "ablation.yaml") as temporary:
        temporary.write_text(ablation.to_yaml())
