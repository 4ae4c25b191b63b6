"""The libraries to compare training with, each set up as its own documentation recommends for speed.

A peer is a function of a case, samples X (one per row), class indices y and a deepnotes network with the initial
parameters. It returns a function that trains for some epochs and returns the mean loss of each epoch; every call starts
from the initial parameters again. A peer that has an option, such as the number of threads, measures which value is the
fastest for the case, and returns a :func:`functools.partial` with this value as its keyword argument.

- PyTorch: fused Adam, ``zero_grad(set_to_none=True)``, losses left on the device; either eager, or with the model and
  the loss compiled together by ``torch.compile``, which needs a C++ compiler.
- JAX: one ``jit`` function with donated state, either for a step, or for a whole epoch with ``lax.scan``.
- scikit-learn: ``MLPClassifier``.

The module requires the extra ``peers`` (``pip install "deepnotes[peers]"``).
"""

import warnings
from functools import partial
from importlib.util import find_spec
from shutil import which
from typing import Any

import numpy as np

import deepnotes as dn
from benchmarks.jax_training import Step, adam_step
from deepnotes.testing.bench.cases import LEARNING_RATE, Case
from deepnotes.testing.bench.contenders import Train
from deepnotes.testing.bench.machine import cores
from deepnotes.testing.bench.timing import fastest, seconds

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def scikit_learn(case: Case, X: np.ndarray, y: np.ndarray, start: dn.Network) -> Train:
    """Return a function that trains scikit-learn's ``MLPClassifier``."""
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier(
        case.sizes[1:-1], alpha=0.0, batch_size=case.batch, max_iter=1, shuffle=False, tol=0.0, warm_start=True,
        n_iter_no_change=10**9, learning_rate_init=LEARNING_RATE, beta_1=BETA1, beta_2=BETA2, epsilon=EPSILON,
    )  # fmt: skip

    def train(epochs: int, shuffle: bool) -> list[float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLPClassifier warns that it has not converged
            if not hasattr(model, "coefs_"):
                model.fit(X[: case.batch * 2], np.arange(case.batch * 2) % max(2, case.sizes[-1]))
            layers = parameters(start)
            model.coefs_, model.intercepts_ = [W.T.copy() for W, _ in layers], [b for _, b in layers]
            model.loss_curve_, model.t_, model.n_iter_ = [], 0, 0
            model.max_iter, model.shuffle = epochs, shuffle
            model.fit(X, y)
        return list(model.loss_curve_)

    return train


def pytorch(case: Case, X: np.ndarray, y: np.ndarray, start: dn.Network, compiled: bool = False) -> Train:
    """Return a function that trains PyTorch's ``nn.Sequential`` with the fused Adam, on one thread or on all cores."""
    import torch
    from torch import nn

    binary = case.sizes[-1] == 1
    samples, targets = torch.tensor(X), torch.tensor(y[:, None].astype(np.float32) if binary else y)
    pairs = zip(case.sizes, case.sizes[1:], strict=False)
    model = nn.Sequential(*[part for n_prev, n in pairs for part in (nn.Linear(n_prev, n), nn.ReLU())][:-1])
    loss = nn.BCEWithLogitsLoss() if binary else nn.CrossEntropyLoss()

    def eager(batch: Any) -> Any:
        return loss(model(samples[batch]), targets[batch])

    cost_of = torch.compile(eager, dynamic=False) if compiled else eager

    def train(epochs: int, shuffle: bool, threads: int) -> list[float]:
        torch.set_num_threads(threads)
        with torch.no_grad():
            values = (torch.from_numpy(x) for layer in parameters(start) for x in layer)
            for parameter, value in zip(model.parameters(), values, strict=True):
                parameter.copy_(value)
        optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, (BETA1, BETA2), EPSILON, fused=True)
        sums = []
        for _ in range(epochs):
            order = torch.randperm(len(X)) if shuffle else torch.arange(len(X))
            loss_sum = torch.zeros(())
            for batch in order.split(case.batch):
                optimizer.zero_grad(set_to_none=True)
                cost = cost_of(batch)
                cost.backward()
                optimizer.step()
                loss_sum += cost.detach()
            sums.append(loss_sum)
        return [loss_sum.item() * case.batch / len(X) for loss_sum in sums]

    threads = fastest([1, cores()], lambda threads: seconds(lambda: train(1, True, threads)))
    return partial(train, threads=threads)


def pytorch_compiled(case: Case, X: np.ndarray, y: np.ndarray, start: dn.Network) -> Train:
    """Return a function that trains with PyTorch; one compiled function gathers samples and computes model and loss."""
    return pytorch(case, X, y, start, compiled=True)


def jax_adam_step(binary: bool) -> Step:
    """Return a function ``step(state, A, Y)`` that makes one Adam step and returns the next state and the loss.

    Parameters
    ----------
    binary : bool
        Whether the network has a single sigmoid output instead of a softmax layer.
    """
    import jax
    import jax.numpy as jnp

    def cost(layers: Any, A: Any, Y: Any) -> Any:
        for W, b in layers[:-1]:
            A = jax.nn.relu(A @ W + b)
        W, b = layers[-1]
        Z = A @ W + b
        if binary:
            return jnp.mean(jax.nn.softplus(Z) - Y * Z)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(Z), Y, axis=1))

    return adam_step(cost, LEARNING_RATE, BETA1, BETA2, EPSILON)


def jax_scan(case: Case, X: np.ndarray, y: np.ndarray, start: dn.Network, by_step: bool = False) -> Train:
    """Return a function that trains with JAX: all steps of an epoch are one ``lax.scan`` in a compiled function.

    The samples are gathered for each batch in its step, or for all batches before the scan, whichever is faster. With
    `by_step`, each step is one call of a compiled function instead.
    """
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_platforms", "cpu")
    binary = case.sizes[-1] == 1
    samples, targets = jnp.array(X), jnp.array(y[:, None], jnp.float32 if binary else jnp.int32)
    rng = np.random.default_rng(0)
    step = jax_adam_step(binary)

    @partial(jax.jit, donate_argnums=0, static_argnames="gather")
    def epoch(state: Any, samples: Any, targets: Any, order: Any, gather: str) -> Any:
        order = order.reshape(-1, case.batch)
        if gather == "epoch":
            state, losses = jax.lax.scan(
                lambda state, batch: step(state, *batch), state, (samples[order], targets[order])
            )
        else:
            state, losses = jax.lax.scan(lambda state, i: step(state, samples[i], targets[i]), state, order)
        return state, jnp.mean(losses)

    @partial(jax.jit, donate_argnums=0)
    def single_step(state: Any, samples: Any, targets: Any, batch: Any) -> Any:
        return step(state, samples[batch], targets[batch])

    def epoch_by_step(state: Any, samples: Any, targets: Any, order: Any, gather: str) -> Any:
        total = jnp.float32(0)
        for batch in order.reshape(-1, case.batch):
            state, loss = single_step(state, samples, targets, batch)
            total = total + loss
        return state, total * case.batch / len(X)

    run = epoch_by_step if by_step else epoch

    def train(epochs: int, shuffle: bool, gather: str) -> list[float]:
        layers = [(jnp.array(W.T), jnp.array(b)) for W, b in parameters(start)]
        state = layers, jax.tree.map(jnp.zeros_like, layers), jax.tree.map(jnp.zeros_like, layers), jnp.float32(0)
        losses = []
        for _ in range(epochs):
            # NumPy draws an order faster than jax.random on a CPU
            order = rng.permutation(len(X)) if shuffle else np.arange(len(X))
            state, loss = run(state, samples, targets, order.astype(np.int32), gather)
            losses.append(loss)
        jax.block_until_ready((state, losses))
        return [float(loss) for loss in losses]

    choices = ["step"] if by_step else ["epoch", "step"]
    return partial(train, gather=fastest(choices, lambda gather: seconds(lambda: train(1, True, gather))))


def jax_steps(case: Case, X: np.ndarray, y: np.ndarray, start: dn.Network) -> Train:
    """Return a function that trains with JAX, with one call of a compiled function per step."""
    return jax_scan(case, X, y, start, by_step=True)


def parameters(net: dn.Network) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return copies of each layer's W, shape (n, n_prev), and b, shape (n,)."""
    layers = range(1, len(net.layers) + 1)
    return [(np.array(net.parameters[f"W{i}"]), np.array(net.parameters[f"b{i}"]).ravel()) for i in layers]


PEERS = {
    "scikit-learn": scikit_learn,
    "pytorch": pytorch,
    "pytorch compiled": pytorch_compiled,
    "jax": jax_scan,
    "jax steps": jax_steps,
}
MODULES = {"scikit-learn": "sklearn", "pytorch": "torch"}


def absent(peer: str) -> str | None:
    """Return the reason why a peer is not available, or None if it is available."""
    first = peer.partition(" ")[0]
    module = MODULES.get(first, first)
    if find_spec(module) is None:
        return f'{module} is not installed; to get it: pip install "deepnotes[peers]"'
    if peer == "pytorch compiled" and not any(map(which, ("c++", "g++", "clang++"))):
        return "torch.compile needs a C++ compiler, but none was found"
    return None


def installed() -> list[str]:
    """Return the names of the available peers."""
    return [name for name in PEERS if absent(name) is None]
