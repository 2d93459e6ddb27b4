"""Every error of ours has a code of its own, is documented and reaches the user with its code."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import ffvit
from commands import here
from ffvit.errors import FfvitError

ROOT = Path(__file__).parents[2]


def error_classes() -> list[type[FfvitError]]:
    """All classes of errors, those that modules keep for themselves too."""
    for module in pkgutil.walk_packages(ffvit.__path__, "ffvit."):
        if module.name != "ffvit.__main__":
            importlib.import_module(module.name)
    found, todo = [], [FfvitError]
    while todo:
        found.append(todo.pop())
        todo += found[-1].__subclasses__()
    return found[1:]


def test_each_error_class_has_its_own_code():
    codes = [each.__dict__.get("code") for each in error_classes()]
    assert None not in codes
    assert len(set(codes)) == len(codes)


def test_each_code_and_class_is_in_the_reference():
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    classes = error_classes()
    assert set(re.findall(r"`(E-[A-Z]+)`", page)) == {each.code for each in classes}
    assert [each.__name__ for each in classes if f"`{each.__name__}`" not in page] == []


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (("train", "--resume"), "E-USAGE", 2),
        (("train", "--no-such-option"), "E-USAGE", 2),
        (("train", "--recipe", "no such recipe"), "E-CONFIG", 2),
        (("train", "no_such_network"), "E-MODEL", 2),
        (("train", "--data", "no/such/folder"), "E-DATA", 2),
        (("evaluate", "no/such/run"), "E-MODEL", 2),
        (("report", "no/such/study"), "E-RUN", 2),
        (("check", "digits", "--out", "no/such/folder/check.csv"), "E-OUTPUT", 2),
        (("train", "--accelerator", "cuda"), "E-DEVICE", 2),
    ],
)
def test_the_command_line_ends_a_message_with_its_code(arguments, code, exit_code, tmp_path):
    done = here(*arguments, cwd=tmp_path)
    assert done.returncode == exit_code
    assert done.stderr.rstrip().endswith(f"[{code}]"), done.stderr
    assert "Traceback" not in done.stderr
