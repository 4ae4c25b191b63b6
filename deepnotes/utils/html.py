"""HTML for notebooks: tables, with all text escaped."""

from collections.abc import Iterable, Sequence
from html import escape

from deepnotes.utils.safe_text import escaped

__all__ = ["table", "text"]


def table(header: Sequence[str], rows: Iterable[Sequence[str]], notes: str = "", *, text_columns: int = 1) -> str:
    """Return a table, with a line of notes below it.

    Parameters
    ----------
    header : sequence of str
    rows : iterable of sequences of str
        As many cells in each row as in the header.
    notes : str
    text_columns : int, default 1
        The number of columns, from the left, that are aligned to the left; numbers are aligned to the right.

    Examples
    --------
    >>> table(["name"], [["a < b"]])  # doctest: +ELLIPSIS
    '<table>...<td style="text-align:left">a &lt; b</td>...</table>'
    """
    body = "".join(_row("td", row, text_columns) for row in rows)
    below = f"<p>{text(notes)}</p>" if notes else ""
    return f"<table><thead>{_row('th', header, text_columns)}</thead><tbody>{body}</tbody></table>{below}"


def _row(tag: str, cells: Sequence[str], text_columns: int) -> str:
    styles = ["left" if i < text_columns else "right" for i in range(len(cells))]
    parts = [f'<{tag} style="text-align:{s}">{text(cell)}</{tag}>' for s, cell in zip(styles, cells, strict=True)]
    return f"<tr>{''.join(parts)}</tr>"


def text(content: str) -> str:
    """Return text with the characters escaped that HTML, or a terminal, would interpret."""
    return escape(escaped(content))
