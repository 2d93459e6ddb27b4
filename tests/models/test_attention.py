"""Which networks have attention: by hand, and against the operators that they run."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import timm
import torch
from timm.layers import EcaModule, SEModule
from timm.layers.cbam import CbamModule
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ffvit
from ffvit import NAMED, Architecture, Branch, UserError
from ffvit.config.architecture import Network, transformer
from ffvit.models.attention import attention_modules, attention_of, attention_over_patches
from ffvit.models.backbone import Backbone

BY_HAND = {
    "patches": """
        vit_tiny_patch16_224 vit_pwee_patch16_reg1_gap_256 vit_dpwee_patch16_reg1_gap_256 vit_relpos_small_patch16_224
        vit_small_r26_s32_224 deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 deit3_small_patch16_224
        beit_base_patch16_224 beitv2_base_patch16_224 eva02_tiny_patch14_224 samvit_base_patch16_224 cait_xxs24_224
        xcit_nano_12_p8_224 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 pvt_v2_b0 pvt_v2_b2_li
        twins_svt_small twins_pcpvt_small volo_d1_224 hiera_tiny_224 hieradet_small mvitv2_tiny maxvit_tiny_tf_224
        coatnet_0_224 coat_tiny convit_tiny crossvit_tiny_240 davit_tiny efficientformer_l1 efficientformerv2_s0
        efficientvit_b0 efficientvit_m0 fastvit_sa12 gcvit_xxtiny levit_128s mobilevit_xxs mobilevitv2_050
        mobilenetv4_hybrid_medium nest_tiny nextvit_small pit_ti_224 shvit_s1 iformer_t swiftformer_xs tiny_vit_5m_224
        tnt_s_legacy_patch16_224 visformer_tiny vitamin_small_224 caformer_s18 botnet26t_256 halonet26t lambda_resnet26t
        resnet50_clip csatv2 lowformer_b0
    """,
    "features only": "edgenext_xx_small",
    "none": """
        repvit_m1 convnext_atto convnextv2_atto mixer_s16_224 resmlp_12_224 gmlp_ti16_224 gmixer_12_224 resnet18 resnet50
        seresnet50 ecaresnet50t gcresnet50t skresnet18 resnest14d poolformer_s12 poolformerv2_s12 convformer_s18
        convmixer_768_32 efficientnet_b0 mobilenetv3_small_050 mobilenetv4_conv_small regnety_002 focalnet_tiny_srf
        mambaout_femto efficientvim_m1 sequencer2d_s fastvit_t8 lowformer_e1 ghostnetv2_100 inception_next_atto vgg11
        starnet_s050 rdnet_tiny tresnet_m hgnetv2_b0 densenet121 cspdarknet53
    """,
}
"""timm's networks, read one by one. `xcit`: class attention at its end; `*_clip`: attention pooling in the head."""

NO_ATTENTION = {"GlobalContext", "HSMSSD"}
"""Products of two activations that are none: a channel gate's pooling, a state space."""

NO_PRODUCT = {"LinearSelfAttention", "EfficientAdditiveAttention"}
"""Attention made of sums: MobileViTv2, SwiftFormer."""


@pytest.mark.parametrize(
    ("name", "expected"), [(name, kind) for kind, names in BY_HAND.items() for name in names.split()]
)
def test_timms_networks_by_hand(name, expected):
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    assert attention_of(Network(name=name)) == expected


def test_the_table_is_large_and_says_each_network_once():
    names = " ".join(BY_HAND.values()).split()
    assert len(names) == len(set(names)) >= 60


class Products(TorchDispatchMode):
    """Counts matrix products of two tensors that both depend on the image, by the module that computes them."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.inside, self.dependent = [""], {id(images): images}
        for module in network.modules():
            module.register_forward_pre_hook(lambda module, _: self.inside.append(type(module).__name__))
            module.register_forward_hook(lambda *_: (self.inside.pop(), None)[1])

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = [id(each) in self.dependent for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        if any(given):
            self.dependent |= {id(each): each for each in tree_leaves(result) if isinstance(each, Tensor)}
        name = func.overloadpacket.__name__
        if (name in ("mm", "bmm") or name.startswith("_scaled_dot_product")) and all(given[:2]):
            self.found[self.inside[-1]] += 1
        return result


def multiplied(name: str) -> tuple[nn.Module, Products]:
    """A network of timm's, and the products of activations in its forward pass."""
    net = timm.create_model(name).eval()
    images = torch.empty(1, *net.pretrained_cfg["input_size"])
    with torch.no_grad(), Products(net, images) as products:
        net(images)
    return net, products


@pytest.mark.slow
def test_every_family_of_timms_has_attention_where_it_multiplies_activations():
    """A small network of each file of timm's; what depends on the image on both sides of a product is attention."""
    small = re.compile("test_|tiny|nano|xxs|small|12|18|_[a-z]0")
    families = [family for family in timm.list_modules() if family != "sequencer"]  # its LSTMs are unrolled: slow
    assert len(families) > 80
    for family in families:
        names = timm.list_models(module=family)
        name = next(filter(small.search, names), names[0])
        try:
            with torch.device("meta"):
                net, products = multiplied(name)
        except RuntimeError:  # older versions of timm and torch need values for a few networks
            net, products = multiplied(name)
        named = {type(module).__name__ for module in attention_modules(net)}
        assert named - NO_PRODUCT <= set(products.found), name
        assert set(products.found) - NO_ATTENTION <= named, name


def test_ours_by_axis():
    both = Architecture(
        width=12, depth=2, img_size=8, patch=4,
        block=(Branch("attention", "patches"), Branch("attention", "features"), Branch("linear", "patches")),
    )  # fmt: skip
    net = Backbone(both)
    assert list(attention_modules(net).values()) == ["patches", "features"] * 2
    assert attention_over_patches(net)
    assert attention_of(Network(architecture=both)) == "patches"
    features = both.replace(block=(Branch("feedforward", "patches"), Branch("attention", "features")))
    assert attention_of(Network(architecture=features)) == "features only"
    assert not attention_over_patches(Backbone(features))
    assert attention_of(Network(architecture=both.replace(block=transformer(heads=3)))) == "patches"


@pytest.mark.parametrize("name", NAMED)
def test_named_ones_of_ours(name):
    expected = "none" if name.startswith("ff_") else "patches"
    assert attention_of(Network(name=name)) == expected
    with torch.device("meta"):
        assert attention_over_patches(ffvit.create_model(name)) == (expected == "patches")


def test_an_unknown_name_is_said():
    with pytest.raises(UserError, match="no network is called 'repvit_m7'"):
        attention_of(Network(name="repvit_m7"))


def test_torchs_own_attention_counts_and_gates_do_not():
    assert attention_over_patches(nn.TransformerEncoderLayer(8, 2, batch_first=True))
    for gate in (CbamModule, EcaModule, SEModule):
        assert attention_modules(nn.Sequential(gate(16))) == {}
