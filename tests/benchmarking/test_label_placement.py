from __future__ import annotations

import numpy as np

from ffvit.benchmarking.label_placement import place_labels

ROOM = np.array([0.0, 0.0, 1000.0, 1000.0])
NOTHING = np.empty((0, 4))


def boxes(dots, sizes, taken=NOTHING):
    corners = place_labels(dots, np.full(len(dots), 10.0), sizes, taken, NOTHING, ROOM, 2.5)
    return [
        None if each is None else (*each, *(np.array(each) + size)) for each, size in zip(corners, sizes, strict=True)
    ]


def overlap(one, other) -> bool:
    return all(one[side] < other[side + 2] and other[side] < one[side + 2] for side in (0, 1))


def test_crowded_names_cover_neither_each_other_nor_dots():
    dots = np.array([[500.0, 500.0], [510.0, 495.0], [520.0, 515.0], [505.0, 530.0], [700.0, 500.0]])
    found = boxes(dots, np.tile([200.0, 50.0], (len(dots), 1)))
    assert all(found)
    for number, one in enumerate(found):
        assert not any(overlap(one, other) for other in found[:number])
        assert not any(overlap(one, (x - 9, y - 9, x + 9, y + 9)) for x, y in dots)
        assert min(one[:2]) >= 0
        assert max(one[2:]) <= 1000


def test_a_name_stands_beside_its_dot_if_it_can():
    (alone,) = boxes(np.array([[500.0, 500.0]]), np.array([[200.0, 50.0]]))
    assert alone[0] - 510 < 15
    (moved,) = boxes(np.array([[500.0, 500.0]]), np.array([[200.0, 50.0]]), np.array([[512.0, 300.0, 900.0, 700.0]]))
    assert moved[2] < 512


def test_a_name_without_room_is_left_out():
    assert boxes(np.array([[500.0, 500.0]]), np.array([[1200.0, 50.0]])) == [None]
