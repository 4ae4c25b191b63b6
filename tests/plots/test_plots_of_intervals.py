"""Plots of predictions with their intervals."""

import numpy as np
import pytest

from deepnotes import plots
from deepnotes.utils.errors import ShapeError

pytest.importorskip("matplotlib")
X = np.array([[2.0, 0.0, 1.0]])


def test_the_line_and_the_band_are_sorted_by_the_feature() -> None:
    (ax,) = plots.interval(X, X - 1, 2 * X, X[0] + 5).axes
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), [[0, 0], [1, 2], [2, 4]])
    band = np.asarray(ax.collections[0].get_paths()[0].vertices)
    assert {(0.0, -1.0), (2.0, 1.0), (0.0, 5.0), (2.0, 7.0)} <= set(map(tuple, band.tolist()))


def test_samples_are_points() -> None:
    (ax,) = plots.interval(X, X, X, X, samples=(X, X + 1)).axes
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), np.stack([X[0], X[0] + 1], axis=1))
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["samples", "interval", "prediction"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, X[:, :2], X, X), "lower has shape (1, 2), wanted (3,) or (1, 3): one number for each x"),
        ((X.T, X, X, X), "x has shape (3, 1), wanted (3,) or (1, 3)"),
    ],
)
def test_wrong_shapes_are_refused(arguments: tuple[np.ndarray, ...], message: str) -> None:
    with pytest.raises(ShapeError) as error:
        plots.interval(*arguments)
    assert message in str(error.value)
