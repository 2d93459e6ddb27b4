"""What is built, declared and published."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from commands import here

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "ffvit"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(lines: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


INSTALLED_BY_HAND = {"imagecorruptions"}
"""Asks for an OpenCV that would overwrite ours, so it is installed without what it asks for (docs/robustness.md)."""


def test_every_library_that_is_imported_is_declared():
    packages = importlib.metadata.packages_distributions()
    optional = set().union(*(requirements(lines) for lines in PROJECT["optional-dependencies"].values()))
    declared = requirements(PROJECT["dependencies"]) | optional
    undeclared = set()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in (
                {name.partition(".")[0] for name in names} - {"ffvit"} - INSTALLED_BY_HAND - sys.stdlib_module_names
            ):
                homes = {canonicalize_name(each) for each in packages.get(name, [name])}
                if not homes & declared:
                    undeclared.add(f"{file.relative_to(SOURCE)}: {name}")
    assert undeclared == set()


def test_every_dependency_has_a_lower_bound():
    extras = PROJECT["optional-dependencies"].values()
    lines = [line for group in (PROJECT["dependencies"], *extras) for line in group]
    assert [line for line in lines if ">=" not in line] == []


def test_help_names_no_plan_that_is_not_installed():
    for arguments in (("--help",), ("compare", "--help"), ("report", "--help"), ("train", "--help")):
        for plan in re.findall(r"\S+/\S+\.ya?ml", here(*arguments).stdout):
            assert (SOURCE / plan).is_file(), plan


@pytest.mark.parametrize("file", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda file: file.name)
def test_workflows_pin_actions_and_ask_for_no_rights_they_do_not_need(file):
    workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert "permissions" in job
        assert "timeout-minutes" in job
        for step in job["steps"]:
            assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), step


def test_a_release_is_attested_and_published_without_a_secret():
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    assert "secrets." not in text
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["needs"] == "attest"
    used = [step.get("uses", "") for job in jobs.values() for step in job["steps"]]
    for action in ("attest-build-provenance", "attest-sbom", "sbom-action", "gh-action-pypi-publish"):
        assert any(action in each for each in used), action


@pytest.mark.reliability
def test_the_wheel_holds_every_file_of_the_package(tmp_path):
    build = (
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        tmp_path,
    )
    subprocess.run([*map(str, build), str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.startswith("ffvit/")}
    there = {
        f"ffvit/{file.relative_to(SOURCE).as_posix()}"
        for file in SOURCE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert inside == there
