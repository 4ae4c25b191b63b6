"""Early stopping, snapshots of the parameters, and the function that makes a list of the callbacks of ``fit``."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.network.training.state import Callback
from deepnotes.nn.metrics import LARGER_IS_BETTER, LIBRARY
from deepnotes.utils.arguments import number, true_or_false, whole
from deepnotes.utils.errors import ArgumentError

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike
    from deepnotes.network.training.state import Training


@dataclass
class EarlyStopping(Callback):
    """A callback that stops training when a loss or metric no longer improves, and restores the best parameters.

    Parameters
    ----------
    patience : int, default 10
        The number of epochs without improvement to wait before stopping.
    monitor : str, optional
        ``val_loss``, ``loss`` or the name of a metric, such as ``val_accuracy``. By default val_loss, or loss if there
        are no validation data.
    min_delta : float, default 0.0
        The monitored value must improve by more than this to count as an improvement.
    mode : {"min", "max"}, optional
        Whether smaller or larger values are better. By default ``"max"`` for accuracy and r2, and ``"min"`` for the
        loss and the other metrics of deepnotes; required for a user-defined metric.
    restore_best : bool, default True
        Whether to restore the parameters of the best epoch at the end of training.

    Raises
    ------
    ArgumentError
        If an argument is out of its range, or `mode` is missing.
    """

    patience: int = 10
    monitor: str | None = None
    min_delta: float = 0.0
    mode: str | None = None
    restore_best: bool = True

    def __post_init__(self) -> None:
        whole("patience", self.patience, 0)
        number("min_delta", self.min_delta)
        true_or_false("restore_best", self.restore_best)
        if self.mode not in {None, "min", "max"}:
            raise ArgumentError.of("mode", self.mode, "'min', 'max' or None")
        self._require_mode()

    def _require_mode(self) -> None:
        """Raise ArgumentError if `mode` is missing and required."""
        monitor = self.monitor
        if monitor is None or self.mode is not None:
            return
        if not isinstance(monitor, str) or monitor.removeprefix("val_") not in {"loss", *LIBRARY}:
            raise ArgumentError(
                f"monitor={monitor!r} is neither the loss nor a metric of deepnotes, so it needs mode='min' if smaller "
                "values are better, or mode='max' if larger values are better"
            )

    def on_start(self, training: "Training") -> None:
        """Forget the previous training run, and check that the monitored value will be available."""
        self._best, self._waited, self._epoch = inf, 0, 0
        self._theta: np.ndarray | None = None
        self._size = training.network.layout.size
        self._require_mode()
        if self.monitor is not None and self.monitor not in training.watched:
            available = ", ".join(training.watched)
            raise ArgumentError(f"monitor={self.monitor!r}, wanted one of the available values: {available}")

    def on_epoch(self, training: "Training") -> None:
        """Store the best parameters, and stop after more than `patience` epochs without improvement."""
        history = training.history
        monitor = self.monitor or ("val_loss" if history.val_loss else "loss")
        is_maximized = self.mode == "max" or (self.mode is None and monitor.removeprefix("val_") in LARGER_IS_BETTER)
        value = -history.last(monitor) if is_maximized else history.last(monitor)
        if value < self._best - self.min_delta:
            self._best, self._waited, self._epoch = value, 0, training.epoch
            self._theta = training.flat()
        else:
            self._waited += 1
            training.stop = training.stop or self._waited > self.patience

    def on_ready(self, training: "Training") -> None:
        """Stop at once if early stopping had already ended the training run that is resumed."""
        training.stop = training.stop or self._waited > self.patience

    def memory(self) -> dict[str, Any]:
        """Return the best value, its epoch and parameters, and the number of epochs without improvement since then."""
        theta = {} if self._theta is None else {"theta": self._theta}
        return {"best": self._best, "waited": self._waited, "epoch": self._epoch} | theta

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Restore what :meth:`memory` returned, from a checkpoint."""
        best, theta = memory["best"], memory.get("theta")
        if type(best) not in (int, float):  # infinity is allowed
            raise ValueError(f"best={best!r}, wanted a number")
        if theta is not None and (theta.shape != (self._size,) or not np.isfinite(theta).all()):
            raise ValueError(f"theta: wanted {self._size} finite numbers")
        self._waited, self._epoch = whole("waited", memory["waited"], 0), whole("epoch", memory["epoch"], 0)
        self._best, self._theta = best, theta

    def on_end(self, training: "Training") -> None:
        """Restore the best parameters, unless no update was made: then resuming failed and must change nothing."""
        if self.restore_best and self._theta is not None and training.step:
            training.network.set_flat(self._theta)
            training.history.best_epoch = self._epoch


@dataclass
class Snapshots(Callback):
    """A callback that keeps the parameters at chosen epochs, for example to show how a decision boundary grows.

    Parameters
    ----------
    epochs : sequence of int
        The epochs after which to keep the parameters; 0 stands for those before the first update. Epochs after the end
        of training are ignored.

    Attributes
    ----------
    parameters : dict of int to ndarray
        The parameters at each epoch, shape (p,), in the order of the flat buffer.

    Raises
    ------
    ArgumentError
        If `epochs` are not whole numbers of at least 0, or there are none.

    Examples
    --------
    >>> import deepnotes as dn
    >>> net = dn.Network([dn.Dense(4, "tanh"), dn.Dense(1, "sigmoid")], inputs=2, seed=0)
    >>> snapshots = dn.Snapshots([0, 2, 5])
    >>> history = net.fit(np.ones((2, 8)), np.zeros(8), epochs=6, callbacks=[snapshots])
    >>> list(snapshots.networks())
    [0, 2, 5]
    """

    epochs: Sequence[int]

    def __post_init__(self) -> None:
        if isinstance(self.epochs, str) or not isinstance(self.epochs, Sequence) or not self.epochs:
            raise ArgumentError.of("epochs", self.epochs, "a list of at least one whole number, such as [0, 1, 10]")
        self.epochs = tuple(sorted({whole("epochs", epoch, 0) for epoch in self.epochs}))
        self.parameters: dict[int, np.ndarray] = {}

    def networks(self) -> "dict[int, NetworkLike]":
        """Return a network with the parameters of each epoch, by the number of the epoch.

        ``deepnotes.plots.boundary(snapshots.networks(), X, Y)`` draws each in a panel.
        """
        networks = {}
        for epoch, theta in self.parameters.items():
            networks[epoch] = copy.copy(self._network)
            networks[epoch].set_flat(theta)
        return networks

    def on_start(self, training: "Training") -> None:
        """Forget the previous training run."""
        self.parameters = {}
        self._network = training.network

    def on_ready(self, training: "Training") -> None:
        """Keep the initial parameters, unless a training run is resumed."""
        if training.epoch == 0 and not training.step:
            self._keep(training)

    def on_epoch(self, training: "Training") -> None:
        """Keep the parameters if the epoch is one of those chosen."""
        self._keep(training)

    def _keep(self, training: "Training") -> None:
        if training.epoch in self.epochs:
            self.parameters[training.epoch] = training.flat()

    def next_epoch(self, training: "Training") -> float:
        """Return the number of epochs until the next that is kept."""
        return min((epoch - training.epoch for epoch in self.epochs if epoch > training.epoch), default=inf)

    def memory(self) -> dict[str, Any]:
        """Return the parameters that were kept so far, by epoch."""
        return {str(epoch): theta for epoch, theta in self.parameters.items()}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Restore what :meth:`memory` returned, from a checkpoint."""
        size = self._network.layout.size
        for epoch, theta in memory.items():
            if not isinstance(theta, np.ndarray) or theta.shape != (size,) or int(epoch) not in self.epochs:
                raise ValueError(f"epoch {epoch}: wanted {size} numbers for one of the epochs {self.epochs}")
        self.parameters = {int(epoch): theta for epoch, theta in memory.items()}


def as_callbacks(
    callbacks: Sequence[Callback],
    early_stopping: EarlyStopping | int | None = None,
    checkpoint: str | PathLike[str] | None = None,
    every: int | str | None = None,
    resume: bool = False,
    progress: bool = False,
) -> list[Callback]:
    """Return all callbacks in the order in which they are called, for the arguments of :meth:`deepnotes.Network.fit`.

    The order is: early stopping, then `callbacks`, then callbacks that write checkpoints, and last the progress bar.

    Raises
    ------
    ArgumentError
        If an element of `callbacks` is not a callback, or an argument is invalid.
    """
    if not isinstance(callbacks, Sequence):
        raise ArgumentError.of("callbacks", callbacks, "a list of callbacks")
    ordered = list(callbacks)
    if early_stopping is not None:
        if not isinstance(early_stopping, EarlyStopping):
            early_stopping = EarlyStopping(whole("early_stopping", early_stopping, 0))
        ordered.insert(0, early_stopping)
    for i, callback in enumerate(ordered):
        if not isinstance(callback, Callback):
            raise ArgumentError.of(f"callbacks[{i}]", callback, "an object of a class derived from Callback")
    true_or_false("resume", resume)
    if checkpoint is not None:
        from deepnotes.network.training.checkpoints import Checkpoints

        ordered.append(Checkpoints(checkpoint, "60s" if every is None else every, resume=resume))
    elif resume or every is not None:
        given = "resume=True" if resume else f"every={every!r}"
        raise ArgumentError(f"{given} needs the directory of the checkpoints: checkpoint=DIRECTORY")
    ordered.sort(key=lambda callback: callback.saves)  # a checkpoint contains what the other callbacks have changed
    if true_or_false("progress", progress):
        from deepnotes.network.training.progress import Progress

        ordered.append(Progress())
    return ordered
