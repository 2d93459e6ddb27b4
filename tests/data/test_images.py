from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from ffvit.data.decode import open_image
from ffvit.data.images import ArrayImages, BadImageError, FileImages, Images, Subset, natural_sort


def labels(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def save(path, image: PIL.Image.Image, **options):
    image.save(path, **options)
    return path


@pytest.fixture
def quadrants() -> PIL.Image.Image:
    """Red above left, green above right, blue below left, white below right; wider than high."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16, 0] = pixels[:8, 16:, 1] = pixels[8:, :16, 2] = pixels[8:, 16:] = 255
    return PIL.Image.fromarray(pixels)


def test_bad_image_errors_survive_the_way_out_of_a_worker():
    error = pickle.loads(pickle.dumps(BadImageError("a.jpg", "is damaged")))
    assert (error.name, error.reason, str(error)) == ("a.jpg", "is damaged", "a.jpg: is damaged")


def test_names_are_numbered_in_natural_order():
    assert natural_sort(["n10", "n2", "B", "a", "n2"]) == (("a", "B", "n2", "n10"), pytest.approx([3, 2, 1, 0, 2]))
    assert natural_sort(["²", "٣", "2"])[0] == ("2", "٣", "²")


class TestFileImages:
    def test_opens_what_it_names(self, photos):
        paths = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.jpg"))
        images = FileImages(photos, paths, np.arange(len(paths)))
        assert isinstance(images, Images)
        assert [images.name(index) for index in range(len(images))] == [str(photos / path) for path in paths]
        np.testing.assert_array_equal(open_image(images, 3), PIL.Image.open(photos / paths[3]))

    def test_absolute_and_undecodable_names(self, tmp_path, quadrants):
        odd = tmp_path / "caf\udce9.png"  # Latin-1 on a disk that is read as UTF-8
        save(odd, quadrants)
        images = FileImages(tmp_path / "elsewhere", [str(odd)], labels(0))
        assert open_image(images, 0).size == quadrants.size

    def test_is_thrifty(self, tmp_path):
        paths = [f"train/n01440764/n01440764_{number}.JPEG" for number in range(10_000)]
        images = FileImages(tmp_path, paths, np.zeros(10_000, np.int64))
        assert len(pickle.dumps(images)) < 60 * len(paths)


def test_images_travel_to_other_processes(photos):
    paths = sorted(str(path) for path in photos.glob("val/*/*.jpg"))
    some = Subset(FileImages(photos, paths, np.arange(len(paths))), labels(5, 2))
    with multiprocessing.get_context("spawn").Pool(1) as other:
        read = other.map(some.read, [0, 1])
    for encoded, index in zip(read, (5, 2), strict=True):
        assert encoded == Path(paths[index]).read_bytes()


def test_subset_names_opens_and_renumbers():
    arrays = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 3), np.uint8)
    whole = ArrayImages("four", arrays, labels(7, 8, 9, 7))
    some = Subset(whole, labels(3, 1))
    assert some.labels.tolist() == [7, 8]
    assert some.name(0) == "four[3]"
    assert open_image(some, 1).size == (3, 2)
    assert np.asarray(open_image(some, 0)).max() == 3
    assert Subset(some, labels(1), labels(0)).labels.tolist() == [0]
    assert Subset(some, labels(1), labels(0)).name(0) == "four[1]"
