"""8-bit integers for an exported ONNX graph, and how much each layer's logits suffer from them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ffvit.inference.engines import onnxruntime_session
from ffvit.inference.onnx_export import IMAGES, QUANTIZED, activation_ranges, quantized, quietly

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

SCOPES = "pkg.torch.onnx.name_scopes"
"""Where PyTorch's exporter notes the modules that a node is from."""


@dataclass(frozen=True)
class Sensitivity:
    """What it costs to have one layer in 8-bit integers, and all others in float.

    Attributes:
        layer: Its module in the network.
        change: Root mean square of the change in logits, as a share of that of the logits.
    """

    layer: str
    change: float


def quantize_layers(graph: ModelProto, batches: Sequence[np.ndarray]) -> tuple[ModelProto, list[Sensitivity]]:
    """The graph with its layers in 8-bit integers, and the layers, most sensitive first.

    Preprocessing, norms, GELU and sums stay in float, and so do products of two activations, as in attention.

    Args:
        graph: As `ffvit export --format onnx` writes it.
        batches: Images to calibrate on; the first batch measures the sensitivities too.
    """
    weights = {tensor.name for tensor in graph.graph.initializer}
    layers = [node for node in graph.graph.node if _is_layer(node, weights)]
    with tempfile.TemporaryDirectory() as folder, quietly():
        ranges = activation_ranges(graph, batches, Path(folder))
        plain = _logits(graph, batches[0])
        size = float(np.sqrt(np.square(plain).mean())) or 1.0
        ranked = []
        for node in layers:
            changed = _logits(quantized(graph, ranges, [node.name]), batches[0])
            ranked.append(Sensitivity(_module(node), float(np.sqrt(np.square(changed - plain).mean())) / size))
        whole = quantized(graph, ranges, [node.name for node in layers])
    return whole, sorted(ranked, key=lambda one: -one.change)


def _is_layer(node: NodeProto, weights: set[str]) -> bool:
    return (
        node.op_type in QUANTIZED
        and not _module(node).startswith("preprocessing")
        and any(name in weights for name in node.input)
    )


def _module(node: NodeProto) -> str:
    """The innermost module that a node is from, as the network calls it."""
    noted = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "")
    scopes: list[Any] = [scope.strip(" '\"") for scope in noted.strip("[]").split(",")]
    named = [scope for scope in scopes[:-1] if scope]  # the last one is the node itself
    return named[-1].removeprefix("network.") if named else node.name


def _logits(graph: ModelProto, images: np.ndarray) -> np.ndarray:
    return onnxruntime_session(graph.SerializeToString(), torch.device("cpu")).run(None, {IMAGES: images})[0]
