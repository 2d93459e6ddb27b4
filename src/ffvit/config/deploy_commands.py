"""The commands that bring a trained network to its users, as those of `commands`."""

from __future__ import annotations

from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from ffvit.config.command_fields import (
    ConversionData,
    ConversionRecipe,
    ModelName,
    Names,
    OneDevice,
    Overwrite,
    Paths,
    ResizeMethod,
    Root,
    Seed,
    Size,
    Weights,
    comma_separated,
    option,
    several,
    size,
)
from ffvit.config.commands import CHECKED, Command
from ffvit.config.options import COMMAS, RARE


@dataclass(frozen=True, config=CHECKED)
class Export(Command):
    """Write a trained network for other programs, proven on real images to predict the same.

    Images go in as they are: resizing, crop and normalisation are inside the file, class names in its metadata. The
    formats timm and paper hold weights alone.
    """

    examples = """ffvit export runs/flowers --format onnx --out flowers.onnx
ffvit export runs/flowers --format onnx-int8    8-bit integers
ffvit export runs/flowers --format timm --out flowers-timm    a folder for timm and transformers
ffvit predict flowers.onnx photo.jpg
ffvit evaluate flowers.onnx --data photos/"""

    weights: Weights
    _: KW_ONLY
    format: Annotated[
        Literal["onnx", "onnx-int8", "openvino", "openvino-int8", "pt2", "executorch", "timm", "paper"],
        option(
            "What it is for: ONNX Runtime and OpenVINO, each also in 8-bit integers; torch.export; ExecuTorch; timm's "
            "folder (config.json, model.safetensors); the paper's released code."
        ),
    ] = "onnx"
    out: Annotated[
        Path | None,
        option(
            "The file (.onnx, .xml, .pt2, .pte, .pth); a folder for timm. Default: the name of the weights, in the "
            "working folder."
        ),
    ] = None
    data: Annotated[
        str | Path | None,
        option(
            "Images to prove it on, as for `ffvit train --data`. Default: the validation split of the run that the "
            "weights are from."
        ),
    ] = None
    root: Root = None
    model: ModelName = None
    max_loss: Annotated[NonNegativeFloat, option("Points of top-1 that 8-bit integers may lose on these images.")] = 0.5
    overwrite: Overwrite = False


@dataclass(frozen=True, config=CHECKED)
class Resize(Command):
    """Write weights for images of another size, without training. Weights over patches are resized to the new patch grid.

    The file is one that every command takes; `ffvit train --start-from` trains it on.
    """

    examples = """ffvit resize runs/flowers --image-size 384 --out flowers-384.safetensors
ffvit evaluate flowers-384.safetensors --data photos/
ffvit evaluate runs/flowers --image-size 384    the same, without a file"""

    weights: Weights
    _: KW_ONLY
    image_size: Annotated[
        Size, BeforeValidator(size), option("New image size in pixels: one number for a square, or height and width.")
    ]
    patch_size: Annotated[
        Size | None, BeforeValidator(size), option("New size of a patch in pixels. Default: as it is.")
    ] = None
    method: ResizeMethod = "pinv"
    out: Annotated[
        Path | None,
        option("The file (.safetensors). Default: name of the weights and the size, in the working folder."),
    ] = None
    model: ModelName = None
    overwrite: Overwrite = False


@dataclass(frozen=True, config=CHECKED)
class Convert(Command):
    """Take attention out of a trained network, layer by layer, until more accuracy would be lost than is allowed.

    Each replacement is fitted to what the attention it replaces computes; then the whole network is trained, taught by the
    original. Beside it run two controls: attention removed, and attention fitted from scratch by the same procedure.
    """

    examples = """ffvit convert runs/vit --out runs/less-attention
ffvit convert runs/vit --max-loss 100     the curve down to no attention
ffvit convert deit.pth --data photos/ --replacement linear
ffvit convert runs/vit --out runs/less-attention --resume"""

    weights: Weights
    data: ConversionData = None
    recipe: ConversionRecipe = None
    _: KW_ONLY
    replacement: Annotated[
        Literal["static", "linear", "pooling", "identity"],
        option(
            "What takes the place of attention: maps that are the same for every image (static), one matrix for all "
            "features (linear), pooling, or nothing (identity)."
        ),
    ] = "static"
    max_loss: Annotated[NonNegativeFloat, option("Points of top-1 that may be lost on the validation images.")] = 1.0
    images: Annotated[PositiveInt, RARE, option("Training images that replacements are fitted on, at most.")] = 2000
    seed: Seed = None
    model: ModelName = None
    out: Annotated[Path | None, option("The folder, a run folder in the end. Default: a new one in runs/.")] = None
    resume: Annotated[bool, option("Go on in --out; finished steps are kept.")] = False
    overwrite: Overwrite = False
    hardware: OneDevice = None


@dataclass(frozen=True, config=CHECKED)
class Serve(Command):
    """Serve networks over HTTP: a page to try them, and an API. Ends when it is interrupted or terminated."""

    examples = """ffvit serve runs/flowers                  then open http://127.0.0.1:7860
ffvit serve runs/flowers runs/flowers-vit --engine onnx
FFVIT_TOKEN=... ffvit serve runs/flowers --host 0.0.0.0"""

    weights: Annotated[
        Paths, BeforeValidator(several), option("Run folders or files of weights; several answer side by side.")
    ]
    _: KW_ONLY
    host: Annotated[
        str, option("Address to listen on. The default is reached from this machine alone; 0.0.0.0: from everywhere.")
    ] = "127.0.0.1"
    port: Annotated[int, option("Port to listen on; 0: any free one.", ge=0, le=65535)] = 7860
    engine: Annotated[
        Literal["torch", "compiled", "onnx", "openvino"],
        option("What computes, as in predict; `ffvit benchmark` compares them."),
    ] = "torch"
    precision: Annotated[
        Literal["fp32", "bf16", "fp16", "int8"],
        option("fp32 as in evaluate; int8 is calibrated on the run's images (engine onnx)."),
    ] = "fp32"
    accelerator: Annotated[
        Literal["auto", "cpu", "cuda"], option("Kind of device. auto: the first GPU, if there is one.")
    ] = "auto"
    token_file: Annotated[
        Path | None,
        option("File with the bearer token that requests need. Default: that of the variable FFVIT_TOKEN, else none."),
    ] = None
    batch_size: Annotated[PositiveInt | None, RARE, option("Images per batch at most. Default: 16; on a GPU 64.")] = (
        None
    )
    max_mib: Annotated[PositiveInt, RARE, option("MiB per request at most.", le=1024)] = 32
    max_files: Annotated[PositiveInt, RARE, option("Images per request at most.")] = 32
    queue: Annotated[PositiveInt, RARE, option("Images in work at one time; requests beyond get status 503.")] = 256
    seconds: Annotated[PositiveFloat, RARE, option("Seconds until an answer; then the status is 504.")] = 30.0
    rate: Annotated[
        PositiveFloat | None,
        RARE,
        option(
            "Requests per second from one address; beyond, the status is 429. Default: 20; on loopback, any number."
        ),
    ] = None
    allowed_hosts: Annotated[
        Names,
        COMMAS,
        RARE,
        BeforeValidator(comma_separated),
        option("Names in the Host header, with commas. Default: any; on loopback, localhost and its addresses."),
    ] = ()


@dataclass(frozen=True, config=CHECKED)
class Push(Command):
    """Upload a finished run to the Hugging Face Hub, in timm's format and with a model card made of the run's figures."""

    examples = """ffvit push runs/flowers user/flowers-ff --license cc-by-4.0
ffvit push runs/flowers user/flowers-ff --out flowers-ff    write the folder, upload nothing"""

    run: Annotated[Path, option("A finished run folder.")]
    repository: Annotated[str, option("The repository: user/name. It is made if it is not there.")]
    _: KW_ONLY
    license: Annotated[
        str | None,
        option("Licence of the weights, as the Hub calls it: apache-2.0, cc-by-4.0, ... Default: none is stated."),
    ] = None
    private: Annotated[bool, option("Make a new repository private.")] = False
    out: Annotated[Path | None, option("Write this folder instead, and upload nothing.")] = None
