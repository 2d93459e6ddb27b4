from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from commands import here
from ffvit import Data
from ffvit.config import recipe
from ffvit.data.images import ArrayImages, FileImages
from ffvit.data.loader_benchmark import Stages, measure
from ffvit.data.splits import open_splits
from ffvit.errors import UserError

KNOWN = Stages(0.001, 0.004, 0.003, 0.002, 0.005, 110_000.0, 2, 700.0)


def test_what_takes_longest_is_the_limit_and_what_helps_is_said():
    assert "2 loading processes: 700 images/s. The limit is decoding: 50 %" in KNOWN.summary()
    assert "110 kB" in KNOWN.summary()
    assert "ffvit prepare" in KNOWN.summary()
    assert "The limit is reading: 67 %" in replace(KNOWN, read=0.01).summary()
    assert "The limit is augmentation: 67 %" in replace(KNOWN, augment=0.008).summary()
    assert "prepare" not in replace(KNOWN, size=0.0).summary()


def test_measures_what_it_says(photos):
    images = open_splits(Data(source=str(photos))).train
    found = measure(images, recipe.named_recipe("deit"), (48, 48), workers=0, seconds=0.1)
    assert min(found.read, found.decode, found.crop, found.evaluate, found.loaded) > 0
    assert found.size == pytest.approx(np.mean([len(images.read(index)) for index in range(len(images))]), rel=0.2)


def test_images_in_memory_have_no_bytes():
    held = ArrayImages("held", np.zeros((40, 8, 8), dtype=np.uint8), np.zeros(40, dtype=np.int64))
    assert measure(held, recipe.named_recipe("digits"), (8, 8), seconds=0.02).size == 0


def test_nothing_to_read_is_said(tmp_path):
    gone = FileImages(tmp_path, ["a.jpg", "b.jpg"], np.zeros(2, dtype=np.int64))
    with pytest.raises(UserError, match="none of the images"):
        measure(gone, recipe.named_recipe("small"), (8, 8), seconds=0.02)


def test_the_command_names_the_slowest_stage(photos):
    done = here("benchmark", "data", photos, "--seconds", 0.05)
    assert done.returncode == 0, done.stderr
    assert "images/s a core" in done.stdout
    assert "The limit is" in done.stdout


def test_a_network_is_trained_with_the_loader_and_with_one_that_costs_nothing(photos):
    found = here("benchmark", "data", photos, "--seconds", 0.05, "--network", "ff_micro_patch2_8", "--image-size", 8)
    assert found.returncode == 0, found.stderr
    assert re.search(r"Training: [\d.,]+ images/s; [\d.,]+ if loading cost nothing\.", found.stdout)
    assert "Training: 89.6 images/s; 1,840 if loading cost nothing." in replace(KNOWN, trained=(89.6, 1840.0)).summary()


def test_a_network_that_there_is_not_is_said(photos):
    found = here("benchmark", "data", photos, "--seconds", 0.05, "--network", "ff_tinny")
    assert found.returncode == 2
    assert "no network is called 'ff_tinny'" in found.stderr
