"""Early stopping, and the function that makes the list of callbacks from the arguments of ``fit``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.network.training.state import Callback
from deepnotes.nn.metrics import LIBRARY, RISING
from deepnotes.utils.arguments import number, whole
from deepnotes.utils.errors import ArgumentError

if TYPE_CHECKING:
    from deepnotes.network.training.state import Training


@dataclass
class EarlyStopping(Callback):
    """Stop training when a watched figure no longer improves, and restore the parameters of the best epoch.

    Parameters
    ----------
    patience : int, default 10
        The number of epochs without improvement to wait before stopping.
    monitor : str, optional
        ``val_loss``, ``loss`` or the name of a metric; by default val_loss, or loss if there is no validation.
    min_delta : float, default 0.0
        A change counts as an improvement only if it exceeds this.
    mode : {"min", "max"}, optional
        Whether smaller or larger values are better. By default ``"max"`` for accuracy and r2, and ``"min"`` for the
        loss and the errors; required for any other figure.
    restore_best : bool, default True

    Raises
    ------
    ArgumentError
        If a value is out of its range, or `mode` is missing.
    """

    patience: int = 10
    monitor: str | None = None
    min_delta: float = 0.0
    mode: str | None = None
    restore_best: bool = True

    def __post_init__(self) -> None:
        whole("patience", self.patience, 0)
        number("min_delta", self.min_delta)
        if self.mode not in {None, "min", "max"}:
            raise ArgumentError.of("mode", self.mode, "'min', 'max' or None")
        self._require_mode()

    def _require_mode(self) -> None:
        """Raise ArgumentError if `mode` is missing and it is not known whether the figure should rise or fall."""
        monitor = self.monitor
        if monitor is None or self.mode is not None:
            return
        if not isinstance(monitor, str) or monitor.removeprefix("val_") not in {"loss", *LIBRARY}:
            raise ArgumentError(
                f"monitor={monitor!r} is neither the loss nor a metric of deepnotes, so it cannot be known which is "
                "better: wanted with it mode='min' or mode='max'"
            )

    def on_start(self, training: "Training") -> None:
        """Forget the last training, and check that the monitored figure will be available."""
        self._best, self._waited, self._epoch = inf, 0, 0
        self._theta: np.ndarray | None = None
        self._size = training.network.layout.size
        self._require_mode()
        if self.monitor is not None and self.monitor not in training.watched:
            raise ArgumentError(f"monitor={self.monitor!r} is not among what is watched: {', '.join(training.watched)}")

    def on_epoch(self, training: "Training") -> None:
        """Remember the best parameters, and stop after more than `patience` epochs without improvement."""
        history = training.history
        monitor = self.monitor or ("val_loss" if history.val_loss else "loss")
        rises = self.mode == "max" or (self.mode is None and monitor.removeprefix("val_") in RISING)
        value = -history.last(monitor) if rises else history.last(monitor)
        if value < self._best - self.min_delta:
            self._best, self._waited, self._epoch = value, 0, training.epoch
            self._theta = training.network.flat()
        else:
            self._waited += 1
            training.stop = training.stop or self._waited > self.patience

    def on_ready(self, training: "Training") -> None:
        """Stop at once if the training is resumed after early stopping had ended it."""
        training.stop = training.stop or self._waited > self.patience

    def memory(self) -> dict[str, Any]:
        """Return the best value, its epoch and parameters, and the number of epochs without improvement since then."""
        theta = {} if self._theta is None else {"theta": self._theta}
        return {"best": self._best, "waited": self._waited, "epoch": self._epoch} | theta

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Restore the memory from a checkpoint."""
        best, theta = memory["best"], memory.get("theta")
        if type(best) not in (int, float):  # it may be infinite
            raise ValueError(f"best={best!r} is no number")
        if theta is not None and (theta.shape != (self._size,) or not np.isfinite(theta).all()):
            raise ValueError("the best parameters are not the network's")
        self._waited, self._epoch = whole("waited", memory["waited"], 0), whole("epoch", memory["epoch"], 0)
        self._best, self._theta = best, theta

    def on_end(self, training: "Training") -> None:
        """Restore the best parameters, unless resuming failed before anything was changed."""
        if self.restore_best and self._theta is not None and training.step:
            training.network.set_flat(self._theta)
            training.history.best_epoch = self._epoch


def as_callbacks(
    callbacks: Sequence[Callback],
    early_stopping: EarlyStopping | int | None = None,
    checkpoint: str | PathLike[str] | None = None,
    every: int | str = "60s",
    resume: bool = False,
    progress: bool = False,
) -> list[Callback]:
    """Return all callbacks: early stopping, then those given, then those that write files, then the progress bar.

    Raises
    ------
    ArgumentError
        If one of them is not a callback, or an argument is invalid.
    """
    if not isinstance(callbacks, Sequence):
        raise ArgumentError.of("callbacks", callbacks, "a list of callbacks")
    watchers = list(callbacks)
    if early_stopping is not None:
        if not isinstance(early_stopping, EarlyStopping):
            early_stopping = EarlyStopping(whole("early_stopping", early_stopping, 0))
        watchers.insert(0, early_stopping)
    for i, watcher in enumerate(watchers):
        if not isinstance(watcher, Callback):
            raise ArgumentError.of(f"callbacks[{i}]", watcher, "an object of a class derived from Callback")
    if checkpoint is not None:
        from deepnotes.network.training.checkpoints import Checkpoints

        watchers.append(Checkpoints(checkpoint, every, resume=resume))
    elif resume:
        raise ArgumentError("resume=True, wanted with it a directory as checkpoint=")
    watchers.sort(key=lambda watcher: watcher.saves)  # those that save come last and see what the others have done
    if progress:
        from deepnotes.network.training.progress import Progress

        watchers.append(Progress())
    return watchers
