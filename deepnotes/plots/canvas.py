"""Helpers for all plots: figures without pyplot, colours, shortened names, and writing to files."""

from collections.abc import Sequence
from io import BytesIO
from math import ceil
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from deepnotes.utils.atomic_files import replacing
from deepnotes.utils.errors import ArgumentError, DeepnotesError, MissingExtraError
from deepnotes.utils.safe_text import escaped
from deepnotes.utils.wording import reason

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
INK, PALE = "#333333", "#8c8c8c"
TRAINING, VALIDATION = "#0072b2", "#d55e00"
"""Blue and vermilion of Okabe and Ito (2008), which can be distinguished with every kind of colour vision."""
CLASSES = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
"""Ten colours chosen to remain distinct with deficient colour vision (Petroff, arXiv:2107.02270)."""
MARKERS = "os^DvPX<>*"
"""A marker for each colour of `CLASSES`, so that classes never differ by colour alone."""


def require_matplotlib() -> None:
    """Import matplotlib, so that if it is missing, the error comes before any other work.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    DeepnotesError
        If matplotlib finds no directory for its cache.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("a plot needs matplotlib", "plot", error) from None
    except (OSError, RuntimeError) as error:  # RuntimeError: matplotlib before 3.11 finds no home directory
        raise DeepnotesError(
            f"a plot needs matplotlib, which finds no directory for its cache: {reason(error).rstrip('.')}; set "
            "MPLCONFIGDIR to a writable directory"
        ) from None


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of the given size in inches.

    Raises
    ------
    MissingExtraError
        If matplotlib cannot be imported.
    """
    require_matplotlib()
    from deepnotes.plots.figure import PlotFigure

    return PlotFigure(figsize=(width, height), layout="constrained", facecolor="white")


def get_axes(ax: Any, width: float, height: float) -> "Axes":
    """Return `ax`; if it is None, return the axes of a new figure of the given size in inches.

    Raises
    ------
    ArgumentError
        If `ax` is not a matplotlib Axes.
    MissingExtraError
    """
    if ax is None:
        return new_figure(width, height).add_subplot()
    return as_axes(ax)


def as_axes(ax: Any, name: str = "ax") -> "Axes":
    """Return `ax` after checking that it is a matplotlib Axes."""
    if not hasattr(ax, "add_artist") or not hasattr(ax, "figure"):
        raise ArgumentError.of(name, ax, "matplotlib Axes, such as figure.add_subplot() returns")
    return cast("Axes", ax)


def figure_of(ax: "Axes") -> "Figure":
    """Return the figure that contains the axes."""
    return cast("Figure", ax.get_figure(root=True))


def panels(n: int, width: float, height: float) -> "list[Axes]":
    """Return n axes in a new figure, at most three in a row; the size of each panel is given in inches."""
    columns = min(n, 3)
    figure = new_figure(width * columns, height * ceil(n / columns))
    return [figure.add_subplot(ceil(n / columns), columns, i + 1) for i in range(n)]


def tidy(ax: "Axes") -> None:
    """Remove the top and right spines, and make the tick labels smaller."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.tick_params(labelsize=9)


def colour(i: int) -> str:
    """Return the colour of class i."""
    return CLASSES[i % len(CLASSES)]


def shorten(name: object, length: int = 20) -> str:
    """Return a name on one line; if it has more than `length` characters, its middle is left out.

    The end is kept since names often differ only there.

    Examples
    --------
    >>> shorten("a very long name of class 12"), shorten("short")
    ('a very long…class 12', 'short')
    """
    text = escaped(" ".join(str(name).split()))
    end = length * 2 // 5
    if len(text) > length:
        text = f"{text[: length - end - 1].rstrip()}…{text[-end:].lstrip()}"
    return escape_formulas(text)


def escape_formulas(text: str) -> str:
    """Escape dollar signs, so that matplotlib does not display the text between them as a formula."""
    return text.replace("$", r"\$")


def class_names(classes: Sequence[object] | None, metadata: Any, k: int) -> list[str]:
    """Return the names of k classes: `classes`, or the names in the metadata of a network, or else 0, 1, ..., k - 1.

    Raises
    ------
    ArgumentError
        If the number of `classes` is not k.
    """
    if classes is None:
        names = metadata.get("classes") if isinstance(metadata, dict) else None
        classes = names if isinstance(names, list) and len(names) == k else range(k)
    if isinstance(classes, str) or len(classes) != k:
        raise ArgumentError.of("classes", classes, f"{k} names")
    return [str(name) for name in classes]


def check_path(path: str | PathLike[str]) -> Path:
    """Return the path of a plot, after checking its file format.

    Raises
    ------
    ArgumentError
        If the path does not end in .png, .svg or .pdf.

    Examples
    --------
    >>> check_path("curves.gif")
    Traceback (most recent call last):
    deepnotes.utils.errors.ArgumentError: 'curves.gif' ends in '.gif', wanted .png, .svg or .pdf
    """
    try:
        file = Path(path)
    except TypeError:
        raise ArgumentError.of("path", path, "the path of a file") from None
    if file.suffix.lower().removeprefix(".") not in FORMATS:
        ends = f"ends in {file.suffix!r}" if file.suffix else "has no ending"
        raise ArgumentError(f"{str(file)!r} {ends}, wanted .png, .svg or .pdf")
    return file


def save(figure: "Figure", path: str | PathLike[str], dpi: float = 150) -> None:
    """Write a figure to a .png, .svg or .pdf file.

    If the figure cannot be drawn, an existing file is left unchanged. The same figure is always written as the same
    bytes.

    Parameters
    ----------
    figure : Figure
    path : str or path-like
    dpi : float, default 150
        The resolution in dots per inch.

    Raises
    ------
    ArgumentError
        If the path does not end in .png, .svg or .pdf.
    OSError
        If the file cannot be written.
    """
    target = check_path(path)
    kind = target.suffix.lower().removeprefix(".")
    without_date = {"png": None, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    content = BytesIO()
    figure.savefig(content, format=kind, dpi=dpi, metadata=without_date)
    with replacing(target) as file:
        file.write(content.getvalue())
