"""8-bit integers for an exported graph, by ONNX Runtime and by nncf for OpenVINO, and how much the logits suffer from them.

Both put the same layers in integers: matrix products and convolutions with weights. Preprocessing, norms, softmax, GELU and
sums stay in float, and so do products of two activations, as in attention.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ffvit.inference.engines import import_openvino, onnxruntime_session
from ffvit.inference.onnx_export import IMAGES, QUANTIZED, activation_ranges, quantized, quietly, saturates

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
    """The graph with its layers in 8-bit integers, for ONNX Runtime, and the layers, most sensitive first.

    Args:
        graph: As `ffvit export --format onnx` writes it.
        batches: Images to calibrate on; the first batch measures the sensitivities too.
    """
    layers = _layers(graph)
    with tempfile.TemporaryDirectory() as folder, quietly():
        ranges = activation_ranges(graph, batches, Path(folder))
        plain = _logits(graph, batches[0])
        alone = (_logits(quantized(graph, ranges, [node.name]), batches[0]) for node in layers)
        ranked = _ranked(layers, plain, alone)
        whole = quantized(graph, ranges, [node.name for node in layers])
    return whole, ranked


def quantize_openvino(graph: ModelProto, batches: Sequence[np.ndarray]) -> tuple[Any, list[Sensitivity]]:
    """As `quantize_layers`, by nncf, as a model of OpenVINO.

    Biases are not corrected afterwards: on trained networks this changed logits as much, and took twice the time.

    Args:
        graph: As `ffvit export --format onnx` writes it.
        batches: Images to calibrate on; the first batch measures the sensitivities too.
    """
    openvino = import_openvino()
    with quietly():
        import nncf
        from nncf.quantization.advanced_parameters import OverflowFix
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        model, layers = openvino.Core().read_model(graph.SerializeToString()), _layers(graph)
        own = _matched(model, layers)
        others = {node.get_friendly_name() for node in model.get_ops() if node.get_type_name() not in _NO_OPERATION}
        whole = nncf.quantize(
            model,
            nncf.Dataset(batches),
            preset=nncf.QuantizationPreset.MIXED,  # asymmetric activations: those of GELU are not centred on zero
            subset_size=len(batches),
            ignored_scope=nncf.IgnoredScope(names=sorted(others - {node.get_friendly_name() for node in own})),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=OverflowFix.ENABLE if saturates() else OverflowFix.DISABLE,
                disable_bias_correction=True,
                batchwise_statistics=True,
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            ),
        )
        plain = _openvino_logits(model, batches[0])
        alone = (_openvino_logits(_one_layer(whole, own, layers, node), batches[0]) for node in layers)
        return whole, _ranked(layers, plain, alone)


_NO_OPERATION = ("Constant", "Parameter", "Result")


def _matched(model: Any, layers: Sequence[NodeProto]) -> list[Any]:
    """The operations of a model that compute these nodes."""
    # A node with a bias is two operations: the sum bears its name, and the product before it, which is meant, this suffix.
    of_sum = "/WithoutBiases"
    nodes = sorted(model.get_ops(), key=lambda node: node.get_friendly_name().endswith(of_sum))
    named = {node.get_friendly_name().removesuffix(of_sum): node for node in nodes}
    return [named[node.name] for node in layers]


def _one_layer(whole: Any, own: Sequence[Any], layers: Sequence[NodeProto], kept: NodeProto) -> Any:
    """A quantized model with one layer in integers, and the others as they were."""
    model = whole.clone()
    for node, before, name in zip(_matched(model, layers), own, layers, strict=True):
        if name is not kept:
            quantizer = node.input_value(0).get_node()
            assert quantizer.get_type_name() == "FakeQuantize", quantizer
            node.input(0).replace_source_output(quantizer.input_value(0))
            node.input(1).replace_source_output(before.input_value(1))
    return model


def _openvino_logits(model: Any, images: np.ndarray) -> np.ndarray:
    return import_openvino().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads()})(images)[0]


def _ranked(layers: Sequence[NodeProto], plain: np.ndarray, alone: Iterable[np.ndarray]) -> list[Sensitivity]:
    """The layers, most sensitive first.

    Args:
        layers: Nodes of the graph.
        plain: Logits of the graph in float.
        alone: Logits with one layer in integers, for each of them.
    """
    size = float(np.sqrt(np.square(plain).mean())) or 1.0
    changes = (float(np.sqrt(np.square(changed - plain).mean())) / size for changed in alone)
    ranked = [Sensitivity(_module(node), change) for node, change in zip(layers, changes, strict=True)]
    return sorted(ranked, key=lambda one: -one.change)


def _layers(graph: ModelProto) -> list[NodeProto]:
    """The nodes that become integers."""
    weights = {tensor.name for tensor in graph.graph.initializer}
    return [node for node in graph.graph.node if _is_layer(node, weights)]


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
