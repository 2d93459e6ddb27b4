"""Every error of ours has a code of its own, is documented and reaches the user with its code."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ffvit
from commands import here
from ffvit.config.data import Data, bad_image_limit
from ffvit.data.shards.addresses import expand_braces
from ffvit.data.splits import open_splits
from ffvit.errors import DataError, FfvitError

ROOT = Path(__file__).parents[2]


def error_classes() -> list[type[FfvitError]]:
    """All classes of errors, those that modules keep for themselves too."""
    for module in pkgutil.walk_packages(ffvit.__path__, "ffvit."):
        if module.name != "ffvit.__main__":
            importlib.import_module(module.name)
    found, todo = [], [FfvitError]
    while todo:
        found.append(todo.pop())
        todo += found[-1].__subclasses__()
    return found[1:]


def test_each_error_class_has_its_own_code():
    codes = [each.__dict__.get("code") for each in error_classes()]
    assert None not in codes
    assert len(set(codes)) == len(codes)


def test_each_code_and_class_is_in_the_reference():
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    classes = error_classes()
    assert set(re.findall(r"`(E-[A-Z]+)`", page)) == {each.code for each in classes}
    assert [each.__name__ for each in classes if f"`{each.__name__}`" not in page] == []


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (("train", "--resume"), "E-USAGE", 2),
        (("train", "--no-such-option"), "E-USAGE", 2),
        (("train", "--recipe", "no such recipe"), "E-CONFIG", 2),
        (("train", "no_such_network"), "E-MODEL", 2),
        (("train", "--data", "no/such/folder"), "E-DATA", 2),
        (("evaluate", "no/such/run"), "E-MODEL", 2),
        (("report", "no/such/study"), "E-RUN", 2),
        (("check", "digits", "--out", "no/such/folder/check.csv"), "E-OUTPUT", 2),
        (("train", "--accelerator", "cuda"), "E-DEVICE", 2),
    ],
)
def test_the_command_line_ends_a_message_with_its_code(arguments, code, exit_code, tmp_path):
    done = here(*arguments, cwd=tmp_path)
    assert done.returncode == exit_code
    assert done.stderr.rstrip().endswith(f"[{code}]"), done.stderr
    assert "Traceback" not in done.stderr


def spoilt(folder: Path, share: float) -> Path:
    """Tiny images of two classes, of which a share is unreadable."""
    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(30):
            file = folder / name / f"{number}.png"
            Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(file)
            if number < 30 * share:
                file.write_bytes(file.read_bytes()[:40])
    return folder


TRAIN = ("train", "ff_micro_patch2_8", "--image-size", 8, "--recipe.epochs", 2, "--recipe.warmup-epochs", 0)
TRAIN = (*TRAIN, "--recipe.batch-size", 8, "--workers", 0)


def test_a_third_of_unreadable_images_stops_training(tmp_path):
    done = here(*TRAIN, "--data", spoilt(tmp_path / "images", 1 / 3), "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "more than --data.bad-images 0.01 allows (3 of 60)" in done.stderr
    assert done.stderr.rstrip().endswith("[E-IMAGES]")


def test_unreadable_images_are_told_while_running_and_beside_the_figure(tmp_path):
    images = spoilt(tmp_path / "images", 1 / 3)
    done = here(*TRAIN, "--data", images, "--out", tmp_path / "run", "--data.bad-images", 0.4)
    assert done.returncode == 0, done.stderr
    assert "images could not be read so far, and are left out (the last: " in done.stdout
    assert "20 of 60 images could not be read: they are listed in" in done.stdout
    assert re.search(r"on \d+ test images \(\d+ more could not be read\)", done.stdout)
    assert re.search(r"epoch 2/2 .* unreadable", done.stdout)


@pytest.mark.parametrize(
    ("allowed", "images", "limit"),
    [(0.0, 10**6, 0), (0.01, 24, 3), (0.01, 10**6, 10**4), (0.5, 100, 50), (1.0, 10**6, 1), (100.0, 10, 100)],
)
def test_the_limit_on_unreadable_images_is_a_share(allowed, images, limit):
    assert bad_image_limit(allowed, images) == limit


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://a/{000..127.tar", "a brace is never closed, never opened"),
        ("s3://a/x}.tar", "a brace is never closed, never opened"),
        ("s3://a/{a{b,c}.tar", "or within another"),
        ("s3://a/{0..99999}{0..99999}.tar", "the braces stand for more than"),
    ],
)
def test_an_address_with_odd_braces_is_refused(address, words):
    with pytest.raises(DataError, match=words):
        expand_braces(address)


def test_shards_of_timms_reader_need_a_folder():
    with pytest.raises(DataError, match=r"say with data.root in which folder the shards"):
        open_splits(Data(source="wds/train"))


def test_networks_and_a_study_exclude_each_other(tmp_path):
    done = here("compare", "ff_tiny_patch16_224", "deit_tiny_patch16_224", "--study", tmp_path / "plan.yaml")
    assert done.returncode == 2
    assert "give networks, or a --study that says which: not both [E-USAGE]" in done.stderr
