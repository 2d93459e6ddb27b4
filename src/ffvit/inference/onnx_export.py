"""A network as an ONNX graph, in fp32 and in 8-bit integers: what other engines run."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ffvit.models.create import preprocess_of

if TYPE_CHECKING:
    from onnx import ModelProto

IMAGES, LOGITS = "images", "logits"
AT_ONCE = 16
"""Images at once while calibrating."""


def export_onnx(network: nn.Module) -> ModelProto:
    """The network's graph: `images` (batch channels height width, normalised) to `logits`, for any batch."""
    takes = preprocess_of(network)
    plain = copy.deepcopy(network).float().cpu().eval()
    batch = torch.export.Dim("batch", min=1, max=2**20)
    with _quietly(), torch.no_grad():
        program = torch.onnx.export(
            plain,
            (torch.zeros(2, takes.in_chans, *takes.img_size),),
            dynamo=True,
            dynamic_shapes=({0: batch},),
            input_names=[IMAGES],
            output_names=[LOGITS],
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
    import onnx
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(images.cpu().split(AT_ONCE))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {IMAGES: batch.numpy()}

    with tempfile.TemporaryDirectory() as folder, _quietly():
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(graph, source)
        quantization.quantize_static(
            source,
            target,
            Images(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm", "Conv"],
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=_saturates(),
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        return onnx.load(target)


def _saturates() -> bool:
    """Whether sums of two products of 8-bit integers overflow here, so that weights get 7 bits: x86 without VNNI."""
    units: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return units.get("architecture") == "x86_64" and not (units.get("avx512_vnni") or units.get("avx_vnni"))


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """What exporters and quantizers say about themselves is not for those who want an answer."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
