from __future__ import annotations

import argparse
import errno
import json
import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf

import ffvit
from ffvit import Architecture, UserError
from ffvit.config.architecture import FF_ONLY, transformer
from ffvit.config.preprocess import Preprocess
from ffvit.models import weights
from ffvit.models.backbone import Backbone
from ffvit.models.description import preprocess_of, set_preprocess
from ffvit.models.vit_conversion import preprocess_of_vit

FF = Architecture(width=12, depth=2, block=FF_ONLY, img_size=(6, 6), patch=2, num_classes=5, position_grid=(4, 3))
VIT = Architecture(
    width=64, depth=2, block=transformer(heads=1), img_size=(6, 6), patch=2, num_classes=5, position="vectors"
)
SEEN = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(3))

RELEASED = [
    ("position.map", "pos_encoding.pos_embed"), ("position.class_token", "pos_encoding.cls_pos_embed"),
    (".0.norm.", ".norm1."), (".1.norm.", ".norm2."), (".0.mixer.", ".mlp1."), (".1.mixer.", ".mlp2."),
]  # fmt: skip


def renamed(network: torch.nn.Module, names: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    state = {}
    for name, tensor in network.state_dict().items():
        for ours, theirs in names:
            name = name.replace(ours, theirs)
        state[name] = tensor
    return state


@pytest.fixture
def network() -> Backbone:
    return Backbone(FF).eval()


def answers_alike(loaded: torch.nn.Module, network: torch.nn.Module) -> bool:
    return not loaded.training and torch.equal(loaded(SEEN), network(SEEN))


def test_ours_tell_what_they_are(tmp_path, network):
    weights.save_weights(tmp_path / "w.safetensors", network, ["a", "b", "c", "d", "[e]"])
    loaded = ffvit.load(tmp_path / "w.safetensors")
    assert answers_alike(loaded, network)
    assert loaded.class_names == ("a", "b", "c", "d", "[e]")
    assert loaded.architecture == FF
    again = tmp_path / "again.safetensors"
    weights.save_weights(again, loaded, loaded.class_names)
    assert again.read_bytes() == (tmp_path / "w.safetensors").read_bytes()
    with safe_open(again, "pt") as file:
        assert json.loads(file.metadata()["ffvit"])["network"]["architecture"]["width"] == 12


@pytest.mark.parametrize("file", ["linear-tiny-checkpoint.pth", "looks.safetensors", "no_suffix"])
def test_a_released_checkpoint_is_known_by_its_content(tmp_path, network, file):
    content = {
        "model": renamed(network, RELEASED),
        "epoch": 299,
        "scaler": {},
        "args": argparse.Namespace(lr=5e-4, data="x"),
    }
    torch.save(content, tmp_path / file)
    loaded = ffvit.load(tmp_path / file)
    assert answers_alike(loaded, network)
    assert loaded.class_names is None
    assert loaded.architecture == FF


def test_bare_state_dictionaries_and_what_wrappers_put_before_names(tmp_path, network):
    for prefix in ("", "module.", "_orig_mod.", "module._orig_mod."):
        torch.save({prefix + name: each for name, each in renamed(network, RELEASED).items()}, tmp_path / "w.pth")
        assert answers_alike(ffvit.load(tmp_path / "w.pth"), network)


def test_an_old_pickle_without_an_archive(tmp_path, network):
    torch.save(renamed(network, RELEASED), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert answers_alike(ffvit.load(tmp_path / "w.pth"), network)


def test_timms_vit_without_a_word_about_itself(tmp_path):
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=6, patch_size=2, embed_dim=64, depth=2, num_heads=1, num_classes=5
    ).eval()
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    loaded = ffvit.load(tmp_path)  # as the Hub lays out a folder
    assert loaded.architecture == VIT
    torch.testing.assert_close(loaded(SEEN), theirs(SEEN))


def small_vit() -> torch.nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=6, patch_size=2, embed_dim=64, depth=2, num_heads=1, num_classes=5
    )


@pytest.mark.parametrize(
    ("content", "mean"),
    [
        (lambda state: state, 0.5),  # as timm's ViTs are released
        (lambda state: {"model": state}, 0.485),  # as DeiT's are
    ],
)
def test_a_bare_vit_is_normalized_as_its_kind(tmp_path, content, mean):
    torch.save(content(small_vit().state_dict()), tmp_path / "w.pth")
    loaded = ffvit.load(tmp_path / "w.pth")
    assert preprocess_of(loaded).mean[0] == mean
    assert preprocess_of(loaded).img_size == (6, 6)
    weights.save_weights(tmp_path / "again.safetensors", loaded, None)
    assert preprocess_of(ffvit.load(tmp_path / "again.safetensors")) == preprocess_of(loaded)


def test_a_bare_vit_of_a_known_size_is_prepared_as_timms():
    at_384 = Architecture(width=768, depth=12, block=transformer(heads=12), img_size=384, position="vectors")
    theirs = timm.get_pretrained_cfg("vit_base_patch16_384")
    assert preprocess_of_vit(at_384).crop_pct == theirs.crop_pct == 1.0
    assert preprocess_of_vit(at_384.replace(img_size=224)).crop_pct == 0.9


class TestHubFolder:
    """As timm's `save_for_hf` writes it."""

    CONFIG = {  # noqa: RUF012
        "architecture": "test_vit",
        "num_classes": 3,
        "label_names": ["ant", "bee", "cat"],
        "pretrained_cfg": {
            "input_size": [3, 160, 160], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": 0.77,
            "interpolation": "bilinear", "num_classes": 3,
        },
    }  # fmt: skip

    def write(self, folder: Path, config: object, file: str = "model.safetensors") -> torch.nn.Module:
        network = timm.create_model("test_vit", num_classes=3).eval()
        folder.mkdir(exist_ok=True)
        save_file(network.state_dict(), folder / file)
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        return network

    @pytest.mark.parametrize("file", ["", "model.safetensors"])
    def test_its_description_is_read(self, tmp_path, file):
        network = self.write(tmp_path, self.CONFIG)
        loaded = ffvit.load(tmp_path / file)
        seen = torch.randn(2, 3, 160, 160)
        torch.testing.assert_close(loaded(seen), network(seen))
        assert loaded.class_names == ("ant", "bee", "cat")
        assert preprocess_of(loaded) == Preprocess(
            img_size=(160, 160), crop_pct=0.77, interpolation="bilinear", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)
        )

    def test_what_timm_itself_writes(self, tmp_path):
        network = ffvit.create_model("test_vit", 3, in_chans=1)
        set_preprocess(network, preprocess_of(network).replace(crop_pct=0.6))
        (tmp_path / "hub").mkdir()
        save_file(network.state_dict(), tmp_path / "hub" / "model.safetensors")
        save_config_for_hf(network, str(tmp_path / "hub" / "config.json"), {"label_names": ["ant", "bee", "cat"]})
        loaded = ffvit.load(tmp_path / "hub")
        assert preprocess_of(loaded) == preprocess_of(network)
        assert loaded.class_names == ("ant", "bee", "cat")

    def test_names_by_number_and_a_config_in_one_piece(self, tmp_path):
        flat = {
            "architecture": "test_vit",
            "label_names": {"0": "x", "1": "y", "2": "z"},
            **self.CONFIG["pretrained_cfg"],
        }
        self.write(tmp_path, flat)
        loaded = ffvit.load(tmp_path)
        assert loaded.class_names == ("x", "y", "z")
        assert preprocess_of(loaded).crop_pct == 0.77

    def test_it_describes_no_other_file_beside_it(self, tmp_path):
        self.write(tmp_path, self.CONFIG, "mine.safetensors")
        with pytest.raises(UserError, match="weights of another network"):  # guessed from its shapes
            ffvit.load(tmp_path / "mine.safetensors")

    @pytest.mark.parametrize(
        ("config", "sentence"),
        [
            ("{", "cannot be read as timm's description of a network"),
            (CONFIG | {"pretrained_cfg": {"mean": "grey"}}, "cannot be read as timm's description of a network"),
            (
                CONFIG | {"pretrained_cfg": {"crop_pct": -1}},
                "pretrained_cfg.crop_pct: input should be greater than or equal to 0.05",
            ),
            (CONFIG | {"architecture": "test_vitt"}, "no network is called 'test_vitt', did you mean 'test_vit"),
            ({"model_type": "vit"}, "weights of another network"),  # another library's: guessed from the shapes
        ],
    )
    def test_what_cannot_be_used_is_said(self, tmp_path, config, sentence):
        self.write(tmp_path, config)
        with pytest.raises(UserError, match=sentence):
            ffvit.load(tmp_path)


def test_the_temperature_is_kept_until_the_head_is_new(tmp_path, network):
    weights.save_weights(tmp_path / "w.safetensors", network, list("abcde"), temperature=1.7)
    assert ffvit.load(tmp_path / "w.safetensors").temperature == 1.7
    assert ffvit.load(tmp_path / "w.safetensors", num_classes=3).temperature is None
    weights.save_weights(tmp_path / "w.safetensors", network, list("abcde"))
    assert ffvit.load(tmp_path / "w.safetensors").temperature is None


def test_a_thousand_classes_without_names_are_imagenets(tmp_path):
    torch.save(renamed(Backbone(FF.replace(num_classes=1000)), RELEASED), tmp_path / "w.pth")
    assert ffvit.load(tmp_path / "w.pth").class_names[:2] == ("n01440764", "n01443537")


def test_other_timm_weights_need_their_name(tmp_path):
    theirs = timm.create_model("test_resnet", num_classes=5).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"do not tell which network they belong to: name it \(--model NAME\)"):
        ffvit.load(tmp_path / "w.pth")
    loaded = ffvit.load(tmp_path / "w.pth", "test_resnet")
    seen = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(loaded(seen), theirs(seen))


def test_another_number_of_classes_gets_a_new_head_and_says_so(tmp_path, network):
    weights.save_weights(tmp_path / "w.safetensors", network, list("abcde"))
    loaded = ffvit.load(tmp_path / "w.safetensors", num_classes=3)
    assert loaded.new_head
    assert loaded.class_names is None
    assert loaded(SEEN).shape == (2, 3)
    assert torch.equal(loaded.forward_features(SEEN), network.forward_features(SEEN))
    same = ffvit.load(tmp_path / "w.safetensors", num_classes=5)
    assert not same.new_head
    assert same.class_names == tuple("abcde")


def test_a_folder_gives_its_best_weights(tmp_path, network):
    weights.save_weights(tmp_path / "last.safetensors", Backbone(FF), None)
    weights.save_weights(tmp_path / "best.safetensors", network, None)
    assert answers_alike(ffvit.load(tmp_path), network)


def harm(marker: Path) -> object:
    class Harm:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    return Harm()


def test_what_would_run_code_is_not_opened(tmp_path):
    torch.save({"model": harm(tmp_path / "harmed")}, tmp_path / "archive.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(harm(tmp_path / "harmed")))
    for file in ("archive.pth", "plain.pkl"):
        with pytest.raises(UserError, match=f"{file}: not opened: a pickle that asks to run code"):
            ffvit.load(tmp_path / file)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["archive", "old", "safetensors"])
def test_truncated(tmp_path, network, kind, share):
    path = tmp_path / "w"
    if kind == "safetensors":
        weights.save_weights(path, network, None)
    else:
        torch.save(renamed(network, RELEASED), path, _use_new_zipfile_serialization=kind == "archive")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match="w: truncated or damaged"):
        ffvit.load(path)


def test_what_holds_no_weights(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("dear reader, this is no network")
    torch.save({"model": {"a": 1}}, tmp_path / "other.pth")
    for file, words in {
        "empty": "the file is empty",
        "text": "neither a PyTorch nor a safetensors file",
        "other.pth": "no weights in this file",
        "nothing": "there is no such file",
    }.items():
        with pytest.raises(UserError, match=f"{file}: {words}"):
            ffvit.load(tmp_path / file)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"no weights in this folder \(looked for best.safetensors"):
        ffvit.load(tmp_path / "folder")


def test_weights_of_another_network_say_which_names_and_shapes(tmp_path, network):
    weights.save_weights(tmp_path / "w", network, None)
    with pytest.raises(UserError) as raised:
        ffvit.load(tmp_path / "w", FF.replace(width=18, depth=1))
    said = str(raised.value)
    assert "weights of another network: " in said
    assert "12 not of this network (blocks.1.0.mixer.fc1.bias, " in said
    assert "cls_token 1 x 1 x 12 for 1 x 1 x 18" in said
    with pytest.raises(UserError, match=r"missing \(blocks.0.0.mixer.qkv.weight"):
        ffvit.load(tmp_path / "w", FF.replace(block=transformer(heads=3)))


def test_a_full_disk_keeps_the_old_file(tmp_path, network, monkeypatch):
    weights.save_weights(tmp_path / "w", network, None)
    before = (tmp_path / "w").read_bytes()

    def full(_, path, **__):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(ffvit.RunStoppedError, match="w: the disk is full"):
        weights.save_weights(tmp_path / "w", Backbone(FF), None)
    assert (tmp_path / "w").read_bytes() == before
