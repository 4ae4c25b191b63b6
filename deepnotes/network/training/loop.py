"""The fit loop: it orders the samples, runs the Program on chunks of batches, and calls the callbacks."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial, wraps
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, cast

import numpy as np

from deepnotes.backends.program import CHUNK_SECONDS, Batches, EpochProgram, Program
from deepnotes.network.streaming import data_for_program, is_streamed, updates_in_memory
from deepnotes.network.training.history import History
from deepnotes.network.training.nonfinite import first_fault
from deepnotes.network.training.orders import Orders
from deepnotes.network.training.program_of_parts import ProgramOfParts
from deepnotes.network.training.signals import Deferral, defer_signals
from deepnotes.network.training.state import Callback, Position, Training
from deepnotes.nn.schedules import Memory, Rate, Schedule, as_schedule
from deepnotes.utils.errors import ArgumentError, BusyError, DeepnotesError, NonFiniteLossError, RankError

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike


GROWTH = 8
"""The largest ratio of the numbers of updates of two successive chunks."""

P = ParamSpec("P")
R = TypeVar("R")
N = TypeVar("N", bound="NetworkLike")
_busy: dict[int, object] = {}
"""For each network that is being trained, by its id: a token that identifies the call that trains it."""


def exclusive(method: Callable[Concatenate[N, P], R]) -> Callable[Concatenate[N, P], R]:
    """Decorate a method that trains a network, so that it refuses to run while another call trains the same network.

    Two calls at the same time would overwrite each other's parameters and slots.

    Raises
    ------
    BusyError
    """

    @wraps(method)
    def exclusive_method(network: N, /, *args: P.args, **kwargs: P.kwargs) -> R:
        call = object()
        if (
            _busy.setdefault(id(network), call) is not call
        ):  # setdefault is atomic: if several threads get here, exactly one of them finds its own token
            raise BusyError(
                "the network is already being trained, in another thread or by the call of fit that called this "
                "callback; wait until that call has ended, or train a copy (copy.deepcopy)"
            )
        try:
            return method(network, *args, **kwargs)
        finally:
            del _busy[id(network)]

    return exclusive_method


def fit(
    training: Training,
    program: Program,
    evaluate: Callable[[], dict[str, float]],
    signals: Deferral | None = None,
) -> History:
    """Train to the end, and return the history.

    Parameters
    ----------
    training : Training
        A new training run whose callbacks were started, see :func:`callback_lifecycle`. It is modified.
    program : Program
    evaluate : callable
        Called after each epoch; returns the validation loss and metrics to record, by name.
    signals : Deferral, optional
        The signals that end training. By default, they are deferred during this call only.

    Raises
    ------
    NonFiniteLossError
        If the loss or gradient of an update is not finite; the update is not made.
    KeyboardInterrupt, SystemExit
        If a signal arrives: raised at the end of the current chunk, or at once during the evaluation after an epoch.
    """
    history, schedule = training.history, as_schedule(training.plan.optimizer.learning_rate)
    for callback in reversed(training.callbacks):
        callback.on_ready(training)
    max_updates = updates_in_memory(training.data, training.update_size)
    ranks = training.ranks
    orders = Orders(training.rng, training.samples, ahead=not training.network.backend.on_host)
    terminate = any(callback.saves for callback in training.callbacks) or ranks.size > 1
    several = isinstance(program, EpochProgram) and _can_train_several_epochs(training, schedule)
    epoch_program = cast(EpochProgram, program) if several else None
    with defer_signals(terminate) if signals is None else nullcontext(signals) as signals:
        _end_together(training, signals)
        while training.position.order is not None or (training.epoch < training.epochs and not training.stop):
            if epoch_program is not None and (epochs := _whole_epochs_in_chunk(training)) > 1:
                _train_epochs(training, epoch_program, orders, schedule, epochs)
                _notify(training, "on_chunk")
                _notify(training, "on_epoch")
                _end_together(training, signals)
                continue
            start = time.perf_counter() - training.position.seconds
            for _ in _chunks(training, program, orders, schedule, max_updates):
                training.position.seconds = time.perf_counter() - start
                _notify(training, "on_chunk")
                _end_together(training, signals)
            # If a user-defined metric or schedule fails here, or a signal interrupts it, the history is unchanged.
            with signals.acting_at_once():
                figures = ranks.broadcast(evaluate() if ranks.rank == 0 else None)
            memory = validate_memory(schedule.observe(training.position.memory, figures.get("val_loss", training.loss)))
            training.at_rest = False
            history.loss.append(training.loss)
            history.learning_rate.append(training.position.rate)
            for name, value in figures.items():
                (history.val_loss if name == "val_loss" else history.metrics.setdefault(name, [])).append(value)
            history.seconds.append(time.perf_counter() - start)
            training.position = Position(memory=memory)
            training.at_rest = True
            _notify(training, "on_epoch")
            _end_together(training, signals)
            _compare_parameters(training)
    return history


@contextmanager
def callback_lifecycle(training: Training) -> Iterator[None]:
    """Call ``on_start`` of each callback, and at the end, even after an error, ``on_end`` of those that were started.

    Raises
    ------
    Exception
        The first error in a call of ``on_end``, raised after all calls; later errors are added to it as notes.
    """
    started: list[Callback] = []
    try:
        for callback in training.callbacks:
            callback.on_start(training)
            started.append(callback)
        yield
    finally:
        _call_all([partial(callback.on_end, training) for callback in reversed(started)], BaseException)


def callbacks_with_memory(training: Training) -> list[Callback]:
    """Return the callbacks whose memory is part of a checkpoint: those that override :meth:`Callback.memory`."""
    return [callback for callback in training.callbacks if type(callback).memory is not Callback.memory]


def _notify(training: Training, method: Literal["on_chunk", "on_epoch"]) -> None:
    """Call a method of all callbacks, even if one fails: a checkpoint requires that all have seen the same updates.

    If a callback with a memory fails, only part of its memory may have changed; after an interrupt, the remaining
    callbacks are not called. In both cases no checkpoint can be written now, so ``training.at_rest`` is set to False.
    """

    def call(callback: Callback) -> None:
        try:
            getattr(callback, method)(training)
        except BaseException as error:
            if callback in callbacks_with_memory(training) or not isinstance(error, Exception):
                training.at_rest = False
            raise

    _call_all([partial(call, callback) for callback in training.callbacks])


def _end_together(training: Training, signals: Deferral) -> None:
    """Raise the error of a signal on all ranks if one has received it, and agree on whether training ends."""
    if training.ranks.size == 1:
        signals.check()
        return
    error: KeyboardInterrupt | SystemExit | None = None
    try:
        signals.check()
    except (KeyboardInterrupt, SystemExit) as arrived:
        error = arrived
    errors, stops = zip(*training.ranks.gather((error, training.stop)), strict=True)
    training.stop = any(stops)
    for error in errors:
        if error is not None:
            raise error


def _compare_parameters(training: Training) -> None:
    """Raise RankError if the ranks do not all have the same parameters: then their processors compute other bits."""
    if training.ranks.size == 1:
        return
    from zlib import crc32  # imported late, since most programs do not use it

    digests = training.ranks.gather(crc32(training.network.flat().tobytes()))
    if other := [rank for rank, digest in enumerate(digests) if digest != digests[0]]:
        raise RankError(
            f"rank {other[0]} has other parameters than rank 0 after update {training.step}, so training stopped: its "
            "processor, or a library, rounds in another way, or a callback has changed the parameters on one of them",
            other[0],
        )


def _call_all(functions: Sequence[Callable[[], None]], kind: type[BaseException] = Exception) -> None:
    """Call each function, then raise the first error of type `kind`, with later errors added as notes."""
    first: BaseException | None = None
    for function in functions:
        try:
            function()
        except kind as error:
            if first is None:
                first = error
            else:
                first.add_note(f"after that, another callback failed: {error!r}")
    if first is not None:
        raise first


def _chunks(
    training: Training, program: Program, orders: Orders, schedule: Schedule, max_updates: int
) -> Iterator[None]:
    """Train to the end of the epoch, and yield after each chunk of batches."""
    position, state, samples, update_size = training.position, training.state, training.samples, training.update_size
    while position.order is None or position.done < samples:
        updates = min(training.per_chunk, -(-(samples - position.done) // update_size), max_updates)
        updates = training.ranks.broadcast(updates)  # a chunk takes longer on one rank than on another
        rates = _rates(schedule, state.step, updates, position.memory)
        if position.order is None:  # only now: if computing the rates fails, nothing has changed yet
            position.order = orders.draw(1, training.epochs - training.epoch - 1)[0]
            training.epoch += 1
        chunk_order = position.order[position.done : position.done + updates * update_size]
        start = time.perf_counter()
        training.at_rest = False
        if isinstance(program, ProgramOfParts):  # it reads the samples of its parts only
            data, order = training.data, chunk_order
        else:
            data, order = data_for_program(training.network.backend, training.data, chunk_order)
        chunk = program.train(state, Batches(data, order, update_size, rates, position.sums))
        position.sums, position.rate = chunk.sums, float(rates[-1])
        position.done += len(chunk_order) if chunk.steps == updates else chunk.steps * update_size
        training.step += chunk.steps
        training.at_rest = True
        if chunk.steps < updates:
            raise _non_finite_error(training, chunk.cost)
        training.loss = chunk.mean_loss
        _adapt_chunks(training, (time.perf_counter() - start) / updates)
        yield


def _adapt_chunks(training: Training, seconds: float) -> None:
    """Choose the number of updates in the next chunk, given the duration of one update."""
    training.per_chunk = max(1, min(GROWTH * training.per_chunk, int(CHUNK_SECONDS / max(seconds, 1e-7))))


def _can_train_several_epochs(training: Training, schedule: Schedule) -> bool:
    """Return whether several epochs may be trained at once, if the callbacks allow it: nothing else happens between."""
    return (
        training.held_out is None
        and training.watched == ("loss",)
        and not _is_overridden(schedule.observe, Schedule.observe)
        and not is_streamed(training.data)
    )


def _is_overridden(method: object, base: object) -> bool:
    return getattr(method, "__func__", None) is not base


def _whole_epochs_in_chunk(training: Training) -> int:
    """Return the number of whole epochs in the next chunk."""
    if training.position.order is not None:
        return 0
    fitting = training.per_chunk // -(-training.samples // training.update_size)
    watching = [c for c in training.callbacks if _is_overridden(c.on_epoch, Callback.on_epoch)]
    return int(min([fitting, training.epochs - training.epoch, *(c.next_epoch(training) for c in watching)]))


def _train_epochs(training: Training, program: EpochProgram, orders: Orders, schedule: Schedule, epochs: int) -> None:
    """Train for several epochs in one chunk."""
    start, state, memory = time.perf_counter(), training.state, training.position.memory
    drawn_before = orders.state
    updates = -(-training.samples // training.update_size)
    rates = _rates(schedule, state.step, epochs * updates, memory).reshape(epochs, updates)
    training.at_rest = False
    order = orders.draw(epochs, training.epochs - training.epoch - epochs)
    data, program_order = data_for_program(training.network.backend, training.data, order)
    chunks = program.train_epochs(state, Batches(data, program_order, training.update_size, rates))
    if len(chunks) != epochs and not (chunks and chunks[-1].steps < updates):
        name = training.network.backend.name
        raise DeepnotesError(f"backend {name!r}: train_epochs returned {len(chunks)} Chunks for {epochs} epochs")
    seconds = (time.perf_counter() - start) / max(1, sum(chunk.steps for chunk in chunks))
    for chunk, rate in zip(chunks, rates[:, -1].tolist(), strict=False):
        training.epoch += 1
        training.step += chunk.steps
        if chunk.steps < updates:
            orders.state = drawn_before  # so that it becomes the one that belongs to the epoch in which training stops
            orders.draw(len(chunks), 0)
            done = chunk.steps * training.update_size
            training.position = Position(order[len(chunks) - 1], done, chunk.sums, chunk.steps * seconds, rate, memory)
            training.at_rest = True
            raise _non_finite_error(training, chunk.cost)
        training.loss = chunk.mean_loss
        training.history.loss.append(training.loss)
        training.history.learning_rate.append(rate)
        training.history.seconds.append(updates * seconds)
    training.at_rest = True
    _adapt_chunks(training, seconds)


def validate_memory(memory: Any) -> dict[str, float]:
    """Return the memory of a schedule as a dict after validating it, since the schedule may be user-defined.

    Raises
    ------
    ArgumentError
    """
    if not isinstance(memory, Mapping) or not all(
        isinstance(name, str) and isinstance(value, int | float) for name, value in memory.items()
    ):
        raise ArgumentError(f"learning_rate: the schedule's memory is {memory!r}, wanted a mapping of names to numbers")
    return dict(memory)


def _rates(schedule: Rate, first: int, count: int, memory: Memory) -> np.ndarray:
    """Return the rates of `count` updates from number `first` on, validated, since the schedule may be user-defined."""
    try:
        by_step = as_schedule(schedule)
        rates = np.array(by_step.adjust(by_step.rates(first, count), memory), dtype=np.float64)
        valid = rates.shape == (count,) and rates.min() >= 0 and rates.max() < inf  # both are False for NaN
    except (TypeError, ValueError, ArithmeticError):
        valid = False
    if not valid:
        raise ArgumentError(
            f"learning_rate: got {schedule!r}, wanted finite rates of at least 0 for updates {first} to "
            f"{first + count - 1}"
        )
    return rates


def _non_finite_error(training: Training, cost: float) -> NonFiniteLossError:
    """Return the error for the next update, whose batch has the cost `cost`."""
    position, update = training.position, training.state.step + 1
    assert position.order is not None
    batch = position.order[position.done : position.done + training.update_size]
    fault = first_fault(training.network.backend, training.plan, training.state, training.data, batch)
    cause = (
        f"the loss is {cost}"
        if not isfinite(cost)
        else "the gradient, the updated parameters, or the optimizer's slots are not finite"
    )
    return NonFiniteLossError(
        f"training stopped before update {update} (epoch {training.epoch}): {cause}; {fault.description}. The "
        "parameters are the last finite ones; a smaller learning rate, clip_norm=1.0 or standardized inputs often help",
        update,
        training.history,
        fault.layer,
    )
