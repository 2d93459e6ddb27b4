from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

import ffvit
from ffvit.config import recipe as recipes
from ffvit.config.architecture import FF_ONLY
from ffvit.data.images import BadImageError
from ffvit.data.loader import evaluation_loader as loader
from ffvit.inference.predict import write_predictions
from ffvit.run_folder import Run

CPU = ffvit.Hardware(accelerator="cpu")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """A second one costs more than it brings on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory, photos) -> Run:
    return ffvit.train(
        ffvit.Architecture(width=12, depth=1, block=FF_ONLY, img_size=24, patch=8),
        photos,
        recipes.RECIPES["small"].replace(epochs=1, warmup_epochs=0, batch_size=8, evaluation_crop=0.6),
        hardware=CPU,
        out=tmp_path_factory.mktemp("predict") / "run",
    )


def test_the_same_weights_predict_the_same_however_they_are_given(run, photos, tmp_path):
    assert run.summary()["temperature"] is not None
    alone = shutil.copy(run.best_file, tmp_path / "weights.safetensors")
    of_run = list(ffvit.predict(run.path, [photos / "val"], hardware=CPU))
    assert len(of_run) == 12
    for weights in (run.best_file, alone, ffvit.load(run.path), ffvit.load(alone)):
        assert list(ffvit.predict(weights, [photos / "val"], hardware=CPU)) == of_run


def test_probabilities_are_those_that_evaluation_calibrates(run, photos):
    """The answers of both, image by image, at the run's temperature."""
    score = ffvit.evaluate(run.path, hardware=CPU)
    logits = torch.from_numpy(score.predictions.logits) / run.summary()["temperature"]
    predicted = {each.image: each for each in ffvit.predict(run.path, [photos / "val"], top=1, hardware=CPU)}
    for name, highest in zip(score.names, logits.softmax(1).amax(1).tolist(), strict=True):
        assert predicted[name].probabilities[0] == pytest.approx(highest, rel=1e-4)


def test_half_precision_only_where_it_is_asked_for(run, photos):
    def probabilities(**changes) -> list[float]:
        predictions = ffvit.predict(run.path, [photos / "val"], top=1, hardware=CPU.replace(**changes))
        return [prediction.probabilities[0] for prediction in predictions]

    assert probabilities() == probabilities(precision="fp32") != probabilities(precision="bf16")
    assert probabilities() == pytest.approx(probabilities(precision="bf16"), abs=0.05)
    with pytest.raises(ffvit.UserError, match="fp16 runs on the engines torch and compiled, on a GPU"):
        probabilities(precision="fp16")


@pytest.mark.parametrize("whole", [True, False])
def test_the_callers_network_keeps_the_mode_of_each_module(run, photos, whole):
    network = ffvit.load(run.path).train()
    network.norm.eval()
    before = [module.training for module in network.modules()]
    predictions = ffvit.predict(network, [photos / "val"], hardware=CPU)
    next(predictions)
    if whole:
        list(predictions)
    else:
        predictions.close()
    assert [module.training for module in network.modules()] == before


def test_weights_that_are_not_finite_are_said_to_be(run, photos):
    network = ffvit.load(run.path)
    network.head.weight.data[0, 0] = torch.nan
    with pytest.raises(ffvit.UserError, match="logits are NaN or infinite: its training diverged, or its weights are"):
        list(ffvit.predict(network, [photos / "val"], hardware=CPU))


def test_unreadable_images_are_counted_at_the_end(run, photos, tmp_path, capsys):
    folder: Path = shutil.copytree(photos / "val", tmp_path / "val")
    (folder / "broken.jpg").write_bytes(b"no image")
    found = list(ffvit.predict(run.path, [folder], hardware=CPU))
    assert [Path(each.name).name for each in found if isinstance(each, BadImageError)] == ["broken.jpg"]
    assert write_predictions(iter(found), "csv", Console()) == 12
    assert capsys.readouterr().err.splitlines()[-1] == "1 of 13 images could not be read"
    assert write_predictions(iter(found[-1:]), "csv", Console()) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("workers", [0, 1])
def test_as_many_loading_processes_as_are_asked_for(run, photos, monkeypatch, workers):
    """`--workers` was taken and ignored."""
    asked: list[int] = []
    monkeypatch.setattr(
        "ffvit.inference.predictor.evaluation_loader", lambda *a, **k: asked.append(a[4]) or loader(*a, **k)
    )
    assert list(ffvit.predict(run.path, [photos / "val"], hardware=CPU.replace(workers=workers)))
    assert asked == [workers]
