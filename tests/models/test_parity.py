"""The networks against numbers computed with the paper's released code, and against timm's."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch.nn.functional import cross_entropy

import ffvit
from ffvit import Architecture, Branch
from ffvit.config import recipe
from ffvit.models.backbone import Backbone
from ffvit.models.hub import write_paper_file
from ffvit.models.vit_conversion import architecture_of, to_layout, to_ours
from ffvit.profiling.count import count
from ffvit.training.optimizer import build_optimizer, parameter_groups

HERE = Path(__file__).parents[1] / "reference"
FACTS = json.loads((HERE / "parity.json").read_text())
ARRAYS = np.load(HERE / "parity.npz")
pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = {"tiny": "ff_tiny_patch16_224", "base": "ff_base_patch16_224", "large": "ff_large_patch32_224"}


def released(size: str, precision: str = "float32") -> dict[str, torch.Tensor]:
    """Weights under the released names, by the reference's rule."""
    state = {}
    for k, (name, shape) in enumerate(FACTS["state_dict_shapes"][size].items()):
        drawn = np.random.RandomState(k).standard_normal(int(np.prod(shape))).reshape(shape) * 0.02
        drawn += "norm" in name and name.endswith(".weight")
        state[name] = torch.tensor(drawn.astype(precision)).double()
    return state


def images(count: int, seed: int) -> torch.Tensor:
    drawn = np.random.RandomState(seed).standard_normal((count, 3, 224, 224)).astype("float32")
    return torch.tensor(drawn).double()


def network(size: str, precision: str) -> Backbone:
    net = ffvit.create_model(NAMES[size]).double()
    net.load_state_dict(to_ours(released(size, precision)))  # strict: every name, every shape
    return net


@pytest.mark.parametrize("size", NAMES)
def test_features_and_logits(size):
    net = network(size, "float32").eval()
    with torch.inference_mode():
        tokens = net.forward_features(images(2, seed=1234))
        logits = net.forward_head(tokens)
    np.testing.assert_allclose(tokens[:, 0].numpy(), ARRAYS[f"{size}_features"], rtol=1e-9)
    np.testing.assert_allclose(logits.numpy(), ARRAYS[f"{size}_logits"], rtol=1e-9)


@pytest.mark.parametrize("size", NAMES)
def test_weights_go_back_into_the_released_class(size, tmp_path):
    with (
        torch.device("meta") if size == "large" else nullcontext()
    ):  # what the class's strict load asks: names and shapes
        net = ffvit.create_model(NAMES[size])
    state = to_layout(net, "released")
    assert {name: list(tensor.shape) for name, tensor in state.items()} == FACTS["state_dict_shapes"][size]
    if size == "tiny":
        write_paper_file(net, tmp_path / "linear-tiny-checkpoint.pth")
        content = torch.load(tmp_path / "linear-tiny-checkpoint.pth", weights_only=True)["model"]
        again = to_ours(content)
        assert all(torch.equal(again[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "vit_base_patch32_224"])
def test_weights_go_back_into_timms_vit(name):
    theirs = timm.create_model(name, num_classes=7)
    ours = Backbone(architecture_of(theirs.state_dict()))
    again = timm.create_model(name, num_classes=7)
    again.load_state_dict(to_layout(ours, "timm ViT"))
    back = to_ours(again.state_dict())
    assert all(torch.equal(back[name], tensor) for name, tensor in ours.state_dict().items())


def test_what_has_no_counterpart_is_refused(tmp_path):
    cases = [
        (ffvit.create_model("vit_micro_patch2_8"), "released", "the paper's class: feed-forward over features"),
        (ffvit.create_model("ff_micro_patch2_8"), "released", "images of 224 x 224"),
        (ffvit.create_model("attention_only_micro_patch2_8"), "timm ViT", "timm's ViT: attention over patches"),
    ]
    for net, layout, words in cases:
        with pytest.raises(ffvit.UserError, match=f"no counterpart in .*{words}"):
            to_layout(net, layout)
    pooled = ffvit.create_model("vit_micro_patch2_8")
    to_layout(pooled, "timm ViT")
    pooled.reset_classifier(10, "avg")
    with pytest.raises(ffvit.UserError, match="no counterpart in timm's ViT"):
        to_layout(pooled, "timm ViT")
    with pytest.raises(ffvit.UserError, match="no counterpart in the paper's class: it is timm's"):
        write_paper_file(ffvit.create_model("test_vit"), tmp_path / "w.pth")


def loss_of(net: Backbone) -> torch.Tensor:
    labels = torch.tensor([3, 141, 592, 653])
    return cross_entropy(net(images(4, seed=7)), labels, label_smoothing=0.1)


def test_loss_and_gradients():
    net = network("tiny", "float64").train()
    loss = loss_of(net)
    loss.backward()
    assert loss.item() == pytest.approx(float(ARRAYS["tiny_grad_loss"]), rel=1e-8)
    norms = {name: parameter.grad.norm().item() for name, parameter in net.named_parameters()}
    ours = to_ours({name: torch.empty(0) for name in FACTS["tiny_parameter_names"]})
    np.testing.assert_allclose([norms[name] for name in ours], ARRAYS["tiny_grad_norms"], rtol=1e-8, atol=1e-15)


def test_twelve_steps_of_adamw():
    net = network("tiny", "float64").train()
    optimizer = build_optimizer(net, recipe.RECIPES["deit"])
    for group in optimizer.param_groups:
        group["lr"] = 5e-4
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = loss_of(net)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, ARRAYS["tiny_adamw_losses"], rtol=1e-8)


def test_weight_decay_falls_where_it_does_in_the_released_code():
    net = ffvit.create_model(NAMES["tiny"])
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    groups = {
        group["weight_decay"]: {names[id(each)] for each in group["params"]}
        for group in parameter_groups(net, recipe.RECIPES["deit"])
    }
    assert groups == {group["weight_decay"]: rename(group["names"]) for group in FACTS["adamw_groups"]}
    sane = parameter_groups(net, recipe.RECIPES["deit"].replace(decay_position_map=False))
    assert {"position.map", "position.class_token"} <= {names[id(each)] for each in sane[0]["params"]}


def rename(names: list[str]) -> set[str]:
    """Released names in ours, looked up in a whole state dictionary, for a layout is told by its names together."""
    whole = FACTS["state_dict_shapes"]["tiny"]
    ours = to_ours(dict.fromkeys(whole, torch.empty(0)))
    return {mine for mine, theirs in zip(ours, whole, strict=True) if theirs in set(names)}


@pytest.mark.parametrize(
    ("name", "parameters", "multiply_adds"),
    [
        ("ff_tiny_patch16_224", 7_676_332, 1.44e9),
        ("ff_base_patch16_224", 61_943_020, 14.1e9),
        ("ff_large_patch32_224", 206_363_576, 10.7e9),
        ("attention_only_tiny_patch16_224", 4_039_360, None),
    ],
)
def test_cost(name, parameters, multiply_adds):
    with torch.device("meta"):
        cost = count(ffvit.create_model(name))
    assert cost.parameters == parameters
    if multiply_adds:
        assert cost.flops / 2 == pytest.approx(multiply_adds, rel=0.005)


@pytest.mark.parametrize("size", NAMES)
def test_an_architecture_is_read_off_released_weights(size):
    assert architecture_of(released(size)) == ffvit.NAMED[NAMES[size]]


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_base_patch16_224", "vit_large_patch32_224"])
def test_with_vits_architecture_it_is_timms_vit(name):
    theirs = timm.create_model(name, num_classes=1000).eval()
    ours = Backbone(architecture_of(theirs.state_dict())).eval()
    ours.load_state_dict(to_ours(theirs.state_dict()))
    seen = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(seen), theirs(seen), rtol=0, atol=1e-5)


def test_with_mixers_architecture_it_is_timms_mixer():
    theirs = timm.create_model("mixer_s16_224", num_classes=11, img_size=96).eval()
    token_mixing = Branch("feedforward", "patches", norm="features", hidden=256)
    architecture = Architecture(
        width=512, depth=8, block=(token_mixing, Branch("feedforward", "features")), img_size=96, num_classes=11,
        readout="mean", position="none",
    )  # fmt: skip
    renamed = {"mlp_tokens": "0.mixer", "mlp_channels": "1.mixer", "norm1": "0.norm", "norm2": "1.norm"}
    state = {}
    for name, tensor in theirs.state_dict().items():
        for old, new in renamed.items():
            name = name.replace(f".{old}.", f".{new}.")
        state[name.replace("stem.", "patch_embed.")] = torch.randn_like(tensor) * 0.05
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state.values(), strict=True)))
    ours = Backbone(architecture).eval()
    ours.load_state_dict(state)
    seen = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(ours(seen), theirs(seen), rtol=1e-4, atol=1e-4)
