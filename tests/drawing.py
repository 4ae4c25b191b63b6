"""Helpers of the tests of plots."""

from pathlib import Path
from typing import Any

from deepnotes import plots

REASON = "drawing needs deepnotes[plot]"


def drawn(made: Any, tmp_path: Path) -> Any:
    """Save a figure, which also computes its layout, and return it."""
    plots.save(made, tmp_path / "picture.png", dpi=50)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    return made


def words(made: Any) -> str:
    """Return the visible text of a figure."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in made.findobj(Text) if text.get_visible())


def line(ax: Any, label: str) -> Any:
    """Return the line with a label, which must be unique."""
    (found,) = [line for line in ax.get_lines() if line.get_label() == label]
    return found
