"""Time the training of many small networks in one call, and compare a grid search with scikit-learn's.

    python -m benchmarks.many --backends numba --json benchmarks/results/many.json

The contenders take turns in one process. All of them train the same networks for the same number of epochs:

- ``64 networks``: different networks of about the same size, trained by ``fit_many`` with all threads, by ``fit_many``
  with one thread, and by one call of ``fit`` after another.
- ``64 equal networks``: networks with 20-24-1 neurons and different seeds, trained by ``fit_many``, and by ``vmap`` of
  JAX over all networks, compiled as one program for the whole training run. Without JAX, that contender is left out.
- ``grid search``: 24 candidates and 5 folds of a network with 30-64-32-1 neurons on the breast cancer data, trained for
  60 epochs and scored by accuracy. ``fit_many`` and ``DenseSearchCV`` of a ``DenseClassifier`` are compared with
  scikit-learn's ``GridSearchCV`` of a ``DenseClassifier`` in one process, and of an ``MLPClassifier`` in as many
  processes as there are cores.
- ``memory``: the most memory that ``fit_many`` uses for data, as a multiple of the size of X.

The benchmark requires the extra ``sklearn``.
"""

import os
import tracemalloc
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

import deepnotes as dn
from benchmarks.jax_training import adam_step
from benchmarks.options import Options, parser
from benchmarks.report import publish
from deepnotes.testing.bench.timing import seconds, summarize_ratios, turns

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
EPOCHS, FOLDS, BATCH = 60, 5, 200
ALPHAS, RATES = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0], [0.0003, 0.001, 0.003, 0.01]


def backends(name: str) -> tuple[dn.Backend, dn.Backend]:
    """Return a backend with all threads, and with one thread."""
    several, single = (dn.get_backend(name, **({"threads": n} if name == "numba" else {})) for n in (CORES, 1))
    return several, single


def sixty_four_networks(name: str) -> dict[str, Callable[[], object]]:
    """Return the contenders that train 64 different networks."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 2000)).astype(np.float32)
    y = (X[:5].sum(axis=0) > 0).astype(np.float32)[None]
    settings: dict[str, Any] = {"epochs": 20, "batch_size": 32}

    def networks(backend: dn.Backend) -> list[dn.Network]:
        g = ["relu", "tanh", "sigmoid", "gelu"]
        return [
            dn.Network([dn.Dense(16 + i % 17, g[i % 4]), dn.Dense(1, "sigmoid")], 20, backend=backend, seed=i)
            for i in range(64)
        ]

    def one_by_one(backend: dn.Backend) -> None:
        for network in networks(backend):
            network.fit(X, y, **settings)

    def together(backend: dn.Backend) -> None:
        dn.fit_many(networks(backend), X, y, **settings)

    several, single = backends(name)
    return {
        "fit_many": partial(together, several),
        "fit_many, one thread": partial(together, single),
        "fit": partial(one_by_one, single),
    }


def equal_networks(name: str) -> dict[str, Callable[[], object]]:
    """Return the contenders that train 64 networks of the same shape."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 1984)).astype(np.float32)  # 62 batches of 32, since each step of JAX has the same shape
    y = (X[:5].sum(axis=0) > 0).astype(np.float32)[None]
    backend = backends(name)[0]

    def by_fit_many() -> None:
        layers = [dn.Dense(24, "relu"), dn.Dense(1, "sigmoid")]
        networks = [dn.Network(layers, 20, backend=backend, seed=i) for i in range(64)]
        dn.fit_many(networks, X, y, epochs=20, batch_size=32)

    contenders: dict[str, Callable[[], object]] = {"fit_many": by_fit_many}
    if find_spec("jax"):
        contenders["jax.vmap"] = _jax_training(X, y, 64, 24, 20, 32)
    return contenders


def _jax_training(
    X: np.ndarray, y: np.ndarray, networks: int, units: int, epochs: int, batch_size: int
) -> Callable[[], object]:
    """Return a function that trains networks of the same shape, each with its own order of the samples, by JAX."""
    import jax
    import jax.numpy as jnp

    def cost(layers: Any, A: Any, Y: Any) -> Any:
        (W1, b1), (W2, b2) = layers
        Z = W2 @ jax.nn.relu(W1 @ A + b1) + b2
        return jnp.mean(jnp.maximum(Z, 0) - Z * Y + jnp.log1p(jnp.exp(-jnp.abs(Z))))

    step = adam_step(cost, 0.001, 0.9, 0.999, 1e-8)
    data, m = (jnp.asarray(X), jnp.asarray(y)), X.shape[1]

    def initial(key: Any) -> Any:
        first, second = jax.random.split(key)
        W1 = jax.random.normal(first, (units, X.shape[0])) * (2 / X.shape[0]) ** 0.5
        W2 = jax.random.normal(second, (1, units)) * (1 / units) ** 0.5
        return [(W1, jnp.zeros((units, 1))), (W2, jnp.zeros((1, 1)))]

    def train(key: Any, order: Any) -> Any:
        layers = initial(key)
        zeros = jax.tree.map(jnp.zeros_like, layers)
        state = layers, zeros, zeros, jnp.float32(0)
        return jax.lax.scan(lambda state, batch: step(state, *(x[:, batch] for x in data)), state, order)

    run, rng = jax.jit(jax.vmap(train)), np.random.default_rng(0)
    keys = jax.random.split(jax.random.key(0), networks)

    def by_jax() -> None:
        # NumPy draws an order faster than jax.random on a CPU.
        order = np.stack([rng.permutation(m) for _ in range(networks * epochs)]).astype(np.int32)
        jax.block_until_ready(run(keys, order.reshape(networks, -1, batch_size)))

    return by_jax


def grid_search(name: str) -> dict[str, Callable[[], object]]:
    """Return the contenders of the grid search; each returns the mean accuracy over all candidates and folds."""
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X).astype(np.float32)
    grid = {"alpha": ALPHAS, "learning_rate_init": RATES}
    shared: dict[str, Any] = {
        "hidden_layer_sizes": (64, 32), "max_iter": EPOCHS, "n_iter_no_change": EPOCHS, "tol": 0.0, "batch_size": BATCH,
        "random_state": 0,
    }  # fmt: skip
    cv = StratifiedKFold(FOLDS)
    several, single = backends(name)

    def by_search(kind: Any, estimator: Any, processes: int) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            search = kind(estimator, grid, cv=cv, n_jobs=processes, refit=False).fit(X, y)
        return float(search.cv_results_["mean_test_score"].mean())

    def by_fit_many() -> float:
        tasks = [(alpha, rate, *fold) for alpha in ALPHAS for rate in RATES for fold in cv.split(X, y)]
        layers = [dn.Dense(64, "relu"), dn.Dense(32, "relu"), dn.Dense(1, "sigmoid")]
        networks = [dn.Network(layers, X.shape[1], backend=several, seed=0) for _ in tasks]
        dn.fit_many(
            networks, X.T, y[None], epochs=EPOCHS, batch_size=BATCH,
            samples=[train for _, _, train, _ in tasks],
            l2=[alpha / len(train) for alpha, _, train, _ in tasks],
            optimizer=[dn.Adam(rate) for _, rate, _, _ in tasks],
        )  # fmt: skip
        correct = [
            ((network.predict(X[test].T)[0] > 0.5) == y[test]).mean()
            for network, (*_, test) in zip(networks, tasks, strict=True)
        ]
        return float(np.mean(correct))

    return {
        "fit_many": by_fit_many,
        "DenseSearchCV": partial(by_search, dn.DenseSearchCV, dn.DenseClassifier(**shared, backend=several), 1),
        "DenseClassifier": partial(by_search, GridSearchCV, dn.DenseClassifier(**shared, backend=single), 1),
        "MLPClassifier": partial(by_search, GridSearchCV, MLPClassifier(**shared), CORES),
    }


def memory(name: str) -> float:
    """Return the most memory that training on 20 subsets allocates, as a multiple of the size of X."""
    X = np.random.default_rng(0).normal(size=(100, 100_000)).astype(np.float32)
    y = (X[0] > 0).astype(np.float32)[None]
    backend = backends(name)[0]
    networks = [
        dn.Network([dn.Dense(4, "relu"), dn.Dense(1, "sigmoid")], 100, backend=backend, seed=i) for i in range(20)
    ]
    samples = [np.arange(i, X.shape[1], 2) for i in (0, 1)] * 10
    dn.fit_many(networks, X[:, :100], y[:, :100], epochs=1)  # compiles
    tracemalloc.start()
    dn.fit_many(networks, X, y, epochs=1, batch_size=1000, samples=samples)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return 1 + peak / X.nbytes


def measure(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, Any]:
    """Run each contender once to warm up, then time them in turns."""
    warm = {name: contender() for name, contender in contenders.items()}
    times = turns({name: partial(seconds, contender) for name, contender in contenders.items()}, rounds)
    scores = {name: score for name, score in warm.items() if score is not None}
    return summarize_ratios(times, ["fit_many"]) | ({"accuracy": scores} if scores else {})


def main() -> None:
    """Run all cases on all backends, print a table, and write the results if requested."""
    options = Options(parser(__doc__, rounds=5))
    cases = {"64 networks": sixty_four_networks, "64 equal networks": equal_networks, "grid search": grid_search}
    results: dict[str, Any] = {}
    for name in options.with_progress([f"{b}, {case}" for b in options.backends for case in (*cases, "memory")]):
        backend, case = name.split(", ")
        if case == "memory":
            results[name] = {"copies": memory(backend)}
        else:
            results[name] = measure(cases[case](backend), options.rounds)
    publish("many", f"many networks in one call, {CORES} cores", results, options.json)


if __name__ == "__main__":
    main()
