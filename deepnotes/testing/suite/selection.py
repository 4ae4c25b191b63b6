"""Selection of a backend by name, copies of networks, and networks used by several threads at once."""

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from deepnotes.backends.registry import get_backend, registered_backends, use_backend
from deepnotes.network.network import Network
from deepnotes.nn.layers import Dense, Dropout
from deepnotes.testing.checks import NotApplicable, Trial, check
from deepnotes.utils.errors import BackendUnavailable


def _registered_name(trial: Trial) -> str:
    """Return the backend's name; raise NotApplicable unless the registry returns this backend for the name."""
    name, options = trial.backend.name, trial.backend.options
    try:
        known = name in registered_backends() and get_backend(name, **options) is trial.backend
    except BackendUnavailable:  # the registered backend of that name differs from this one
        known = False
    if not known:
        raise NotApplicable("the backend was given as an object, not by a registered name")
    return name


def _network(trial: Trial, dtype: str = "float32") -> Network:
    layers = [Dense(7, "tanh"), Dropout(0.3), Dense(3, "softmax")]
    return Network(layers, 5, backend=trial.backend, dtype=dtype, seed=0)


def _data(trial: Trial, m: int = 60) -> tuple[np.ndarray, np.ndarray]:
    return trial.rng.normal(size=(5, m)), trial.rng.integers(0, 3, m)


def _in_threads(functions: list[Any]) -> list[Any]:
    """Run functions at the same time and return their results, or raise an error of one of them."""
    results: list[Any] = [None] * len(functions)
    barrier = threading.Barrier(len(functions))

    def work(i: int) -> None:
        barrier.wait()
        try:
            results[i] = functions[i]()
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@check("selection.by_name")
def by_name(trial: Trial) -> None:
    """A name always gives the same backend; a ``with`` block selects it and restores the previous one."""
    name = _registered_name(trial)
    before = get_backend()
    with use_backend(name, **trial.backend.options) as chosen:
        trial.that(chosen is trial.backend and get_backend() is trial.backend, "use_backend selects it")
        net = Network([Dense(2)], 3, seed=0)
        trial.that(net.backend is trial.backend, "a network created within the block runs on it")
    trial.that(get_backend() is before, "the previous backend is selected after the block")


@check("selection.threads")
def selection_per_thread(trial: Trial) -> None:
    """Selecting a backend in one thread does not change the selection in another."""
    name = _registered_name(trial)
    before = get_backend()
    inside = threading.Event()
    done = threading.Event()

    def select() -> None:
        with use_backend(name, **trial.backend.options):
            inside.set()
            done.wait(30)

    def read_selection() -> Any:
        inside.wait(30)
        try:
            return get_backend()
        finally:
            done.set()

    trial.that(_in_threads([select, read_selection])[1] is before, "an unchanged selection in the other thread")


@check("selection.copies")
def copies(trial: Trial) -> None:
    """A deep copy or a pickle of a network predicts the same, and training it leaves the original unchanged."""
    copiers: dict[str, Callable[[Network], Network]] = {"deepcopy": copy.deepcopy}
    try:
        _registered_name(trial)
        copiers["pickle"] = lambda net: pickle.loads(pickle.dumps(net))
    except NotApplicable:
        pass
    for dtype in trial.dtypes:
        X, y = _data(trial)
        net = _network(trial, dtype)
        net.fit(X, y, epochs=1)
        for name, copier in copiers.items():
            duplicate = copier(net)
            expected = net.predict(X).copy()
            trial.same(duplicate.predict(X), expected, f"{dtype}: predictions of the copy by {name}")
            duplicate.fit(X, y, epochs=1)
            trial.same(net.predict(X), expected, f"{dtype}: predictions after the copy by {name} was trained")


@check("selection.concurrent_predictions")
def concurrent_predictions(trial: Trial) -> None:
    """Eight threads that predict with one network at the same time get the results of a single thread."""
    X, y = _data(trial)
    net = _network(trial)
    net.fit(X, y, epochs=1)
    parts = [X[:, i : i + 1 + 5 * i] for i in range(8)]
    expected = [net.predict(part).copy() for part in parts]

    def predict(i: int) -> list[np.ndarray]:
        return [net.predict(parts[i]) for _ in range(5 if trial.quick else 20)]

    for i, results in enumerate(_in_threads([lambda i=i: predict(i) for i in range(8)])):
        for result in results:
            trial.same(result, expected[i], f"{parts[i].shape[1]} samples in thread {i}")


@check("selection.concurrent_training")
def concurrent_training(trial: Trial) -> None:
    """Networks trained in four threads at once equal a network trained alone."""
    X, y = _data(trial)

    def train() -> np.ndarray:
        net = _network(trial)
        net.fit(X, y, epochs=2, batch_size=16)
        return net.flat()

    expected = train()
    for result in _in_threads([train] * 4):
        trial.same(result, expected, "parameters of a network trained at the same time as three others")
