"""Pictures of what is found."""

import io
from functools import partial

import matplotlib as mpl
import numpy as np
import PIL.Image
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from explained import NAMES, PREPROCESS, ReadsOnePatch, bright, linear, noise
from ffvit.insight.image.faithfulness import measure_faithfulness
from ffvit.insight.image.image_findings import image_findings
from ffvit.insight.report.image_figures import DPI, attributions_figure, faithfulness_figure, removal_figure
from ffvit.pages.drawing import inline_drawing
from ffvit.plot_style import STYLE, WIDE


def attributions_png(findings):
    return png(partial(attributions_figure, findings))


def removal_png(findings):
    return png(partial(removal_figure, findings))


def png(make):
    """A figure on white."""
    with mpl.rc_context(STYLE):
        figure = make()
        figure.set_facecolor("white")
        picture = io.BytesIO()
        FigureCanvasAgg(figure).print_png(picture, metadata={"Software": None})
    return picture.getvalue()


def pixels(png):
    return np.asarray(PIL.Image.open(io.BytesIO(png)).convert("RGBA"))


@pytest.mark.parametrize("draw", [attributions_png, removal_png])
def test_pictures_are_on_white_and_the_same_each_time(draw):
    findings = image_findings(ReadsOnePatch(), PREPROCESS, bright(0), NAMES)
    png = draw(findings)
    assert draw(findings) == png
    assert (pixels(png)[0, 0] == 255).all()


def test_the_patch_that_is_read_is_red_and_the_others_have_no_colour():
    findings = image_findings(ReadsOnePatch(), PREPROCESS, bright(0), NAMES)
    drawn = pixels(attributions_png(findings)).astype(int)
    half = drawn[: int(0.7 * len(drawn)), 3 * drawn.shape[1] // 4 :]  # the panel of occlusion, without the colour bar
    red = half[:, :, 0] - half[:, :, 2] > 60
    rows, columns = np.nonzero(red)
    assert red.sum() == pytest.approx((np.ptp(rows) + 1) * (np.ptp(columns) + 1), rel=0.1)  # one rectangle
    assert 0.02 < red.mean() < 0.15


def test_an_answer_that_never_changes_and_a_long_name_are_drawn():
    network = linear()
    network[1].bias.data[0] = 1000.0
    findings = image_findings(network, PREPROCESS, noise(0), ("n" * 300, "b", "c"), random_orders=0)
    assert findings.removal.random_mean is None
    assert findings.removal.becomes is None
    for draw in (attributions_png, removal_png):
        assert pixels(draw(findings)).shape[1] == int(WIDE * DPI)


def test_curves_name_each_method():
    results = measure_faithfulness(ReadsOnePatch(), PREPROCESS, [bright(0), bright(1)])
    svg = inline_drawing("curves", "curves", partial(faithfulness_figure, results))
    assert inline_drawing("curves", "curves", partial(faithfulness_figure, results)) == svg
    for result in results:
        assert result.method in svg
