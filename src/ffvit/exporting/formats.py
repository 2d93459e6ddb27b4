"""The formats that a network is exported to: a row each. What runs their files is in `inference.exported`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ffvit.errors import ModelError
from ffvit.exporting.int8 import Sensitivity, quantize_layers, quantize_openvino
from ffvit.exporting.program import Program
from ffvit.exporting.proof import Opened, Reference
from ffvit.inference.engines import import_openvino
from ffvit.inference.exported import INFO
from ffvit.inference.onnx_export import quietly, to_onnx
from ffvit.models.hub import write_hub_folder, write_paper_file

MOST = 2**14
"""Pixels of a side, and images at once, beyond which no file is asked."""


@dataclass(frozen=True)
class Written:
    """What is written.

    Attributes:
        program: With levels of images as its input.
        outputs: What its outputs are called.
        info: Metadata, as text.
        path: Where to.
    """

    program: nn.Module
    outputs: Sequence[str]
    info: str
    path: Path


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        suffix: Of its files; none for a folder.
        packages: What writing takes.
        extra: Which brings them.
        write: Writes a file.
        engine: What runs it, in words.
        max_batch: Images that a file takes at once.
        max_side: Pixels that the sides of an image may have.
        read: Opens a file again, for formats that hold weights and no program.
        quantize: For formats in 8-bit integers: writes a file whose layers are calibrated on batches of images, and ranks
            them, most sensitive first. `write` leaves all in float.
    """

    suffix: str
    packages: tuple[str, ...]
    extra: str
    write: Callable[[Written, Format], None]
    engine: str
    max_batch: int = MOST
    max_side: int = MOST
    read: Callable[[Path, Reference], Opened] | None = None
    quantize: Callable[[Written, Format, Sequence[np.ndarray]], list[Sensitivity]] | None = None

    def dynamic(self) -> dict[int, Any]:
        """The axes that may have any length."""
        limits = {"batch": self.max_batch, "height": self.max_side, "width": self.max_side}
        return {axis: torch.export.Dim(name, min=1, max=most) for axis, (name, most) in enumerate(limits.items())}


EXAMPLE = (2, 37, 53, 3)
"""Batch, height, width and channels of the example that is traced: numbers that nothing else here has."""


def _graph(written: Written, of: Format) -> Any:
    graph = to_onnx(written.program, torch.zeros(EXAMPLE, dtype=torch.uint8), of.dynamic(), written.outputs)
    graph.metadata_props.add(key=INFO, value=written.info)
    return graph


def _write_onnx(written: Written, of: Format) -> None:
    import onnx

    onnx.save(_graph(written, of), written.path)


def _quantize_onnx(written: Written, of: Format, batches: Sequence[np.ndarray]) -> list[Sensitivity]:
    import onnx

    graph, sensitivities = quantize_layers(_graph(written, of), batches)
    onnx.save(graph, written.path)
    return sensitivities


def _write_openvino(written: Written, of: Format) -> None:
    _save_openvino(import_openvino().Core().read_model(_graph(written, of).SerializeToString()), written)


def _save_openvino(model: Any, written: Written) -> None:
    model.set_rt_info(written.info, [INFO])
    import_openvino().save_model(model, written.path, compress_to_fp16=False)


def _quantize_openvino(written: Written, of: Format, batches: Sequence[np.ndarray]) -> list[Sensitivity]:
    model, sensitivities = quantize_openvino(_graph(written, of), batches)
    _save_openvino(model, written)
    return sensitivities


def _exported(written: Written, of: Format) -> torch.export.ExportedProgram:
    with torch.no_grad():
        example = (torch.zeros(EXAMPLE, dtype=torch.uint8),)
        return torch.export.export(written.program, example, dynamic_shapes=(of.dynamic(),))


def _write_pt2(written: Written, of: Format) -> None:
    with quietly():
        torch.export.save(_exported(written, of), written.path, extra_files={INFO: written.info})


def _write_executorch(written: Written, of: Format) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with quietly():
        lowered = to_edge_transform_and_lower(
            _exported(written, of), partitioner=[XnnpackPartitioner()], constant_methods={INFO: written.info}
        )
        written.path.write_bytes(lowered.to_executorch().buffer)


def _write_timm(written: Written, _: Format) -> None:
    network = _network(written)
    noted = (getattr(network, name, None) for name in ("class_names", "temperature", "ood_threshold"))
    write_hub_folder(network, written.path, *noted)


def _write_paper(written: Written, _: Format) -> None:
    try:
        write_paper_file(_network(written), written.path)
    except ModelError as error:
        raise ModelError(f"{error}; --format timm holds every network") from None


def _network(written: Written) -> nn.Module:
    assert isinstance(written.program, Program)
    return written.program.network


_ONNX, _OPENVINO = ("onnx", "onnxscript", "onnxruntime"), ("onnx", "onnxscript", "openvino")

FORMATS = {
    "onnx": Format(".onnx", _ONNX, "export", _write_onnx, "ONNX Runtime"),
    "onnx-int8": Format(
        ".onnx", _ONNX, "export", _write_onnx, "ONNX Runtime, 8-bit integers", quantize=_quantize_onnx
    ),
    "openvino": Format(".xml", _OPENVINO, "export", _write_openvino, "OpenVINO"),
    "openvino-int8": Format(
        ".xml", (*_OPENVINO, "nncf"), "export", _write_openvino, "OpenVINO, 8-bit integers", quantize=_quantize_openvino
    ),
    "pt2": Format(".pt2", (), "", _write_pt2, "PyTorch (torch.export)"),
    # Memory for the largest input is set aside when the file is opened: about 120 MB for each image of a batch.
    "executorch": Format(".pte", ("executorch",), "executorch", _write_executorch, "ExecuTorch, XNNPACK", 4, 1024),
    "timm": Format(
        "", (), "", _write_timm, "timm, transformers (networks of ffvit's own after ffvit.register_with_timm())",
        read=lambda folder, _: Opened.by_timm(folder),
    ),
    "paper": Format(
        ".pth", (), "", _write_paper, "the paper's released code (weights alone: no class names, no preprocessing)",
        read=lambda path, reference: Opened.of_weights(path, reference.preprocess),
    ),
}  # fmt: skip
"""A row for each format."""
