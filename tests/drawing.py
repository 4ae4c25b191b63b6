"""Helpers for the plot tests."""

from pathlib import Path
from typing import Any

from deepnotes import plots

REASON = "drawing needs deepnotes[plot]"


def save_figure(figure: Any, tmp_path: Path) -> Any:
    """Save a figure and return it; saving also computes its layout."""
    plots.save(figure, tmp_path / "picture.png", dpi=50)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    return figure


def visible_text(figure: Any) -> str:
    """Return the visible text of a figure."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text) if text.get_visible())


def line_with_label(ax: Any, label: str) -> Any:
    """Return the only line of the axes that has this label."""
    (line,) = [line for line in ax.get_lines() if line.get_label() == label]
    return line
