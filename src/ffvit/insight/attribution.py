"""What each patch of an image adds to the logit of a class, by several methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

Method = Literal["integrated gradients", "gradient x input", "occlusion", "attention rollout"]


@dataclass(frozen=True)
class Attribution:
    """What speaks for a class, by one method.

    Attributes:
        method: Its name.
        pixels: What each pixel adds, summed over channels. A method that knows patches alone spreads each over its pixels.
        patches: The sum over the pixels of each patch. Above 0, the patch speaks for the class.
        error: Of integrated gradients, the sum of all less what it should be: the logit of the image less that of an
            image of the mean colour alone. None for other methods, which promise no sum.
    """

    method: Method
    pixels: Float64[np.ndarray, "height width"]
    patches: Float64[np.ndarray, "rows columns"]
    error: float | None = None
