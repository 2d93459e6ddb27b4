from __future__ import annotations

import io
import pickle
import tarfile
import zlib

import numpy as np
import PIL.Image
import pytest

from ffvit import Data
from ffvit.data.images import LabeledImages, Subset
from ffvit.data.loader import evaluation_loader, training_loader
from ffvit.data.random_erasing import NOTHING
from ffvit.data.sampler import TrainingOrder
from ffvit.data.shards import download as downloading
from ffvit.data.shards.download import RetryPolicy
from ffvit.data.shards.index import INFO, write_index, write_info
from ffvit.data.shards.reader import open_shards
from ffvit.data.shards.remote import open_remote, remote_blocks
from ffvit.data.shards.tars import read_shard
from ffvit.data.splits import open_splits
from ffvit.data.transforms import TransformedImage
from ffvit.errors import UserError
from servers import serving

DARK = TransformedImage(np.zeros((2, 2, 1), dtype=np.uint8), NOTHING)


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Downloads are given up on after a short while."""
    monkeypatch.setattr(
        downloading, "RETRY", RetryPolicy(tries=6, stall_seconds=1.0, first_wait=0.01, longest_wait=0.05)
    )


def write_tar(path, numbers) -> None:
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            image = io.BytesIO()
            pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(image, "PNG")
            for name, content in ((f"{number:08}.png", image.getvalue()), (f"{number:08}.cls", b"%d" % (number % 3))):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def folder(tmp_path):
    """A prepared folder of seven shards, to be served."""
    folder = tmp_path / "folder"
    folder.mkdir()
    splits = []
    for part, count in (("train", 5), ("val", 2)):
        files = [folder / f"{part}-{n:06}.tar" for n in range(count)]
        for n, file in enumerate(files):
            write_tar(file, range(20 * n, 20 * n + 20))
        splits.append(write_index(folder, part, map(read_shard, files), ""))
    write_info(folder, ["cat", "dog", "owl"], splits, {}, "")
    return folder


@pytest.fixture
def server(folder):
    with serving(folder) as server:
        server.one_in(10)
        yield server


def same(here: dict[str, LabeledImages], there: dict[str, LabeledImages]) -> None:
    assert here.keys() == there.keys()
    for part, (images, classes) in here.items():
        others = there[part]
        assert classes == others.classes
        assert images.labels.tolist() == others.images.labels.tolist()
        for index in np.random.default_rng(0).permutation(len(images)).tolist():
            assert images.read(index) == others.images.read(index)
            assert images.name(index) == others.images.name(index)


def test_a_remote_prepared_folder_reads_as_the_local_one(server, folder, tmp_path):
    parts = open_remote(server.address(), tmp_path / "cache")
    same(open_shards(folder), parts)
    asked = len(server.asked)
    same(open_shards(folder), pickle.loads(pickle.dumps(parts)))
    same(open_shards(folder), open_remote(server.address(), tmp_path / "cache"))
    again = server.asked[asked:]
    assert {name for _, name, _ in again} == {INFO}


def test_only_the_shards_that_are_read_are_downloaded(server, folder, tmp_path):
    parts = open_remote(server.address(), tmp_path / "cache")
    parts["train"].images.read(25)
    assert {name for _, name, _ in server.asked if name.endswith(".tar")} == {"train-000001.tar"}


def test_a_folder_prepared_again_is_noticed(server, folder, tmp_path):
    open_remote(server.address(), tmp_path / "cache")["train"].images.read(0)
    write_tar(folder / "train-000000.tar", range(100, 130))
    files = [folder / f"train-{n:06}.tar" for n in range(5)]
    write_info(folder, ["cat", "dog", "owl"], [write_index(folder, "train", map(read_shard, files), "")], {}, "")
    same(open_shards(folder), open_remote(server.address(), tmp_path / "cache"))


def test_tars_of_others_are_indexed_once(server, folder, tmp_path):
    address = server.address("train-{000000..000004}.tar")
    parts = open_remote(address, tmp_path / "cache")
    assert parts.keys() == {"train"}
    assert parts["train"].classes == ("0", "1", "2")
    assert parts["train"].images.name(20) == "train-000001.tar:00000020.png"
    local = open_shards(folder)["train"].images
    assert [parts["train"].images.read(n) for n in range(100)] == [local.read(n) for n in range(100)]
    server.trouble = lambda: "404"
    again = open_remote(address, tmp_path / "cache")["train"].images
    assert zlib.crc32(again.read(99)) == zlib.crc32(local.read(99))


def test_a_run_may_name_an_address_as_its_source(server, folder, tmp_path):
    server.trouble = lambda: ""
    parts = open_splits(Data(source=server.address(), root=tmp_path / "cache"))
    assert (len(parts.test), parts.classes) == (40, ("cat", "dog", "owl"))


def test_an_address_without_a_prepared_folder_is_refused(server, tmp_path):
    server.trouble = lambda: ""
    with pytest.raises(UserError, match=r"nothing/_info\.json: cannot be downloaded \(the server answers 404"):
        open_remote(server.address("nothing"), tmp_path / "cache")


def test_a_shard_that_does_not_come_is_no_bad_image(server, tmp_path):
    images = open_remote(server.address(), tmp_path / "cache")["train"].images
    server.trouble = lambda: "404"
    with pytest.raises(UserError, match=r"train-000002\.tar: cannot be downloaded"):
        images.read(50)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_an_epoch_over_a_bad_connection_delivers_every_image_once(server, folder, tmp_path, monkeypatch, workers):
    monkeypatch.setattr("ffvit.data.sampler.WINDOW", 2)
    whole = open_remote(server.address(), tmp_path / "cache")["train"].images
    for images in (whole, Subset(whole, np.arange(1, 100, 3))):
        blocks, ahead = remote_blocks(images)
        order = TrainingOrder(len(images), 0, 4, 4, blocks=blocks, ahead=ahead)
        shown = []
        for epoch in range(2):
            order.epoch = epoch
            batches = list(training_loader(images, lambda *_: DARK, (1, 2, 2), order, 0, workers))
            assert not any(batch.bad for batch in batches)
            shown.append([index for batch in batches for index in batch.indices])
            assert len(set(shown[-1])) == len(shown[-1]) == len(images) // 4 * 4
            labels = [label for batch in batches for label in batch.labels.tolist()]
            assert labels == images.labels[shown[-1]].tolist()
        assert shown[0] != shown[1]
    assert remote_blocks(open_shards(folder)["train"].images) is None


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_loading_processes_read_remote_shards_and_report_a_failed_download(server, folder, tmp_path, workers):
    images = open_remote(server.address(), tmp_path / "cache")["train"].images
    server.trouble = lambda: "404" if server.asked[-1][1] == "train-000002.tar" else ""
    batches = iter(evaluation_loader(images, lambda *_: DARK, (1, 2, 2), 20, workers))
    assert [len(next(batches).labels), len(next(batches).labels)] == [20, 20]
    with pytest.raises(
        UserError, match=r"^http://\S+/train-000002\.tar: cannot be downloaded .*check address and access$"
    ):
        next(batches)
