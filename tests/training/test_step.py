"""One training step against plain PyTorch, and what it promises about draws, parts of a batch and short memory."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional

import ffvit
from ffvit.config.architecture import Network
from ffvit.config.hardware import Hardware
from ffvit.config.preprocess import Preprocess
from ffvit.config.recipe import Recipe, named_recipe
from ffvit.data.images import ArrayImages
from ffvit.data.loader import Batch
from ffvit.data.sampler import TrainingOrder
from ffvit.data.splits import Splits
from ffvit.errors import OutOfMemoryError
from ffvit.run_folder import Config
from ffvit.training import step as steps
from ffvit.training.step import TrainStep

DRAW = np.random.default_rng(0)
PIXELS = DRAW.integers(256, size=(24, 8, 8), dtype=np.uint8)
LABELS = DRAW.choice(10, size=24, p=[0.3, *[0.1] * 6, *[0.1 / 3] * 3])
WEIGHTS = torch.tensor([1.0, 1, 1, 0, 1, 1, 1, 1])  # the fourth image could not be read
WHOLE, PARTS = [range(8)], [[0, 1, 6, 7], [2, 3, 4, 5]]  # an image and its partner stand mirrored
RECIPE = named_recipe("digits").replace(
    batch_size=8, optimizer="sgd", lr=0.1, clip_grad_norm=None, ema_decay=None, mixup=0.0, cutmix=0.0, label_smoothing=0.1
)  # fmt: skip
PREPROCESS = Preprocess(img_size=(8, 8), in_chans=1, mean=(0.4,), std=(0.3,))


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision="32-true")


@pytest.fixture(autouse=True)
def _memory_is_no_matter(monkeypatch):
    monkeypatch.setattr(steps, "should_recompute", lambda *_: None)
    monkeypatch.setattr(steps, "has_free_memory", lambda *_: False)


def network(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), *middle, nn.Linear(16, 10)).train()


def step_of(
    fabric, net: nn.Module, recipe: Recipe = RECIPE, teacher=None, seed=0, micro_batch=None, say=None
) -> TrainStep:
    images = ArrayImages("some", PIXELS, LABELS)
    splits = Splits(tuple("0123456789"), images, None, images, "")
    config = Config(network=Network(), recipe=recipe, hardware=Hardware(compile="never"), seed=seed)
    order = TrainingOrder(24, seed, recipe.batch_size, recipe.mixup_group_size, micro_batch=micro_batch)
    return TrainStep(fabric, config, net, teacher, splits, PREPROCESS, order, say or pytest.fail)


def batch(places) -> Batch:
    places = list(places)
    return Batch(
        images=torch.tensor(PIXELS[places])[:, None],
        erased=torch.zeros(len(places), 5, dtype=torch.int64),
        labels=torch.tensor(LABELS[places]),
        weights=WEIGHTS[places],
        indices=places,
        groups=[0] * len(places),
        positions=places,
        bad=[],
    )


def batches(parts) -> list[Batch]:
    return [batch(places) for places in parts]


def inputs() -> Tensor:
    return (torch.tensor(PIXELS[:8])[:, None] / 255 - 0.4) / 0.3


def plain_loss(net: nn.Module) -> Tensor:
    losses = functional.cross_entropy(net(inputs()), torch.tensor(LABELS[:8]), label_smoothing=0.1, reduction="none")
    return (losses * WEIGHTS).sum() / 8


def trained_plainly(net: nn.Module, lr: float = 0.1, clip: float = torch.inf) -> Tensor:
    """One step of SGD with Nesterov's momentum of 0.9, as timm's `sgd` is; weight decay spares biases."""
    loss = plain_loss(net)
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), clip)
    with torch.no_grad():
        for weight in net.parameters():
            grad = weight.grad + 0.05 * weight * (weight.ndim > 1)
            weight -= lr * (grad + 0.9 * grad)
    return loss.detach()


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("parts", [WHOLE, PARTS])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_a_step_is_plain_pytorchs(fabric, parts, clip):
    net, plain = network(), network()
    step = step_of(fabric, net, RECIPE.replace(clip_grad_norm=clip))
    step.lr = 0.2
    loss, made = step(0, 0, batches(parts))
    expected = trained_plainly(plain, 0.2, clip or torch.inf)
    torch.testing.assert_close(loss, expected)
    assert made == 1
    assert_same_weights(net, plain)
    assert not any(weight.grad is not None and weight.grad.any() for weight in net.parameters())
    assert step.plain is net
    assert (step.ema, step.recomputed, step.compiled) == (None, None, False)


def test_the_learning_rate_is_that_of_all_parameters(fabric):
    step = step_of(fabric, network())
    step.lr = 0.5
    assert [group["lr"] for group in step.plain_optimizer.param_groups] == [0.5, 0.5]
    assert step.lr == 0.5


@pytest.mark.parametrize(("warmup", "decay"), [(False, 0.9), (True, 8 / 17)])
def test_the_average_moves_after_the_step_and_counts_the_runs_steps(fabric, warmup, decay):
    net, plain, start = network(), network(), network()
    step = step_of(fabric, net, RECIPE.replace(ema_decay=0.9, ema_warmup=warmup))
    step(2, 1, batches(WHOLE))  # the eighth step: an epoch has three
    trained_plainly(plain)
    for average, old, new in zip(step.ema.network.parameters(), start.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(average, decay * old + (1 - decay) * new, rtol=1e-5, atol=1e-7)


class Spoilt(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.nan


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_step_whose_loss_is_not_finite_is_not_made(fabric, clip):
    net = network(Spoilt())
    step = step_of(fabric, net, RECIPE.replace(clip_grad_norm=clip, ema_decay=0.9))
    loss, made = step(0, 0, batches(WHOLE))
    assert (loss.isnan(), made) == (True, 0)
    assert_same_weights(net, network())
    assert_same_weights(step.ema.network, network())


def test_rare_classes_weigh_more_where_the_recipe_says_so(fabric):
    net = network()
    weights = 24 / (10 * np.maximum(np.bincount(LABELS, minlength=10), 1))
    losses = functional.cross_entropy(net(inputs()), torch.tensor(LABELS[:8]), reduction="none")
    expected = (losses * WEIGHTS * torch.tensor(weights[LABELS[:8]])).sum() / 8
    loss, _ = step_of(fabric, net, RECIPE.replace(balance="weights", label_smoothing=0.0))(0, 0, batches(WHOLE))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_teacher_answers_the_images_that_the_network_sees(fabric):
    net, teacher = network(), ffvit.create_model("ff_micro_patch2_8").eval()
    asked = []
    net.set_distilled_training = asked.append
    step = step_of(fabric, net, RECIPE.replace(distillation="hard", distillation_weight=1.0), teacher)
    assert asked == [True]
    answers = teacher((inputs() * 0.3 + 0.4 - 0.5) / 0.5).argmax(dim=1)  # normalized as the teacher wants them
    expected = (functional.cross_entropy(net(inputs()), answers, reduction="none") * WEIGHTS).sum() / 8
    assert step(0, 0, batches(WHOLE))[0].item() == pytest.approx(expected.item(), rel=1e-5)
    step_of(fabric, net)
    assert asked == [True]


def loss_of(
    fabric, middle: nn.Module, parts=WHOLE, epoch=0, number=0, seed=0, pieces=1, recipe: Recipe = RECIPE
) -> float:
    step = step_of(fabric, network(middle), recipe, seed=seed)
    step.pieces = pieces
    return step(epoch, number, batches(parts))[0].item()


def as_second_process(monkeypatch) -> None:
    monkeypatch.setattr(Fabric, "global_rank", property(lambda _: 1))


CASES = {"dropout": nn.Dropout(0.5), "stochastic depth": DropPath(0.5), "mixup": nn.Identity()}


@pytest.mark.parametrize("what", CASES)
def test_draws_follow_from_seed_epoch_and_step(fabric, what):
    middle, recipe = CASES[what], RECIPE.replace(mixup=0.8 if what == "mixup" else 0.0)
    first = loss_of(fabric, middle, recipe=recipe)
    torch.rand(7)  # a generator's state is nothing to it
    assert loss_of(fabric, middle, recipe=recipe) == first
    others = [loss_of(fabric, middle, recipe=recipe, **{name: 1}) for name in ("seed", "epoch", "number")]
    assert len({first, *others}) == 4


@pytest.mark.parametrize("what", ["stochastic depth", "mixup"])
def test_parts_of_a_batch_share_their_draws(fabric, what, monkeypatch):
    middle, recipe = CASES[what], RECIPE.replace(mixup=0.8 if what == "mixup" else 0.0)
    whole = loss_of(fabric, middle, recipe=recipe)
    assert loss_of(fabric, middle, PARTS, recipe=recipe) == pytest.approx(whole, rel=1e-5)
    assert loss_of(fabric, middle, PARTS, pieces=2, recipe=recipe) == pytest.approx(whole, rel=1e-5)
    as_second_process(monkeypatch)
    assert loss_of(fabric, middle, recipe=recipe) == whole


def test_dropout_differs_between_parts_and_processes(fabric, monkeypatch):
    middle, half = CASES["dropout"], [4, 5, 6, 7]
    once = loss_of(fabric, middle, [half])
    assert loss_of(fabric, middle, [half, half]) != pytest.approx(2 * once, rel=1e-3)
    assert loss_of(fabric, middle, [half + half], pieces=2) != pytest.approx(2 * once, rel=1e-3)
    as_second_process(monkeypatch)
    assert loss_of(fabric, middle, [half]) != pytest.approx(once, rel=1e-3)


def test_processes_average_their_gradients_only_after_the_last_part(fabric, monkeypatch):
    waits = []
    monkeypatch.setattr(fabric, "no_backward_sync", lambda _, enabled: (waits.append(enabled), nullcontext())[1])
    loss_of(fabric, nn.Identity(), PARTS, pieces=2)
    assert waits == [True, True, True, False]
    once = loss_of(fabric, nn.Identity())
    monkeypatch.setattr(Fabric, "world_size", property(lambda _: 2))
    assert loss_of(fabric, nn.Identity()) == pytest.approx(2 * once)  # halved by the average


class Short(nn.Module):
    """A stand-in for a small GPU: the forward passes with these numbers, or all of more images, do not fit."""

    def __init__(self, fails: tuple[int, ...] = (), room: int = 8) -> None:
        super().__init__()
        self.fails, self.room, self.calls = fails, room, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls in self.fails or len(x) > self.room:
            raise torch.OutOfMemoryError
        return x


def in_parts(count: int) -> str:
    return f"memory is short: computing each batch in {count} parts (the result stays the same)"


def test_a_batch_beyond_the_memory_is_computed_in_parts_from_then_on(fabric):
    said, net, plain = (
        [],
        network(Short(fails=(1, 3))),
        network(),
    )  # the third is a second half: half a gradient is there
    step = step_of(fabric, net, say=said.append)
    loss, made = step(0, 0, batches(WHOLE))
    torch.testing.assert_close(loss, trained_plainly(plain))
    assert made == 1
    assert_same_weights(net, plain)
    assert said == [in_parts(2), in_parts(4)]
    step(0, 1, batches(WHOLE))
    assert (step.pieces, len(said), net[3].calls) == (4, 2, 1 + 2 + 4 + 4)


def test_an_attempt_that_did_not_fit_moves_no_statistics(fabric):
    norm = nn.BatchNorm1d(16)
    step_of(fabric, network(norm, Short(room=4)), say=[].append)(0, 0, batches(WHOLE))
    assert norm.num_batches_tracked == 2


@pytest.mark.parametrize(("processes", "tried"), [(1, [2, 4, 8]), (2, [])])
def test_what_does_not_fit_image_by_image_ends_in_a_sentence(fabric, monkeypatch, processes, tried):
    """Several processes cannot agree on parts, so there it ends at once."""
    said, step = [], step_of(fabric, network(Short(room=0)))
    step.say = said.append
    monkeypatch.setattr(Fabric, "world_size", property(lambda _: processes))
    with pytest.raises(OutOfMemoryError, match=r"^the device's memory is too small for this batch: use a smaller "
                                               r"--micro-batch \(the result stays the same\), --strategy fsdp over several "
                                               r"devices, or a smaller network$"):  # fmt: skip
        step(0, 0, batches(WHOLE))
    assert said == [in_parts(count) for count in tried]


def test_other_errors_pass(fabric):
    step = step_of(fabric, network(nn.Linear(3, 3)))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        step(0, 0, batches(WHOLE))
    assert step.pieces == 1


@pytest.mark.parametrize(
    ("recomputed", "free", "keeps"), [(None, True, True), (None, False, False), ("GELUs", True, False)]
)
def test_memory_is_planned_for_the_images_that_are_on_a_device_at_once(fabric, monkeypatch, recomputed, free, keeps):
    asked, kept, net = [], [], network()
    monkeypatch.setattr(steps, "should_recompute", lambda *about: (asked.append(about), recomputed)[1])
    monkeypatch.setattr(steps, "has_free_memory", lambda *about: (asked.append(about), free)[1])
    monkeypatch.setattr(steps, "keep_freed_memory", lambda: kept.append(True))
    monkeypatch.setattr(Fabric, "world_size", property(lambda _: 2))
    step = step_of(fabric, net, RECIPE.replace(batch_size=22), micro_batch=4)  # in six micro-batches
    assert asked == [(net, 2, fabric)] * (1 if recomputed else 2)
    assert (step.recomputed, kept) == (recomputed, [True] * keeps)


def test_a_compiled_network_is_scored_uncompiled(fabric, monkeypatch):
    asked, compiled, stances, net = [], [], [], network()
    monkeypatch.setattr(torch.compiler, "set_stance", lambda stance: (stances.append(stance), nullcontext())[1])
    with step_of(fabric, net).eagerly():
        assert not stances  # it loads the compiler, which takes seconds
    monkeypatch.setattr(steps, "should_compile", lambda *about: (asked.append(about), True)[1])
    monkeypatch.setattr(steps, "compile_blocks", compiled.append)
    step = step_of(fabric, net)
    assert (step.compiled, compiled) == (True, [net])
    assert asked == [(Hardware(compile="never"), net, RECIPE, 24, torch.device("cpu"))]
    with step.eagerly():
        assert stances == ["force_eager"]
