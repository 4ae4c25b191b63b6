"""The axes of the figures of measurements, and of loss curves, carry ordinary ticks, and no label hides a line."""

import numpy as np
import pytest

import deepnotes as dn

pytest.importorskip("matplotlib", reason="needs matplotlib")

from deepnotes.testing.bench import figures

PANELS = {
    "batch 64": {
        "numba": [(16, 12.0), (64, 20.0), (2048, 60.0), (8192, 91.0)],
        "numpy": [(16, 30.0), (64, 31.0), (2048, 50.0), (8192, 55.0)],
    },
    "batch 128": {"numba": [(16, 12.0), (8192, 91.0)]},
}


def labels_in_view(axis):
    """Return the texts of the ticks within the limits of an axis."""
    low, high = sorted(axis.get_view_interval())
    ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
    return [label.get_text() for position, label in ticks if low <= position <= high and label.get_text()]


def draw(times=1.0):
    panels = {
        name: {k: [(x, times * t) for x, t in line] for k, line in panel.items()} for name, panel in PANELS.items()
    }
    figure = figures.crossover(panels, dict.fromkeys(panels, "batch size"), "a network")
    figure.canvas.draw()
    return figure


@pytest.mark.parametrize("times", [1.0, 2.3, 0.07, 12_345.0])
def test_times_within_a_power_of_ten_have_ticks(times):
    ax = draw(times).axes[0]
    assert len(labels_in_view(ax.yaxis)) >= 2


def test_sizes_are_written_in_full():
    assert labels_in_view(draw().axes[0].xaxis) == ["16", "64", "2,048", "8,192"]


def test_the_fastest_backends_are_named_above_the_panel():
    ax = draw().axes[0]
    (note,) = [text for text in ax.texts if text.get_text()]
    assert note.get_text() == "fastest: numba; from about 740, numpy"
    assert note.get_window_extent().y0 >= ax.get_window_extent().y1
    assert note.get_window_extent().y1 <= ax.title.get_window_extent().y0


@pytest.mark.parametrize("low", [1e-9, 1e-3, 0.4, 84.1, 2e5])
@pytest.mark.parametrize("ratio", [1.0001, 1.5, 19.0, 25.0, 400.0, 1e6])
def test_a_loss_curve_has_at_least_two_ticks(low, ratio):
    history = dn.History(loss=list(np.geomspace(low * ratio, low, 40)))
    figure = history.plot()
    figure.canvas.draw()
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        assert len(set(labels_in_view(axis))) >= 2, labels_in_view(axis)
