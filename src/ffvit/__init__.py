"""Do you even need attention? Vision backbones with it, without it, and with anything in its place.

Example::

    import ffvit

    net = ffvit.create_model("ff_base_patch16_224", num_classes=10)
    run = ffvit.train("ff_micro_patch2_8", data="digits", recipe="digits")

The names in `__all__` are stable; everything else may change. Importing ffvit imports nothing heavy and patches nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ffvit.api import (
        benchmark,
        check,
        compare,
        convert,
        evaluate,
        export,
        inspect,
        list_models,
        predict,
        prepare,
        push,
        report,
        resize,
        resume,
        serve,
        train,
    )
    from ffvit.config.architecture import NAMED, Architecture, Branch
    from ffvit.config.data import Data
    from ffvit.config.hardware import Hardware
    from ffvit.config.mixers import Mixer, MixerArgs, register_mixer
    from ffvit.config.recipe import Recipe
    from ffvit.conversion.record import Conversion
    from ffvit.data.check.check import Check
    from ffvit.data.images import BadImageError
    from ffvit.data.prepare.prepare import Prepared
    from ffvit.data.torch_datasets import open_datasets
    from ffvit.errors import FfvitError, RunStoppedError, UserError
    from ffvit.exporting.command import Export
    from ffvit.inference.evaluate import Score
    from ffvit.inference.metrics import Evaluation
    from ffvit.inference.predictor import Prediction, Predictor
    from ffvit.insight.findings import Inspection
    from ffvit.models.create import create_model
    from ffvit.models.registry import register_with_timm
    from ffvit.models.weights import load, save_weights
    from ffvit.run_folder import Run
    from ffvit.study.findings import Findings
    from ffvit.study.plan import Plan

_NAMES = {
    "ffvit.api": (
        "benchmark check compare convert evaluate export inspect list_models predict prepare push report resize resume serve train"
    ),
    "ffvit.config.architecture": "Architecture Branch NAMED",
    "ffvit.config.data": "Data",
    "ffvit.config.hardware": "Hardware",
    "ffvit.config.mixers": "Mixer MixerArgs register_mixer",
    "ffvit.config.recipe": "Recipe",
    "ffvit.conversion.record": "Conversion",
    "ffvit.data.check.check": "Check",
    "ffvit.data.images": "BadImageError",
    "ffvit.data.prepare.prepare": "Prepared",
    "ffvit.data.torch_datasets": "open_datasets",
    "ffvit.errors": "FfvitError RunStoppedError UserError",
    "ffvit.exporting.command": "Export",
    "ffvit.inference.evaluate": "Score",
    "ffvit.inference.metrics": "Evaluation",
    "ffvit.inference.predictor": "Prediction Predictor",
    "ffvit.insight.findings": "Inspection",
    "ffvit.models.create": "create_model",
    "ffvit.models.registry": "register_with_timm",
    "ffvit.models.weights": "load save_weights",
    "ffvit.run_folder": "Run",
    "ffvit.study.findings": "Findings",
    "ffvit.study.plan": "Plan",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__version__ = "0.1.0"
__all__ = [
    "NAMED",
    "Architecture",
    "BadImageError",
    "Branch",
    "Check",
    "Conversion",
    "Data",
    "Evaluation",
    "Export",
    "FfvitError",
    "Findings",
    "Hardware",
    "Inspection",
    "Mixer",
    "MixerArgs",
    "Plan",
    "Prediction",
    "Predictor",
    "Prepared",
    "Recipe",
    "Run",
    "RunStoppedError",
    "Score",
    "UserError",
    "benchmark",
    "check",
    "compare",
    "convert",
    "create_model",
    "evaluate",
    "export",
    "inspect",
    "list_models",
    "load",
    "open_datasets",
    "predict",
    "prepare",
    "push",
    "register_mixer",
    "register_with_timm",
    "report",
    "resize",
    "resume",
    "save_weights",
    "serve",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ffvit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
