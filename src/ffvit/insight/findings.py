"""What was found in networks, as values; the numbers among them also as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ffvit.inference.intervals import PairedDifference, Proportion
from ffvit.insight.image.faithfulness import Faithfulness
from ffvit.insight.image.image_findings import ImageFindings
from ffvit.insight.layers import Layer, LayeredNetwork
from ffvit.insight.receptive_field import ReceptiveField
from ffvit.insight.token_maps import LayerMaps, TokenMap


@dataclass(frozen=True)
class HeadFindings:
    """One attention head.

    Attributes:
        distance: Mean distance weighted by attention, in patches.
        static: ||mean map||^2 / mean ||map||^2 over images.
        uniform: The part of it that is the uniform map: 1 / mean ||map||^2, for rows that sum to 1.
        entropy: Mean entropy of the rows of single images' maps, 1 for uniform rows.
    """

    distance: float
    static: float
    uniform: float
    entropy: float


@dataclass(frozen=True)
class JacobianFindings:
    """How a branch's updates react to other tokens (`token_jacobian`).

    Attributes:
        distance: Mean distance weighted by the norm of the Jacobian, in patches.
        static: Share of the mean square of the Jacobian that is the same for all images.
        uniform: Share that is the same for all images and all tokens read.
    """

    distance: float
    static: float
    uniform: float


@dataclass(frozen=True)
class LayerFindings:
    """One residual branch.

    Attributes:
        layer: The branch.
        update_ratio: ||update|| / ||x||, mean over images.
        accuracy_lost: Accuracy of the network less that without the branch, 0 to 1.
        jacobian: Where it can mix patches.
        heads: Where it is attention over patches.
    """

    layer: Layer
    update_ratio: float
    accuracy_lost: PairedDifference
    jacobian: JacobianFindings | None
    heads: tuple[HeadFindings, ...] = ()


@dataclass(frozen=True)
class LensFindings:
    """What the last norm and the head make of the tokens after so many blocks.

    Attributes:
        blocks: How many.
        accuracy: Share predicted correctly.
        agreement: Share predicted as the whole network predicts.
    """

    blocks: int
    accuracy: Proportion
    agreement: Proportion


@dataclass(frozen=True)
class ImageCounts:
    """From how many images each thing is."""

    observed: int
    lesions: int
    jacobians: int
    fields: int
    attributions: int

    def at_most(self, count: int) -> ImageCounts:
        """The same, of no more images than there are."""
        return ImageCounts(*(min(each, count) for each in asdict(self).values()))


@dataclass(frozen=True)
class NetworkFindings:
    """What one network does.

    Attributes:
        name: What to call it.
        network: The network in layers.
        images: From how many images each thing is.
        layers: Its branches.
        lens: After 0, 1, ... blocks.
        fields: Receptive fields of the patch in the middle, after some blocks.
        maps: What mixers over patches weigh, of some layers.
        class_token: What the class token's update depends on, by layer; empty without a class token.
        class_attention: What the class token attends to, by layer, mean over heads.
        cka: Linear CKA between its depths: in front of the first block and behind every block.
    """

    name: str
    network: LayeredNetwork
    images: ImageCounts
    layers: tuple[LayerFindings, ...]
    lens: tuple[LensFindings, ...]
    fields: tuple[ReceptiveField, ...]
    maps: tuple[LayerMaps, ...]
    class_token: tuple[tuple[Layer, TokenMap], ...]
    class_attention: tuple[tuple[Layer, TokenMap], ...]
    cka: Float[Tensor, "depths depths"]

    @property
    def accuracy(self) -> Proportion:
        """The network's own."""
        return self.lens[-1].accuracy

    @property
    def mixing(self) -> list[LayerFindings]:
        """The branches that can mix patches."""
        return [layer for layer in self.layers if layer.jacobian is not None]

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them."""
        height, width = self.network.patch
        layers = []
        for found in self.layers:
            layer = found.layer
            entry: dict[str, Any] = {
                "block": layer.block + 1,
                "mixer": layer.mixer,
                "axis": layer.axis,
                "update_ratio": found.update_ratio,
                "accuracy_lost": asdict(found.accuracy_lost),
            }
            if found.jacobian is not None:
                pixels = found.jacobian.distance * (height * width) ** 0.5
                entry["jacobian"] = {**asdict(found.jacobian), "distance_pixels": pixels}
            if found.heads:
                entry["heads"] = [asdict(head) for head in found.heads]
            layers.append(entry)
        return {
            "name": self.name,
            "images": asdict(self.images),
            "grid": list(self.network.grid),
            "patch": [height, width],
            "class_token": self.network.has_class_token,
            "accuracy": asdict(self.accuracy),
            "layers": layers,
            "logit_lens": [asdict(each) for each in self.lens],
            "receptive_fields": [
                {"blocks": each.blocks, "half_radius_pixels": each.half_radius, "own_patch": each.own_patch}
                for each in self.fields
            ],
            "cka": self.cka.tolist(),
        }


@dataclass(frozen=True)
class Inspection:
    """What was found in one or two networks.

    Attributes:
        networks: Each.
        data: What images were used, in words.
        class_names: In the order of the logits.
        warnings: What must be known to read the figures rightly, a sentence each.
        cross_cka: Linear CKA of the depths of the first network with those of the second; None: there is one only.
        image: What each network sees in one image, by its name; empty where no image was given.
        faithfulness: How faithful each method of attribution is to each network, by its name; with an image.
        image_name: What this image is called.
    """

    networks: tuple[NetworkFindings, ...]
    data: str
    class_names: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    cross_cka: Float[Tensor, "depths others"] | None = None
    image: tuple[tuple[str, ImageFindings], ...] = ()
    faithfulness: tuple[tuple[str, tuple[Faithfulness, ...]], ...] = ()
    image_name: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them; what is not defined is null."""
        return _finite({
            "inspect": 1,
            "data": self.data,
            "warnings": list(self.warnings),
            "networks": [each.to_dict() for each in self.networks],
            "cross_cka": None if self.cross_cka is None else self.cross_cka.tolist(),
            "image": self.image_name or None,
            "image_predictions": [_prediction(name, found) for name, found in self.image],
            "faithfulness": {name: [result.to_dict() for result in results] for name, results in self.faithfulness},
        })  # fmt: skip


def _prediction(name: str, found: ImageFindings) -> dict[str, Any]:
    """The class that a network predicts for the image, and how many patches must be removed to change that."""
    removal = found.removal
    return {
        "name": name,
        "predicted": found.class_names[found.predicted],
        "probability": float(found.probabilities[found.predicted]),
        "patches": removal.total,
        "removed_until_it_changes": None if removal.becomes is None else len(removal.patches),
        "becomes": None if removal.becomes is None else found.class_names[removal.becomes],
        "removed_in_random_order": removal.random_mean,
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
