"""Plots of the trials of a search. The appearance was checked by eye."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawing import REASON, line_with_label, save_figure

import deepnotes as dn
from deepnotes import plots


@pytest.fixture(autouse=True)
def figure_module() -> Any:
    return pytest.importorskip("matplotlib.figure", reason=REASON)


def test_each_setting_has_a_panel_with_all_trials(tmp_path: Path) -> None:
    losses = [0.5, 0.2, 0.4, np.inf, 0.3, 0.9]
    settings = {
        "learning rate": [0.001, 0.01, 0.1, 1.0, 0.02, 0.005],
        "activation": ["tanh", "relu", "relu", "tanh", "relu", "tanh"],
        "l2": [0.0, 1e-6, 1e-3, 1e-2, 0.0, 1e-4],
        "width": [16, 16, 32, 32, 64, 64],
    }
    rate, activation, l2, width = save_figure(plots.trials(settings, losses), tmp_path).axes
    assert [ax.get_xlabel() for ax in (rate, activation, l2, width)] == list(settings)
    x, y = line_with_label(rate, "trial").get_data()
    assert list(x) == [0.001, 0.01, 0.1, 0.02, 0.005]
    assert list(y) == [0.5, 0.2, 0.4, 0.3, 0.9]
    assert [list(a) for a in line_with_label(rate, "best trial").get_data()] == [[0.01], [0.2]]
    assert list(line_with_label(rate, "not finite").get_xdata()) == [1.0]
    assert (rate.get_xscale(), l2.get_xscale()) == ("log", "symlog")
    assert [text.get_text() for text in activation.get_xticklabels()] == ["relu", "tanh"]
    assert list(line_with_label(activation, "trial").get_xdata()) == [1, 0, 0, 0, 1]
    assert [text.get_text() for text in width.get_xticklabels()] == ["16", "32", "64"]


def test_losses_that_differ_much_have_a_logarithmic_scale(tmp_path: Path) -> None:
    (ax,) = save_figure(plots.trials({"width": [1, 2, 3]}, [0.01, 0.1, 1.0]), tmp_path).axes
    assert ax.get_yscale() == "log"
    (ax,) = save_figure(plots.trials({"width": [1, 2, 3]}, [0.5, 0.6, 1.0]), tmp_path).axes
    assert ax.get_yscale() == "linear"


def test_no_finite_loss_can_be_drawn(tmp_path: Path) -> None:
    (ax,) = save_figure(plots.trials({"width": [1, 2]}, [np.nan, np.inf]), tmp_path).axes
    assert list(line_with_label(ax, "not finite").get_xdata()) == [1, 2]


@pytest.mark.parametrize(("settings", "losses"), [({}, [1.0]), ({"width": []}, []), ({"width": [1]}, [1.0, 2.0])])
def test_settings_that_do_not_match_the_losses_are_refused(settings: Any, losses: Any) -> None:
    with pytest.raises(dn.ArgumentError, match="settings"):
        plots.trials(settings, losses)
