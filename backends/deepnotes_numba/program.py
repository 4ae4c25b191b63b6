"""The Program of this backend: a plan lowered to tables, and calls of the compiled training."""

import logging
from math import isfinite
from typing import Any

import numpy as np

from deepnotes.activations import Activation
from deepnotes.array import Array
from deepnotes.backend import Backend
from deepnotes.layers import Dense, Dropout
from deepnotes.losses import Loss
from deepnotes.optimizers import SGD, Adam, AdamW, RMSProp
from deepnotes.plan import Plan
from deepnotes.program import Chunk, Data, EagerProgram, State
from deepnotes.steps import fuses
from deepnotes_numba import activations, interpreter, losses, training, updates
from deepnotes_numba.compiling import cache_folder

THETA = training.train.py_func.__code__.co_varnames.index("theta")
"""The place of θ among the arguments of the compiled training."""


class NumbaProgram(EagerProgram):
    """A Program that trains a chunk of mini-batches inside one compiled call, on one thread (the BLAS has its own).

    Parameters
    ----------
    backend : Backend
    plan : Plan
        Of the library's own parts only.
    """

    def __init__(self, backend: Backend, plan: Plan) -> None:
        super().__init__(backend, plan)
        self._layers, self._options = _tables(plan)
        self._elements = interpreter.workspace(self._layers)
        self._loss, self._delta = _loss(plan)
        self._optimizer, self._numbers = _optimizer(plan)
        self._dtype = np.dtype(plan.dtype)
        self._buffers: tuple[int, tuple[np.ndarray, ...]] = (0, ())

    def train(self, state: State, data: Data, order: np.ndarray, batch_size: int, rates: np.ndarray) -> Chunk:
        """Make one update per mini-batch; see :meth:`deepnotes.program.Program.train`."""
        order = np.ascontiguousarray(order, dtype=np.int64)
        samples = data.X.shape[1]
        if len(order) and not 0 <= order.min() <= order.max() < samples:  # the compiled code does not look again
            raise IndexError(f"order holds indices outside 0 .. {samples - 1}")
        _announce(self._dtype)
        loss_sum = weight_sum = 0.0
        made, compiled = 0, True
        while True:
            # The compiled training stops where an update may overflow: the eager one makes it, or says that it cannot.
            stop = len(rates) if compiled else made + 1
            train = self._train if compiled else super().train
            chunk = train(state, data, order[made * batch_size : stop * batch_size], batch_size, rates[made:stop])
            loss_sum, weight_sum, made = loss_sum + chunk.loss_sum, weight_sum + chunk.weight_sum, made + chunk.steps
            if made == len(rates) or not isfinite(chunk.cost) or not (compiled or chunk.steps):
                return Chunk(loss_sum, weight_sum, made, chunk.cost)
            compiled = not compiled

    def _train(self, state: State, data: Data, order: np.ndarray, batch_size: int, rates: np.ndarray) -> Chunk:
        """Train as far as the compiled code goes by itself."""
        X, by_sample = _readable(data.X)
        Y = _plain(data.Y, self._dtype)  # class indices too, so that there is one type to compile for
        w = np.empty((1, 0), self._dtype) if data.w is None else _plain(data.w, self._dtype)
        slots = [*state.slots, *[np.empty(0, self._dtype)] * 2][:2]
        batch_size = min(batch_size, len(order))
        loss_sum, weight_sum, made, cost = training.train(
            self._layers, self._options, self._loss, self._delta, self.plan.class_indices, data.w is not None,
            by_sample, X.ctypes.data, X.shape, Y, w, order, batch_size, rates, state.theta,
            *self._take(batch_size, slots), self._optimizer, self._numbers, self.plan.layout.decaying,
            np.uint64(self.plan.seed), state.step, self.safe,
        )  # fmt: skip
        state.step += made
        return Chunk(loss_sum, weight_sum, made, cost)

    def _take(self, batch: int, slots: list[Any]) -> tuple[Any, ...]:
        """Return gradient, slots, workspace, targets and shares for batches of up to this size."""
        if self._buffers[0] != batch:
            outputs = 1 if self.plan.class_indices else self.plan.layout.sizes[-1]
            sizes = (self.plan.layout.size, self._elements * batch, outputs * batch, batch)
            self._buffers = batch, tuple(_aligned(size, self._dtype) for size in sizes)
        g, *rest = self._buffers[1]
        return (g, *slots, *rest)


def _announce(dtype: np.dtype) -> None:
    """Say once in a process, before the wait, that there is one: nothing compiled is at hand for this dtype."""
    compiled = any(str(types[THETA].dtype) == dtype.name for types in training.train.signatures)
    if not compiled and not any(cache_folder().glob("*/training.train-*.nbc")):
        logging.getLogger("deepnotes").warning(
            "numba: compiling for %s, which takes some ten seconds, once; the result is kept in %s",
            dtype,
            cache_folder(),
        )


def _aligned(size: int, dtype: np.dtype) -> np.ndarray:
    """Return a new array that begins on a cache line, so that no vector of a row lies across two."""
    raw = np.empty(size + 64 // dtype.itemsize, dtype)
    skip = -raw.ctypes.data % 64 // dtype.itemsize
    return raw[skip : skip + size]


def _readable(X: Array) -> tuple[np.ndarray, bool]:
    """Return X in C order and whether it is by sample; a copy only of what has neither order."""
    x = np.asarray(X)
    if x.T.flags.c_contiguous and not x.flags.c_contiguous:
        return x.T, True
    return np.ascontiguousarray(x), False


def _plain(x: Array, dtype: np.dtype) -> np.ndarray:
    """Return x as a writable C-ordered array of `dtype`."""
    return np.require(np.asarray(x), dtype, ["C", "W"])


def _tables(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Return a row of integers and an option for each layer."""
    starts = {(e.layer, e.key): e.start for e in plan.layout.entries.values()}
    rows, options = [], []
    for index, layer in enumerate(plan.layers):
        sizes = plan.layout.sizes[index : index + 2]
        if isinstance(layer, Dense) and isinstance(layer.g, Activation):
            code = activations.CODES[layer.g.name]
            rows.append([interpreter.DENSE, *sizes, starts[index, "W"], starts[index, "b"], code, index + 1, 0, 0, 0])
            options.append(next((value for _, value in layer.g.options), 0.0))
        elif isinstance(layer, Dropout):
            rows.append([interpreter.DROPOUT, *sizes, 0, 0, activations.IDENTITY, index + 1, 0, 0, 0])
            options.append(layer.rate)
        else:
            raise TypeError(f"{layer!r} is not one of the library's")
    return np.array(rows, np.int64), np.array(options)


def _loss(plan: Plan) -> tuple[int, float]:
    loss, last = plan.loss, plan.layers[-1]
    if not isinstance(loss, Loss):
        raise TypeError(f"{loss!r} is not one of the library's")
    code = losses.CODES[loss.name]
    if fuses(last, loss):
        code = {losses.BINARY: losses.SIGMOID_FUSED, losses.CATEGORICAL: losses.SOFTMAX_FUSED}[code]
    return code, float(dict(loss.options).get("delta", 1.0))


def _optimizer(plan: Plan) -> tuple[int, tuple[float, ...]]:
    """Return the optimizer's code, and l2, clip (0 for none), epsilon, both betas, and decay."""
    o = plan.optimizer
    code, epsilon, beta1, beta2, decay = updates.SGD, 0.0, 0.0, 0.0, 0.0
    if isinstance(o, SGD):
        code = updates.SGD if not o.momentum else updates.NESTEROV if o.nesterov else updates.MOMENTUM
        beta1 = o.momentum
    elif isinstance(o, RMSProp):
        code, epsilon, beta2 = updates.RMSPROP, o.epsilon, o.rho
    elif isinstance(o, Adam):
        code, epsilon, beta1, beta2 = updates.ADAM, o.epsilon, o.beta1, o.beta2
        decay = o.weight_decay if isinstance(o, AdamW) else 0.0
    clip = 0.0 if plan.clip_norm is None else plan.clip_norm
    return code, tuple(float(x) for x in (plan.l2, clip, epsilon, beta1, beta2, decay))
