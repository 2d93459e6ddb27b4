"""What comes after the last epoch: the chosen weights are evaluated once on the held-out test split."""

from __future__ import annotations

import resource
import sys

import torch
from rich.console import Group
from rich.text import Text
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from ffvit.hardware.ranks import on_rank_zero
from ffvit.inference.calibration import fit_temperature
from ffvit.inference.evaluator import readable_names
from ffvit.inference.metrics import Evaluation, compute_metrics
from ffvit.inference.ood import KEPT, energy_score, fit_threshold
from ffvit.inference.predictions import Predictions
from ffvit.inference.report import report
from ffvit.models.weights_file import read_weights
from ffvit.run_folder import Run
from ffvit.terminal import percent
from ffvit.training.checkpoint import Progress, gather_weights
from ffvit.training.progress import TrainingDisplay, format_duration
from ffvit.training.setup import Setup
from ffvit.training.unreadable import UnreadableImages


def _peak_memory(device: torch.device) -> float:
    """MiB that this process has held at most: on a GPU its tensors, else all that is resident, PyTorch included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def evaluate_at_end(
    setup: Setup, run: Run, progress: Progress, chosen: Predictions | None, display: TrainingDisplay
) -> Group:
    """Score the weights that the validation split chose on the test split, write the figures down, and report them.

    Args:
        setup: What the run trained with; its network gets the chosen weights.
        run: Where the figures are written.
        progress: How far the run is: at its end.
        chosen: What the chosen weights predict for the validation split. Default: predicted here.
        display: Where to show progress.
    """
    fabric, step, splits, best = setup.fabric, setup.step, setup.splits, progress.best
    gather_weights(fabric, run.last_file, step.plain, splits.classes)
    temperature = threshold = None
    if setup.validation is not None:
        state, _ = read_weights(run.best_file)
        set_model_state_dict(step.plain, dict(state), options=StateDictOptions(full_state_dict=True))
        if chosen is None:
            with step.eagerly():
                chosen, _ = setup.validation(step.plain)
        if not chosen.correct.all():  # without a mistake, ever more certain is ever better: nothing to fit
            temperature = fit_temperature(chosen.logits, chosen.labels[chosen.logits_of])
        threshold = fit_threshold(chosen.logits)
        gather_weights(
            fabric, run.best_file, step.plain, splits.classes, temperature=temperature, ood_threshold=threshold
        )
    display.scoring("test split")
    with step.eagerly():
        predictions, bad = setup.evaluator(splits.test)(step.plain)
    unreadable = UnreadableImages(setup, run, progress, display.say)
    unreadable.add(bad)
    unreadable.write()
    evaluation = compute_metrics(predictions, temperature)
    rejected = None
    if threshold is not None and len(predictions.logits):
        rejected = float((energy_score(predictions.logits) < threshold).mean())
    weights = f"the {best['which']} of epoch {best['epoch']}" if best else "the last weights"

    def write() -> None:
        names, groups = readable_names(splits.test, bad), splits.test_groups
        if groups is not None:  # of the images that could be read
            group_of = {splits.test.name(index): group for index, group in enumerate(groups)}
            groups = tuple(group_of[name] for name in names)
        predictions.to_csv(run.predictions_file, names, groups)
        run.write_summary(
            {
                "network": setup.config.network.title,
                "parameters": sum(parameter.numel() for parameter in step.plain.parameters()),
                "images": splits.account,
                "weights": weights,
                "validation": best or None,
                "temperature": temperature,
                "ood_threshold": threshold,
                "test_none_of_these": rejected,
                "test": evaluation.to_dict(),
                "bad_images": len(progress.bad_images),
                "skipped_steps": progress.skipped,
                "images_seen": progress.images,
                "seconds": progress.seconds,
                "peak_memory_mib": _peak_memory(fabric.device),
            }
        )

    on_rank_zero(fabric, write)
    return _report(evaluation, weights, setup, run, progress, len(bad), rejected)


def _report(
    evaluation: Evaluation, weights: str, setup: Setup, run: Run, progress: Progress, bad: int, rejected: float | None
) -> Group:
    """The figures, and what must be known to read them."""
    top1, unread = evaluation.top1, f" ({bad:,} more could not be read)" if bad else ""
    reached = Text.assemble(
        (f"\ntop-1 {percent(top1.value)}", "bold"),
        f" (95 % interval {percent(top1.low)} to {percent(top1.high)}) on {evaluation.images:,} test images{unread}, after "
        f"{format_duration(progress.seconds)}; everything is in {run.path}",
    )
    if rejected is not None:
        reached = Text.assemble(
            f'\n"none of these classes" is predicted for {percent(rejected)} of the test images; the threshold is set for '
            f"{percent(1 - KEPT)} of the validation images",
            reached,
        )
    warnings = [f"{bad:,} of {len(setup.splits.test):,} test images could not be read"] if bad else []
    if progress.skipped:
        warnings.append(f"{progress.skipped:,} steps of the training were not finite and were left out")
    if progress.bad_images:
        reached = Text.assemble(
            (f"\n{len(progress.bad_images):,} of {setup.splits.count:,} images could not be read", "bold"),
            f": they are listed in {run.bad_images_file}",
            reached,
        )
    return Group(report(evaluation, f"Test part, with {weights}", warnings), reached)
