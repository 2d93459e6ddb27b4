"""Where the names of dots may stand in a picture, so that none covers another, a dot or a line."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Boxes = Float[np.ndarray, "_ 4"]
"""Left, bottom, right and top of rectangles."""

DISTANCES = (3, 9, 15, 22, 31, 42, 55, 72, 95, 125)
ANGLES = np.radians((0, -25, 25, -50, -90, -130, 180, -155, 155, 50, 90, 130))
TRIES = 30


def place_labels(
    dots: Float[np.ndarray, "dots 2"],
    radii: Float[np.ndarray, " dots"],
    sizes: Float[np.ndarray, "dots 2"],
    taken: Boxes,
    written: Boxes,
    room: Float[np.ndarray, " 4"],
    unit: float,
) -> list[tuple[float, float] | None]:
    """Find the lower left corner of each name, as near to its dot as may be; None where there is no room.

    Names are placed one after the other, in many orders; the order with the shortest lines between dots and names wins.

    Args:
        dots: Their centres, like everything in pixels.
        radii: Of the dots.
        sizes: Width and height of each name.
        taken: What names must not cover.
        written: What neither they nor the lines to them may.
        room: What they must not leave.
        unit: Pixels of a typographic point.
    """
    own = np.concatenate((dots - radii[:, None], dots + radii[:, None]), axis=1)
    cores = np.concatenate((dots - radii[:, None] / 2, dots + radii[:, None] / 2), axis=1)  # dots may overlap
    taken = np.concatenate((taken, written, own))
    generator = np.random.default_rng(0)
    best: tuple[float, list[tuple[float, float] | None]] = (np.inf, [])
    for _ in range(TRIES):
        corners: list[tuple[float, float] | None] = [None] * len(dots)
        done, lines, length = [np.empty((0, 4))], [written], 0.0
        for number in generator.permutation(len(dots)):
            others = np.delete(cores, number, axis=0)
            found = _nearest(
                dots[number], radii[number], sizes[number], np.concatenate((taken, *done)),
                np.concatenate((others, *lines)), room, unit,
            )  # fmt: skip
            if found is None:
                length += 1e4
                continue
            box, line, distance = found
            corners[number] = (float(box[0]), float(box[1]))
            done += [box[None], line]
            lines += [box[None], line]
            length += distance
        if length < best[0]:
            best = length, corners
    return best[1]


def _nearest(
    dot: Float[np.ndarray, 2],
    radius: float,
    size: Float[np.ndarray, 2],
    taken: Boxes,
    barred: Boxes,
    room: Float[np.ndarray, 4],
    unit: float,
) -> tuple[Float[np.ndarray, 4], Boxes, float] | None:
    """The nearest free place: its box, boxes along the line to it, and how far it is."""
    for distance in DISTANCES:
        for angle in ANGLES:
            way = np.array((np.cos(angle), np.sin(angle)))
            end = dot + way * (radius + distance * unit)
            # The name begins where the line ends: with its side where that is flat, else with its corner.
            hold = (1 - np.sign(np.round(way, 2))) / 2
            corner = end - hold * size
            box = np.concatenate((corner, corner + size)) + np.array((-2, -2, 2, 2)) * unit / 2
            if (box[:2] < room[:2]).any() or (box[2:] > room[2:]).any() or _covers(box[None], taken):
                continue
            spots = dot + way * np.linspace(radius, radius + distance * unit, 25)[:-1, None]
            line = np.concatenate((spots - 1, spots + 1), axis=1)
            if not _covers(line, barred):
                return box, line, float(distance)
    return None


def _covers(ones: Boxes, others: Boxes) -> bool:
    """Whether any of some boxes overlaps any of others."""
    one, other = ones[:, None], others[None]
    return bool(((one[..., :2] < other[..., 2:]) & (other[..., :2] < one[..., 2:])).all(axis=-1).any())
