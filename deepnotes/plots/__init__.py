"""Plots of training histories and networks, drawn with matplotlib (``pip install "deepnotes[plot]"``).

Each plotting function draws into the given axes, or into a new figure, and returns the figure. The state of pyplot is
neither used nor changed. :func:`save` writes a figure to a file. Readers with any colour vision can distinguish the
colours, and no information is shown by colour alone.
"""

from deepnotes.plots.activations import activation
from deepnotes.plots.boundaries import boundary
from deepnotes.plots.calibrations import calibration
from deepnotes.plots.canvas import check_path, require_matplotlib, save
from deepnotes.plots.confusions import confusion, confusion_of
from deepnotes.plots.curves import curves
from deepnotes.plots.diagrams import diagram
from deepnotes.plots.images import weights
from deepnotes.plots.importances import importances
from deepnotes.plots.intervals import interval
from deepnotes.plots.rates import learning_rates
from deepnotes.plots.saliencies import saliency
from deepnotes.plots.searches import trials

__all__ = [
    "activation",
    "boundary",
    "calibration",
    "check_path",
    "confusion",
    "confusion_of",
    "curves",
    "diagram",
    "importances",
    "interval",
    "learning_rates",
    "require_matplotlib",
    "saliency",
    "save",
    "trials",
    "weights",
]
