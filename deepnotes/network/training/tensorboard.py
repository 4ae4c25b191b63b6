"""A callback that writes the history of training in the format of TensorBoard, with tensorboardX."""

import contextlib
import logging
import socket
import time
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.network.formats.containers import as_path
from deepnotes.network.training.state import Callback
from deepnotes.utils.arguments import whole
from deepnotes.utils.errors import ArgumentError, DeepnotesError, MissingExtraError
from deepnotes.utils.wording import reason

if TYPE_CHECKING:
    from deepnotes.network.training.state import Training

log = logging.getLogger(__name__)

BINS = 64
"""The number of bins of a histogram."""


class TensorBoard(Callback):
    """A callback that writes losses, metrics and learning rates, for ``tensorboard --logdir DIRECTORY``.

    The values are written after each epoch, as two TensorBoard runs, ``training`` and ``validation``. TensorBoard draws
    curves of the same name, such as ``loss`` or ``accuracy``, into one chart. ``learning_rate`` and ``seconds`` (the
    duration of an epoch) belong to the run ``training``. If the disk is full, a warning is logged, and training
    continues.

    Parameters
    ----------
    directory : path
        Created if it does not exist. Use a separate directory for each training run; if training is resumed from a
        checkpoint, it continues the curves in the directory.
    histograms : int, default 0
        The number of epochs between two histograms of each parameter; 0 for no histograms.

    Raises
    ------
    ArgumentError
        If `directory` is not a path, or `histograms` is not a whole number of at least 0.
    MissingExtraError
        At the start of training, if tensorboardX cannot be imported.
    DeepnotesError
        At the start of training, if the directory cannot be created.
    """

    every_rank = False

    def __init__(self, directory: str | PathLike[str], *, histograms: int = 0) -> None:
        self.directory: Path = as_path(directory)
        self.histograms = whole("histograms", histograms, 0)
        self._runs: dict[str, _Run] = {}
        self._failed = False

    def on_start(self, training: "Training") -> None:
        """Check that tensorboardX is installed and the directory exists or can be created."""
        try:
            import tensorboardX  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("TensorBoard needs tensorboardX", "tensorboard", error) from None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise DeepnotesError(f"cannot write to {self.directory}: {reason(error)}") from None
        if not self.directory.is_dir():
            raise ArgumentError(f"directory: {self.directory} is not a directory")
        self._runs, self._failed = {}, False

    def on_epoch(self, training: "Training") -> None:
        """Write the values of the epoch."""
        if self._failed:
            return
        try:
            self._write(training)
            for run in self._runs.values():
                run.flush()
        except OSError as error:
            self._failed = True
            log.warning("cannot write to %s: %s; training continues without TensorBoard", self.directory, reason(error))

    def on_end(self, training: "Training") -> None:
        """Close the files."""
        while self._runs:
            with contextlib.suppress(OSError):
                self._runs.popitem()[1].close()

    def _write(self, training: "Training") -> None:
        history, epoch = training.history, training.epoch
        columns = {"loss": history.loss, "learning_rate": history.learning_rate, "seconds": history.seconds}
        for name, values in columns.items():
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
                self._run("training", epoch).add_histogram(name, host.ravel(), epoch)

    def _run(self, name: str, epoch: int) -> "_Run":
        """Return the run of this name; if it is new, its events replace older ones from `epoch` on."""
        if name not in self._runs:
            self._runs[name] = _Run(self.directory / name, epoch)
        return self._runs[name]


class _Run:
    """The event file of one run.

    The ``SummaryWriter`` of tensorboardX writes in a thread; after an error in that thread, its queue would fill up and
    block the caller. Here each call writes directly, so the caller gets the OSError.
    """

    def __init__(self, directory: Path, epoch: int) -> None:
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import RecordWriter

        directory.mkdir(parents=True, exist_ok=True)
        now = time.time_ns()  # in nanoseconds, so that files opened within the same second have different names
        name = f"events.out.tfevents.{now // 10**9}.{socket.gethostname()}.{now}"
        self._file, self._proto = RecordWriter(str(directory / name)), event_pb2
        self._write(0, file_version="brain.Event:2")
        self._write(epoch, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def add_scalar(self, name: str, value: float, epoch: int) -> None:
        """Write a number."""
        from tensorboardX.summary import scalar

        self._write(epoch, summary=scalar(name, value))

    def add_histogram(self, name: str, values: np.ndarray, epoch: int) -> None:
        """Write a histogram of numbers."""
        from tensorboardX.summary import histogram

        self._write(epoch, summary=histogram(name, values, BINS))

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, epoch: int, **content: Any) -> None:
        event = self._proto.Event(wall_time=time.time(), step=epoch, **content)
        self._file.write(event.SerializeToString())
