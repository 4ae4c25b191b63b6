"""Plots of calibration: reliability diagrams."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawing import REASON, line_with_label, save_figure

from deepnotes import plots
from deepnotes.utils.errors import ArgumentError, DataError, ShapeError

pytest.importorskip("matplotlib", reason=REASON)
RNG = np.random.default_rng(0)
A, Y = RNG.dirichlet(np.ones(3), 200).T, RNG.integers(3, size=200)


def labels(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_each_bin_is_a_point_at_its_confidence_and_accuracy() -> None:
    probabilities, y = np.array([[0.91, 0.05, 0.12, 0.55]]), np.array([1, 1, 0, 1])
    ax: Any = plots.calibration(probabilities, y, bins=10).axes[0]
    np.testing.assert_allclose(ax.lines[1].get_xydata(), [[0.55, 1], [0.88, 1], [0.93, 0.5]], atol=1e-12)
    sizes = ax.collections[0].get_sizes()
    assert sizes[0] == sizes[1] < sizes[2]
    assert list(line_with_label(ax, "perfectly calibrated").get_xdata()) == [0, 1]


def test_predictions_by_name_are_lines_with_their_errors(tmp_path: Path) -> None:
    figure = plots.calibration({"before": A, "after": np.full((3, 200), 1 / 3)}, np.eye(3)[:, Y])
    save_figure(figure, tmp_path)
    assert [label.partition(" ")[0] for label in labels(figure)] == ["perfectly", "before:", "after:"]
    before, after = (collection for collection in figure.axes[0].collections)
    paths = [collection.get_paths()[0].vertices for collection in (before, after)]
    assert len(paths[0]) != len(paths[1])  # other markers, not only other colours


def test_samples_of_weight_0_are_left_out() -> None:
    w = (np.arange(200) < 120) * 1.0
    weighted, alone = plots.calibration(A, Y, sample_weight=w), plots.calibration(A[:, :120], Y[:120])
    assert labels(weighted) == labels(alone)
    np.testing.assert_allclose(*(figure.axes[0].lines[1].get_xydata() for figure in (weighted, alone)))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((A, Y[1:]), {}, ShapeError, "predictions has shape (3, 200), wanted (k, 199) or (1, 199)"),
        (({"after": A.T}, Y), {}, ShapeError, "predictions['after'] has shape (200, 3)"),
        ((3 * A, Y), {}, DataError, "wanted probabilities between 0 and 1"),
        ((np.log(A), Y), {}, DataError, "predictions holds -"),
        ((A * np.nan, Y), {}, DataError, "predictions holds nan"),
        ((A, Y + 1), {}, DataError, "Y holds the class index 3, wanted at most 2: predictions has 3 classes"),
        (({}, Y), {}, ArgumentError, "predictions"),
        ((A, Y), {"bins": 0}, ArgumentError, "bins"),
        ((A, Y), {"sample_weight": Y[1:]}, ShapeError, "sample_weight has shape (199,), wanted (200,)"),
        ((A, Y), {"sample_weight": -1.0 * Y}, DataError, "sample_weight: wanted finite numbers of at least 0"),
    ],
)
def test_invalid_arguments_are_refused(arguments: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        plots.calibration(*arguments, **options)
    assert message in str(raised.value)
