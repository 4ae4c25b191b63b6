"""Training of many networks on the same data, several at a time if their backend can."""

import copy
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from deepnotes.backends.base import Backend
from deepnotes.network.formats import containers
from deepnotes.network.inputs import Converted
from deepnotes.network.network import Network, PreparedFit
from deepnotes.network.training.history import History
from deepnotes.network.training.loop import exclusive
from deepnotes.network.training.signals import Deferral, SharedDeferral, defer_signals
from deepnotes.network.training.state import Training
from deepnotes.utils.arguments import true_or_false
from deepnotes.utils.errors import ArgumentError, DeepnotesError, NonFiniteLossError, look_up

SETTINGS = {
    name: parameter.default
    for name, parameter in signature(Network.fit).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name not in {"progress", "ranks"}
}
"""The keyword arguments of :meth:`Network.fit`, and their defaults."""


@dataclass
class FitResult:
    """The result of training one of many networks.

    Attributes
    ----------
    index : int
        The position of the network in the arguments of :func:`fit_many`.
    network : Network
    history : History
        The history of the training run; incomplete if there is an error.
    error : NonFiniteLossError or None
        The reason why the network has stopped training early. Its parameters are then the last finite ones.
    seconds : float
        The duration of the training run.
    """

    index: int
    network: Network
    history: History
    error: NonFiniteLossError | None
    seconds: float


class FitManyInterrupt(KeyboardInterrupt):
    """Ctrl-C during :func:`fit_many`; all networks keep the parameters that they had then.

    Attributes
    ----------
    results : list of FitResult
        The results of the networks whose training had ended.
    """

    def __init__(self, results: list[FitResult], total: int) -> None:
        super().__init__(f"{len(results)} of {total} networks were trained to the end")
        self.results = results


class TrainingRun(Protocol):
    """A training run whose arguments are valid, such as :class:`~deepnotes.network.network.PreparedFit`."""

    @property
    def network(self) -> Network:
        """The network to train."""

    @property
    def training(self) -> Training:
        """The state of the training run."""

    def run(self, signals: Deferral | None = None) -> History:
        """Train, once only, and return the history."""


def fit_many(
    networks: Sequence[Network],
    X: Any,
    Y: Any,
    *,
    on_network: Callable[[FitResult], object] | None = None,
    progress: bool = False,
    **settings: Any,
) -> list[FitResult]:
    """Train many networks on the same data, or each on its own subset of them.

    Each network gets the bits that :meth:`Network.fit` gives it with one thread. The Numba backend trains as many
    networks at a time as it may use threads; other backends train one network after the other. The networks with the
    most work are trained first. The data are converted once, and are not copied for subsets.

    Parameters
    ----------
    networks : sequence of Network
        All different objects. Their layers, seeds, dtypes and backends may differ.
    X, Y : array_like
        As for :meth:`Network.fit`.
    on_network : callable, optional
        Called with the :class:`FitResult` of each network when its training has ended, one call at a time, but from any
        thread.
    progress : bool, default False
        Whether to show how many networks are trained, the lowest loss so far and the remaining time on stderr.
    **settings : object
        The keyword arguments of :meth:`Network.fit`. **A list contains one value for each network**; any other value is
        for all networks. So ``metrics=("accuracy", "r2")``, a tuple, stands for two metrics of all networks. Subsets
        are arrays of indices: ``samples=[train_1, train_2], validation=[test_1, test_2]``. Each network gets a shallow
        copy of each callback; a :class:`~deepnotes.TensorBoard` needs a directory for each network, so a list. With
        ``checkpoint=DIRECTORY``, each network has the subdirectory of its index: ``0000``, ``0001`` and so on.

    Returns
    -------
    list of FitResult
        In the order of `networks`. If a loss or gradient becomes NaN or infinite, that is the result's ``error``, and
        the other networks are trained to the end.

    Raises
    ------
    ArgumentError, ShapeError, DTypeError, DataError, ForeignArrayError, UnknownNameError
        If an argument is not valid; no network has changed then. A note names the network.
    FitManyInterrupt
        After Ctrl-C: a KeyboardInterrupt with the ``results`` so far. All networks keep their parameters.
    Exception
        If a checkpoint, a callback, a metric or `on_network` fails. The other networks stop after their current
        chunk of updates.

    Examples
    --------
    >>> import numpy as np
    >>> import deepnotes as dn
    >>> networks = [dn.Network([dn.Dense(units, "tanh"), dn.Dense(1)], inputs=1, seed=0) for units in (2, 4)]
    >>> X = np.linspace(-1, 1, 100)[None]
    >>> results = dn.fit_many(networks, X, X**2, epochs=[3, 5], samples=np.arange(80), validation=np.arange(80, 100))
    >>> [result.history.epochs for result in results]
    [3, 5]
    """
    if not isinstance(networks, Sequence) or not all(isinstance(network, Network) for network in networks):
        raise ArgumentError.of("networks", networks, "a list of Network")
    if len({id(network) for network in networks}) < len(networks):
        raise ArgumentError("networks contains an object twice, wanted different objects; copy.deepcopy copies one")
    if on_network is not None and not callable(on_network):
        raise ArgumentError.of("on_network", on_network, "a function of a FitResult, or None")
    true_or_false("progress", progress)
    return run_all(_prepare(networks, X, Y, settings), on_network, progress, settings.get("checkpoint") is not None)


def run_all(
    prepared: Sequence[TrainingRun],
    on_network: Callable[[FitResult], object] | None = None,
    progress: bool = False,
    terminate: bool = False,
) -> list[FitResult]:
    """Carry out the training runs of different networks; `terminate` is as for ``defer_signals``.

    The other arguments, the results and errors are as for :func:`fit_many`.
    """
    run = _Run(prepared, on_network)
    with ExitStack() as stack:
        run.signals = SharedDeferral(stack.enter_context(defer_signals(terminate)))
        if progress:
            from deepnotes.network.training.progress import ManyProgress

            stack.enter_context(ManyProgress([fit.training for fit in prepared]).displayed())
        for backend, tasks in run.tasks_by_backend():
            backend.run_each(tasks)
        run.end()
    for i, fit in enumerate(prepared):
        if i not in run.results:
            raise DeepnotesError(
                f"backend {fit.network.backend.name!r}: run_each returned without training networks[{i}]"
            )
    return [run.results[i] for i in range(len(prepared))]


def _prepare(networks: Sequence[Network], X: Any, Y: Any, settings: dict[str, Any]) -> list[PreparedFit]:
    """Return the training runs of all networks, after checking their arguments."""
    converted: Converted = {}
    prepared = []
    for i, (network, own_settings) in enumerate(zip(networks, _by_network(settings, len(networks)), strict=True)):
        try:
            prepared.append(network.prepare_fit(X, Y, converted, progress=False, **own_settings))
        except Exception as error:
            error.add_note(f"in the settings of networks[{i}]")
            raise
    _require_own_directories(prepared)
    return prepared


def _require_own_directories(prepared: Sequence[PreparedFit]) -> None:
    """Raise ArgumentError if two networks would write checkpoints, or files of TensorBoard, to the same directory."""
    from deepnotes.network.training.checkpoints import Checkpoints
    from deepnotes.network.training.tensorboard import TensorBoard

    owners: dict[tuple[type, Path], int] = {}
    for i, fit in enumerate(prepared):
        for callback in fit.training.callbacks:
            if isinstance(callback, Checkpoints | TensorBoard):
                first = owners.setdefault((type(callback), callback.directory.absolute()), i)
                if first != i:
                    raise ArgumentError(
                        f"{type(callback).__name__}: networks[{first}] and networks[{i}] both have the directory "
                        f"{callback.directory}, wanted one for each network"
                    )


def _by_network(settings: dict[str, Any], networks: int) -> Iterator[dict[str, Any]]:
    """Yield the keyword arguments of :meth:`Network.fit` for each network."""
    for name, value in settings.items():
        look_up("keyword argument", name, SETTINGS)
        if isinstance(value, list) and len(value) != networks:
            raise ArgumentError(
                f"{name} is a list of length {len(value)}, wanted one value for each of the {networks} networks; "
                "for a list that is one value for all networks, use a tuple"
            )
    for i in range(networks):
        own = SETTINGS | {name: value[i] if isinstance(value, list) else value for name, value in settings.items()}
        if isinstance(own["callbacks"], Sequence):
            own["callbacks"] = [copy.copy(callback) for callback in own["callbacks"]]
        own["early_stopping"] = copy.copy(own["early_stopping"])
        directory: str | PathLike[str] | None = settings.get("checkpoint")
        if directory is not None and not isinstance(directory, list):
            own["checkpoint"] = containers.as_path(directory) / f"{i:04}"
        yield own


class _Run:
    """The training runs of one call of :func:`run_all`."""

    signals: SharedDeferral

    def __init__(self, prepared: Sequence[TrainingRun], on_network: Callable[[FitResult], object] | None) -> None:
        self._prepared, self._on_network = prepared, on_network
        self._lock = threading.Lock()
        self.results: dict[int, FitResult] = {}

    def tasks_by_backend(self) -> Iterator[tuple[Backend, list[Callable[[], None]]]]:
        """Yield each backend with one task for each of its networks, those with the most work first."""
        longest_first = sorted(range(len(self._prepared)), key=lambda i: -self._prepared[i].training.work)
        for backend in dict.fromkeys(self._prepared[i].network.backend for i in longest_first):
            indices = [i for i in longest_first if self._prepared[i].network.backend is backend]
            yield backend, [partial(copy_context().run, self._train, i) for i in indices]

    def _train(self, index: int) -> None:
        """Train a network and record the result, unless the whole call is ending."""
        fit, start, error = self._prepared[index], time.perf_counter(), None
        try:
            self.signals.check()
            try:
                _run_exclusively(fit.network, fit, self.signals)
            except NonFiniteLossError as non_finite:
                error = non_finite
            result = FitResult(index, fit.network, fit.training.history, error, time.perf_counter() - start)
            with self._lock:
                self.results[index] = result
                if self._on_network is not None:
                    self._on_network(result)
        except BaseException as failure:
            if isinstance(failure, Exception):
                failure.add_note(f"in the training of networks[{index}]")
            self.signals.stop(failure)

    def end(self) -> None:
        """Raise the error that ended the training runs early, if there is one."""
        try:
            self.signals.check()
        except KeyboardInterrupt:
            error = self.signals.error
            if error is not None and not isinstance(error, KeyboardInterrupt):
                raise error from None
            results = [self.results[i] for i in sorted(self.results)]
            raise FitManyInterrupt(results, len(self._prepared)) from None


@exclusive
def _run_exclusively(network: Network, fit: TrainingRun, signals: Deferral) -> History:
    return fit.run(signals)
