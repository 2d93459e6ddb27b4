"""What to do after a study: commands that work as they stand."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
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
    arms: Iterable[ArmFinding],
    results: Mapping[str, Sequence[Result]],
) -> tuple[tuple[str, str], ...]:
    """What for, and the command."""
    steps, study = [], shlex.quote(str(folder))
    if comparisons and plan.folds is None and not comparisons[0].conclusive:
        more = max(2 * len(plan.seeds), len(plan.seeds) + 2)
        steps.append(("More repetitions", f"ffvit compare --study {study} --resume --seeds {more}"))
    reached = {arm.name: arm.top1.value for arm in arms if arm.top1 is not None and arm.role != "control"}
    if not reached:
        return tuple(steps)
    best = max(reached, key=lambda name: reached[name])
    run = max(results[best], key=lambda result: result.correct.mean()).job
    path = shlex.quote(str(run.folder))
    if run.config.recipe.minutes is None:
        train = f"ffvit train --config {path}/config.yaml --epochs {LONGER * run.config.recipe.epochs}"
        steps.append((f"Train {best} {LONGER} times as long", f"{train} --out runs/{run.folder.parent.name}"))
    steps.append((f"Predict with {best}", f"ffvit predict {path} IMAGE_OR_FOLDER"))
    ablation = folder / "ablation.yaml"
    if ablation.is_file():
        out = shlex.quote(f"{folder}-ablation")
        command = f"ffvit compare --study {shlex.quote(str(ablation))} --out {out}"
        steps.append(("See which piece carries the accuracy", command))
    return tuple(steps)


def write_ablation(folder: Path, plan: Plan, arm: Arm) -> None:
    """Write `ablation.yaml`: a plan that changes one piece of an arm at a time."""
    body = arm.network.architecture
    if body is None or len({branch.axis for branch in body.block}) < len(body.block):
        return  # a body of timm's, or two branches along one axis, which no path tells apart
    if body.replaced:
        return  # a block's branches are changed by one path, and here blocks differ
    pieces: dict[str, dict[str, object]] = {"as it is": {}}
    if body.position != "none":
        pieces["no position"] = {"network.position": "none"}
    if any(branch.normalised_axis != "features" for branch in body.block):
        pieces["every norm over features"] = {f"network.{branch.axis}.norm": "features" for branch in body.block}
    pieces["no norm"] = {f"network.{branch.axis}.norm": "none" for branch in body.block}
    if body.depth > 1:
        pieces["half the depth"] = {"network.depth": body.depth // 2}
    narrow = body.width // 2
    if narrow and all(narrow % (branch.heads or 1) == 0 for branch in body.block):
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
