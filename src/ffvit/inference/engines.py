"""What runs a trained network: PyTorch as it is or compiled, ONNX Runtime, OpenVINO; in fp32, bf16, fp16 or int8."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ffvit.errors import DeviceError
from ffvit.hardware.devices import has_bf16_matmul
from ffvit.models.compiling import compile_unavailable_reason, configure_compiler
from ffvit.models.description import preprocess_of

ENGINES = ("torch", "compiled", "onnx", "openvino")
PRECISIONS = ("fp32", "bf16", "int8")
ONE_FILE = 2**31
"""Bytes that an ONNX graph with its weights may take in one piece, a limit of protobuf's."""

PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}


def unavailable_reason(engine: str, precision: str, device: torch.device) -> str | None:
    """Why a network cannot be run so here, in words, or None where it can."""
    if precision == "int8" and (engine != "onnx" or device.type != "cpu"):
        return "8-bit integers run on the engine onnx, on a processor"
    missing = [name for name in PACKAGES.get(engine, ()) if importlib.util.find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} missing here: pip install 'ffvit[export]'"
    if engine == "compiled":
        reason = compile_unavailable_reason(device)
        if reason is not None:
            return reason
    if engine == "openvino" and device.type != "cpu":
        return "OpenVINO runs on processors: --device cpu"
    if engine == "onnx" and device.type != "cpu":
        from onnxruntime import get_available_providers

        if "CUDAExecutionProvider" not in get_available_providers():
            return "this ONNX Runtime knows no CUDA: pip install onnxruntime-gpu"
    if precision == "fp16" and (engine not in ("torch", "compiled") or device.type != "cuda"):
        return "fp16 runs on the engines torch and compiled, on a GPU"
    if precision == "bf16" and engine == "onnx":
        return "ONNX Runtime is given fp32 and int8 here: for bf16 use the engines compiled or openvino"
    if precision == "bf16" and engine == "openvino" and not has_bf16_matmul():
        return "this processor has no units for bf16"
    return None


def build(
    network: nn.Module,
    engine: str,
    precision: str,
    device: torch.device,
    calibration: Float[Tensor, "images channels height width"] | None = None,
) -> nn.Module:
    """A network on an engine, in evaluation mode: normalised images on the device to logits in fp32, for any batch.

    Args:
        network: It is not changed.
        engine: One of `ENGINES`.
        precision: One of `PRECISIONS`, or fp16.
        device: Where images are and logits shall be.
        calibration: For int8: normalised images such as it will see. Default: random ones, which tell speed alone.

    Raises:
        UserError: It cannot be run so here.
    """
    reason = unavailable_reason(engine, precision, device)
    if reason is not None:
        raise DeviceError(f"{engine} in {precision}: {reason}")
    if engine in ("torch", "compiled"):
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        return _Torch(network.to(device), half, engine == "compiled").eval()
    size = sum(weight.numel() * 4 for weight in network.state_dict().values())
    if size >= ONE_FILE:
        raise DeviceError(
            f"{engine}: the network's {size / 2**30:.1f} GiB in fp32 are more than the 2 GiB of a graph in one piece; "
            "the engines torch and compiled have no such limit"
        )
    from ffvit.inference.onnx_export import IMAGES, export_onnx, quantize

    graph = export_onnx(network)
    if precision == "int8":
        if calibration is None:
            takes = preprocess_of(network)
            calibration = torch.randn(16, takes.in_chans, *takes.img_size, generator=torch.Generator().manual_seed(0))
        graph = quantize(graph, calibration)
    written = graph.SerializeToString()
    if engine == "openvino":
        _, compiled = compiled_openvino(written, precision)
        return _OfArrays(lambda images: np.array(compiled(images)[0])).eval()
    session = onnxruntime_session(written, device)
    return _OfArrays(lambda images: session.run(None, {IMAGES: images})[0]).eval()


class _Torch(nn.Module):
    def __init__(self, network: nn.Module, dtype: torch.dtype | None, compiled: bool) -> None:
        super().__init__()
        self.network, self.dtype = network.eval(), dtype
        self.answer: Callable[[Tensor], Tensor] = self.network
        if compiled:
            configure_compiler()
            self.answer = torch.compile(self.network, options={"triton.cudagraphs": next(network.parameters()).is_cuda})
        self.compiled = compiled
        self.batches: set[int] = set()

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        # Frozen, weights are constants, laid out once for the products they are in; read where a size comes first.
        first = self.compiled and len(images) not in self.batches
        self.batches.add(len(images))
        with (
            torch._inductor.config.patch(freezing=True) if first else nullcontext(),
            torch.autocast(images.device.type, self.dtype, enabled=self.dtype is not None),
        ):
            logits = self.answer(images)
        # A CUDA graph's output is overwritten by its next run.
        return logits.float().clone() if self.compiled else logits.float()


class _OfArrays(nn.Module):
    """An engine that takes numpy's arrays."""

    def __init__(self, run: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__()
        self.run = run

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        return torch.from_numpy(self.run(images.float().contiguous().cpu().numpy())).to(images.device)


def onnxruntime_session(graph: bytes, device: torch.device) -> Any:
    """ONNX Runtime with a graph, on as many threads as PyTorch has.

    Raises:
        UserError: The device is a GPU, and ONNX Runtime cannot use it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    if device.type == "cpu":  # threads that spin while they wait would take the processor from PyTorch's own
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": 0}))
    session = onnxruntime.InferenceSession(graph, options, providers=providers)
    if device.type == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise DeviceError(
            "onnx: ONNX Runtime found no CUDA libraries of the version it was built for, and would use the processor"
        )
    return session


def import_openvino() -> ModuleType:
    """OpenVINO, which reports nothing. It and nncf tell their makers of their use unless a package is missing."""
    cast("dict[str, Any]", sys.modules).setdefault("openvino_telemetry", None)
    import openvino

    return openvino


def compiled_openvino(graph: bytes | Path, precision: str) -> tuple[Any, Any]:
    """A graph in ONNX or OpenVINO's own format, as a model and as what runs it, on as many threads as PyTorch has."""
    openvino = import_openvino()

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    core = openvino.Core()
    model = core.read_model(graph)
    return model, core.compile_model(model, "CPU", settings)
