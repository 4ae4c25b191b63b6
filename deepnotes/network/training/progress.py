"""Progress bars for training, on stderr: of one network, and of many."""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from deepnotes.network.training.state import Callback, Training
from deepnotes.utils.errors import NonFiniteLossError
from deepnotes.utils.safe_text import escaped
from deepnotes.utils.streams import stderr


class Progress(Callback):
    """A callback that shows the progress of training: as a bar on a terminal, otherwise as about ten lines of text.

    Output that cannot be written is discarded, so training continues even if stderr is closed.
    """

    every_epoch = False
    every_rank = False

    def __init__(self) -> None:
        self._console = Console(file=stderr())
        self._bar: Bar | None = None
        self._epoch = 0

    def on_chunk(self, training: Training) -> None:
        """Update the bar."""
        if not self._console.is_terminal:
            return
        if self._bar is None:
            self._bar = _bar(self._console, "epoch")
            self._task = self._bar.add_task("", total=training.steps, count="", figures="")
            self._bar.start()
        self._bar.update(
            self._task,
            completed=training.step,
            count=f"{training.epoch}/{training.epochs}",
            figures=format_figures(training),
        )

    def on_epoch(self, training: Training) -> None:
        """Write a line every few epochs if stderr is not a terminal."""
        every = max(1, training.epochs // 10)
        is_due = training.epoch // every > self._epoch // every or training.epoch in {1, training.epochs}
        if not self._console.is_terminal and is_due:
            line = f"epoch {training.epoch}/{training.epochs}  {format_figures(training)}"
            self._console.print(Text(line), highlight=False)
            self._epoch = training.epoch

    def on_end(self, training: Training) -> None:
        """Stop updating the bar, and leave it on the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class ManyProgress:
    """Shows the progress of many training runs: as a bar on a terminal, otherwise as about ten lines of text.

    Parameters
    ----------
    trainings : sequence of Training
        Each gets one more callback, which reports to this object.
    """

    def __init__(self, trainings: Sequence[Training]) -> None:
        self._console, self._lock = Console(file=stderr()), threading.Lock()
        self._bar = _bar(self._console, "networks")
        self._reports = [_Report(self, training) for training in trainings]
        self._task = self._bar.add_task("", total=sum(report.work for report in self._reports), count="", figures="")
        self._total, self._done, self._best = len(trainings), 0, ""
        self._lowest = inf

    @contextmanager
    def displayed(self) -> Iterator[None]:
        """Display the progress within the ``with`` block."""
        if self._console.is_terminal:
            self._bar.start()
        try:
            yield
        finally:
            if self._console.is_terminal:
                self._bar.stop()

    def advance(self, work: float) -> None:
        """Add to the work that is done, and update the bar."""
        self._bar.update(self._task, advance=work, count=f"{self._done}/{self._total}", figures=self._best)

    def end(self, training: Training) -> None:
        """Count a network as done, and compare its loss with the lowest so far."""
        with self._lock:
            self._done += 1
            history = training.history
            name = "val_loss" if history.val_loss else "loss"
            lowest = min(history.val_loss or history.loss, default=inf)
            if lowest < self._lowest:
                self._lowest, self._best = lowest, f"best {name} {lowest:.4g}"
            if not self._console.is_terminal and is_due(self._done, self._total):
                self._console.print(Text(f"networks {self._done}/{self._total}  {self._best}"), highlight=False)


class _Report(Callback):
    """Reports the updates of one training run, in units that take about the same time in each network."""

    def __init__(self, progress: ManyProgress, training: Training) -> None:
        self._progress, self._reported = progress, 0.0
        self.work = training.work
        training.callbacks = [*training.callbacks, self]

    def on_chunk(self, training: Training) -> None:
        """Report the work since the last chunk."""
        done = self.work * training.step / training.steps
        self._progress.advance(done - self._reported)
        self._reported = done

    def on_end(self, training: Training) -> None:
        """Report that training has ended, unless it was interrupted; work left after early stopping counts as done."""
        if isinstance(sys.exc_info()[1], NonFiniteLossError | None):
            self._progress.end(training)
            self._progress.advance(self.work - self._reported)


def is_due(done: int, total: int) -> bool:
    """Return whether to write a line after this item: after the first, the last, and about ten in all."""
    return done % max(1, total // 10) == 0 or done in {1, total}


def _bar(console: Console, unit: str) -> Bar:
    """Return a bar with the fields `count` and `figures`."""
    return Bar(
        TextColumn(unit + " {task.fields[count]}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=16),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=5)),
        TextColumn("left", table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[figures]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        console=console,
    )


def format_figures(training: Training) -> str:
    """Return text with the mean loss of the current epoch and the latest validation loss and metrics."""
    figures = [f"loss {training.loss:.4g}"]
    history = training.history
    if history.val_loss:
        figures.append(f"val_loss {history.val_loss[-1]:.4g}")
    figures += [f"{escaped(name)} {values[-1]:.4g}" for name, values in history.metrics.items()]
    return "  ".join(figures)
