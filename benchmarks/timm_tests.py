"""timm's own tests of models, over the networks that ffvit registers with timm: the table of docs/use_it.md.

pip download --no-deps --no-binary :all: timm==1.0.31
python benchmarks/timm_tests.py timm-1.0.31.tar.gz

The tests are in timm's source archive, not in its wheel; the installed timm must be of the same version. They are called
here as they are, each for every network: `tests/test_models.py` itself would collect all of timm's networks.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from script import run

import ffvit
from ffvit.config.architecture import NAMED

CONTRACTS = {
    "forward": "test_model_forward",
    "backward": "test_model_backward",
    "forward_intermediates": "test_model_forward_intermediates",
    "features_only over forward_intermediates": "test_model_forward_intermediates_features",
    "default_cfgs": "test_model_default_cfgs_non_std",
    "forward_fx": "test_model_forward_fx",
    "backward_fx": "test_model_backward_fx",
    "prune_intermediate_layers": "test_prune_intermediate_layers_params_used",
}
"""What is told, and the test that tells it. `non_std` is timm's for networks that are no ConvNets."""

BATCH = {"test_model_backward": 2, "test_model_backward_fx": 2}
"""Images at once, as timm's parameters have them; elsewhere one."""


def main(archive: Path, *, networks: str = ",".join(NAMED)) -> None:
    """Run timm's tests.

    Args:
        archive: timm's source archive (.tar.gz).
        networks: Names, with commas.
    """
    version = archive.name.removeprefix("timm-").removesuffix(".tar.gz")
    if version != timm.__version__:
        raise ffvit.UserError(f"{archive}: holds the tests of another timm than {timm.__version__}, which is installed")
    ffvit.register_with_timm()
    names = networks.split(",")
    tests = load_tests(archive)
    print(f"timm {version}, PyTorch {torch.__version__}, Python {sys.version.split()[0]}; {date.today()}\n")
    print(f"| timm's test | passes, of {len(names)} | the others |\n|---|---|---|", flush=True)
    for contract, test in CONTRACTS.items():
        outcomes = {name: outcome(getattr(tests, test), name) for name in names}
        passed = Counter(outcomes.values())["passes"]
        others = "; ".join(f"{name}: {said}" for name, said in outcomes.items() if said != "passes")
        print(f"| {contract} (`{test}`) | {passed} | {others} |", flush=True)


def load_tests(archive: Path) -> ModuleType:
    """timm's tests/test_models.py as a module."""
    with TemporaryDirectory() as folder, tarfile.open(archive) as tar:
        member = f"{archive.name.removesuffix('.tar.gz')}/tests/test_models.py"
        tar.extract(member, folder, filter="data")
        spec = importlib.util.spec_from_file_location("timm_test_models", Path(folder) / member)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def outcome(test: Callable[..., None], name: str) -> str:
    """Run a test for a network: `passes`, or why not."""
    given: dict[str, Any] = {"model_name": name, "batch_size": BATCH.get(test.__name__, 1), "cfg_device": "meta"}
    takes = test.__code__.co_varnames[: test.__code__.co_argcount]
    torch.manual_seed(0)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            test(**{argument: given[argument] for argument in takes})
    except pytest.skip.Exception as skipped:
        return f"skipped ({skipped.msg})"
    except Exception as error:
        return f"fails ({type(error).__name__}: {' '.join(str(error).split())[:100]})"
    return "passes"


if __name__ == "__main__":
    run(main)
