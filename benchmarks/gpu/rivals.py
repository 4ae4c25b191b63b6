"""Libraries that train the same network on the same GPU: deepnotes, three variants of PyTorch, and JAX.

Each library has a function that takes a case, a precision, the data and a network with the initial parameters. It
trains for one epoch with the samples in order, and returns a :class:`Rival`.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

import deepnotes as dn
from benchmarks.gpu.cases import BETA1, BETA2, EPSILON, LEARNING_RATE, MATMUL, Case


class Rival(NamedTuple):
    """A library that is ready to train a network."""

    first_loss: float
    """The mean loss of the first epoch, with the samples in order."""
    train: Callable[[int], None]
    """Trains for a number of epochs, with the samples in random order, and waits until the device is done."""


def deepnotes(case: Case, precision: str, X: np.ndarray, y: np.ndarray, start: dn.Network, device: int = 0) -> Rival:
    """Set up training on the CuPy backend, with the data on the device."""
    backend = dn.get_backend("cupy", device=device, matmul_precision=MATMUL[precision])
    return ours(backend, case, X, y, start)


def ours(backend: dn.Backend, case: Case, X: np.ndarray, y: np.ndarray, start: dn.Network) -> Rival:
    """Set up training on a backend of deepnotes, with the data in arrays of that backend."""
    net = dn.Network(case.layers, case.sizes[0], backend=backend, theta=start.flat(), seed=0)
    samples, classes = backend.from_numpy(X.T), backend.from_numpy(y)
    fit = partial(net.fit, samples, classes, optimizer=dn.Adam(LEARNING_RATE, BETA1, BETA2, EPSILON))

    def train(epochs: int) -> None:
        fit(batch_size=case.batch, epochs=epochs)

    return Rival(fit(batch_size=case.batch, epochs=1, shuffle=False).loss[0], train)


def pytorch(
    case: Case,
    precision: str,
    X: np.ndarray,
    y: np.ndarray,
    start: dn.Network,
    mode: str = "eager",
    device: str = "cuda",
) -> Rival:
    """Set up PyTorch's training of ``nn.Sequential`` with the fused Adam.

    Parameters
    ----------
    case, precision, X, y, start
        As described at the top of the module.
    mode : {"eager", "compiled", "graph"}
        Whether to run eagerly, with ``torch.compile``, or as a captured CUDA graph.
    device : str
    """
    import torch
    from torch import nn

    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    samples, targets = torch.from_numpy(X).to(device), torch.from_numpy(y).to(device)
    model = _torch_model(case, start, device)
    graph = mode == "graph"
    optimizer = torch.optim.Adam(
        model.parameters(), LEARNING_RATE, (BETA1, BETA2), EPSILON, fused=True, capturable=graph
    )
    cross_entropy, half = nn.CrossEntropyLoss(), precision == "bfloat16"

    def cost(batch: Any) -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            return cross_entropy(model(samples[batch]), targets[batch])

    if mode == "compiled":
        cost = torch.compile(cost, mode="reduce-overhead")
    total = torch.zeros((), device=device)

    def step(batch: Any) -> None:
        if not graph:  # a captured graph overwrites the gradients in their buffers
            optimizer.zero_grad(set_to_none=True)
        loss = cost(batch)
        loss.backward()
        optimizer.step()
        total.add_(loss.detach())

    run_step = _captured_step(case, step, model, optimizer, total) if graph else step

    def epoch(order: Any) -> None:
        for batch in order.split(case.batch):
            if mode == "compiled":
                torch.compiler.cudagraph_mark_step_begin()
            run_step(batch)

    epoch(torch.arange(len(X), device=device))
    first_loss = total.item() / case.batches

    def train(epochs: int) -> None:
        for _ in range(epochs):
            epoch(torch.randperm(len(X), device=device))
        total.item()  # waits for the device

    return Rival(first_loss, train)


def _torch_model(case: Case, start: dn.Network, device: str) -> Any:
    """Return the network of a case as a module on the device, with the parameters of `start`."""
    import torch
    from torch import nn

    pairs = zip(case.sizes, case.sizes[1:], strict=False)
    modules = [module for n_prev, n in pairs for module in (nn.Linear(n_prev, n), nn.ReLU())]
    model = nn.Sequential(*modules[:-1]).to(device)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), _parameters(start), strict=True):
            parameter.copy_(torch.from_numpy(value))
    return model


def _captured_step(
    case: Case, step: Callable[[Any], None], model: Any, optimizer: Any, total: Any
) -> Callable[[Any], None]:
    """Capture `step` as a CUDA graph; return a function that replays it for the indices of a batch."""
    import torch

    indices = torch.arange(case.batch, device=total.device)
    replay = _capture(lambda: step(indices), model, optimizer, total)

    def run(batch: Any) -> None:
        indices.copy_(batch)
        replay()

    return run


def _capture(step: Callable[[], None], model: Any, optimizer: Any, total: Any) -> Callable[[], None]:
    """Capture `step`, undo the changes that its warm-up made to the state, and return a function that replays it."""
    import torch

    initial = [parameter.detach().clone() for parameter in model.parameters()]
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            step()
    torch.cuda.current_stream().wait_stream(side_stream)
    optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), initial, strict=True):
            parameter.copy_(value)
        for slots in optimizer.state.values():
            for slot in slots.values():
                slot.zero_()
        total.zero_()
    return graph.replay


def jax(case: Case, precision: str, X: np.ndarray, y: np.ndarray, start: dn.Network) -> Rival:
    """Set up JAX's training: an epoch is one ``lax.scan`` in a compiled function, which reuses the state's memory."""
    import jax
    import jax.numpy as jnp

    on_gpu = jax.default_backend() == "gpu"
    algorithm = {"float32": "F32_F32_F32", "tf32": "TF32_TF32_F32", "bfloat16": "BF16_BF16_F32"}[precision]
    samples, targets = jnp.asarray(X), jnp.asarray(y[:, None], jnp.int32)

    def cost(layers: Any, A: Any, Y: Any) -> Any:
        for W, b in layers[:-1]:
            A = jax.nn.relu(A @ W.T + b)
        W, b = layers[-1]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(A @ W.T + b), Y, axis=1))

    def step(state: Any, batch: Any) -> Any:
        layers, m, v, t = state
        loss, gradient = jax.value_and_grad(cost)(layers, samples[batch], targets[batch])
        t = t + 1
        m = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, gradient)
        v = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, gradient)

        def update(theta: Any, m: Any, v: Any) -> Any:
            m_hat, v_hat = m / (1 - BETA1**t), v / (1 - BETA2**t)
            return theta - LEARNING_RATE * m_hat / (jnp.sqrt(v_hat) + EPSILON)

        return (jax.tree.map(update, layers, m, v), m, v, t), loss

    @partial(jax.jit, donate_argnums=0)
    def epoch(state: Any, order: Any) -> Any:
        with jax.default_matmul_precision(algorithm if on_gpu else "highest"):
            return jax.lax.scan(step, state, order.reshape(-1, case.batch))

    flat = [jnp.asarray(value) for value in _parameters(start)]
    layers = list(zip(flat[::2], flat[1::2], strict=True))
    state: Any = layers, jax.tree.map(jnp.zeros_like, layers), jax.tree.map(jnp.zeros_like, layers), jnp.float32(0)
    state, losses = epoch(state, jnp.arange(len(X)))
    first_loss, key = float(losses.mean()), jax.random.key(0)

    def train(epochs: int) -> None:
        nonlocal state, key
        losses = None
        for _ in range(epochs):
            key, epoch_key = jax.random.split(key)
            state, losses = epoch(state, jax.random.permutation(epoch_key, len(X)))
        jax.block_until_ready((state, losses))

    return Rival(first_loss, train)


def _parameters(net: dn.Network) -> list[np.ndarray]:
    """Return copies of W1, b1, W2, b2, ...; each b has the shape (n,)."""
    layers = range(1, len(net.layers) + 1)
    return [np.array(net.parameters[f"{key}{i}"]).reshape((-1,) if key == "b" else net.parameters[f"W{i}"].shape)
            for i in layers for key in "Wb"]  # fmt: skip


PEERS: dict[str, Callable[..., Rival]] = {
    "pytorch eager": pytorch,
    "pytorch graph": partial(pytorch, mode="graph"),
    "pytorch compiled": partial(pytorch, mode="compiled"),
    "jax": jax,
}


def installed() -> dict[str, Callable[..., Rival]]:
    """Return the functions for the libraries that are installed, by name."""
    modules = {"jax": "jax"}
    return {name: peer for name, peer in PEERS.items() if find_spec(modules.get(name, "torch"))}
