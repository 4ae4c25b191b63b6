"""The curves of activations and of their derivatives. The appearance was checked by eye."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from drawing import REASON, line_with_label, save_figure, visible_text

import deepnotes as dn
from deepnotes import plots
from deepnotes.nn.activations import LIBRARY

pytest.importorskip("matplotlib.figure", reason=REASON)
ELEMENTWISE = [name for name in LIBRARY if name not in ("softmax", "log_softmax")]
IMAGE = Path(__file__).parents[2] / "docs" / "images" / "activations.svg"


def curves(ax):
    """Return z, g(z) and g'(z) as they are drawn."""
    g, slope = line_with_label(ax, "g(z)"), line_with_label(ax, "g'(z)")
    return g.get_xdata(), g.get_ydata(), slope.get_ydata()


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_curves_are_g_and_its_derivative(name, tmp_path) -> None:
    """N6 to N9, with the derivatives of N12."""
    (ax,) = save_figure(plots.activation(name), tmp_path).axes
    z, g, slope = curves(ax)
    np.testing.assert_array_equal(z, np.linspace(-4, 4, 1601))
    differences = np.gradient(g, z)
    smooth = np.isfinite(slope) & (abs(z) < 4)
    for kink in (-3, 0, 3):  # of relu and its kin, and of hardswish
        smooth &= abs(z - kink) > 0.01
    assert smooth.mean() > 0.98
    np.testing.assert_allclose(slope[smooth], differences[smooth], atol=1e-3 * max(1, abs(differences).max()))


def test_a_jump_of_the_derivative_is_not_joined(tmp_path) -> None:
    (ax,) = save_figure(plots.activation("relu"), tmp_path).axes
    z, _, slope = curves(ax)
    assert np.isnan(slope).sum() == 1
    assert np.nanmax(slope[z < 0]) == 0
    assert np.nanmin(slope[z > 0.01]) == 1


class Cube(dn.ActivationFunction):
    """A user-defined activation without a derivative of its own."""

    def forward(self, ops, Z):
        return Z * Z * Z


def test_several_activations_have_a_panel_each(tmp_path) -> None:
    leaky = dn.Activation("leaky_relu", slope=0.2)
    figure = save_figure(plots.activation(["tanh", leaky, Cube()]), tmp_path)
    assert [ax.get_title() for ax in figure.axes] == ["tanh", "leaky_relu (slope=0.2)", "Cube"]
    z, _, slope = curves(figure.axes[2])
    np.testing.assert_allclose(slope, 3 * z**2, atol=1e-12)
    assert visible_text(figure).count("g'(z)") == 1
    again = plots.activation(["sigmoid", "relu"], ax=list(figure.axes[:2]))
    assert again is figure


@pytest.mark.parametrize(
    ("g", "ax", "error", "message"),
    [
        ("softmax", None, dn.ArgumentError, "not elementwise"),
        ("rleu", None, dn.UnknownNameError, "did you mean 'relu'"),
        ([], None, dn.ArgumentError, "at least one"),
        ("relu", "axes", dn.ArgumentError, "ax"),
        (["relu", "tanh"], [], dn.ArgumentError, "got 0 axes, wanted 2"),
    ],
)
def test_wrong_arguments(g, ax, error, message) -> None:
    with pytest.raises(error, match=message):
        plots.activation(g, ax=ax)


def test_the_picture_in_the_documents_shows_every_elementwise_activation() -> None:
    assert IMAGE.stat().st_size < 200_000
    text = IMAGE.read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).tag.endswith("svg")
    for name in ELEMENTWISE:
        assert f"<!-- {name}" in text, f"redraw it: python -m benchmarks.redraw ({name} is missing)"
