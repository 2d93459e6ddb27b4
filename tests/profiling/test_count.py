from __future__ import annotations

import io

import pytest
import timm
import torch

import ffvit
from ffvit import Architecture, Branch
from ffvit.models.backbone import Backbone
from ffvit.profiling.count import count


def test_by_hand():
    """2 x 3 patches of 5 x 7 px and 2 channels; no class token; width 11, hidden sizes 13 (patches) and 17 (features)."""
    block = (Branch("feedforward", "patches", hidden=13), Branch("feedforward", "features", hidden=17))
    net = Backbone(
        Architecture(
            width=11, depth=1, block=block, img_size=(10, 21), patch=(5, 7), in_chans=2, num_classes=3, readout="mean"
        )
    )
    embedding = 6 * 11 * (5 * 7 * 2)
    patches = 11 * (6 * 13 + 13 * 6)
    features = 6 * (11 * 17 + 17 * 11)
    head = 11 * 3
    assert count(net).flops == 2 * (embedding + patches + features + head)
    assert count(net).parameters == sum(each.numel() for each in net.parameters())


def test_attention_counts_its_two_products():
    net = Backbone(
        Architecture(
            width=6, depth=1, block=(Branch("attention", "patches", heads=2),), img_size=8, patch=4, num_classes=0
        )
    )
    tokens = 5
    assert count(net).flops == 2 * (4 * 6 * 48 + tokens * 6 * 18 + 2 * tokens * tokens * 6 + tokens * 6 * 6)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_timms_networks_and_no_trace_is_left(name):
    net = ffvit.create_model(name)
    assert count(net).flops == pytest.approx({"resnet18": 3.64e9, "vit_tiny_patch16_224": 2.51e9}[name], rel=0.01)
    assert next(net.parameters()).device == torch.device("cpu")


@pytest.mark.filterwarnings("ignore")  # both tools import and trace with what torch calls deprecated
@pytest.mark.parametrize("tool", ["fvcore", "ptflops pytorch", "ptflops aten"])
def test_other_tools_count_the_same(tool):
    """They know `linear` and not `baddbmm`; what they count beside products (norms, sums) is less than 1 %."""
    net = ffvit.create_model("ff_tiny_patch16_224").eval()
    if tool == "fvcore":
        from fvcore.nn import FlopCountAnalysis

        found = FlopCountAnalysis(net, torch.randn(1, 3, 224, 224)).total()
    else:
        from ptflops import get_model_complexity_info

        options = {"as_strings": False, "print_per_layer_stat": False, "ost": io.StringIO()}
        found, _ = get_model_complexity_info(net, (3, 224, 224), backend=tool.split()[1], **options)
    assert found == pytest.approx(count(net).flops / 2, rel=0.01)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in ffvit.NAMED if "micro" in name] + ["convnet_w8_s1"])
def test_fvcore_by_itself_and_as_timms_benchmark_calls_it(name):
    """Products to the last one. fvcore does not know fused attention, which timm can leave aside."""
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

    ffvit.register_with_timm()

    fused = timm.layers.use_fused_attn()
    timm.layers.set_fused_attn(False)
    try:
        net = timm.create_model(name).eval()
        images = torch.ones(1, *net.default_cfg["input_size"])
        found = FlopCountAnalysis(net, images).by_operator()
    finally:
        timm.layers.set_fused_attn(fused)
    assert sum(found[each] for each in ("linear", "matmul", "conv", "addmm")) == count(net).flops / 2
    assert ActivationCountAnalysis(net, images).total() > 0
