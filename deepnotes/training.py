"""The one fit loop: order of samples, chunks of batches, what is watched after each epoch, history."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.arguments import number, whole
from deepnotes.errors import ArgumentError, NonFiniteLossError
from deepnotes.plan import Plan
from deepnotes.program import Data, Program, State
from deepnotes.schedules import Plateau, Rate, ReduceOnPlateau, as_schedule

if TYPE_CHECKING:
    from deepnotes.network import Network

CHUNK_SECONDS = 0.075
"""How long a Program is left alone: short enough for Ctrl-C and progress, long enough to cost nothing."""


@dataclass
class History:
    """What training showed, one value per epoch.

    Attributes
    ----------
    loss : list of float
        The mean loss over the samples as they were trained on, without the L2 penalty.
    val_loss : list of float
        The loss on the validation data after the epoch; empty without them.
    metrics : dict of str to list of float
        ``val_<name>`` on the validation data, or ``<name>`` on the training data where there are none.
    learning_rate : list of float
        The rate of the epoch's last update.
    seconds : list of float
        The time each epoch took, validation included.
    best_epoch : int or None
        The epoch, counted from 1, whose parameters early stopping restored.
    """

    loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best_epoch: int | None = None

    @property
    def epochs(self) -> int:
        """The number of epochs that were finished."""
        return len(self.loss)

    def last(self, name: str) -> float:
        """Return the latest value of ``loss``, ``val_loss`` or a metric."""
        return {"loss": self.loss, "val_loss": self.val_loss, **self.metrics}[name][-1]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain lists and numbers."""
        return asdict(self)


class Callback:
    """The base class of what is called while training; derive from it and give what is needed."""

    def on_start(self, training: "Training") -> None:
        """Be called once, before anything changes; raise an error to refuse the training."""

    def on_chunk(self, training: "Training") -> None:
        """Be called after each chunk of batches, some ten times a second."""

    def on_epoch(self, training: "Training") -> None:
        """Be called after each epoch; ``training.stop = True`` ends the training."""

    def on_end(self, training: "Training") -> None:
        """Be called once, at the end or before an error or interrupt is passed on."""


@dataclass
class EarlyStopping(Callback):
    """Stop when a watched figure no longer falls (or rises), and restore the parameters of its best epoch.

    Parameters
    ----------
    patience : int, default 10
        Epochs without improvement that are waited for.
    monitor : str, optional
        ``val_loss``, ``loss`` or the name of a metric; by default val_loss, or loss where there is no validation.
    min_delta : float, default 0.0
        What an improvement must exceed.
    mode : {"min", "max"}, optional
        By default ``"max"`` for accuracy and r2, else ``"min"``.
    restore_best : bool, default True
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
            raise ArgumentError(f"mode={self.mode!r}, wanted 'min', 'max' or None")

    def on_start(self, training: "Training") -> None:
        """Forget the last training, and see that what is to be watched will be there."""
        self._best, self._waited, self._epoch = inf, 0, 0
        self._theta: np.ndarray | None = None
        if self.monitor is not None and self.monitor not in training.watched:
            raise ArgumentError(f"monitor={self.monitor!r} is not among what is watched: {', '.join(training.watched)}")

    def on_epoch(self, training: "Training") -> None:
        """Remember the best parameters, and stop once `patience` epochs were no better."""
        history = training.history
        monitor = self.monitor or ("val_loss" if history.val_loss else "loss")
        rises = self.mode == "max" or (self.mode is None and monitor.removeprefix("val_") in {"accuracy", "r2"})
        value = -history.last(monitor) if rises else history.last(monitor)
        if value < self._best - self.min_delta:
            self._best, self._waited, self._epoch = value, 0, training.epoch
            self._theta = training.network.flat()
        else:
            self._waited += 1
            training.stop = training.stop or self._waited > self.patience

    def on_end(self, training: "Training") -> None:
        """Put the best parameters back."""
        if self.restore_best and self._theta is not None:
            training.network.set_flat(self._theta)
            training.history.best_epoch = self._epoch


def as_callbacks(
    callbacks: Sequence[Callback], early_stopping: EarlyStopping | int | None, progress: bool
) -> list[Callback]:
    """Return all that watches a training: early stopping first, the progress bar last.

    Raises
    ------
    ArgumentError
        If one of them is no callback.
    """
    if not isinstance(callbacks, Sequence):
        raise ArgumentError(f"callbacks={callbacks!r}, wanted a list of callbacks")
    watchers = list(callbacks)
    if early_stopping is not None:
        if not isinstance(early_stopping, EarlyStopping):
            early_stopping = EarlyStopping(whole("early_stopping", early_stopping, 0))
        watchers.insert(0, early_stopping)
    for i, watcher in enumerate(watchers):
        if not isinstance(watcher, Callback):
            raise ArgumentError(f"callbacks[{i}] is {watcher!r}, wanted an object of a class derived from Callback")
    if progress:
        from deepnotes.progress import Progress

        watchers.append(Progress())
    return watchers


@dataclass
class Training:
    """A training under way, as callbacks see it.

    Attributes
    ----------
    network : Network
    plan : Plan
    history : History
    epochs : int
        How many were asked for.
    watched : tuple of str
        The names of the figures that there will be after each epoch.
    epoch : int
        The one under way, counted from 1; in ``on_epoch`` the one just finished.
    step, steps : int
        Updates made so far in this training, and in all.
    loss : float
        The mean loss of the epoch so far.
    stop : bool
        Set it to end the training after the epoch.
    """

    network: "Network"
    plan: Plan
    history: History
    epochs: int
    steps: int
    watched: tuple[str, ...] = ("loss",)
    epoch: int = 0
    step: int = 0
    loss: float = inf
    stop: bool = False


def fit(
    training: Training,
    program: Program,
    state: State,
    data: Data,
    samples: int,
    batch_size: int,
    rng: "np.random.Generator | None",
    evaluate: Callable[[], dict[str, float]],
    callbacks: Sequence[Callback],
) -> History:
    """Train, and return the history, which is that of `training`.

    Parameters
    ----------
    training : Training
    program : Program
    state : State
        Changed as training goes; always as it was after a whole update.
    data : Data
    samples, batch_size : int
    rng : Generator or None
        Draws the order of the samples, anew each epoch; None keeps their order.
    evaluate : callable
        Returns what is watched after an epoch, by name.
    callbacks : sequence of Callback

    Raises
    ------
    NonFiniteLossError
        Before the update whose loss or gradient is not finite; the state is the one before it.
    KeyboardInterrupt
        After the chunk during which the user asked for it.
    """
    history, schedule = training.history, training.plan.optimizer.learning_rate
    plateau = Plateau()
    per_chunk = 1
    try:
        with deferred_interrupt() as check_interrupt:
            while training.epoch < training.epochs and not training.stop:
                training.epoch += 1
                began = time.perf_counter()
                loss_sum = weight_sum = 0.0
                start = 0
                while start < samples:
                    updates = min(per_chunk, -(-(samples - start) // batch_size))
                    rates = _rates(schedule, state.step, updates, plateau)
                    if start == 0:  # after the rates: what is wrong with them is told before anything changes
                        order = np.arange(samples) if rng is None else rng.permutation(samples)
                    part = order[start : start + updates * batch_size]
                    began_chunk = time.perf_counter()
                    chunk = program.train(state, data, part, batch_size, rates)
                    seconds = (time.perf_counter() - began_chunk) / updates
                    loss_sum, weight_sum = loss_sum + chunk.loss_sum, weight_sum + chunk.weight_sum
                    training.step += chunk.steps
                    if chunk.steps < updates:
                        raise _non_finite(training, state, chunk.cost)
                    training.loss = loss_sum / weight_sum if weight_sum else 0.0
                    for callback in callbacks:
                        callback.on_chunk(training)
                    check_interrupt()
                    start += len(part)
                    per_chunk = max(1, min(2 * per_chunk, int(CHUNK_SECONDS / max(seconds, 1e-7))))
                history.loss.append(training.loss)
                history.learning_rate.append(float(rates[-1]))
                for name, value in evaluate().items():
                    (history.val_loss if name == "val_loss" else history.metrics.setdefault(name, [])).append(value)
                history.seconds.append(time.perf_counter() - began)
                if isinstance(schedule, ReduceOnPlateau):
                    plateau = schedule.observe(plateau, (history.val_loss or history.loss)[-1])
                for callback in callbacks:
                    callback.on_epoch(training)
                check_interrupt()
    finally:
        for callback in callbacks:
            callback.on_end(training)
    return history


def _rates(schedule: Rate, first: int, count: int, plateau: Plateau) -> np.ndarray:
    """Return the rates of some updates, checked: a schedule may be a user's own."""
    try:
        rates = np.array(as_schedule(schedule).rates(first, count), dtype=np.float64)
        good = rates.shape == (count,) and np.isfinite(rates).all() and (rates >= 0).all()
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ArgumentError(
            f"learning_rate: {schedule!r} gave for updates {first} to {first + count - 1} other than finite numbers of "
            "at least 0"
        )
    if isinstance(schedule, ReduceOnPlateau):
        return np.maximum(rates * plateau.scale, np.minimum(rates, schedule.min_rate))
    return rates


def _non_finite(training: Training, state: State, cost: float) -> NonFiniteLossError:
    found = (
        f"the loss is {cost}"
        if not isfinite(cost)
        else "the gradient, or what it would make of the parameters, is not finite"
    )
    return NonFiniteLossError(
        f"training stopped before update {state.step + 1} (epoch {training.epoch}): {found}. The parameters are the "
        "last finite ones; a smaller learning rate, clip_norm=1.0 or standardized inputs often help",
        state.step + 1,
        training.history,
    )


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], None]]:
    """Hold a first Ctrl-C back until the caller asks, so that no update is left half done; a second one acts at once.

    Only in the main thread, and only where Python's own handler is installed: others know what they want.
    """
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: None
        return
    asked = False

    def note(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
