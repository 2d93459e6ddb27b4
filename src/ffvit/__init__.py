"""Do you even need attention? Vision backbones with it, without it, and with anything in its place.

    import ffvit

    net = ffvit.create_model("ff_base_patch16_224", num_classes=10)
    run = ffvit.train("ff_micro_patch2_8", data="digits", recipe="digits")

The names in `__all__` are stable; everything else may change. Importing ffvit imports nothing heavy and patches nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ffvit.config.architecture import NAMED, Architecture, Branch
    from ffvit.config.data import Data
    from ffvit.config.hardware import Machine
    from ffvit.config.mixers import Mixer, MixerArgs, register_mixer
    from ffvit.config.recipe import Recipe
    from ffvit.data.check.check import check
    from ffvit.data.prepare.prepare import prepare
    from ffvit.errors import FfvitError, RunStoppedError, UserError
    from ffvit.inference.evaluate import evaluate
    from ffvit.inference.predict import predict
    from ffvit.models.create import create_model, list_models
    from ffvit.models.registry import register_with_timm
    from ffvit.models.weights import load, save_weights
    from ffvit.run_folder import Run
    from ffvit.study.compare import compare, report
    from ffvit.study.plan import Plan
    from ffvit.training.train import resume, train

_HOME = {
    "NAMED": "ffvit.config.architecture",
    "Architecture": "ffvit.config.architecture",
    "Branch": "ffvit.config.architecture",
    "Data": "ffvit.config.data",
    "Machine": "ffvit.config.hardware",
    "Mixer": "ffvit.config.mixers",
    "MixerArgs": "ffvit.config.mixers",
    "Plan": "ffvit.study.plan",
    "Recipe": "ffvit.config.recipe",
    "Run": "ffvit.run_folder",
    "FfvitError": "ffvit.errors",
    "RunStoppedError": "ffvit.errors",
    "UserError": "ffvit.errors",
    "check": "ffvit.data.check.check",
    "compare": "ffvit.study.compare",
    "create_model": "ffvit.models.create",
    "evaluate": "ffvit.inference.evaluate",
    "list_models": "ffvit.models.create",
    "load": "ffvit.models.weights",
    "predict": "ffvit.inference.predict",
    "prepare": "ffvit.data.prepare.prepare",
    "register_mixer": "ffvit.config.mixers",
    "register_with_timm": "ffvit.models.registry",
    "report": "ffvit.study.compare",
    "resume": "ffvit.training.train",
    "save_weights": "ffvit.models.weights",
    "train": "ffvit.training.train",
}

__version__ = "0.1.0"
__all__ = [
    "NAMED",
    "Architecture",
    "Branch",
    "Data",
    "FfvitError",
    "Machine",
    "Mixer",
    "MixerArgs",
    "Plan",
    "Recipe",
    "Run",
    "RunStoppedError",
    "UserError",
    "check",
    "compare",
    "create_model",
    "evaluate",
    "list_models",
    "load",
    "predict",
    "prepare",
    "register_mixer",
    "register_with_timm",
    "report",
    "resume",
    "save_weights",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ffvit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
