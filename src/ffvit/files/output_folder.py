"""Folders that a command writes: which may be written to, and replaced without touching anything else.

A run or a study is known by marks that only ffvit writes, never by a file's name alone. Replacing one deletes the files
that ffvit writes there, by their names, and is refused where any other file lies.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ffvit.errors import OutputError
from ffvit.files.lock import LOCK_FILE, FolderLock
from ffvit.files.output_file import is_writable

_ANYWHERE = r"(.+/)?(\.[^/]+\.\d+\.tmp|\.DS_Store|Thumbs\.db|desktop\.ini)"
"""What a killed process or a file manager leaves: temporary files, and files that come back by themselves."""

_RUN = (
    r"config\.yaml|metrics\.jsonl|summary\.json|evaluation\.json|corruptions\.(png|csv)|predictions\.csv|bad_images\.csv|split\.csv\.gz|"
    r"loggers\.json|metrics\.csv|(best|last)\.safetensors|checkpoint/[^/]+\.pt|tensorboard/events\.out\.tfevents\.[^/]+"
)
_STUDY = (
    r"study\.yaml|arms\.yaml|ablation\.yaml|ledger\.jsonl|(baselines|costs)\.json|(failures|results)\.csv|"
    r"split\.csv\.gz|report\.(html|md)|figures/[^/]+\.(svg|png)|logs/[^/]+\.(log|yaml)|"
    rf"(runs|search)/([^/]+/){{1,3}}({_RUN})"
)

_CONVERSION = rf"conversion\.(json|png)|original\.(safetensors|csv)|steps/[^/]+\.safetensors|(steps/[^/]+/)?({_RUN})"


@dataclass(frozen=True)
class Kind:
    """A kind of folder that a command writes.

    Attributes:
        name: For messages.
        marked: Whether a folder bears its marks.
        own: The names of the files that ffvit writes there, relative to the folder.
    """

    name: str
    marked: Callable[[Path], bool]
    own: re.Pattern[str]


def is_run(folder: Path) -> bool:
    """Whether a training wrote this folder: its `config.yaml` says which ffvit made it."""
    text = _beginning(folder / "config.yaml", 2**20)
    return all(re.search(f"^{field}:", text, re.M) for field in ("network", "recipe")) and bool(
        re.search(r"^environment:\n(  .*\n)*?  ffvit: ", text, re.M)
    )


def is_study(folder: Path) -> bool:
    """Whether a study wrote this folder: its ledger begins with a plan and its hash."""
    text = _beginning(folder / "ledger.jsonl", 2**20)
    try:
        event = json.loads(text.split("\n", 1)[0])
    except ValueError:
        return False
    return isinstance(event, dict) and event.get("event") == "plan" and "hash" in event


def is_conversion(folder: Path) -> bool:
    """Whether `ffvit convert` wrote this folder: its record begins with what was asked for."""
    return _beginning(folder / "conversion.json", 2**10).startswith('{\n  "asked": {\n    "network": ')


def has_marks(folder: Path) -> bool:
    """Whether ffvit wrote this folder: a run, a study or a conversion."""
    return is_run(folder) or is_study(folder) or is_conversion(folder)


def study_of(run: Path) -> Path | None:
    """The folder of the study that a run's folder lies in, if it does."""
    return next((folder for folder in run.absolute().parents if is_study(folder)), None)


RUN = Kind("run", is_run, re.compile(f"{_RUN}|{_ANYWHERE}"))
STUDY = Kind("study", is_study, re.compile(rf"{_STUDY}|{_ANYWHERE}|.+/{re.escape(LOCK_FILE)}"))

CONVERSION = Kind("conversion", is_conversion, re.compile(rf"{_CONVERSION}|{_ANYWHERE}|.+/{re.escape(LOCK_FILE)}"))


def check_writable(path: Path, kind: Kind, overwrite: bool, used: Mapping[str, Path] | None = None) -> None:
    """Check, before any work, that a folder of this kind may be written at `path`; changes nothing.

    Args:
        path: The folder.
        kind: What is to be written.
        overwrite: Whether one that is there may be replaced.
        used: What the command reads, by what it is: never replaced, nor a folder that holds it.

    Raises:
        UserError: It exists and is not empty, and `overwrite` was not given; or it is none that ffvit wrote, holds files
            of others, must never be replaced, or is written to by another process; or it could not be made.
    """
    try:
        _check_place(path)
        if _check_content(path, kind, overwrite, used or {}):
            with FolderLock(path, kind.name):
                pass
    except OSError as error:
        raise OutputError(f"{path}: cannot be used: {error.strerror}; name another --out") from None


def make_folder(
    path: Path, kind: Kind, lock: FolderLock, overwrite: bool, used: Mapping[str, Path] | None = None
) -> None:
    """Make a folder, or empty the one that is to be replaced, which may be a mounted one and so stays itself.

    Args:
        path: The folder.
        kind: What is to be written.
        lock: Is acquired before anything is touched, and held afterwards.
        overwrite: As in `check_writable`.
        used: As in `check_writable`.

    Raises:
        UserError: As `check_writable`.
    """
    check_writable(path, kind, overwrite, used)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be made: {error.strerror}; name another --out") from None
    lock.acquire()
    try:
        if _check_content(path, kind, overwrite, used or {}):  # not what it was, where another process was faster
            clear(path, kind)
    except BaseException:
        lock.release()
        raise


def clear(path: Path, kind: Kind) -> None:
    """Delete what ffvit wrote in a folder, but the folder itself and its lock.

    Raises:
        UserError: Other files lie in it; nothing was deleted.
    """
    # The mark goes last: what a kill leaves half deleted can be replaced as before.
    marks = (path / "config.yaml", path / "ledger.jsonl", path / "conversion.json")
    for file in sorted(_own_files(path, kind), key=marks.__contains__):
        file.unlink(missing_ok=True)
    for folder, _, _ in os.walk(path, topdown=False):
        if Path(folder) != path:
            Path(folder).rmdir()


def existing_paths(places: Mapping[str, str | Path | None]) -> dict[str, Path]:
    """Those of the places that are files or folders here."""
    given = {what: Path(os.path.expanduser(place)) for what, place in places.items() if place is not None}  # noqa: PTH111
    return {what: path for what, path in given.items() if os.path.exists(path)}  # noqa: PTH110 (never raises)


def _check_place(path: Path) -> None:
    """Check that there is a folder, or that one can be made.

    Raises:
        OSError: The path cannot be looked at.
        UserError: None can be made.
    """
    if any(len(os.fsencode(part)) > 255 for part in path.parts):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    with suppress(FileNotFoundError, NotADirectoryError):
        path.stat()
    above = path
    while not above.exists() and not above.is_symlink():
        above = above.parent
    if above != path and not above.is_dir():
        raise OutputError(f"{path}: cannot be made: {above} is no folder; name another --out")
    if above.is_symlink() and not above.exists():
        raise OutputError(f"{path}: is a link that leads nowhere; name another --out")
    if above.is_dir() and not is_writable(above):
        raise OutputError(f"{path}: cannot be made: no permission to write in {above}; name another --out")


def _check_content(path: Path, kind: Kind, overwrite: bool, used: Mapping[str, Path]) -> bool:
    """Whether there is something to be replaced.

    Raises:
        UserError: There is, and it may not be.
    """
    if not path.exists() or (path.is_dir() and not any(_in_the_way(entry) for entry in path.iterdir())):
        return False
    if not overwrite:
        raise OutputError(f"{path} exists: resume it (--resume), replace it (--overwrite), or name another --out")
    folder = path.resolve()
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 (does not raise where there is none)
    for what, place in {"the working folder": Path(), "your home folder": home, **used}.items():
        resolved = place.resolve()
        if resolved == folder or folder in resolved.parents:
            raise OutputError(f"{path} is {what} or holds it, so --overwrite does not replace it: name another --out")
    if not path.is_dir() or not kind.marked(path):
        raise OutputError(
            f"{path} exists and is no {kind.name} folder, so --overwrite does not delete it: name another --out"
        )
    _own_files(path, kind)
    return True


def _in_the_way(entry: Path) -> bool:
    """Whether something in a folder is more than what a process leaves that was killed before it wrote the first file."""
    return entry.name != LOCK_FILE and not re.fullmatch(_ANYWHERE, entry.name)


def _own_files(path: Path, kind: Kind) -> list[Path]:
    """The files that ffvit wrote in a folder.

    Raises:
        UserError: Others lie in it too.
    """
    own: list[Path] = []
    foreign: list[Path] = []
    for folder, folders, files in os.walk(path):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]  # lead to what is not ours
        for file in (Path(folder) / name for name in (*links, *files)):
            if kind.own.fullmatch(str(file.relative_to(path))) and file.name not in links:
                own.append(file)
            elif file != path / LOCK_FILE:
                foreign.append(file.relative_to(path))
    if foreign:
        count = f"{len(foreign):,} files that ffvit did not write lie"
        if len(foreign) == 1:
            count = "1 file that ffvit did not write lies"
        raise OutputError(
            f"{path}: {count} in it ({min(foreign)}), so --overwrite does not delete it: move what you want to keep, or "
            "name another --out"
        )
    return own


def _beginning(file: Path, size: int) -> str:
    """The first bytes of a file as text; none, if it cannot be read."""
    try:
        if not file.is_file():
            return ""
        with file.open("rb") as opened:
            return opened.read(size).decode(errors="replace")
    except OSError:
        return ""
