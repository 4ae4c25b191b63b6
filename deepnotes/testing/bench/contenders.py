"""Contenders (a backend and a number of threads each), and the training functions that are timed.

The number of threads is set by the backend's option ``threads``, if it has one. For other backends on the host, it is
the number of BLAS threads, set by threadpoolctl if that is installed. Any other backend uses its default number.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, TypeAlias

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.registry import get_backend, registered_backends
from deepnotes.network.network import Network
from deepnotes.testing.bench.cases import Case
from deepnotes.testing.bench.limits import location
from deepnotes.testing.bench.machine import cores
from deepnotes.testing.bench.timing import blas_threads
from deepnotes.utils.errors import ArgumentError, BackendUnavailable, DeepnotesError, UnknownNameError

Train: TypeAlias = Callable[[int, bool], list[float]]
"""A function that trains a network: it takes the number of epochs, and whether to draw a new order of the samples for
each epoch, and returns the mean loss of each epoch."""

TOLERANCE = 1e-3
"""The maximum relative difference between the losses of contenders. It is larger than the effect of a different order
of summation, and smaller than the effect of a wrong formula."""


class Contender(NamedTuple):
    """A backend with a number of threads.

    Attributes
    ----------
    name : str
    backend : Backend
    threads : int or None
        None if the number cannot be set.
    by_blas : bool
        Whether `threads` is the number of BLAS threads, instead of an option of the backend.
    """

    name: str
    backend: Backend
    threads: int | None = None
    by_blas: bool = False

    def execution_context(self) -> AbstractContextManager[None]:
        """Return a context manager that sets the number of threads."""
        return blas_threads(self.threads if self.by_blas else None)

    @property
    def options(self) -> str:
        """The command-line options that select this contender."""
        threads = f" --threads {self.threads}" if self.threads and not self.by_blas else ""
        return f"--backend {self.backend.name}{threads}"

    @property
    def environment(self) -> str:
        """The environment variable that must also be set to select the number of threads, or an empty string."""
        return f"OMP_NUM_THREADS={self.threads}" if self.by_blas else ""


def select_backends(names: Sequence[str]) -> tuple[list[Backend], dict[str, str]]:
    """Return those of the named backends that are available, and the reasons why the others are not, by name.

    Parameters
    ----------
    names : sequence of str
        ``["all"]`` means all registered backends.

    Raises
    ------
    UnknownNameError
        If no backend with a given name is registered.
    """
    available: list[Backend] = []
    absent = {}
    for name in dict.fromkeys(registered_backends() if list(names) == ["all"] else names):
        try:
            available.append(get_backend(name))
        except BackendUnavailable as error:
            absent[name] = f"{error.cause}; to fix it: {error.fix}"
    return available, absent


def thread_counts() -> list[int]:
    """Return the numbers of threads to measure: 1, 2, 4, ... and the number of cores.

    Examples
    --------
    >>> thread_counts()[0]
    1
    """
    n = cores()
    return sorted({1 << power for power in range(n.bit_length())} | {n})


def contenders(backends: Sequence[Backend], counts: Sequence[int] | None = None) -> list[Contender]:
    """Return a contender for each backend and number of threads, or one for a backend whose number cannot be set.

    `counts` are the numbers of threads, by default those of :func:`thread_counts`.
    """
    result = []
    for backend in backends:
        for threads in thread_counts() if counts is None else counts:
            contender = _with_threads(backend, threads)
            if contender is None:
                result.append(Contender(backend.name, backend))
                break
            result.append(contender)
    return result


def _with_threads(backend: Backend, threads: int) -> Contender | None:
    """Return the contender for a backend and a number of threads, or None if the number cannot be set."""
    name = f"{backend.name}, {threads} thread{'' if threads == 1 else 's'}"
    try:
        return Contender(name, get_backend(backend.name, threads=threads), threads)
    except (ArgumentError, UnknownNameError):  # no such option or value, or the backend is not registered
        pass
    try:
        import threadpoolctl  # noqa: F401
    except ImportError:
        return None
    return Contender(name, backend, threads, by_blas=True) if location(backend) == "host" else None


def network(backend: Backend | str, case: Case, theta: np.ndarray | None = None) -> Network:
    """Return a new network for a case, with parameters `theta` or with random parameters of seed 0."""
    return Network(case.layers, case.sizes[0], backend=backend, dtype=case.dtype, theta=theta, seed=0)


def training(backend: Backend | str, case: Case, X: np.ndarray, y: np.ndarray, theta: np.ndarray) -> Train:
    """Return a function that trains a network on X, shape (m, n[0]), and y; each call starts from `theta`."""
    net, optimizer = network(backend, case, theta), case.plan.optimizer

    def train(epochs: int, shuffle: bool) -> list[float]:
        net.set_flat(theta)
        history = net.fit(X.T, y, optimizer=optimizer, epochs=epochs, batch_size=case.batch, shuffle=shuffle)
        return list(history.loss)

    return train


def check_agreement(trainers: dict[str, Train]) -> None:
    """Check that all contenders have the same losses in two epochs without shuffling.

    Parameters
    ----------
    trainers : dict of str to callable
        By the name of the contender, the function that trains its network.

    Raises
    ------
    DeepnotesError
        If the losses of a contender differ: its work is not comparable, so its time would mean nothing.
    """
    losses = {name: train(2, False) for name, train in trainers.items()}
    first = next(iter(losses))
    for name, values in losses.items():
        if not np.allclose(values, losses[first], rtol=TOLERANCE, atol=0):
            raise DeepnotesError(f"{name} trains differently from {first}: losses {values} instead of {losses[first]}")
