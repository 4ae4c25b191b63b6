"""What the tests of pictures share."""

from pathlib import Path
from typing import Any

from deepnotes import plots

REASON = "drawing needs deepnotes[plot]"


def drawn(made: Any, tmp_path: Path) -> Any:
    """Have a figure drawn to the end, which also lays it out, and return it."""
    plots.save(made, tmp_path / "picture.png", dpi=50)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    return made


def words(made: Any) -> str:
    """Return all that is written in a figure."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in made.findobj(Text) if text.get_visible())


def line(ax: Any, label: str) -> Any:
    """Return the one line of an ax that has a label."""
    (found,) = [line for line in ax.get_lines() if line.get_label() == label]
    return found
