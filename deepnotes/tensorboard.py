"""What a training shows, written for TensorBoard while it runs, by tensorboardX."""

import time
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.arguments import whole
from deepnotes.callbacks import Callback
from deepnotes.containers import as_path
from deepnotes.errors import ArgumentError, DeepnotesError, MissingExtraError
from deepnotes.wording import reason

if TYPE_CHECKING:
    from deepnotes.training import Training


BINS = 64


class TensorBoard(Callback):
    """Writes losses, metrics and the learning rate after each epoch, for ``tensorboard --logdir DIRECTORY``.

    There are two runs in the directory, ``training`` and ``validation``, whose curves of the same name, ``loss`` or
    ``accuracy``, TensorBoard draws into one chart; ``learning_rate`` and ``seconds``, which an epoch took, are with the
    training.

    Parameters
    ----------
    directory : path
        Made if it is not there. Each training should have one of its own; one that goes on from a checkpoint takes over
        what is there.
    histograms : int, default 0
        After every how many epochs the distribution of each parameter is written, too; 0 for never.

    Raises
    ------
    ArgumentError
        If an argument is no path, or no whole number of at least 0.
    MissingExtraError
        When the training starts, if tensorboardX cannot be imported.
    DeepnotesError
        When the training starts, if the directory cannot be made.
    """

    def __init__(self, directory: str | PathLike[str], *, histograms: int = 0) -> None:
        self.directory: Path = as_path(directory)
        self.histograms = whole("histograms", histograms, 0)
        self._writers: dict[str, Any] = {}

    def on_start(self, training: "Training") -> None:
        """See that it can be written."""
        try:
            import tensorboardX  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("TensorBoard needs tensorboardX", "tensorboard", error) from None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise DeepnotesError(f"cannot write to {self.directory}: {reason(error)}") from None
        if not self.directory.is_dir():
            raise ArgumentError(f"directory: {self.directory} is no directory")
        self._writers = {}

    def on_epoch(self, training: "Training") -> None:
        """Write the figures of the epoch."""
        history, epoch = training.history, training.epoch
        figures = {"loss": history.loss, "learning_rate": history.learning_rate, "seconds": history.seconds}
        for name, values in figures.items():
            self._run("training", epoch).add_scalar(name, values[-1], epoch)
        if history.val_loss:
            self._run("validation", epoch).add_scalar("loss", history.val_loss[-1], epoch)
        for name, values in history.metrics.items():
            run = "validation" if name.startswith("val_") else "training"
            self._run(run, epoch).add_scalar(name.removeprefix("val_"), values[-1], epoch)
        if self.histograms and epoch % self.histograms == 0:
            network = training.network
            for name, value in network.parameters.items():
                host = np.asarray(network.backend.to_numpy(value), dtype=np.float64)
                self._run("training", epoch).add_histogram(name, host.ravel(), epoch, bins=BINS)
        for writer in self._writers.values():
            writer.flush()

    def on_end(self, training: "Training") -> None:
        """Close the files."""
        while self._writers:
            self._writers.popitem()[1].close()

    def _run(self, name: str, epoch: int) -> Any:
        """Return the writer of a run, opened at its first use; from `epoch` on it replaces what was there."""
        if name not in self._writers:
            from tensorboardX import SummaryWriter

            suffix = (
                f".{time.time_ns()}"  # else a writer opened within the same second would replace the file of another
            )
            self._writers[name] = SummaryWriter(str(self.directory / name), purge_step=epoch, filename_suffix=suffix)
        return self._writers[name]
