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
from ffvit.inference.evaluator import predict_logits
from ffvit.inference.metrics import compute_metrics
from ffvit.inference.report import percent, report
from ffvit.models.weights_file import read_weights
from ffvit.training.loop import Trainer
from ffvit.training.progress import format_duration


def _peak_memory(device: torch.device) -> float:
    """MiB that this process has held at most: on a GPU its tensors, else all that is resident, PyTorch included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def evaluate_at_end(trainer: Trainer) -> Group:
    """Score what the validation split chose on the test split, write it down, and hand back the report."""
    run, progress, test = trainer.run, trainer.progress, trainer.splits.test
    trainer.save_weights(run.last_file, trainer.step.plain)
    best, temperature = progress.best, None
    if trainer.validation is not None:
        state, _ = read_weights(run.best_file)
        set_model_state_dict(trainer.step.plain, dict(state), options=StateDictOptions(full_state_dict=True))
        with trainer.step.eagerly():
            chosen, _ = trainer.validation(trainer.step.network)
        if not chosen.correct.all():  # without a mistake, ever more certain is ever better: nothing to fit
            temperature = fit_temperature(chosen.logits, chosen.labels[chosen.logits_of])
            trainer.save_weights(run.best_file, trainer.step.plain, temperature)
    trainer.display.scoring("test split")
    with trainer.step.eagerly():
        answers, bad = trainer.evaluator(test)(trainer.step.network)
    trainer.unreadable.add(bad)
    trainer.unreadable.write()
    evaluation = compute_metrics(answers, temperature)
    weights = f"the {best['which']} of epoch {best['epoch']}" if best else "the last weights"

    def write() -> None:
        names, groups = predict_logits(test, bad), trainer.splits.test_groups
        if groups is not None:  # of the images that could be read
            group_of = {test.name(index): group for index, group in enumerate(groups)}
            groups = tuple(group_of[name] for name in names)
        answers.to_csv(run.predictions_file, names, groups)
        run.write_summary(
            {
                "network": trainer.setup.config.network.title,
                "parameters": sum(each.numel() for each in trainer.step.plain.parameters()),
                "images": trainer.splits.account,
                "weights": weights,
                "validation": best or None,
                "temperature": temperature,
                "test": evaluation.to_dict(),
                "bad_images": len(progress.bad_images),
                "skipped_steps": progress.skipped,
                "images_seen": progress.images,
                "seconds": progress.seconds,
                "peak_memory_mib": _peak_memory(trainer.fabric.device),
            }
        )

    on_rank_zero(trainer.fabric, write)
    top1, unread = evaluation.top1, f" ({len(bad):,} more could not be read)" if bad else ""
    reached = Text.assemble(
        (f"\ntop-1 {percent(top1.value)}", "bold"),
        f" (95 % interval {percent(top1.low)} to {percent(top1.high)}) on {evaluation.images:,} test images{unread}, after "
        f"{format_duration(progress.seconds)}; everything is in {run.path}",
    )
    warnings = [f"{len(bad):,} of {len(test):,} test images could not be read"] if bad else []
    if progress.skipped:
        warnings.append(f"{progress.skipped:,} steps of the training were not finite and were left out")
    if progress.bad_images:
        reached = Text.assemble(
            (f"\n{len(progress.bad_images):,} of {trainer.splits.count:,} images could not be read", "bold"),
            f": they are listed in {run.bad_images_file}",
            reached,
        )
    return Group(report(evaluation, f"Test part, with {weights}", warnings), reached)
