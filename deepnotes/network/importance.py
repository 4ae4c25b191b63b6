"""Permutation importance: how much the score of a model falls when the values of one column are shuffled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.utils.arguments import whole
from deepnotes.utils.errors import DataError
from deepnotes.utils.wording import join_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Importance:
    """The permutation importance of each column of a table for a model.

    Attributes
    ----------
    columns : list of str
        The n columns that the model needs.
    falls : ndarray, shape (n, repeats)
        The score of the model, minus its score with the values of the column shuffled.
    score : float
        The score with no column shuffled.
    score_name : str
        ``"accuracy"``, ``"R²"``, or the name of another metric.
    """

    columns: list[str]
    falls: np.ndarray
    score: float
    score_name: str

    @property
    def mean(self) -> np.ndarray:
        """The mean of the falls of each column, shape (n,)."""
        return np.asarray(self.falls.mean(axis=1))

    @property
    def std(self) -> np.ndarray:
        """The standard deviation of the falls of each column between the repeats, shape (n,)."""
        return np.asarray(self.falls.std(axis=1, ddof=1))

    def as_dict(self) -> dict[str, list[Any]]:
        """Return the columns of a table, such as ``pandas.DataFrame`` takes, with the most important column first."""
        order = np.argsort(-self.mean, kind="stable")
        return {
            "column": [self.columns[i] for i in order],
            "importance": self.mean[order].tolist(),
            "std": self.std[order].tolist(),
        }

    def plot(self, *, ax: Any = None) -> "Figure":
        """Plot the importances, and return the figure; see :func:`deepnotes.plots.importances`."""
        from deepnotes.plots import importances

        return importances(self.columns, self.mean, self.std, self.score_name, ax=ax)

    def __repr__(self) -> str:
        """Return the score, and the mean falls, with the most important column first."""
        order = np.argsort(-self.mean, kind="stable")
        falls = join_names(f"{self.columns[i]} {self.mean[i]:.4g}" for i in order)
        return f"{type(self).__name__}({self.score_name} {self.score:.4g}, falls: {falls})"

    def _repr_html_(self) -> str:
        """Return a table as HTML, for IPython."""
        from deepnotes.utils import html

        rows = zip(*self.as_dict().values(), strict=True)
        cells = [[name, f"{mean:.4f}", f"{std:.4f}"] for name, mean, std in rows]
        notes = f"the mean fall of {self.score_name}, which is {self.score:.4f} with no column shuffled"
        return html.table(["column", "importance", "std"], cells, notes)


def falls_of(
    score: Callable[[np.ndarray], float], X: np.ndarray, sizes: Sequence[int], repeats: int, seed: int
) -> tuple[float, np.ndarray]:
    """Return the score for X, and how much it falls when some inputs of X are shuffled.

    Parameters
    ----------
    score : callable
        Takes samples, shape (n, m), and returns a number.
    X : ndarray, shape (n, m)
        It is not changed.
    sizes : sequence of int
        The numbers of the inputs that are shuffled together; their sum is n.
    repeats, seed : int
        As for :meth:`deepnotes.Model.importance`.

    Returns
    -------
    score : float
    falls : ndarray, shape (len(sizes), repeats)

    Raises
    ------
    ArgumentError
        If `repeats` or `seed` is out of range.
    DataError
        If there is only one sample.
    """
    repeats, seed = whole("repeats", repeats, 2), whole("seed", seed, 0)
    if X.shape[1] < 2:
        raise DataError("the table has only one row, so no column can be shuffled; wanted at least 2 rows")
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(X.shape[1]) for _ in range(repeats)]
    complete = score(X)
    shuffled = X.copy(order="K")
    falls = np.empty((len(sizes), repeats))
    first = 0
    for i, size in enumerate(sizes):
        inputs = slice(first, first + size)
        for j, order in enumerate(orders):
            shuffled[inputs] = X[inputs][:, order]
            falls[i, j] = complete - score(shuffled)
        shuffled[inputs] = X[inputs]
        first += size
    return complete, falls
