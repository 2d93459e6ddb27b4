"""Weights for images of another size, as a file."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

from torch import nn

from ffvit.config.mixers import TokenResizeMethod
from ffvit.errors import OutputError
from ffvit.files.output_file import check_output, is_weights
from ffvit.models.image_size import set_image_size
from ffvit.models.weights import load, save_weights


def resize(
    weights: str | Path | nn.Module,
    image_size: tuple[int, int],
    *,
    patch_size: tuple[int, int] | None = None,
    method: TokenResizeMethod = "pinv",
    out: Path | None = None,
    model: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write weights for images of another size, without training.

    Args:
        weights: A run folder, a file of weights, or a network, which stays as it is.
        image_size: Height and width in pixels.
        patch_size: Height and width of a patch in pixels. Default: as it is.
        method: How weights over patches are resized (`ffvit.models.token_resize`).
        out: The file. Default: the name of the weights and the size, in the working folder.
        model: The network's name, for weights that do not say.
        overwrite: Replace a file of weights.

    Raises:
        UserError: The weights cannot be used, cannot be resized so, or the file exists.
    """
    if out is None:
        stem = "network" if isinstance(weights, nn.Module) else Path(str(weights)).absolute().stem
        height, width = image_size
        out = Path(f"{stem}-{height}{f'x{width}' if width != height else ''}.safetensors")
    if out.suffix != ".safetensors":
        raise OutputError(f"--out {out}: weights are written to .safetensors files")
    check_output(out, "--out", "file of weights", is_weights)
    if out.exists() and not overwrite:
        raise OutputError(f"--out {out}: is there; --overwrite replaces it")
    network = deepcopy(weights) if isinstance(weights, nn.Module) else load(weights, model)
    set_image_size(network, image_size, patch_size, method)
    save_weights(out, network, getattr(network, "class_names", None))
    return out
