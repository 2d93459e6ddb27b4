"""Errors of ours that no other test reaches: each is one sentence that says what was wrong and what to do."""

from __future__ import annotations

import csv
import errno
import fcntl
import gzip
import io
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from torch import nn

import commands
import ffvit
from ffvit.config.data import Data
from ffvit.config.hardware import Hardware
from ffvit.config.recipe import named_recipe
from ffvit.data import decode, splits
from ffvit.data.check.check import check
from ffvit.data.check.report import write_findings
from ffvit.data.folders import visible
from ffvit.data.images import BadImageError, TimmImages, read_file
from ffvit.data.lists import read_list
from ffvit.data.prepare import plan as packing_plan
from ffvit.data.prepare import prepare as packing
from ffvit.data.prepare.packing import Encoding
from ffvit.data.shards.cache import file_lock
from ffvit.data.shards.download import download
from ffvit.data.shards.index import read_info, write_index
from ffvit.data.shards.reader import ShardFolder, ShardImages, open_shards
from ffvit.data.shards.remote import open_remote
from ffvit.data.shards.tars import SkippedFiles, read_shard
from ffvit.data.split_record import read_record
from ffvit.data.splits import open_images, open_splits
from ffvit.errors import (
    BadImagesError,
    ConfigError,
    DataError,
    DeviceError,
    DiskFullError,
    DivergedError,
    DownloadError,
    MissingPackageError,
    ModelError,
    OutOfMemoryError,
    OutputError,
    RunFolderError,
    RunStoppedError,
    UserError,
)
from ffvit.files.json_file import read_json
from ffvit.files.lock import FolderLock
from ffvit.files.output_folder import RUN, make_folder
from ffvit.hardware.launch import start_fabric
from ffvit.inference import engines
from ffvit.inference.predict import predict
from ffvit.models import vit_conversion
from ffvit.models.create import create_model
from ffvit.models.weights import load
from ffvit.run_folder import Run
from ffvit.study import compare as studies
from ffvit.study.analysis import Analysis
from ffvit.study.arms import make_arms
from ffvit.study.folder import StudyInputs
from ffvit.study.jobs import make_runs
from ffvit.study.pixels import read_pixels
from ffvit.study.plan import Plan, read_plan
from ffvit.study.ray_executor import Cluster, connect
from ffvit.study.results import Result, paired_results
from ffvit.training import train as training
from ffvit.training.checkpoint import load_checkpoint
from ffvit.training.optimizer import build_optimizer
from ffvit.training.step import TrainStep
from reliability_cases import plan_file
from servers import serving


def test_a_folder_that_is_no_run(tmp_path: Path):
    with pytest.raises(RunFolderError, match=r"not a run folder: it holds no config\.yaml"):
        Run(tmp_path)
    with pytest.raises(RunFolderError, match="not a run folder: it does not exist"):
        Run(tmp_path / "none")


def test_predicting_on_two_devices(tmp_path: Path):
    (tmp_path / "x.png").touch()
    with pytest.raises(UserError, match="predicting uses one device: leave out --devices and --nodes"):
        list(predict(nn.Identity(), [tmp_path], hardware=Hardware(devices=2)))


def test_a_network_that_knows_no_stochastic_depth():
    with pytest.raises(ModelError, match="vgg11 has no drop_path_rate: set it to 0 in the recipe"):
        create_model("vgg11", 2, drop_path=0.1)


def test_an_optimizer_whose_package_is_missing():
    with pytest.raises(ConfigError, match=r"recipe\.optimizer 'fusedadam': "):
        build_optimizer(nn.Linear(2, 2), named_recipe("small").replace(optimizer="fusedadam"))


def test_json_that_is_a_folder(tmp_path: Path):
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_json(tmp_path, "again")


def test_lists_that_are_none(tmp_path: Path):
    (tmp_path / "list.csv").mkdir()
    with pytest.raises(DataError, match="is no regular file"):
        read_list(tmp_path / "list.csv")


def test_images_without_labels_cannot_be_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(splits, "open_source", lambda *_: {"test": lambda: None})
    with pytest.raises(DataError, match="has no labels to compare answers with"):
        open_images(str(tmp_path), None, None)


def test_an_image_that_cannot_be_encoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def fails(*_: object) -> bytes:
        raise OSError("encoder error -2")

    monkeypatch.setattr(Encoding, "_jpeg", fails)
    photo = tmp_path / "photo.jpg"
    PIL.Image.new("RGB", (8, 8)).save(photo)
    with pytest.raises(BadImageError, match=r"cannot be stored \(encoder error -2\)"):
        Encoding(max_side=4).encode(photo.read_bytes(), photo.name)


def test_images_of_which_none_can_be_read(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(12):
            (tmp_path / name / f"{number}.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(DataError, match=r"none of the .* images could be read"):
        read_pixels(open_splits(Data(source=str(tmp_path))).train, 100, 8, seed=0)


@pytest.mark.parametrize(
    ("batch_size", "micro_batch", "words"),
    [
        (2000, None, "recipe.batch_size 2000 is more than the 1294 training images"),
        (1, 1, "recipe.batch_size 1 is too small to share"),
    ],
)
def test_a_batch_that_does_not_fit_the_images_or_the_devices(tmp_path, batch_size, micro_batch, words):
    recipe, hardware = named_recipe("digits").replace(batch_size=batch_size), Hardware(micro_batch=micro_batch)
    with pytest.raises(ConfigError, match=words):
        ffvit.train("ff_micro_patch2_8", ffvit.Data(source="digits"), recipe, hardware=hardware, out=tmp_path / "run")


BODY = {"width": 8, "depth": 1, "img_size": 8, "patch": 2, "readout": "mean"}
BLOCK = [{"mixer": "feedforward", "axis": "patches"}]


@pytest.mark.parametrize("path", ["network.block.9", "network.img_size.x"])
def test_a_factor_that_leads_nowhere(path: str):
    plan = Plan(
        network=BODY | {"block": BLOCK}, recipe="digits", data="digits", factors={"x": {"a": {path: 1}, "b": {}}}
    )
    with pytest.raises(ConfigError, match="there is no"):
        make_arms(plan)


def test_two_runs_that_predicted_different_images(tmp_path: Path):
    plan = Plan(
        network=BODY | {"block": BLOCK}, recipe="digits", data="digits", factors={"network.width": [8, 16]}, seeds=1
    )
    one, other = (
        Result(job, {}, [], pd.DataFrame({"image": [f"{number}.png"], "correct": np.array([True])}))
        for number, job in enumerate(make_runs(plan, make_arms(plan), tmp_path, (0,))[:2])
    )
    with pytest.raises(RunFolderError, match=r"predicted different test images .* so they cannot be paired"):
        paired_results([one], [other])


def raising(error: BaseException) -> Callable[..., object]:
    """A function that raises this, whatever it is given."""

    def raises(*_: object, **__: object) -> object:
        raise error

    return raises


BROKEN = OSError(errno.EIO, "Input/output error")
"""What a broken disk answers."""

FULL = OSError(errno.ENOSPC, "No space left on device")


def tar(folder: Path, label: object = 0) -> Path:
    """A tar file of one image, as WebDataset writes it."""
    photo = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(photo, "JPEG")
    with tarfile.open(folder / "a.tar", "w") as file:
        for name, content in (("0.jpg", photo.getvalue()), ("0.cls", str(label).encode())):
            about = tarfile.TarInfo(name)
            about.size = len(content)
            file.addfile(about, io.BytesIO(content))
    return folder / "a.tar"


def test_a_disk_that_breaks_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Folders, images, tars, lists and files of weights are each named."""
    for name in ("a.csv", "a.pth", "a.jpg"):
        (tmp_path / name).write_bytes(b"content")
    packed = tar(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", raising(BROKEN))
        with pytest.raises(DataError, match=r"cannot be listed \(Input/output error\)"):
            visible(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", raising(BROKEN))
        with pytest.raises(BadImageError, match=r"a\.jpg: cannot be read \(Input/output error\)"):
            read_file(tmp_path / "a.jpg")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", raising(BROKEN))
        with pytest.raises(ModelError, match=r"a\.pth: cannot be read: Input/output error"):
            load(tmp_path / "a.pth")
        with pytest.raises(DataError, match=r"a\.tar: cannot be read \(Input/output error\)"):
            read_shard(packed, SkippedFiles())
    with monkeypatch.context() as patch:
        patch.setattr(pd, "read_csv", raising(BROKEN))
        with pytest.raises(DataError, match=r"a\.csv: cannot be read as a table \(\[Errno 5\] Input/output error\)"):
            read_list(tmp_path / "a.csv")


def test_parquet_whose_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(pd, "read_parquet", raising(ImportError("pyarrow")))
    with pytest.raises(MissingPackageError, match=r"to read Parquet, pip install 'ffvit\[sources\]'"):
        read_list(tmp_path / "a.parquet")


def test_a_decoder_that_fails_in_a_way_of_its_own(monkeypatch: pytest.MonkeyPatch):
    photo = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(photo, "PNG")
    monkeypatch.setattr(decode, "_upright", raising(ZeroDivisionError("division by zero")))
    with pytest.raises(BadImageError, match=r"x\.png: is damaged \(division by zero\)"):
        decode.decode(photo.getvalue(), "x.png")


def test_a_data_set_that_cannot_read_an_image():
    class Torn:
        def __getitem__(self, index: int):
            raise KeyError("no such column")

    with pytest.raises(BadImageError, match=r"hfds/x\[1\]: cannot be read \('no such column'\)"):
        TimmImages("hfds/x", Torn(), np.zeros(2, np.int64)).read(1)


def test_an_image_in_a_shard_that_was_changed_cut_or_lost(tmp_path: Path):
    """While the work goes on: at its start the sizes of all shards are checked."""
    for kind in "ab":
        (tmp_path / "photos" / kind).mkdir(parents=True)
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / "photos" / kind / "x.png")
    packing.prepare(str(tmp_path / "photos"), tmp_path / "shards", workers=1)
    file = tmp_path / "shards" / "train-000000.tar"
    content = file.read_bytes()
    begin = content.index(b"\x89PNG")

    def reason(changed: Callable[[], object]) -> str:
        images = open_shards(tmp_path / "shards")["train"].images
        changed()
        with pytest.raises(BadImageError, match=r"^train-000000\.tar:./x\.png: ") as error:
            images.read(0)
        file.write_bytes(content)
        return error.value.reason

    changed = bytearray(content)
    changed[begin + 20] ^= 1
    assert reason(lambda: file.write_bytes(changed)) == f"its bytes at byte {begin} are not those that were written"
    assert reason(lambda: file.write_bytes(content[: begin + 9])).startswith("the shard is cut off: ")
    assert reason(file.unlink) == f"cannot be read at byte {begin} (No such file or directory)"


def test_images_that_are_lost_before_they_are_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All could be read when the work was planned."""
    for kind in "ab":
        (tmp_path / "photos" / kind).mkdir(parents=True)
        (tmp_path / "photos" / kind / "x.jpg").write_bytes(b"no image")
    monkeypatch.setattr(packing_plan, "_images_per_shard", lambda *_: 2)
    with pytest.raises(BadImagesError, match=r"no image of train can be read; they are listed in .*bad_images\.csv"):
        packing.prepare(str(tmp_path / "photos"), tmp_path / "shards", workers=1, bad_images=2.0)


def test_the_index_of_shards_is_not_whole(tmp_path: Path):
    (tmp_path / "_info.json").mkdir()
    with pytest.raises(DataError, match=r"_info\.json: is no regular file"):
        read_info(tmp_path)


def test_an_index_of_no_image(tmp_path: Path):
    write_index(tmp_path, "train", [], "again")
    with pytest.raises(DataError, match=r"train\.index: holds no image"):
        ShardImages(tmp_path / "train.index", ShardFolder(tmp_path, ()))


def test_a_folder_whose_files_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fcntl, "flock", raising(OSError(errno.ENOLCK, "No locks available")))
    with pytest.raises(OutputError, match="files cannot be locked there"), file_lock(tmp_path / "lock"):
        pass


def test_a_lock_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "open", raising(OSError(errno.EROFS, "Read-only file system")))
    with pytest.raises(OutputError, match="cannot be written to: Read-only file system"):
        FolderLock(tmp_path, "run").acquire()


def test_remote_tars_without_labels(tmp_path: Path):
    tar(tmp_path, label=-1)
    with (
        serving(tmp_path) as server,
        pytest.raises(DataError, match=r"a\.tar: holds images whose label is withheld \(-1\)"),
    ):
        open_remote(server.address("a.tar"), tmp_path / "kept")


def test_the_disk_fills_up_while_a_file_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "x").write_bytes(bytes(1000))
    monkeypatch.setattr(os, "fsync", raising(FULL))
    with serving(tmp_path) as server, pytest.raises(OutputError, match=r"the disk is full \([\d,]+ MiB left\) while"):
        download(server.address("x"), tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_file_is_downloaded_to_where_a_folder_is(tmp_path: Path):
    (tmp_path / "x").write_bytes(bytes(1000))
    (tmp_path / "kept").mkdir()
    with serving(tmp_path) as server, pytest.raises(OutputError, match=r"cannot be written to .*Is a directory"):
        download(server.address("x"), tmp_path / "kept")


def test_the_disk_breaks_while_findings_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = check("digits")
    monkeypatch.setattr(csv, "writer", raising(BROKEN))
    with pytest.raises(OutputError, match=r"findings\.csv: cannot be written \(Input/output error\)"):
        write_findings(found, tmp_path / "findings.csv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BrokenProcessPool(), FULL, BROKEN])
def test_packing_that_is_stopped_says_how_to_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error):
    for kind in "ab":
        (tmp_path / "photos" / kind).mkdir(parents=True)
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / "photos" / kind / "x.png")
    monkeypatch.setattr(packing, "_write_index", raising(error))
    with pytest.raises(RunStoppedError, match=r"the finished shards in .* are kept"):
        packing.prepare(tmp_path / "photos", tmp_path / "shards")


def test_a_record_of_images_that_is_damaged(tmp_path: Path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"path,label\nx,1\n")[:-6])
    with pytest.raises(RunFolderError, match="cannot be read, so whether the images are still the same cannot be told"):
        read_record(tmp_path / "a.csv.gz")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"path,label\nx,1\n"))
    with pytest.raises(RunFolderError, match="is no record of a run's images; its columns are path, label"):
        read_record(tmp_path / "a.csv.gz")


def test_a_folder_without_images_is_predicted(tmp_path: Path):
    with pytest.raises(DataError, match="there is no image in "):
        list(predict(create_model("ff_micro_patch2_8", 3), [tmp_path]))


def test_logits_that_are_no_numbers(tmp_path: Path):
    network = create_model("ff_micro_patch2_8", 3)
    with torch.no_grad():
        network.head.bias.fill_(float("nan"))
    PIL.Image.new("L", (8, 8)).save(tmp_path / "x.png")
    with pytest.raises(ModelError, match="the network's logits are NaN or infinite: its training diverged"):
        list(predict(network, [tmp_path / "x.png"]))


def test_an_engine_without_the_libraries_of_its_gpu(monkeypatch: pytest.MonkeyPatch):
    session = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    onnxruntime = SimpleNamespace(SessionOptions=SimpleNamespace, InferenceSession=lambda *_, **__: session)
    monkeypatch.setitem(sys.modules, "onnxruntime", onnxruntime)
    with pytest.raises(DeviceError, match="ONNX Runtime found no CUDA libraries"):
        engines.onnxruntime_session(b"", torch.device("cuda"))


@pytest.mark.parametrize(("name", "image"), [("xcit_nano_12_p16_224", 5), ("mvitv2_tiny", 2)])
def test_a_network_of_timm_that_cannot_take_the_image(name: str, image: int):
    with pytest.raises(ModelError, match=f"{name} cannot take images of {image} x {image}: "):
        create_model(name, 2, img_size=image)


def test_a_network_that_cannot_be_outlined_is_not_said_to_refuse_the_image(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("timm.create_model", raising(RuntimeError("Tensor.item() cannot be called on meta tensors")))
    with pytest.raises(RuntimeError, match="meta tensors"), torch.device("meta"):
        create_model("mvitv2_tiny", 2, img_size=224)


def test_weights_whose_patches_fill_no_square():
    state = {
        "cls_token": torch.zeros(1, 1, 8),
        "pos_embed": torch.zeros(1, 8, 8),
        "patch_embed.proj.weight": torch.zeros(8, 3, 2, 2),
        "patch_embed.proj.bias": torch.zeros(8),
        **{f"blocks.0.{name}": torch.zeros(8) for name in ("norm2.weight", "attn.qkv.weight", "mlp.fc1.weight")},
    }
    with pytest.raises(
        ModelError, match="these weights have 8 tokens, which is no square of patches and a class token"
    ):
        vit_conversion.architecture_of(state)


def test_a_place_for_output_in_a_file_and_one_that_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot be made: .*file is no folder; name another --out"):
        make_folder(tmp_path / "file" / "out", RUN, FolderLock(tmp_path, "run"), overwrite=False)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="is a link that leads nowhere; name another --out"):
        make_folder(tmp_path / "link", RUN, FolderLock(tmp_path, "run"), overwrite=False)
    monkeypatch.setattr(Path, "mkdir", raising(BROKEN))
    with pytest.raises(OutputError, match=r"out: cannot be made: Input/output error; name another --out"):
        make_folder(tmp_path / "out", RUN, FolderLock(tmp_path, "run"), overwrite=False)


def test_a_study_asked_for_in_ways_that_cannot_be(tmp_path: Path):
    (tmp_path / "study").mkdir()
    for arguments, words in [
        (["--study", tmp_path / "study"], "is a study that was begun: resume it (--resume)"),
        (["--study", tmp_path / "study", "--resume"], "not a study folder: it holds no study.yaml"),
        (["--image-size", 8, 8, 8], "--image-size: give one number for a square, or height and width; got 3 numbers"),
    ]:
        told = commands.here("compare", *arguments)
        assert told.returncode == 2
        assert words in told.stderr.replace("\n", " ")


def test_a_study_that_was_not_begun(tmp_path: Path):
    shutil.copy(plan_file(tmp_path), tmp_path / "study.yaml")
    with pytest.raises(RunFolderError, match="this study was not begun yet"):
        studies.report(tmp_path)


@pytest.mark.parametrize(
    ("module", "function", "begin"),
    [
        (studies, "_compare", lambda folder: studies.compare(read_plan(plan_file(folder)), out=folder / "study")),
        (training, "open_splits", lambda folder: ffvit.train("ff_micro_patch2_8", "digits", out=folder / "run")),
    ],
)
def test_a_disk_that_fills_up_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module, function, begin):
    monkeypatch.setattr(module, function, raising(FULL))
    with pytest.raises(DiskFullError, match="the disk is full: free some space, then resume with --resume"):
        begin(tmp_path)


def test_a_cluster_without_room_or_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ray = SimpleNamespace(
        init=lambda **_: None,
        shutdown=lambda: None,
        cluster_resources=lambda: {"CPU": 2.0},
        nodes=lambda: [{"Alive": True}],
    )
    with pytest.raises(DeviceError, match=r"no place for a run that asks for 8 processor cores on 1 machines"):
        Cluster(ray, Hardware(), 8, tmp_path)
    ray.cluster_resources = dict
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(DeviceError, match="the cluster is empty: no machine with a processor has joined it"):
        connect("auto")


def test_weights_that_became_infinite_before_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def spoilt(self: TrainStep, *_: object) -> torch.Tensor:
        with torch.no_grad():
            next(self.network.parameters()).fill_(float("inf"))
        return torch.tensor([1.0, 1.0])

    monkeypatch.setattr(TrainStep, "__call__", spoilt)
    with pytest.raises(DivergedError, match="the weights became infinite or NaN in epoch 1"):
        ffvit.train("ff_micro_patch2_8", "digits", out=tmp_path / "run")


def test_a_checkpoint_of_another_network(tmp_path: Path):
    recipe = named_recipe("digits").replace(epochs=1, warmup_epochs=0)
    run = ffvit.train("ff_micro_patch2_8", "digits", recipe, out=tmp_path / "run")
    other = create_model("vit_micro_patch2_8", 10)
    with pytest.raises(RunFolderError, match="the checkpoint does not fit the run"):
        load_checkpoint(run, start_fabric(Hardware()), other, None, build_optimizer(other, recipe))


def test_memory_that_is_too_small_for_a_single_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(TrainStep, "_gradients", raising(torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(OutOfMemoryError, match="the device's memory is too small for this batch: use a smaller"):
        ffvit.train("ff_micro_patch2_8", "digits", out=tmp_path / "run")


def test_runs_of_an_arm_that_predicted_different_numbers_of_images(tmp_path: Path):
    plan = Plan(
        network=BODY | {"block": BLOCK}, recipe="digits", data="digits", factors={"network.width": [8, 16]}, seeds=2
    )
    results = [
        Result(job, {}, [], pd.DataFrame({"image": "x.png", "correct": np.ones(number + 1, bool)}))
        for number, job in enumerate(make_runs(plan, make_arms(plan), tmp_path, (0, 1))[:2])
    ]
    with pytest.raises(RunFolderError, match=r"its runs predicted different numbers of test images: \[1, 2\]"):
        Analysis(plan, StudyInputs.model_construct(drawn=(), fixed={}), 0.95, 0.95).mean(results)


def test_a_server_that_does_not_say_how_long_a_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "x").write_bytes(bytes(1000))
    with serving(tmp_path) as server:
        monkeypatch.setattr("fsspec.implementations.http._file_info", length_unknown)
        with pytest.raises(
            DownloadError, match="the server does not say how long it is, so what comes cannot be checked"
        ):
            download(server.address("x"), tmp_path / "kept")


async def length_unknown(*_: object, **__: object) -> dict[str, object]:
    return {}
