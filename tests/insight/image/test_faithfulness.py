"""Deletion and insertion: formulas, random orders, and a network whose reading is known."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.special import softmax
from torch import nn

from explained import PREPROCESS, ReadsOnePatch, bright, linear, noise
from ffvit.config.preprocess import Preprocess
from ffvit.errors import DataError
from ffvit.insight.image.attribution import occlusion
from ffvit.insight.image.faithfulness import MeanDifference, _counts, area, measure_faithfulness, probabilities
from ffvit.insight.image.patches import PatchedImage, first_covered


def test_every_method_beats_random_orders_where_one_patch_is_read():
    done = []
    results = measure_faithfulness(
        ReadsOnePatch(), PREPROCESS, [bright(seed) for seed in range(6)], advance=done.append
    )
    assert done == [1] * 6
    assert [result.method for result in results] == [
        "integrated gradients",
        "gradient x input",
        "occlusion",
        "random order",
    ]
    *methods, random = results
    for result in methods:
        assert result.images == 6
        assert result.deletion_gain.low > 0
        assert result.insertion_gain.low > 0
        # Known: the probability falls with the first of 16 patches, and stays; insertion rises with it.
        high, low = result.deletion_curve[0], result.deletion_curve[-1]
        assert result.deletion_curve[1:] == pytest.approx(low)
        assert result.deletion == pytest.approx(low + (high - low) / 32)
        assert result.insertion == pytest.approx(high - (high - low) / 32)
        assert result.deletion_gain.value == pytest.approx(random.deletion - result.deletion)
        assert result.insertion_gain.value == pytest.approx(result.insertion - random.insertion)
    assert (random.deletion_gain, random.insertion_gain) == (None, None)
    assert random.deletion == pytest.approx(random.insertion)


def test_curves_are_those_of_images_covered_by_hand():
    network, image = linear(), noise(3)
    *_, result, _ = measure_faithfulness(network, PREPROCESS, [image], points=5)
    patched = PatchedImage(network, PREPROCESS, image)
    predicted = int(patched.logits(np.zeros((1, 16), dtype=bool)).argmax())
    order = np.argsort(-occlusion(patched, predicted).patches.ravel())
    for share, deleted, inserted in zip(result.shares, result.deletion_curve, result.insertion_curve, strict=True):
        covered = np.isin(np.arange(16), order[: round(16 * share)])[None]
        assert deleted == pytest.approx(softmax(patched.logits(covered)[0])[predicted])
        assert inserted == pytest.approx(softmax(patched.logits(~covered)[0])[predicted])


def test_same_seed_same_result_and_another_seed_moves_random_orders_alone():
    images = [noise(seed) for seed in range(2)]
    first, again, other = (
        measure_faithfulness(linear(), PREPROCESS, images, random_orders=2, seed=seed) for seed in (0, 0, 1)
    )
    assert [result.deletion for result in first] == [result.deletion for result in again]
    assert [result.deletion for result in first[:-1]] == [result.deletion for result in other[:-1]]
    assert first[-1].deletion != other[-1].deletion


def test_areas_on_paper():
    shares = np.array([0.0, 0.25, 1.0])
    assert area(np.array([1.0, 1.0, 1.0]), shares) == 1
    assert area(np.array([1.0, 0.0, 0.0]), shares) == 0.125
    assert area(np.array([1.0, 0.75, 0.0]), shares) == 0.5


@given(st.integers(1, 64), st.integers(1, 30))
def test_counts_run_from_none_to_all_and_are_the_same_from_both_ends(patches, points):
    counts = _counts(patches, points)
    assert (counts[0], counts[-1]) == (0, patches)
    assert (patches - counts)[::-1].tolist() == counts.tolist()
    assert len(counts) <= 2 * points + 1


@given(arrays(np.float64, st.integers(2, 20), elements=st.floats(-1, 1, width=16), unique=True))
def test_interval_is_students(differences):
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    found = MeanDifference.of(differences)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert found.value == pytest.approx(differences.mean(), abs=1e-12)


def test_one_image_has_no_interval_and_no_image_is_an_error():
    *_, occluded, _ = measure_faithfulness(linear(), PREPROCESS, [noise(0)])
    assert np.isnan([occluded.deletion_gain.low, occluded.deletion_gain.high]).all()
    with pytest.raises(DataError, match="takes an image at least"):
        measure_faithfulness(linear(), PREPROCESS, [])


def test_deletion_curve_is_quantus_pixel_flipping():
    quantus = pytest.importorskip("quantus", exc_type=ImportError)
    preprocess = Preprocess(img_size=(8, 12), in_chans=1)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(8 * 12, 3)).eval()
    image = PatchedImage(network, preprocess, noise(5, preprocess))
    class_index = int(image.logits(np.zeros((1, 16), dtype=bool)).argmax())
    attribution = occlusion(image, class_index)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = quantus.PixelFlipping(
            features_in_step=6, abs=False, normalise=False, perturb_baseline=0.0, disable_warnings=True
        )
        [theirs] = metric(
            network,
            x_batch=image.normalized.numpy(),
            y_batch=np.array([class_index]),
            a_batch=attribution.pixels[None, None].astype(np.float32),
            device="cpu",
            softmax=True,
        )
    own = probabilities(image, class_index, first_covered(attribution.order, np.arange(17)))
    np.testing.assert_allclose(theirs, own[1:], atol=1e-6)
