"""Pictures of trainings and networks, by matplotlib: ``pip install "deepnotes[plot]"``.

Each function draws into the axes that it is given, or into a new figure, and returns the figure; what pyplot keeps is
neither read nor changed. :func:`save` writes a figure to a file. The colours can be distinguished with any colour
vision, and nothing is shown by colour alone.
"""

from deepnotes.plots.boundaries import boundary
from deepnotes.plots.canvas import check_path, require_matplotlib, save
from deepnotes.plots.confusions import confusion, confusion_of
from deepnotes.plots.curves import curves
from deepnotes.plots.diagrams import diagram
from deepnotes.plots.images import weights

__all__ = [
    "boundary",
    "check_path",
    "confusion",
    "confusion_of",
    "curves",
    "diagram",
    "require_matplotlib",
    "save",
    "weights",
]
