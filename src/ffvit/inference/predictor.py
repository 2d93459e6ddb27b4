"""A network loaded once, that predicts whatever holds an image, from any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float, Float32, UInt8
from scipy.special import softmax
from timm.data import ImageNetInfo
from torch import Tensor, nn

from ffvit.config.hardware import Hardware
from ffvit.config.preprocess import Preprocess
from ffvit.data.images import BadImageError, FileImages, StoredImage, read_file
from ffvit.data.jpeg import Pixels
from ffvit.data.loader import NormalizeOnDevice, evaluation_loader, worker_count
from ffvit.data.transforms import LazyImage, Transform, evaluation_transform
from ffvit.errors import DataError, ModelError, UserError
from ffvit.hardware.devices import keep_freed_memory
from ffvit.hardware.launch import start_fabric
from ffvit.hardware.precision import float32
from ffvit.inference.engines import build
from ffvit.inference.exported import Exported, is_exported
from ffvit.inference.ood import energy_score
from ffvit.models.description import class_names_of, preprocess_of
from ffvit.models.weights import load

BATCH = 32
"""Images at once: few, so that the first predictions come soon."""

OneImage = str | Path | bytes | PIL.Image.Image | np.ndarray | Tensor
"""A path, an encoded file, or pixels; see `Predictor`."""

_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an image, likeliest first, with their probabilities (0 to 1).

    `none_of_these` says whether the image is likely of none of the classes (`Predictor.ood_threshold`); None if unknown.
    """

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    none_of_these: bool | None = None


class Predictor:
    """A network that is loaded once and predicts images, from any number of threads.

    An image is a path, the bytes of an encoded file, a PIL image (its pixels as they lie), an array of levels 0 to 255
    (height width, or height width channels, uint8) or a tensor of such levels (channels height width). Several are a
    sequence of those, or one array or tensor with a batch axis in front. 4 channels are RGB and alpha.

    Attributes:
        class_names: In the order of the logits; ImageNet's WordNet ids in words.
        preprocess: How images are prepared.
        temperature: What logits are divided by, so that probabilities are calibrated; 1 where nothing was fitted.
        ood_threshold: Energy score (`ffvit.inference.ood`) below which an image is said to be of none of the classes; None
            where nothing was fitted.
        device: Where it computes.
        transform: Decodes, resizes and crops an image.
        shape: Channels, height and width of what comes out of it.

    Args:
        weights: A run folder, a file of weights, a file that `ffvit export` wrote, or a network, which is copied.
        model: The network's name, for weights that do not say.
        engine: What computes: one of `ffvit.inference.engines.ENGINES`.
        precision: fp32, bf16, fp16 or int8; int8 is calibrated on training images of the run. Default: `hardware`'s.
        hardware: Where to compute. Default: the first GPU, if there is one.

    Raises:
        UserError: The weights cannot be used, or the engine cannot run here in this precision.
    """

    def __init__(
        self,
        weights: str | Path | nn.Module,
        *,
        model: str | None = None,
        engine: str = "torch",
        precision: str | None = None,
        hardware: Hardware | None = None,
    ) -> None:
        hardware = hardware or Hardware()
        if hardware.devices * hardware.nodes > 1:
            raise UserError("predicting uses one device: leave out --devices and --nodes")
        if precision is None:
            precision = "fp32" if hardware.precision == "auto" else hardware.precision  # as evaluation does
        self._workers = hardware.workers
        self.device = start_fabric(hardware.replace(precision="fp32")).device
        if self.device.type == "cpu":
            keep_freed_memory()
        self._computing = threading.Lock()
        self.transform: Transform
        self.shape: tuple[int, int, int]
        self._compute: Callable[[Tensor], Tensor]
        if is_exported(weights):
            if (engine, precision) != ("torch", "fp32"):
                raise UserError(f"{weights}: an exported file has its own engine and precision: name none")
            exported = Exported(Path(str(weights)))
            self._describe(exported, exported.info.preprocess)
            self.device, self.transform, self.shape = torch.device("cpu"), exported.transform, exported.shape
            self._compute = exported
            return
        network = deepcopy(weights) if isinstance(weights, nn.Module) else load(weights, model)
        preprocess = preprocess_of(network)
        self._describe(network, preprocess)
        self.transform, self.shape = evaluation_transform(preprocess), preprocess.shape
        calibration = None
        if precision == "int8":
            from ffvit.inference.run_images import calibration_images, run_of  # they import pandas

            run = None if isinstance(weights, nn.Module) else run_of(Path(weights))
            if run is None:
                raise UserError("int8 is calibrated on the images of a run: give its run folder, or a file made of it")
            calibration = calibration_images(run, preprocess)
        normalize, runner = NormalizeOnDevice(preprocess), build(network, engine, precision, self.device, calibration)
        self._compute = lambda levels: runner(normalize.normalized(levels))

    def _describe(self, network: nn.Module, preprocess: Preprocess) -> None:
        self.class_names = _readable(class_names_of(network))
        self.preprocess = preprocess
        self.temperature: float = getattr(network, "temperature", None) or 1.0
        self.ood_threshold: float | None = getattr(network, "ood_threshold", None)

    @property
    def crop(self) -> float:
        """Share of the shorter side that a prepared image shows; an exported file crops by itself."""
        return min(1.0, self.preprocess.crop_pct * self.shape[1] / self.preprocess.img_size[0])

    def __call__(self, images: OneImage | Iterable[OneImage], top: int = 5) -> list[Prediction]:
        """The likeliest classes of each image.

        Args:
            images: One image or several.
            top: How many classes an image gets.

        Raises:
            BadImageError: An image cannot be read; says which.
            DataError: Something is no image.
            ModelError: The logits are not finite.
        """
        named = list(_named(images))
        return self.predictions(self._logits(named), [name for name, _ in named], top)

    def stream(self, files: Sequence[str | Path], top: int = 5) -> Iterator[Prediction | BadImageError]:
        """The likeliest classes of any number of files, which other processes load meanwhile; `hardware.workers` says how many.

        Args:
            files: Paths, all of which are held; no more than some batches of images are.
            top: How many classes an image gets.

        Yields:
            For each file in turn its prediction, or the error that says why it could not be read.

        Raises:
            ModelError: The logits are not finite.
        """
        names = [str(file) for file in files]
        images, workers = FileImages(Path(), names, np.zeros(len(names), dtype=np.int64)), self._workers
        if workers is None:
            workers = worker_count(images, 1) if len(names) > 2 * BATCH else 0
        for batch in evaluation_loader(images, self.transform, self.shape, BATCH, workers, device=self.device):
            logits = self.run(batch.images.permute(0, 2, 3, 1).numpy())
            predictions = self.predictions(logits, [names[index] for index in batch.indices], top)
            bad = iter(batch.bad)
            for prediction, weight in zip(predictions, batch.weights.tolist(), strict=True):
                yield prediction if weight else BadImageError(prediction.image, next(bad).reason)

    def logits(self, images: OneImage | Iterable[OneImage]) -> Float32[np.ndarray, "images classes"]:
        """The logits of each image; see `__call__`."""
        return self._logits(list(_named(images)))

    def _logits(self, images: Sequence[tuple[str, StoredImage]]) -> Float32[np.ndarray, "images classes"]:
        parts = [
            self.run(np.stack([self.prepare(image, name) for name, image in images[start : start + BATCH]]))
            for start in range(0, len(images), BATCH)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.class_names)), np.float32)

    def prepare(self, image: StoredImage, name: str = "image") -> Pixels:
        """An encoded or PIL image as `run` takes it: decoded, resized and cropped, in levels 0 to 255.

        Raises:
            BadImageError: It cannot be read; calls it by its name.
        """
        return self.transform(LazyImage(image, name)).pixels

    def run(self, images: UInt8[np.ndarray, "images height width channels"]) -> Float32[np.ndarray, "images classes"]:
        """The logits of prepared images, all in one batch.

        Raises:
            ModelError: They are not finite.
        """
        levels = torch.from_numpy(images).permute(0, 3, 1, 2)
        # One batch at a time: it has all cores, and not every engine may be called twice at once.
        with self._computing, torch.inference_mode(), float32(self.device):
            logits: np.ndarray = self._compute(levels.to(self.device)).float().cpu().numpy()
        check_finite(logits)
        return logits

    def predictions(
        self, logits: Float32[np.ndarray, "images classes"], names: Sequence[str], top: int = 5
    ) -> list[Prediction]:
        """What logits say of images with these names."""
        shares = softmax(logits / self.temperature, axis=1)
        likeliest = np.argsort(-shares, axis=1, kind="stable")[:, :top]
        probabilities = np.take_along_axis(shares, likeliest, axis=1)
        none: list[bool | None] = [None] * len(logits)
        if self.ood_threshold is not None:
            none = (energy_score(logits) < self.ood_threshold).tolist()
        return [
            Prediction(name, tuple(self.class_names[number] for number in numbers), tuple(row), of_none)
            for name, numbers, row, of_none in zip(names, likeliest.tolist(), probabilities.tolist(), none, strict=True)
        ]


def check_finite(logits: Float[np.ndarray, "images classes"]) -> None:
    """Make sure that there is something to predict from.

    Raises:
        ModelError: Logits are not finite.
    """
    if not np.isfinite(logits).all():
        raise ModelError("the network's logits are NaN or infinite: its training diverged, or its weights are damaged")


def _named(images: Any) -> Iterator[tuple[str, StoredImage]]:
    """Each image as it is stored, with its path or number."""
    if isinstance(images, Tensor | np.ndarray) and images.ndim == 4:
        images = list(images)
    if isinstance(images, OneImage):
        images = [images]
    for number, image in enumerate(images):
        if isinstance(image, str | Path):
            yield str(image), read_file(image)
        elif isinstance(image, bytes | PIL.Image.Image):
            yield f"image {number}", image
        elif isinstance(image, np.ndarray | Tensor):
            yield f"image {number}", _of_levels(image, f"image {number}")
        else:
            raise DataError(
                f"image {number}: a {type(image).__name__} is no image: give a path, bytes, a PIL image, an array or a tensor"
            )


def _of_levels(image: np.ndarray | Tensor, name: str) -> PIL.Image.Image:
    """Levels in an array (channels last) or a tensor (channels first) as an image."""
    pixels, axes = image, "height width channels"
    if isinstance(image, Tensor):
        pixels, axes = image.cpu().numpy(), "channels height width"
        pixels = pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels
    if pixels.dtype != np.uint8:
        raise DataError(f"{name}: levels must be 0 to 255 in uint8; got {pixels.dtype}")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in _CHANNELS or not pixels.size:
        shape = " x ".join(map(str, image.shape))
        raise DataError(f"{name}: must be {axes} with 1, 3 or 4 channels; got {shape}")
    return PIL.Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))


def _readable(names: tuple[str, ...]) -> tuple[str, ...]:
    """ImageNet's WordNet ids in words; other names as they are."""
    info = ImageNetInfo()
    if names != tuple(info.label_names()):
        return names
    return tuple(info.index_to_description(number) for number in range(len(names)))
