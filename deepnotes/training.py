"""The one fit loop: order of samples, chunks of batches, what is watched after each epoch, history."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial, wraps
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

import numpy as np

from deepnotes.callbacks import Callback
from deepnotes.diagnosis import first_fault
from deepnotes.disk import at_hand, updates_at_hand
from deepnotes.errors import ArgumentError, BusyError, NonFiniteLossError
from deepnotes.interrupts import deferred
from deepnotes.plan import Plan
from deepnotes.program import Data, Program, State, Sums
from deepnotes.schedules import Plateau, Rate, ReduceOnPlateau, as_schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deepnotes.network import Network

CHUNK_SECONDS = 0.075
"""How long a Program is left alone: short enough for Ctrl-C and progress, long enough to cost nothing."""


@dataclass
class History:
    """What training showed, one value per epoch.

    Attributes
    ----------
    loss : list of float
        The mean loss over the samples as they were trained on, without the L2 penalty unless the objective tells it.
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

    def plot(self, show: "str | Sequence[str] | None" = None, *, ax: Any = None) -> "Figure":
        """Draw loss and metrics, in `ax` or in a new figure, and return it; see :func:`deepnotes.plots.curves`."""
        from deepnotes.plots import curves

        return curves(self, show, ax=ax)


@dataclass
class Position:
    """Where in its epochs a training is, beside the state that updates change.

    Attributes
    ----------
    order : ndarray of int64 or None
        The samples in the order of the epoch under way; None between epochs.
    done : int
        How many of them were trained on.
    sums : (float, float)
        Of the epoch's losses and weights so far.
    seconds : float
        That the epoch has taken so far.
    rate : float
        That of the last update.
    plateau : Plateau
        What a :class:`ReduceOnPlateau` remembers.
    """

    order: np.ndarray | None = None
    done: int = 0
    sums: Sums = (0.0, 0.0)
    seconds: float = 0.0
    rate: float = 0.0
    plateau: Plateau = field(default_factory=Plateau)


@dataclass
class Training:
    """A training under way, as callbacks see it.

    Attributes
    ----------
    network : Network
    plan : Plan
    data, held_out : Data
        What is trained on, and what is evaluated after each epoch, if anything is.
    batch_size, epochs : int
        As they were asked for.
    rng : Generator or None
        Draws the order of the samples, anew each epoch; None keeps their order.
    callbacks : list of Callback
    watched : tuple of str
        The names of the figures that there will be after each epoch.
    history : History
    state : State
        The parameters, slots and number of updates; there from the first chunk on.
    epoch : int
        The one under way, counted from 1; in ``on_epoch`` the one just finished.
    at : Position
        Where in the epoch.
    step, steps : int
        Updates made so far in this training, and in all.
    loss : float
        The mean loss of the epoch so far.
    at_rest : bool
        Whether everything here, and what callbacks remember, is of the same moment: not while updates are made, nor
        after an error has left a callback with half of an epoch or chunk.
    stop : bool
        Set it to end this run after the epoch. Checkpoints do not keep it: a training that is resumed goes on, unless
        a callback sets it again, as :class:`EarlyStopping` does.
    per_chunk : int
        Updates of the next chunk.
    """

    network: "Network"
    plan: Plan
    data: Data
    held_out: Data | None
    batch_size: int
    epochs: int
    rng: "np.random.Generator | None"
    callbacks: Sequence[Callback] = ()
    watched: tuple[str, ...] = ("loss",)
    history: History = field(default_factory=History)
    state: State = field(init=False)
    epoch: int = 0
    at: Position = field(default_factory=Position)
    step: int = 0
    loss: float = inf
    at_rest: bool = True
    stop: bool = False
    per_chunk: int = 1

    @property
    def samples(self) -> int:
        """How many there are to train on."""
        return self.data.X.shape[1]

    @property
    def steps(self) -> int:
        """Updates in all."""
        return self.epochs * -(-self.samples // self.batch_size)


P = ParamSpec("P")
R = TypeVar("R")
N = TypeVar("N", bound="Network")
_busy: dict[int, object] = {}


def exclusive(method: Callable[Concatenate[N, P], R]) -> Callable[Concatenate[N, P], R]:
    """Return a method that trains a network, but not while another call of such a method does.

    Two trainings would write to the same parameters and slots: what came out would be neither's.

    Raises
    ------
    BusyError
    """

    @wraps(method)
    def alone(network: N, /, *args: P.args, **kwargs: P.kwargs) -> R:
        call = object()
        if _busy.setdefault(id(network), call) is not call:  # one step, that no other thread can come between
            raise BusyError(
                "the network is being trained already, in another thread or by the training whose callback this is; "
                "wait for its end, or train a copy (copy.deepcopy)"
            )
        try:
            return method(network, *args, **kwargs)
        finally:
            del _busy[id(network)]

    return alone


def fit(training: Training, program: Program, evaluate: Callable[[], dict[str, float]]) -> History:
    """Train, and return the history, which is that of `training`.

    Parameters
    ----------
    training : Training
        New. Its callbacks were started, see :func:`callbacks_called`, and its state is changed as training goes.
    program : Program
    evaluate : callable
        Returns what is watched after an epoch, by name.

    Raises
    ------
    NonFiniteLossError
        Before the update whose loss or gradient is not finite; the state is the one before it.
    KeyboardInterrupt, SystemExit
        After the chunk during which the user or the system asked for it, or during the evaluation after an epoch.
    """
    history, schedule = training.history, training.plan.optimizer.learning_rate
    for callback in reversed(training.callbacks):
        callback.on_ready(training)
    with deferred(terminate=any(callback.saves for callback in training.callbacks)) as signals:
        while training.at.order is not None or (training.epoch < training.epochs and not training.stop):
            began = time.perf_counter() - training.at.seconds
            for _ in _chunks(training, program):
                training.at.seconds = time.perf_counter() - began
                _notify(training, "on_chunk")
                signals.check()
            # A metric or schedule of the user's own may fail here, and a signal end it: the history is then as it was.
            with signals.lifted():
                figures, plateau = evaluate(), training.at.plateau
            if isinstance(schedule, ReduceOnPlateau):
                plateau = schedule.observe(plateau, figures.get("val_loss", training.loss))
            training.at_rest = False
            history.loss.append(training.loss)
            history.learning_rate.append(training.at.rate)
            for name, value in figures.items():
                (history.val_loss if name == "val_loss" else history.metrics.setdefault(name, [])).append(value)
            history.seconds.append(time.perf_counter() - began)
            training.at = Position(plateau=plateau)
            training.at_rest = True
            _notify(training, "on_epoch")
            signals.check()
    return history


@contextmanager
def callbacks_called(training: Training) -> Iterator[None]:
    """Start the callbacks of a training, and end those that were started, whatever happens in between.

    Raises
    ------
    Exception
        The first error of a callback, after all of them were called; those of others are notes on it.
    """
    started: list[Callback] = []
    try:
        for callback in training.callbacks:
            callback.on_start(training)
            started.append(callback)
        yield
    finally:
        _call_all([partial(callback.on_end, training) for callback in reversed(started)], BaseException)


def remembering(training: Training) -> list[Callback]:
    """Return the callbacks that have something for a checkpoint to keep."""
    return [callback for callback in training.callbacks if type(callback).memory is not Callback.memory]


def _notify(training: Training, moment: Literal["on_chunk", "on_epoch"]) -> None:
    """Call all callbacks, even if one fails: a checkpoint of this moment must have been seen by all or by none.

    A callback that fails and has a memory may have changed half of it, and one that is interrupted keeps the others
    from their turn. Then this moment is not fit for a checkpoint, and the training is not at rest.
    """

    def call(callback: Callback) -> None:
        try:
            getattr(callback, moment)(training)
        except BaseException as error:
            if callback in remembering(training) or not isinstance(error, Exception):
                training.at_rest = False
            raise

    _call_all([partial(call, callback) for callback in training.callbacks])


def _call_all(functions: Sequence[Callable[[], None]], kind: type[BaseException] = Exception) -> None:
    """Call each function, and then raise the first error of this kind; those of the others are notes on it."""
    first: BaseException | None = None
    for function in functions:
        try:
            function()
        except kind as error:
            if first is None:
                first = error
            else:
                first.add_note(f"then another callback failed: {error!r}")
    if first is not None:
        raise first


def _chunks(training: Training, program: Program) -> Iterator[None]:
    """Train to the end of an epoch, a chunk of batches at a time."""
    at, state, samples, batch_size = training.at, training.state, training.samples, training.batch_size
    schedule, held = training.plan.optimizer.learning_rate, updates_at_hand(training.data, batch_size)
    while at.order is None or at.done < samples:
        updates = min(training.per_chunk, -(-(samples - at.done) // batch_size), held)
        rates = _rates(schedule, state.step, updates, at.plateau)
        if at.order is None:  # after the rates: what is wrong with them is told before anything changes
            at.order = np.arange(samples) if training.rng is None else training.rng.permutation(samples)
            training.epoch += 1
        part = at.order[at.done : at.done + updates * batch_size]
        began = time.perf_counter()
        training.at_rest = False
        data, samples_of_it = at_hand(training.network, training.data, part)
        chunk = program.train(state, data, samples_of_it, batch_size, rates, at.sums)
        at.sums, at.rate = (chunk.loss_sum, chunk.weight_sum), float(rates[-1])
        at.done += len(part) if chunk.steps == updates else chunk.steps * batch_size
        training.step += chunk.steps
        training.at_rest = True
        if chunk.steps < updates:
            raise _non_finite(training, chunk.cost)
        seconds = (time.perf_counter() - began) / updates
        training.loss = chunk.loss_sum / chunk.weight_sum if chunk.weight_sum else 0.0
        training.per_chunk = max(1, min(2 * training.per_chunk, int(CHUNK_SECONDS / max(seconds, 1e-7))))
        yield


def _rates(schedule: Rate, first: int, count: int, plateau: Plateau) -> np.ndarray:
    """Return the rates of some updates, checked: a schedule may be a user's own."""
    try:
        rates = np.array(as_schedule(schedule).rates(first, count), dtype=np.float64)
        good = rates.shape == (count,) and rates.min() >= 0 and rates.max() < inf  # no NaN is either
    except (TypeError, ValueError, ArithmeticError):
        good = False
    if not good:
        raise ArgumentError(
            f"learning_rate: {schedule!r} gave for updates {first} to {first + count - 1} other than finite numbers of "
            "at least 0"
        )
    if isinstance(schedule, ReduceOnPlateau):
        return np.maximum(rates * plateau.scale, np.minimum(rates, schedule.min_rate))
    return rates


def _non_finite(training: Training, cost: float) -> NonFiniteLossError:
    at, update = training.at, training.state.step + 1
    assert at.order is not None
    batch = at.order[at.done : at.done + training.batch_size]
    fault = first_fault(
        training.network.backend, training.plan, training.state, *at_hand(training.network, training.data, batch)
    )
    found = (
        f"the loss is {cost}"
        if not isfinite(cost)
        else "the gradient, or what it would make of the parameters or of the optimizer's sums, is not finite"
    )
    return NonFiniteLossError(
        f"training stopped before update {update} (epoch {training.epoch}): {found}; {fault.words}. The parameters are "
        "the last finite ones; a smaller learning rate, clip_norm=1.0 or standardized inputs often help",
        update,
        training.history,
        fault.layer,
    )
