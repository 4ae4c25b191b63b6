"""Libraries that train the same network on the same GPU, and predict with it: deepnotes, PyTorch and JAX.

Each has a class, whose object lives in a process of its own (see :mod:`benchmarks.gpu.worker`). The object keeps there
what it has prepared, so that only names, sizes and times are passed between processes.
"""

import gc
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import deepnotes as dn
from benchmarks.gpu.cases import BETA1, BETA2, EPSILON, LEARNING_RATE, MATMUL, Case
from benchmarks.jax_training import adam_step
from deepnotes_cupy.device import TIMED

GRAPH_STEPS = 16
"""The number of training steps in one CUDA graph of PyTorch."""
SHOWN = 64
"""The number of samples whose predictions are compared."""


class Training(NamedTuple):
    """A training that is ready to continue."""

    first_loss: float
    """The mean loss of the first epoch, with the samples in order."""
    train: Callable[[int], object]
    """Trains for a number of epochs, with the samples in random order, and waits until the device is done."""
    train_on_other_data: Callable[[int], object] | None = None
    """Does the same with other data of the same shape."""


class Prediction(NamedTuple):
    """A network and samples on the device."""

    predict: Callable[[], Any]
    """Predicts all samples; the result is an array on the device, which may not be complete yet."""
    wait: Callable[[], object]
    """Waits until the device is done."""
    first_outputs: np.ndarray
    """The outputs for the first :data:`SHOWN` samples, shape (samples, n[L])."""


class Library:
    """A library that trains and predicts."""

    def __init__(self) -> None:
        self._training: Training | None = None
        self._prediction: Prediction | None = None

    def training(self, case: Case, precision: str, X: np.ndarray, y: np.ndarray, start: dn.Network) -> Training:
        """Train for one epoch with the samples in order; `start` is a network with the initial parameters."""
        raise NotImplementedError

    def prediction(self, X: np.ndarray, start: dn.Network) -> Prediction:
        """Move a network and samples to the device."""
        raise NotImplementedError

    def release(self) -> None:
        """Drop what was prepared before."""
        self._training = self._prediction = None
        gc.collect()

    def prepare_training(self, case: Case, precision: str) -> float:
        """Prepare a case, and return the mean loss of the first epoch."""
        self.release()
        self._training = self.training(case, precision, *case.data(), case.start())
        return self._training.first_loss

    def fit(self, epochs: int, on_other_data: bool = False) -> float:
        """Train for a number of epochs, and return the seconds that it took."""
        assert self._training is not None
        train = self._training.train_on_other_data if on_other_data else self._training.train
        assert train is not None
        began = time.perf_counter()
        train(epochs)
        return time.perf_counter() - began

    def timings(self) -> dict[str, list[float]]:
        """Return the times of the ways between which the library has chosen since the last call, by what they do."""
        return {}

    def prepare_prediction(self, sizes: Sequence[int], samples: int) -> np.ndarray:
        """Prepare a network and samples, and return the first outputs."""
        self.release()
        case = Case(tuple(sizes), 1)
        self._prediction = self.prediction(case.data(samples)[0], case.start())
        return self._prediction.first_outputs

    def predict(self, calls: int, in_a_row: bool) -> float:
        """Return the mean seconds of several calls; with `in_a_row`, wait for the device only after the last one."""
        assert self._prediction is not None
        predict, wait, _ = self._prediction
        wait()
        began = time.perf_counter()
        for _ in range(calls):
            predict()
            if not in_a_row:
                wait()
        wait()
        return (time.perf_counter() - began) / calls


class Timings(logging.Handler):
    """Collects the times of the ways between which the CuPy backend has chosen, in milliseconds."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.collected: dict[str, list[float]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Collect the times in a message; others are ignored."""
        if record.msg == TIMED and isinstance(record.args, tuple):
            key, times = record.args
            self.collected[str(key)] = times  # type: ignore[assignment]


class Deepnotes(Library):
    """The CuPy backend, the limits of its device, and other measurements that only this library has.

    Parameters
    ----------
    device : int
        The number of the device.
    """

    def __init__(self, device: int = 0) -> None:
        super().__init__()
        self._device = device
        self._timings = Timings()
        logger = logging.getLogger("deepnotes")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self._timings)
        self._products: Callable[[], float] | None = None
        self._resident: Callable[[], object] | None = None
        self._description = self.backend().describe()

    def backend(self, precision: str = "float32", **options: Any) -> Any:
        """Return the CuPy backend."""
        return dn.get_backend("cupy", device=self._device, matmul_precision=MATMUL[precision], **options)

    def host_backend(self) -> Any:
        """Return the Numba backend, or the NumPy backend if Numba is not available."""
        try:
            return dn.get_backend("numba")
        except dn.BackendUnavailable:
            return dn.get_backend("numpy")

    def describe(self) -> str:
        """Return the device and the versions of the libraries."""
        return self._description

    def release(self) -> None:
        """Drop what was prepared before."""
        self._products = self._resident = None
        super().release()

    def training(self, case: Case, precision: str, X: np.ndarray, y: np.ndarray, start: dn.Network) -> Training:
        """Train for one epoch, with the data on the device."""
        return ours(self.backend(precision), case, X, y, start)

    def prediction(self, X: np.ndarray, start: dn.Network) -> Prediction:
        """Move a network and samples to the device."""
        backend = self.backend()
        net = dn.Network(list(start.layers), start.inputs, backend=backend, theta=start.flat(), seed=0)
        samples, device = backend.from_numpy(X.T), backend.device

        def wait() -> None:
            with device.section():
                device.synchronize(device.record_event())

        return Prediction(partial(net.predict, samples), wait, backend.to_numpy(net.predict(samples))[:, :SHOWN].T)

    def timings(self) -> dict[str, list[float]]:
        """Return the times of the ways in milliseconds, see :meth:`Library.timings`."""
        collected, self._timings.collected = self._timings.collected, {}
        return collected

    def prepare_products(self, case: Case, precision: str) -> None:
        """Prepare the products of a step alone, besides the training that is prepared."""
        from benchmarks.gpu import device  # imports CuPy, as the next methods do

        self._products = device.products(case, precision, self.backend(precision).device)

    def products(self) -> float:
        """Return the seconds of the products of a step."""
        assert self._products is not None
        return self._products()

    def limits(self, parameters: int) -> dict[str, float]:
        """Return the time of a node of a graph, and the bandwidths of a copy and of an update of the parameters."""
        from benchmarks.gpu import device

        return device.node(self.backend().device) | device.bandwidths(self.backend().device, parameters)

    def prepare_streaming(self, case: Case, samples: int) -> int:
        """Prepare training with samples on the host, streamed or sent once per fit, and return their bytes."""
        self.release()
        X, y = case.data(samples)
        start, trainings = case.start(), []
        for resident_bytes in (1 << 20, 1 << 40):
            backend = self.backend(resident_bytes=resident_bytes)
            net = dn.Network(case.layers, case.sizes[0], backend=backend, theta=start.flat(), seed=0)
            trainings.append(_fit(net, case, X.T, y))
        streamed, resident = trainings
        self._training = Training(streamed(1).loss[0], streamed)
        self._resident = partial(resident, 1)
        self._resident()
        return X.nbytes

    def fit_resident(self) -> float:
        """Return the seconds of a fit for one epoch that sends all samples first."""
        assert self._resident is not None
        began = time.perf_counter()
        self._resident()
        return time.perf_counter() - began

    def pinned_copy(self, size: int) -> float:
        """Return the seconds of copying about `size` bytes from pinned memory to the device, in pieces of 64 MiB."""
        from benchmarks.gpu import device

        return device.pinned_copy(self.backend().device, size)

    def conformance(self, precision: str) -> dict[str, Any]:
        """Run the conformance checks, and return a summary of the report."""
        from deepnotes.testing import run

        report = run(self.backend(precision), quick=precision != "float32")
        counts = {verdict: report.count(verdict) for verdict in ("passed", "failed", "known gap", "not applicable")}
        failures = {r.check: r.message for r in report.results if r.verdict == "failed"}
        return {"counts": counts, "failures": failures, "environment": report.environment}

    def crossover(self, width: int, batch: int) -> dict[str, float]:
        """Return the microseconds of a step on the CuPy backend and on a backend of the host, for two hidden layers."""
        case = Case((width, width, width, 10), batch)
        X, y = case.data(batch * min(case.batches, max(1, (1 << 28) // (width * width * batch))))
        times = {}
        for backend in (self.backend(), self.host_backend()):
            train = ours(backend, case, X, y, case.start()).train
            train(1)
            began = time.perf_counter()
            train(1)
            epochs = max(1, round(0.1 / (time.perf_counter() - began)))
            began = time.perf_counter()
            train(epochs)
            steps = epochs * len(X) // batch
            times[backend.name] = round((time.perf_counter() - began) / steps * 1e6, 2)
        return times


def ours(backend: Any, case: Case, X: np.ndarray, y: np.ndarray, start: dn.Network) -> Training:
    """Train for one epoch on a backend of deepnotes, with the data in arrays of that backend."""
    net = dn.Network(case.layers, case.sizes[0], backend=backend, theta=start.flat(), seed=0)
    other = _fit(net, case, backend.from_numpy(X[::-1].copy().T), backend.from_numpy(y[::-1].copy()))
    train = _fit(net, case, backend.from_numpy(X.T), backend.from_numpy(y))
    return Training(train(1, shuffle=False).loss[0], train, other)


def _fit(net: dn.Network, case: Case, X: Any, y: Any) -> Callable[..., Any]:
    """Return a function that trains for a number of epochs."""
    optimizer = dn.Adam(LEARNING_RATE, BETA1, BETA2, EPSILON)

    def fit(epochs: int, shuffle: bool = True) -> Any:
        return net.fit(X, y, optimizer=optimizer, batch_size=case.batch, epochs=epochs, shuffle=shuffle)

    return fit


class PyTorch(Library):
    """PyTorch's ``nn.Sequential`` with the fused Adam.

    Parameters
    ----------
    mode : {"eager", "compiled", "graph"}
        Whether steps run eagerly, with ``torch.compile``, or :data:`GRAPH_STEPS` at a time in a captured CUDA graph.
    device : str
    """

    def __init__(self, mode: str = "eager", device: str = "cuda") -> None:
        import torch

        super().__init__()
        self._mode, self._device = mode, device
        torch.zeros(1, device=device)

    def release(self) -> None:
        """Drop what was prepared before."""
        import torch

        super().release()
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def training(self, case: Case, precision: str, X: np.ndarray, y: np.ndarray, start: dn.Network) -> Training:
        """Train for one epoch."""
        import torch

        torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
        samples, targets = torch.from_numpy(X).to(self._device), torch.from_numpy(y).to(self._device)
        model, graph = self._model(start), self._mode == "graph"
        optimizer = torch.optim.Adam(
            model.parameters(), LEARNING_RATE, (BETA1, BETA2), EPSILON, fused=True, capturable=graph
        )
        cost, total = self._cost(model, precision, samples, targets), torch.zeros((), device=self._device)

        def step(batch: Any) -> None:
            if self._mode == "compiled":
                torch.compiler.cudagraph_mark_step_begin()
            optimizer.zero_grad(set_to_none=True)
            loss = cost(batch)
            loss.backward()
            optimizer.step()
            total.add_(loss.detach())

        def epoch(order: Any) -> None:
            for batch in order.split(case.batch):
                step(batch)

        train_epoch = self._captured(case, step, model, optimizer, total) if graph else epoch
        train_epoch(torch.arange(len(X), device=self._device))
        first_loss = total.item() / case.batches
        keep_alive = samples, targets, model, optimizer, total  # a graph reads and writes them, but does not own them

        def train(epochs: int) -> None:
            for _ in range(epochs):
                train_epoch(torch.randperm(len(keep_alive[0]), device=self._device))
            total.item()  # waits for the device

        return Training(first_loss, train)

    def _cost(self, model: Any, precision: str, samples: Any, targets: Any) -> Callable[[Any], Any]:
        """Return a function that gathers a batch and returns its mean loss."""
        import torch
        from torch import nn

        cross_entropy, half = nn.CrossEntropyLoss(), precision == "bfloat16"

        def cost(batch: Any) -> Any:
            with torch.autocast(self._device, torch.bfloat16, enabled=half):
                return cross_entropy(model(samples[batch]), targets[batch])

        return torch.compile(cost, mode="reduce-overhead") if self._mode == "compiled" else cost

    def _captured(
        self, case: Case, step: Callable[[Any], None], model: Any, optimizer: Any, total: Any
    ) -> Callable[[Any], None]:
        """Capture several steps as a CUDA graph, and return a function that trains for an epoch by replaying it."""
        import torch

        steps = math.gcd(GRAPH_STEPS, case.batches)
        indices = torch.arange(steps * case.batch, device=self._device).view(steps, case.batch)

        def run() -> None:
            for batch in indices:
                step(batch)

        replay = self._capture(run, model, optimizer, total)

        def epoch(order: Any) -> None:
            for batches in order.view(-1, steps, case.batch):
                indices.copy_(batches)
                replay()

        return epoch

    def prediction(self, X: np.ndarray, start: dn.Network) -> Prediction:
        """Move a network, with softmax at the end, and samples to the device."""
        import torch
        from torch import nn

        torch.set_float32_matmul_precision("highest")
        model, samples = self._model(start).append(nn.Softmax(1)), torch.from_numpy(X).to(self._device)

        def predict() -> Any:
            with torch.inference_mode():
                return model(samples)

        wait = torch.cuda.synchronize if self._device == "cuda" else lambda: None
        return Prediction(predict, wait, predict()[:SHOWN].cpu().numpy())

    def _model(self, start: dn.Network) -> Any:
        """Return the network without softmax as a module on the device, with the parameters of `start`."""
        import torch
        from torch import nn

        parameters = _parameters(start)
        modules = [module for W in parameters[::2] for module in (nn.Linear(W.shape[1], W.shape[0]), nn.ReLU())]
        model = nn.Sequential(*modules[:-1]).to(self._device)
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), parameters, strict=True):
                parameter.copy_(torch.from_numpy(value))
        return model

    def _capture(self, run: Callable[[], None], model: Any, optimizer: Any, total: Any) -> Callable[[], None]:
        """Capture `run`, undo the changes that its warm-up made to the state, and return a function that replays it."""
        import torch

        initial = [parameter.detach().clone() for parameter in model.parameters()]
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side_stream)
        optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), initial, strict=True):
                parameter.copy_(value)
            for slots in optimizer.state.values():
                for slot in slots.values():
                    slot.zero_()
            total.zero_()
        return graph.replay


class JAX(Library):
    """JAX: an epoch is one ``lax.scan`` in a function that is compiled once per case and reuses the state's memory."""

    def __init__(self) -> None:
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the other libraries need memory, too
        import jax

        super().__init__()
        jax.devices()

    def training(self, case: Case, precision: str, X: np.ndarray, y: np.ndarray, start: dn.Network) -> Training:
        """Train for one epoch."""
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

        step = adam_step(cost, LEARNING_RATE, BETA1, BETA2, EPSILON)

        # Samples and targets are arguments: arrays from an enclosing scope would become constants of the compiled code.
        @partial(jax.jit, donate_argnums=0)
        def epoch(state: Any, samples: Any, targets: Any, order: Any) -> Any:
            with jax.default_matmul_precision(algorithm if on_gpu else "highest"):
                return jax.lax.scan(
                    lambda state, batch: step(state, samples[batch], targets[batch]),
                    state,
                    order.reshape(-1, case.batch),
                )

        flat = [jnp.asarray(value) for value in _parameters(start)]
        layers = list(zip(flat[::2], flat[1::2], strict=True))
        state: Any = layers, jax.tree.map(jnp.zeros_like, layers), jax.tree.map(jnp.zeros_like, layers), jnp.float32(0)
        state, losses = epoch(state, samples, targets, jnp.arange(len(X)))
        first_loss, key = float(losses.mean()), jax.random.key(0)

        def train(epochs: int) -> None:
            nonlocal state, key
            losses = None
            for _ in range(epochs):
                key, epoch_key = jax.random.split(key)
                state, losses = epoch(state, samples, targets, jax.random.permutation(epoch_key, len(X)))
            jax.block_until_ready((state, losses))

        return Training(first_loss, train)


def _parameters(net: dn.Network) -> list[np.ndarray]:
    """Return copies of W1, b1, W2, b2, ...; each b has the shape (n,)."""
    layers = range(1, len(net.layers) + 1)
    return [np.array(net.parameters[f"{key}{i}"]).reshape((-1,) if key == "b" else net.parameters[f"W{i}"].shape)
            for i in layers for key in "Wb"]  # fmt: skip


RIVALS: dict[str, Callable[[], Library]] = {
    "pytorch graph": partial(PyTorch, mode="graph"),
    "jax": JAX,
    "pytorch": PyTorch,
    "pytorch compiled": partial(PyTorch, mode="compiled"),
}
"""The libraries to compare with, by name; their processes start with these functions."""
