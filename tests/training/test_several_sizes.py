from __future__ import annotations

import pytest
import torch

import ffvit
from ffvit import Architecture, Branch
from ffvit.config.recipe import RECIPES
from ffvit.errors import UserError
from ffvit.models.backbone import Backbone
from ffvit.training.several_sizes import SeveralSizes


def test_sizes_come_in_turn_in_whole_patches():
    net = ffvit.create_model("ff_micro_patch2_8")
    sizes = SeveralSizes(net, (0.5, 1.0, 1.3))
    images = torch.rand(2, 1, 8, 8)
    assert [sizes(images, step).shape[2] for step in range(5)] == [4, 8, 10, 4, 8]
    assert sizes(images, 1) is images
    torch.testing.assert_close(sizes(torch.ones(1, 1, 8, 8), 2), torch.ones(1, 1, 10, 10))
    untouched = ffvit.create_model("ff_micro_patch2_8")
    assert SeveralSizes(untouched, ())(images, 0) is images
    assert not untouched.takes_other_sizes


def test_networks_that_cannot_are_refused():
    with pytest.raises(UserError, match="only ffvit's own networks train at several sizes"):
        SeveralSizes(ffvit.create_model("test_vit"), (0.5, 1.0))
    tied = Backbone(Architecture(width=8, depth=1, block=(Branch("attention", "features"), Branch("linear", "patches")),
                                 img_size=8, patch=2, readout="mean"))  # fmt: skip
    with pytest.raises(UserError, match="attention along features has weights for 4 x 4 patches"):
        SeveralSizes(tied, (0.5, 1.0))
    with pytest.raises(UserError, match="image_scales: a teacher sees images of one size"):
        ffvit.train(data="digits", recipe={"image_scales": (0.5, 1.0), "teacher": "test_vit"})


def test_a_run_trains_at_all_its_sizes(tmp_path, monkeypatch):
    seen: list[int] = []
    forward = Backbone.embed

    def embed(self: Backbone, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            seen.append(images.shape[2])
        return forward(self, images)

    monkeypatch.setattr(Backbone, "embed", embed)
    recipe = RECIPES["digits"].replace(epochs=2, warmup_epochs=0, batch_size=512, image_scales=(1.0, 0.5, 1.5))
    hardware = ffvit.Hardware(accelerator="cpu", workers=0)
    run = ffvit.train("ff_micro_patch2_8", recipe=recipe, hardware=hardware, out=tmp_path / "run")
    assert set(seen) == {4, 8, 12}
    assert seen[:3] == [8, 4, 12]
    assert ffvit.load(run.path).architecture.img_size == (8, 8)
    with pytest.raises(UserError, match="image_scales changes the weights' shapes"):
        ffvit.train("ff_micro_patch2_8", recipe=recipe, hardware=hardware.replace(compile="always"), out=tmp_path / "b")
