"""Contenders: backends with numbers of threads, and their trainings.

The number of threads is set by the backend's option ``threads``, if it has one. For other backends with NumPy's arrays,
it is the number of BLAS threads, set by threadpoolctl if that is installed. Any other backend uses its own default.
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
"""Takes the number of epochs, and whether to draw a new order of samples for each; returns the mean loss of each."""

AGREEMENT = 1e-3
"""The allowed relative difference of losses: more than the order of summation causes, less than a wrong formula."""


class Contender(NamedTuple):
    """A backend and its number of threads."""

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
        """The environment variables that it needs in addition, or an empty string."""
        return f"OMP_NUM_THREADS={self.threads}" if self.by_blas else ""


def select_backends(names: Sequence[str]) -> tuple[list[Backend], dict[str, str]]:
    """Return the available backends with these names, and the reasons why the others are not available.

    Parameters
    ----------
    names : sequence of str
        ``["all"]`` stands for all registered ones.

    Raises
    ------
    UnknownNameError
        If there is no backend of that name.
    """
    found: list[Backend] = []
    absent = {}
    for name in dict.fromkeys(registered_backends() if list(names) == ["all"] else names):
        try:
            found.append(get_backend(name))
        except BackendUnavailable as error:
            absent[name] = f"{error.cause}; to fix it: {error.fix}"
    return found, absent


def thread_counts() -> list[int]:
    """Return the numbers of threads to measure: 1, 2, 4, ... and the number of cores.

    Examples
    --------
    >>> thread_counts()[0]
    1
    """
    most = cores()
    return sorted({1 << power for power in range(most.bit_length())} | {most})


def contenders(backends: Sequence[Backend], counts: Sequence[int] | None = None) -> list[Contender]:
    """Return each backend with each number of threads, if it can be set; by default, those of :func:`thread_counts`."""
    found = []
    for backend in backends:
        for threads in thread_counts() if counts is None else counts:
            contender = _with_threads(backend, threads)
            if contender is None:
                found.append(Contender(backend.name, backend))
                break
            found.append(contender)
    return found


def _with_threads(backend: Backend, threads: int) -> Contender | None:
    """Return the backend with a number of threads, or None if the number cannot be set."""
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
    """Return a new network of the case with parameters `theta`, or with random ones of seed 0."""
    return Network(case.layers, case.sizes[0], backend=backend, dtype=case.dtype, theta=theta, seed=0)


def training(backend: Backend | str, case: Case, X: np.ndarray, y: np.ndarray, theta: np.ndarray) -> Train:
    """Return a function that trains a network on rows X, shape (m, n[0]), starting from `theta` at every call."""
    net, optimizer = network(backend, case, theta), case.plan.optimizer

    def train(epochs: int, shuffle: bool) -> list[float]:
        net.set_flat(theta)
        history = net.fit(X.T, y, optimizer=optimizer, epochs=epochs, batch_size=case.batch, shuffle=shuffle)
        return list(history.loss)

    return train


def check_agreement(trainings: dict[str, Train]) -> None:
    """Check that all trainings have the same losses in two epochs without shuffling.

    Raises
    ------
    DeepnotesError
        If one differs: its work is not comparable, so it must not be timed.
    """
    losses = {who: train(2, False) for who, train in trainings.items()}
    first = next(iter(losses))
    for who, values in losses.items():
        if not np.allclose(values, losses[first], rtol=AGREEMENT, atol=0):
            raise DeepnotesError(f"{who} trains differently from {first}: losses {values} instead of {losses[first]}")
