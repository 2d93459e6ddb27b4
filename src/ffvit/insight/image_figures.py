"""What a network sees in an image, as pictures."""

from __future__ import annotations

from collections.abc import Sequence

from ffvit.insight.faithfulness import Faithfulness
from ffvit.insight.image import ImageFindings


def attributions_png(findings: ImageFindings) -> bytes:
    """The image, and each attribution over it, side by side."""
    raise NotImplementedError


def removal_png(findings: ImageFindings) -> bytes:
    """The image, the patches whose removal changes the answer, and the probability as they go."""
    raise NotImplementedError


def faithfulness_svg(results: Sequence[Faithfulness]) -> bytes:
    """Deletion and insertion curves, a line for each method."""
    raise NotImplementedError
