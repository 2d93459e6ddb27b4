"""Running an exported file: ONNX, OpenVINO, torch.export, ExecuTorch. All take and give the same; see docs/export.md.

A file is known by its suffix, and trusted no more than a file of weights: its metadata is JSON of bounded size, and a
torch.export archive, which may name any function of PyTorch, is opened only where it names none but operators on tensors.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import Field, InstanceOf
from torch import Tensor, nn

from ffvit.config.base import Value, parse, short
from ffvit.config.preprocess import Preprocess
from ffvit.data.transforms import ResizeForCrop
from ffvit.errors import FfvitError, MissingPackageError, ModelError
from ffvit.inference.engines import compiled_openvino, onnxruntime_session

INFO = "ffvit"
"""What our metadata is called in a file."""

MOST_INFO = 2**24
"""Bytes of metadata that are read."""

Outputs = list[np.ndarray]
Runner = Callable[[UInt8[np.ndarray, "batch height width 3"]], Outputs]


class ExportInfo(Value):
    """What an exported file says of itself. Anyone may have written it, so every field is checked.

    Attributes:
        format: As `ffvit export --format` calls it.
        network: The network, in words.
        class_names: In the order of the logits.
        preprocess: How images are prepared, inside the file.
        temperature: What logits are divided by to calibrate probabilities.
        ood_threshold: Energy score below which an image is of none of the classes.
        ffvit: The version that wrote it.
        max_batch: Images that it takes at once.
        max_side: Pixels that the sides of an image may have.
    """

    format: str
    network: str
    class_names: tuple[InstanceOf[str], ...]
    preprocess: Preprocess
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    ood_threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None
    ffvit: str
    max_batch: Annotated[int, Field(gt=0)]
    max_side: Annotated[int, Field(gt=0)]


def _onnx(path: Path) -> tuple[str | None, Runner]:
    session = onnxruntime_session(path.read_bytes(), torch.device("cpu"))
    name = session.get_inputs()[0].name
    return session.get_modelmeta().custom_metadata_map.get(INFO), lambda images: session.run(None, {name: images})


def _openvino(path: Path) -> tuple[str | None, Runner]:
    model, compiled = compiled_openvino(path, "fp32")
    info = model.get_rt_info([INFO]).astype(str) if model.has_rt_info([INFO]) else None
    return info, lambda images: [np.array(output) for output in compiled(images).values()]


def _pt2(path: Path) -> tuple[str | None, Runner]:
    content = path.read_bytes()
    check_archive(content, str(path))
    extra = {INFO: ""}
    program = torch.export.load(io.BytesIO(content), extra_files=extra).module()

    def run(images: np.ndarray) -> Outputs:
        with torch.inference_mode():
            outputs = program(torch.from_numpy(images))
        return [output.numpy() for output in (outputs if isinstance(outputs, tuple | list) else [outputs])]

    return extra[INFO] or None, run


def _executorch(path: Path) -> tuple[str | None, Runner]:
    from executorch.runtime import Runtime

    content = path.read_bytes()
    program = Runtime.get().load_program(content)
    method = program.load_method("forward")
    info = program.load_method(INFO).execute([])[0] if INFO in program.method_names else None

    # The method reads from the content, and ExecuTorch does not keep it alive.
    def run(images: np.ndarray, _kept: Any = (content, program)) -> Outputs:
        try:
            return [output.numpy().copy() for output in method.execute([torch.from_numpy(images)])]
        except RuntimeError as error:
            raise ModelError(
                f"ExecuTorch cannot run this network on {len(images)} images ({error}): export it with --format onnx, "
                "openvino or pt2"
            ) from None

    return info, run


@dataclass(frozen=True)
class _Kind:
    """How files of a suffix are run: the packages that this needs, and the extra that brings them."""

    packages: tuple[str, ...]
    extra: str
    read: Callable[[Path], tuple[str | None, Runner]]


KINDS = {
    ".onnx": _Kind(("onnxruntime",), "export", _onnx),
    ".xml": _Kind(("openvino",), "export", _openvino),
    ".pt2": _Kind((), "", _pt2),
    ".pte": _Kind(("executorch",), "executorch", _executorch),
}
"""A row for each suffix."""


def is_exported(weights: object) -> bool:
    """Whether it names an exported file, by its suffix."""
    return isinstance(weights, str | Path) and Path(weights).suffix in KINDS


def missing_packages(packages: tuple[str, ...]) -> list[str]:
    """Those of the packages that are not installed."""
    return [name for name in packages if find_spec(name) is None]


def check_packages(packages: tuple[str, ...], extra: str, what: str) -> None:
    """Make sure that packages are installed.

    Raises:
        MissingPackageError: Says which are not, and which extra brings them.
    """
    if missing := missing_packages(packages):
        raise MissingPackageError(f"{what} needs {' and '.join(missing)}: pip install 'ffvit[{extra}]'")


def open_runner(path: Path) -> tuple[str | None, Runner]:
    """The metadata of a file as text, and what computes its outputs.

    Raises:
        UserError: There is no such file, its packages are missing, or it cannot be opened.
    """
    kind = KINDS[path.suffix]
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file")
    check_packages(kind.packages, kind.extra, f"{path}: a file of this kind")
    try:
        return kind.read(path)
    except FfvitError:
        raise
    except Exception as error:  # each library has its own
        raise ModelError(f"{path}: truncated, damaged, or not of the kind that its name says: {short(error)}") from None


class Exported(nn.Module):
    """An exported file as a network of levels, on the processor.

    Images come in as `transform` leaves them: resized as the file itself would, which then leaves their size, but not
    cropped, so that they make batches. It computes the same as for images as they are, several times as fast.

    Raises:
        UserError: As `open_runner`, or it was not written by `ffvit export`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        text, self._run = open_runner(path)
        if text is None:
            raise ModelError(f"{path}: does not say its classes and preprocessing: `ffvit export` did not write it")
        if len(text) > MOST_INFO:
            raise ModelError(
                f"{path}: has {len(text):,} bytes of metadata, and is not read (the limit is {MOST_INFO:,})"
            )
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise ModelError(f"{path}: its metadata is no JSON: {error}") from None
        self.info = parse(ExportInfo, fields, f"{path}: metadata")
        self.class_names, self.temperature = self.info.class_names, self.info.temperature
        self.ood_threshold = self.info.ood_threshold
        self.num_classes = len(self.class_names)
        self.transform = ResizeForCrop(self.info.preprocess)
        height, width = self.transform.size
        self.shape = (3, height, width)

    def forward(self, levels: UInt8[Tensor, "batch 3 rows columns"]) -> Float[Tensor, "batch classes"]:
        """Logits of images that `transform` has prepared.

        Raises:
            ModelError: The file gives something else.
        """
        images = np.ascontiguousarray(levels.permute(0, 2, 3, 1).numpy())
        parts = [
            self._run(part)[0]
            for part in np.split(images, range(self.info.max_batch, len(images), self.info.max_batch))
        ]
        logits = torch.from_numpy(np.concatenate(parts))
        if logits.shape != (len(images), self.num_classes):
            raise ModelError(
                f"this file gives outputs of {' x '.join(map(str, logits.shape))} for {len(images)} images and "
                f"{self.num_classes} classes: `ffvit export` did not write it"
            )
        return logits


_TARGETS = re.compile(
    r"torch\.ops\.aten\.(?!from_file)\w+(\.\w+)?|torch\.sym_(int|float|max|min|not|ite|sqrt|sum)"
    r"|_operator\.(add|sub|mul|floordiv|mod|pow|neg|getitem|eq|ne|lt|le|gt|ge)|math\.(ceil|floor|trunc)"
)
_EXPRESSION = re.compile(r"[\w\s+\-*/(),<>='=]*")
_NAMES = re.compile(
    r"[su]\d+|Symbol|Integer|positive|nonnegative|integer|True|False|int_oo|Add|Mul|Pow|Max|Min|Eq|Ne|Mod|PythonMod"
    r"|FloorDiv|CeilDiv|CleanDiv|TruncToInt|ceiling|floor"
)
_MEMBERS = re.compile(
    r"models/\w+\.json|data/(weights|constants)/(weight_\d+|tensor_\d+|\w+\.json)|data/sample_inputs/\w+\.pt|extra/\w+|archive_\w+|\.data/\w+"
    r"|byteorder"
)
_BYTES = re.compile(r"(weight|tensor)_\d+")
_CODE = ("as_operator", "as_custom_obj", "as_graph")
"""Kinds of arguments that may stand for anything."""


def check_archive(content: bytes, name: str) -> None:
    """Make sure that opening a torch.export archive runs no code but operators on tensors.

    PyTorch looks up the functions that a graph names, evaluates its expressions of sizes as Python, and unpickles weights
    and example inputs that say so (`torch/_export/serde/serialize.py`, `torch/export/pt2_archive/_package.py`).

    Raises:
        ModelError: It may run other code; says what.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if len({member.filename for member in members}) < len(members):
            raise ModelError(f"{name}: not opened: its archive holds a name twice")
        for member in members:
            _, _, inside = member.filename.partition("/")
            if member.compress_type != zipfile.ZIP_STORED or not _MEMBERS.fullmatch(inside):
                raise ModelError(
                    f"{name}: not opened: its archive holds {member.filename!r}, which `ffvit export` does not write"
                )
            if inside.endswith(".json"):
                for key, value in _strings(json.loads(archive.read(member))):
                    _check_string(key, value, name)
            elif inside.endswith(".pt"):
                try:
                    torch.load(io.BytesIO(archive.read(member)), map_location="cpu", weights_only=True)
                except Exception:
                    raise ModelError(
                        f"{name}: not opened: {member.filename} is a pickle that asks to run code"
                    ) from None


def _strings(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in JSON that is no list or mapping, and every key of a mapping, with the key that it lies under."""
    if isinstance(node, dict):
        for inner, value in node.items():
            yield f"key of {key}", inner
            yield from _strings(value, inner)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value, key)
    else:
        yield key, node


def _check_string(key: str, value: Any, name: str) -> None:
    refused = (
        (key == "guards_code" and value)
        or (key.startswith("key of") and value in _CODE)
        or (key == "path_name" and not (isinstance(value, str) and _BYTES.fullmatch(value)))
        or (key == "use_pickle" and value is not False)
        or (key == "target" and not (isinstance(value, str) and _TARGETS.fullmatch(value)))
        or (key in ("expr_str", "key of range_constraints") and not _is_plain_expression(value))
    )
    if refused:
        raise ModelError(f"{name}: not opened: it may run code ({key}: {str(value)[:100]!r})")


def _is_plain_expression(value: Any) -> bool:
    if not isinstance(value, str) or not _EXPRESSION.fullmatch(value):
        return False
    return all(_NAMES.fullmatch(name) for name in re.findall(r"[A-Za-z_]\w*", value))
