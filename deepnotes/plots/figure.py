"""The figures that plots return."""

from io import BytesIO

from matplotlib.figure import Figure

__all__ = ["PlotFigure"]


class PlotFigure(Figure):
    """A figure that a notebook shows as a picture, though it does not belong to pyplot."""

    def _repr_png_(self) -> bytes:
        """Return the figure as a PNG file, for IPython."""
        content = BytesIO()
        self.savefig(content, format="png", dpi=100)
        return content.getvalue()
