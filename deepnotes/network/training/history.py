"""The history of a training run: losses, metrics, learning rates and times, epoch by epoch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 10
"""The largest number of epochs that a table shows."""


@dataclass
class History:
    """The losses, metrics, learning rates and times of a training run, one value per epoch.

    Attributes
    ----------
    loss : list of float
        The mean of the samples' losses, each computed before the update that uses the sample. The L2 penalty is not
        included, unless the objective includes it.
    val_loss : list of float
        The loss on the validation data after the epoch; empty if there are no validation data.
    metrics : dict of str to list of float
        ``val_<name>`` on the validation data, or ``<name>`` on the training data if there are no validation data.
    learning_rate : list of float
        The learning rate of the last update of the epoch.
    seconds : list of float
        The duration of the epoch, validation included.
    best_epoch : int or None
        The epoch, counted from 1, whose parameters were restored by early stopping; None if none were restored.
    """

    loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best_epoch: int | None = None

    @property
    def epochs(self) -> int:
        """The number of finished epochs."""
        return len(self.loss)

    def last(self, name: str) -> float:
        """Return the latest value of ``loss``, ``val_loss`` or a metric, given its name."""
        return {"loss": self.loss, "val_loss": self.val_loss, **self.metrics}[name][-1]

    def as_dict(self) -> dict[str, list[Any]]:
        """Return the history as columns with one value per epoch, by name, such as ``pandas.DataFrame`` takes.

        The columns are ``epoch`` (from 1), ``loss``, ``val_loss`` and the metrics if there are any, ``learning_rate``
        and ``seconds``. A metric with the name of another column is called ``metric_<name>``.

        Examples
        --------
        >>> history = History([0.5, 0.25], metrics={"accuracy": [0.75, 1.0]}, learning_rate=[0.1, 0.1], seconds=[1, 1])
        >>> {name: values for name, values in history.as_dict().items() if name != "seconds"}
        {'epoch': [1, 2], 'loss': [0.5, 0.25], 'accuracy': [0.75, 1.0], 'learning_rate': [0.1, 0.1]}
        """
        losses: dict[str, list[Any]] = {
            "epoch": list(range(1, self.epochs + 1)),
            "loss": self.loss,
            "val_loss": self.val_loss,
        }
        rest: dict[str, list[Any]] = {"learning_rate": self.learning_rate, "seconds": self.seconds}
        reserved = {*losses, *rest}
        named = {f"metric_{name}" if name in reserved else name: values for name, values in self.metrics.items()}
        columns = losses | named | rest
        return {name: list(values) for name, values in columns.items() if len(values) == self.epochs}

    def __repr__(self) -> str:
        """Return the number of epochs, and the last loss and metrics; the lists may have thousands of numbers."""
        series = {"loss": self.loss, "val_loss": self.val_loss, **self.metrics}
        last = [f"{name}={values[-1]:.4g}" for name, values in series.items() if values]
        best = [] if self.best_epoch is None else [f"best_epoch={self.best_epoch}"]
        return f"{type(self).__name__}({', '.join([self._count(), *last, *best])})"

    def _count(self) -> str:
        return f"{self.epochs} epoch{'' if self.epochs == 1 else 's'}"

    def __str__(self) -> str:
        """Return a table of the epochs; of many epochs, some at equal distances."""
        header, rows, notes = self._table()
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = ["  ".join(f"{x:>{w}}" for x, w in zip(row, widths, strict=True)) for row in (header, *rows)]
        return "\n".join([*lines, notes])

    def _repr_html_(self) -> str:
        """Return the table as HTML, for IPython."""
        from deepnotes.utils import html

        header, rows, notes = self._table()
        return html.table(header, rows, notes, text_columns=0)

    def _table(self) -> tuple[list[str], list[list[str]], str]:
        """Return the header and the rows of a table of some of the epochs, and a remark."""
        series = {"loss": self.loss, "val_loss": self.val_loss, **self.metrics, "learning rate": self.learning_rate}
        series |= {"seconds": self.seconds}
        named = {name: values for name, values in series.items() if len(values) == self.epochs}
        last = self.epochs - 1
        chosen = sorted({round(i * last / (ROWS - 1)) for i in range(ROWS)}) if last >= ROWS else range(self.epochs)
        rows = [[str(i + 1), *(f"{values[i]:.4g}" for values in named.values())] for i in chosen]
        best = "" if self.best_epoch is None else f"; the parameters of epoch {self.best_epoch} were restored"
        return ["epoch", *named], rows, self._count() + best

    def plot(self, show: "str | Sequence[str] | None" = None, *, ax: Any = None) -> "Figure":
        """Plot losses and metrics in `ax` or a new figure and return the figure; see :func:`deepnotes.plots.curves`."""
        from deepnotes.plots import curves

        return curves(self, show, ax=ax)
