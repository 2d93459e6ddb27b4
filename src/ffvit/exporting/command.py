"""Writing a trained network in another format, which is proven before it takes its name."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from torch import nn

from ffvit.config.base import short
from ffvit.config.preprocess import Preprocess
from ffvit.data.images import Images
from ffvit.data.splits import open_images
from ffvit.errors import DiskFullError, FfvitError, ModelError, UserError
from ffvit.exporting.formats import FORMATS, Format, Written
from ffvit.exporting.int8 import Sensitivity
from ffvit.exporting.output import free_output
from ffvit.exporting.program import FILTERS, Program
from ffvit.exporting.proof import LEVELS, Opened, Proof, Reference, Sample, find_stage, is_faithful, prove
from ffvit.files.atomic_write import atomic_path, is_disk_full
from ffvit.inference.engines import ONE_FILE
from ffvit.inference.exported import ExportInfo, check_packages
from ffvit.inference.run_images import CALIBRATION_IMAGES, run_of, splits_of
from ffvit.models.backbone import Backbone
from ffvit.models.create import create_model
from ffvit.models.description import class_names_of, network_of, preprocess_of
from ffvit.models.hub import CONFIG, WEIGHTS
from ffvit.models.weights import load


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: The file, or the folder of timm's format.
        files: All files that belong to it.
        format: Its format.
        proof: What it was compared with.
        sensitivities: Of int8: its layers, most sensitive first.
    """

    path: Path
    files: tuple[Path, ...]
    format: str
    proof: Proof
    sensitivities: list[Sensitivity]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.stat().st_size for file in self.files)


def export(
    weights: str | Path | nn.Module,
    format: str = "onnx",  # noqa: A002 (the option's name)
    out: Path | None = None,
    *,
    data: str | Path | None = None,
    root: Path | None = None,
    model: str | None = None,
    max_loss: float = 0.5,
    overwrite: bool = False,
) -> Export:
    """Write a network in another format, prove the file on real images, and only then give it its name.

    Args:
        weights: A run folder, a file of weights, or a network.
        format: One of `FORMATS`.
        out: The file; a folder for timm. Default: the name of the weights, with the format's suffix, in the working folder.
        data: Images to prove it on. Default: the run's validation split.
        root: Where a data set that timm opens lies.
        model: The network's name, for weights that do not say.
        max_loss: Points of top-1 that int8 may lose on these images.
        overwrite: Replace a file that `ffvit export` wrote.

    Raises:
        UserError: The weights or images cannot be used, a package is missing, the format lacks something that the network
            needs, the file exists, or it does not predict what the network predicts (says in which stage they part).
        DiskFullError: The disk is full; nothing is left behind.
    """
    row = FORMATS[format]
    stem = "network" if isinstance(weights, nn.Module) else Path(str(weights)).absolute().stem
    out = free_output(stem, format, out, overwrite)
    check_packages(row.packages, row.extra, f"--format {format}")
    network = deepcopy(weights) if isinstance(weights, nn.Module) else load(weights, model)
    network = network.cpu().float().eval()
    # Decoded whole, where the faster libraries may decode a JPEG smaller: a file is given pixels.
    preprocess = preprocess_of(network).replace(pixel_backend="pillow")
    _check(network, format, row)
    run = None if isinstance(weights, nn.Module) else run_of(Path(weights))
    if data is not None:
        images: Images | None = open_images(str(data), root, getattr(network, "class_names", None))
    else:
        images = splits_of(run).validation if run is not None else None
    if images is None:
        raise UserError("a file is proven on real images, and these weights bring no validation split: give --data")
    if row.quantize is not None and run is None:
        raise UserError(f"{format} is calibrated on the training images of a run: give a run folder")
    sample, info = Sample.of(images, preprocess, row.max_side), _info(network, preprocess, format, row)
    program, reference = Program(network, preprocess).eval(), Reference(network, preprocess)
    with tempfile.TemporaryDirectory() as folder:
        write = partial(_write, row, format, info, Path(folder))
        sensitivities: list[Sensitivity] = []
        if row.quantize is None:
            file = write("file", program, ["logits"])
        else:
            assert run is not None
            train = Sample.of(splits_of(run).train, preprocess, row.max_side, CALIBRATION_IMAGES).batches
            int8 = replace(row, write=_quantizer(row.quantize, train, sensitivities))
            file = _write(int8, format, info, Path(folder), "file", program, ["logits"])
        if row.read is not None:
            opened = row.read(file, reference)
        else:
            opened = Opened.of_program(file, write("pixels", program.preprocessing, ["pixels"]))
        proof = prove(opened, reference, sample)
        if row.quantize is not None:
            _check_loss(proof, max_loss, sensitivities)
        elif not is_faithful(proof):
            stage = "preprocessing" if proof.level_difference > LEVELS else "the weights"
            if row.read is None:
                stage = find_stage(partial(write, "stages"), program, reference, sample)
            raise _unfaithful(out, proof, stage)
        files = _place(file, out)
    return Export(out, files, format, proof, sensitivities)


def _info(network: nn.Module, preprocess: Preprocess, format: str, row: Format) -> str:  # noqa: A002
    """What the file will say of itself."""
    info = ExportInfo(
        format=format,
        network=network_of(network).title,
        class_names=class_names_of(network),
        preprocess=preprocess,
        temperature=getattr(network, "temperature", None),
        ood_threshold=getattr(network, "ood_threshold", None),
        ffvit=version("ffvit"),
        max_batch=row.max_batch,
        max_side=row.max_side,
    )
    return json.dumps(info.model_dump(mode="json"))


def _unfaithful(out: Path, proof: Proof, stage: str) -> ModelError:
    return ModelError(
        f"{out}: not written: the file does not compute what the network does. The difference begins in: {stage} (largest "
        f"difference of a logit {max(proof.difference, proof.single_difference):.3g}, of a level {proof.level_difference:.3g})"
    )


def _check(network: nn.Module, format: str, row: Format) -> None:  # noqa: A002
    """Check that a network can be exported at all."""
    bad = [name for name, tensor in network.state_dict().items() if not tensor.isfinite().all()]
    if bad:
        raise ModelError(f"the weights are NaN or infinite ({bad[0]}): its training diverged, or its file is damaged")
    if row.read is not None:
        return
    preprocess = preprocess_of(network)
    if preprocess.interpolation not in FILTERS:
        raise ModelError(f"images resized by {preprocess.interpolation} cannot be exported: only {', '.join(FILTERS)}")
    if preprocess.crop_pct > 1:
        raise ModelError(f"a crop of {preprocess.crop_pct:g} of the resized image pads it, and cannot be exported")
    size = sum(tensor.numel() * 4 for tensor in network.state_dict().values())
    if "onnx" in row.packages and size >= ONE_FILE:
        raise ModelError(f"--format {format}: the network's {size / 2**30:.1f} GiB are more than the 2 GiB of a graph of "
                         "ONNX in one piece: take --format pt2")  # fmt: skip


def _write(row: Format, format: str, info: str, folder: Path, name: str, module: nn.Module, outputs: list[str]) -> Path:  # noqa: A002
    """Write a module in a format."""
    path = folder / f"{name}{row.suffix}"
    try:
        row.write(Written(module, outputs, info, path), row)
    except FfvitError:
        raise
    except Exception as error:  # each exporter has its own
        if is_disk_full(error):
            raise DiskFullError(
                f"{folder}: the disk is full; nothing was written. Free some space, then export again"
            ) from None
        if row.read is not None:
            raise
        mixers = _mixers_without(row, folder, module)
        what = f"the mixer {' and '.join(mixers)}" if mixers else "something in this network"
        offer = "" if format == "pt2" else "; --format pt2 has all of PyTorch's operators"
        raise ModelError(f"--format {format} has no operator for {what}{offer} ({short(error)})") from None
    return path


def _mixers_without(row: Format, folder: Path, module: nn.Module) -> list[str]:
    """The mixers of a network that a format cannot write, each tried alone in one block."""
    network = getattr(module, "network", None)
    missing = []
    if isinstance(network, Backbone):
        for branch in dict.fromkeys(branch for block in network.architecture.blocks for branch in block):
            body = network.architecture.replace(depth=1, block=(branch,), replaced=None, readout="mean")
            alone = create_model(body).eval()
            try:
                row.write(
                    Written(Program(alone, preprocess_of(alone)), ["logits"], "", folder / f"alone{row.suffix}"), row
                )
            except Exception:
                missing.append(f"{branch.mixer} along {branch.axis}")
    return missing


def _quantizer(
    quantize: Callable[[Written, Format, Sequence[np.ndarray]], list[Sensitivity]],
    batches: list[np.ndarray],
    sensitivities: list[Sensitivity],
) -> Callable[[Written, Format], None]:
    """What writes a file in 8-bit integers, and notes how sensitive its layers are."""
    return lambda written, row: sensitivities.extend(quantize(written, row, batches))


def _check_loss(proof: Proof, max_loss: float, sensitivities: list[Sensitivity]) -> None:
    lost = -100 * proof.gain.value
    if not np.isfinite(proof.after).all() or lost > max_loss:
        raise ModelError(
            f"not written: in 8-bit integers it loses {lost:.2f} points of top-1 on {proof.images:,} images "
            f"({100 * proof.top1(proof.before).value:.2f} % before), more than {max_loss:g}; the most sensitive layer is "
            f"{sensitivities[0].layer}. --max-loss {np.ceil(10 * lost) / 10:g} lets it through"
        )


def _place(file: Path, out: Path) -> tuple[Path, ...]:
    """Give a file, and what belongs to it, its place; the file itself last, of a folder the description."""
    new_folder = file.is_dir() and not out.exists()
    if file.is_dir():
        out.mkdir(exist_ok=True)
        places = {file / name: out / name for name in (WEIGHTS, CONFIG)}
    else:
        parts = sorted(file.parent.glob(f"{file.stem}.*"), key=lambda part: part == file)
        places = {part: out.with_suffix(part.suffix) for part in parts}
    try:
        for part, place in places.items():
            with atomic_path(place, "export again") as temporary:
                shutil.copyfile(part, temporary)
    except BaseException:
        if new_folder:
            shutil.rmtree(out)
        raise
    return tuple(places.values())
