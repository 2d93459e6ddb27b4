"""A network as an ONNX graph, in fp32 and in 8-bit integers: what other engines run."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ffvit.models.description import preprocess_of

if TYPE_CHECKING:
    from onnx import ModelProto

IMAGES, LOGITS = "images", "logits"
QUANTIZED = ["MatMul", "Gemm", "Conv"]
"""Kinds of nodes that become 8-bit integers."""

AT_ONCE = 16
"""Images at once while calibrating."""


def export_onnx(network: nn.Module) -> ModelProto:
    """The network's graph: `images` (batch channels height width, normalised) to `logits`, for any batch."""
    takes = preprocess_of(network)
    plain = copy.deepcopy(network).float().cpu().eval()
    return to_onnx(
        plain,
        torch.zeros(2, takes.in_chans, *takes.img_size),
        {0: torch.export.Dim("batch", min=1, max=2**20)},
        [LOGITS],
    )


def to_onnx(module: nn.Module, example: Tensor, dynamic: dict[int, Any], outputs: Sequence[str]) -> ModelProto:
    """The graph of a module with one input, `images`.

    Args:
        module: In evaluation mode.
        example: An input.
        dynamic: The axes of the input that may have any length, as `torch.export.Dim`.
        outputs: What the outputs are called.
    """
    with quietly(), torch.no_grad():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=(dynamic,),
            input_names=[IMAGES],
            output_names=list(outputs),
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def quantize(graph: ModelProto, images: Float[Tensor, "images channels height width"]) -> ModelProto:
    """The graph with the inputs and weights of its matrix products and convolutions as 8-bit integers.

    Weights have a scale a channel; activations a scale each, from the lowest to the highest value on these images
    (static quantization, B. Jacob et al., arXiv 1712.05877, section 2). Norms, GELU and sums stay in fp32.

    Args:
        graph: In fp32.
        images: Normalised, such as the network will see.
    """
    batches = [part.cpu().numpy() for part in images.split(AT_ONCE)]
    with tempfile.TemporaryDirectory() as folder, quietly():
        return quantized(graph, activation_ranges(graph, batches, Path(folder)))


def activation_ranges(graph: ModelProto, batches: Sequence[np.ndarray], folder: Path) -> Any:
    """The lowest and highest value of each activation on batches of images, as ONNX Runtime keeps them."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, create_calibrator

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {IMAGES: batch}

    onnx.save(graph, folder / "fp32.onnx")
    augmented = str(folder / "augmented.onnx")
    calibrator = create_calibrator(folder / "fp32.onnx", QUANTIZED, augmented_model_path=augmented)
    calibrator.collect_data(Images())
    return calibrator.compute_data()


def quantized(graph: ModelProto, ranges: Any, layers: Sequence[str] = ()) -> ModelProto:
    """As `quantize`, by ranges that were found before; only the nodes of these names, if any are given."""
    import onnx
    from onnxruntime.quantization import QDQQuantizer, QuantType

    quantizer = QDQQuantizer(
        onnx.ModelProto.FromString(graph.SerializeToString()),  # it changes what it is given
        per_channel=True,
        reduce_range=saturates(),
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=list(layers),
        nodes_to_exclude=[],
        op_types_to_quantize=QUANTIZED,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    return quantizer.quantize_model()


def saturates() -> bool:
    """Whether sums of two products of 8-bit integers overflow here, so that weights get 7 bits: x86 without VNNI."""
    units: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return units.get("architecture") == "x86_64" and not (units.get("avx512_vnni") or units.get("avx_vnni"))


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Inside, exporters and quantizers print nothing."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
