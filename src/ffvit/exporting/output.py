"""Where an exported file or folder is written, and what it may replace."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ffvit.errors import OutputError
from ffvit.exporting.formats import FORMATS
from ffvit.files.output_file import check_output
from ffvit.inference.exported import open_runner
from ffvit.models.hub import CONFIG, WEIGHTS, check_empty

NAMED = {"onnx-int8": "-int8", "openvino-int8": "-int8", "timm": "-timm"}
"""What comes behind the name of the weights, beside the suffix."""


def free_output(stem: str, format: str, out: Path | None, overwrite: bool) -> Path:  # noqa: A002 (the option's name)
    """Where to write, which is free.

    Args:
        stem: The name of the weights.
        format: One of `FORMATS`.
        out: As it was asked for. Default: the name of the weights, with the format's suffix.
        overwrite: Allow what `ffvit export` wrote there before.

    Raises:
        OutputError: It cannot be written, or would replace something else.
    """
    suffix = FORMATS[format].suffix
    if out is None:
        out = Path(stem + NAMED.get(format, "") + suffix)
    if suffix and out.suffix != suffix:
        raise OutputError(f"--out {out}: files of the format {format} end in {suffix}")
    if not suffix and out.is_dir():
        if _is_our_folder(out) and not overwrite:
            raise OutputError(f"--out {out}: is there; --overwrite replaces it")
        if not _is_our_folder(out):
            check_empty(out)
        return out
    for path in (out, out.with_suffix(".bin")) if suffix == ".xml" else (out,):
        check_output(path, "--out", "file that ffvit export wrote", lambda _: _is_our_file(out))
    if out.exists() and not overwrite:
        raise OutputError(f"--out {out}: is there; --overwrite replaces it")
    return out


def _is_our_file(path: Path) -> bool:
    """Whether `ffvit export` wrote a file."""
    try:
        if path.suffix == FORMATS["paper"].suffix:
            return "ffvit" in torch.load(path, map_location="cpu", weights_only=True)
        return open_runner(path)[0] is not None
    except Exception:  # a file of others, or a pickle that is none or would run code
        return False


def _is_our_folder(folder: Path) -> bool:
    """Whether `ffvit export` wrote a folder, and nobody put anything else into it."""
    try:
        named = {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS}
        return named and "ffvit" in json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError, TypeError):
        return False
