"""The formats that hold weights alone: timm's folder, and the paper's file."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import ffvit
from ffvit.config.architecture import NAMED, transformer
from ffvit.exporting import formats
from ffvit.models.description import preprocess_of, set_preprocess
from ffvit.models.hub import write_hub_folder

RELEASED = json.loads((Path(__file__).parents[1] / "reference" / "parity.json").read_text())["state_dict_shapes"][
    "tiny"
]
NAMES = ("dahlia", "leaves", "pagoda", "sky")
VIT = ffvit.Architecture(
    width=16, depth=2, block=transformer(heads=2), position="vectors", img_size=32, patch=16, num_classes=4
)
PAPER = NAMED["ff_tiny_patch16_224"].replace(width=12, depth=1, num_classes=4)


def drawn(network: str | ffvit.Architecture, **settings) -> torch.nn.Module:
    """A network with logits of some size, and a preparation of images that is no default."""
    torch.manual_seed(1)
    made = ffvit.create_model(network, 4, **settings)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    set_preprocess(made, preprocess_of(made).replace(crop_pct=0.7, interpolation="bilinear"))
    made.class_names, made.temperature, made.ood_threshold = NAMES, 1.5, -2.5
    return made.eval()


@pytest.mark.parametrize(
    ("network", "settings"),
    [("ff_micro_patch2_8", {}), (VIT, {}), ("convnet_w8_s1", {"img_size": 16}), ("test_vit", {"img_size": 32})],
    ids=["ff", "vit", "convnet", "timm"],
)
def test_timm_opens_what_was_exported_and_prepares_images_alike(network, settings, photos, tmp_path):
    own = drawn(network, **settings)
    done = ffvit.export(own, format="timm", out=tmp_path / "timm", data=photos)
    assert sorted(done.files) == sorted((tmp_path / "timm").iterdir())
    proof = done.proof
    assert (proof.images, proof.agree, proof.singles, proof.single_agree) == (12, 12, 12, 12)
    grey = network == "ff_micro_patch2_8"  # which timm makes of the image before it resizes
    assert proof.difference < 1e-5 * proof.scale
    assert proof.single_difference < (1e-2 if grey else 1e-5) * proof.scale
    assert proof.level_difference < (1.01 if grey else 1e-3)
    loaded = ffvit.load(done.path)
    assert (loaded.class_names, loaded.temperature, loaded.ood_threshold) == (NAMES, 1.5, -2.5)
    assert preprocess_of(loaded) == preprocess_of(own)


def test_a_vit_loads_strictly_into_timms_own_class(photos, tmp_path):
    own = drawn(VIT)
    ffvit.export(own, format="timm", out=tmp_path / "timm", data=photos)
    theirs = timm.create_model(
        "vit_tiny_patch16_224", embed_dim=16, depth=2, num_heads=2, img_size=32, num_classes=4
    ).eval()
    assert type(theirs).__module__.startswith("timm.")
    theirs.load_state_dict(load_file(tmp_path / "timm" / "model.safetensors"))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(theirs(images), own(images))


def test_the_papers_file_has_the_released_names_and_the_same_logits(photos, tmp_path):
    own = drawn(PAPER)
    done = ffvit.export(own, format="paper", out=tmp_path / "network.pth", data=photos)
    assert done.proof.agree == done.proof.images == 12
    assert done.proof.difference < 1e-5 * done.proof.scale
    state = torch.load(done.path, weights_only=True)["model"]
    assert set(state) == {name for name in RELEASED if not name.startswith("blocks.") or name.startswith("blocks.0.")}
    small = {192: 12, 768: 48, 1000: 4}  # widths of the released network in this one
    for name, tensor in state.items():
        sides = RELEASED[name] if "mlp2" in name or "norm2" in name else [small.get(n, n) for n in RELEASED[name]]
        assert list(tensor.shape) == sides, name


@pytest.mark.parametrize(
    ("network", "settings", "words"),
    [
        (VIT, {}, "no counterpart in the paper's class: feed-forward over features"),
        ("ff_micro_patch2_8", {}, "images of 224 x 224"),
        ("test_vit", {"img_size": 32}, "no counterpart in the paper's class: it is timm's"),
    ],
    ids=["vit", "size", "timm"],
)
def test_what_the_papers_class_cannot_hold_is_refused_with_another_format(network, settings, words, photos, tmp_path):
    with pytest.raises(ffvit.UserError, match=f"{words}.*; --format timm holds every network"):
        ffvit.export(drawn(network, **settings), format="paper", out=tmp_path / "network.pth", data=photos)
    assert list(tmp_path.iterdir()) == []


def _other_weights(network, *rest):
    network.head.weight.data[0, 0] += 1
    write_hub_folder(network, *rest)


def _other_preprocess(network, *rest):
    set_preprocess(network, preprocess_of(network).replace(crop_pct=1.0))
    write_hub_folder(network, *rest)


@pytest.mark.parametrize(("write", "stage"), [(_other_weights, "the weights"), (_other_preprocess, "preprocessing")])
def test_a_wrong_folder_is_not_written(write, stage, photos, tmp_path, monkeypatch):
    def wrong(network, *rest):
        write(ffvit.load(tmp_path / "own.safetensors"), *rest)

    own = drawn(VIT)
    ffvit.save_weights(tmp_path / "own.safetensors", own, NAMES)
    monkeypatch.setattr(formats, "write_hub_folder", wrong)
    with pytest.raises(ffvit.UserError, match=f"not written: .* The difference begins in: {stage} "):
        ffvit.export(own, format="timm", out=tmp_path / "timm", data=photos)
    assert not (tmp_path / "timm").exists()


def test_folders_and_files_of_others_are_kept_and_ours_renewed(photos, tmp_path, monkeypatch):
    network, folder, file = drawn(PAPER), tmp_path / "timm", tmp_path / "network.pth"
    folder.mkdir()
    for form, out in (("timm", folder), ("paper", file)):  # an empty folder is free
        ffvit.export(network, format=form, out=out, data=photos)
        with pytest.raises(ffvit.UserError, match="is there; --overwrite replaces it"):
            ffvit.export(network, format=form, out=out, data=photos)
    ffvit.export(network, format="timm", out=folder, data=photos, overwrite=True)
    (folder / "README.md").touch()
    torch.save({"model": {}}, file)
    for form, out, words in (("timm", folder, "is no empty folder"), ("paper", file, "is no file that ffvit export")):
        with pytest.raises(ffvit.UserError, match=words):
            ffvit.export(network, format=form, out=out, data=photos, overwrite=True)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(ffvit.RunStoppedError, match="the disk is full"):
        ffvit.export(network, format="timm", out=tmp_path / "new", data=photos)
    assert not (tmp_path / "new").exists()
