"""Do you even need attention? Vision backbones with it, without it, and with anything in its place.

    import ffvit

    net = ffvit.create_model("ff_base_patch16_224", classes=10)
    run = ffvit.train("ff_micro_patch2_8", data="digits", recipe="digits")

What stands in `__all__` is promised; everything else may change. Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ffvit.api import check, compare, evaluate, list_models, predict, prepare, report, resume, train
    from ffvit.config.architecture import NAMED, Architecture, Branch
    from ffvit.config.data import Data
    from ffvit.config.hardware import Hardware
    from ffvit.config.recipe import Recipe
    from ffvit.data.check.check import Check
    from ffvit.data.images import BadImageError
    from ffvit.data.prepare.prepare import Prepared
    from ffvit.errors import FfvitError, RunStoppedError, UserError
    from ffvit.inference.evaluate import Score
    from ffvit.inference.metrics import Evaluation
    from ffvit.inference.predict import Prediction
    from ffvit.models.create import create_model
    from ffvit.models.weights import load, save_weights
    from ffvit.run_folder import Run
    from ffvit.study.findings import Findings
    from ffvit.study.plan import Plan

_NAMES = {
    "ffvit.api": "check compare evaluate list_models predict prepare report resume train",
    "ffvit.config.architecture": "Architecture Branch NAMED",
    "ffvit.config.data": "Data",
    "ffvit.config.hardware": "Hardware",
    "ffvit.config.recipe": "Recipe",
    "ffvit.data.check.check": "Check",
    "ffvit.data.images": "BadImageError",
    "ffvit.data.prepare.prepare": "Prepared",
    "ffvit.errors": "FfvitError RunStoppedError UserError",
    "ffvit.inference.evaluate": "Score",
    "ffvit.inference.metrics": "Evaluation",
    "ffvit.inference.predict": "Prediction",
    "ffvit.models.create": "create_model",
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
    "Data",
    "Evaluation",
    "FfvitError",
    "Findings",
    "Hardware",
    "Plan",
    "Prediction",
    "Prepared",
    "Recipe",
    "Run",
    "RunStoppedError",
    "Score",
    "UserError",
    "check",
    "compare",
    "create_model",
    "evaluate",
    "list_models",
    "load",
    "predict",
    "prepare",
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


class _WhenTimmArrives(importlib.abc.MetaPathFinder):
    """Registers our networks with timm as soon as a program imports it, without importing it for those who do not."""

    def find_spec(self, fullname: str, _path: Any = None, _target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != "timm":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module: Any) -> None:
                load(module)
                importlib.import_module("ffvit.models.registry")

            spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


if "timm" in sys.modules:
    importlib.import_module("ffvit.models.registry")
else:
    sys.meta_path.insert(0, _WhenTimmArrives())
