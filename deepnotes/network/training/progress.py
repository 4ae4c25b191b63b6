"""A progress bar for training, on stderr: epoch, remaining time, loss and metrics."""

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from deepnotes.network.training.state import Callback, Training
from deepnotes.utils.safe_text import escaped
from deepnotes.utils.streams import stderr


class Progress(Callback):
    """A callback that shows the progress of training: as a bar on a terminal, otherwise as about ten lines of text.

    Output that cannot be written is discarded, so training continues even if stderr is closed.
    """

    def __init__(self) -> None:
        self._console = Console(file=stderr())
        self._bar: Bar | None = None

    def on_chunk(self, training: Training) -> None:
        """Update the bar."""
        if not self._console.is_terminal:
            return
        if self._bar is None:
            self._bar = Bar(
                TextColumn("epoch {task.fields[epoch]}", table_column=Column(no_wrap=True)),
                BarColumn(bar_width=16),
                TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=5)),
                TextColumn("left", table_column=Column(no_wrap=True)),
                TextColumn(
                    "{task.fields[figures]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")
                ),
                console=self._console,
            )
            self._task = self._bar.add_task("", total=training.steps, epoch="", figures="")
            self._bar.start()
        self._bar.update(
            self._task,
            completed=training.step,
            epoch=f"{training.epoch}/{training.epochs}",
            figures=format_figures(training),
        )

    def on_epoch(self, training: Training) -> None:
        """Write a line every few epochs if stderr is not a terminal."""
        every = max(1, training.epochs // 10)
        if not self._console.is_terminal and (training.epoch % every == 0 or training.epoch in {1, training.epochs}):
            line = f"epoch {training.epoch}/{training.epochs}  {format_figures(training)}"
            self._console.print(Text(line), highlight=False)

    def on_end(self, training: Training) -> None:
        """Stop updating the bar, and leave it on the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def format_figures(training: Training) -> str:
    """Return text with the mean loss of the current epoch and the latest validation loss and metrics."""
    figures = [f"loss {training.loss:.4g}"]
    history = training.history
    if history.val_loss:
        figures.append(f"val_loss {history.val_loss[-1]:.4g}")
    figures += [f"{escaped(name)} {values[-1]:.4g}" for name, values in history.metrics.items()]
    return "  ".join(figures)
