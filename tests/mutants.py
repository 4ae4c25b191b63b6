"""Backends with one realistic fault each, and the conformance check that detects it."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.eager import EagerInference, EagerProgram
from deepnotes.backends.inference import Inference
from deepnotes.backends.program import Batches, Chunk, Data, Program, State
from deepnotes.equations import EQUATIONS
from deepnotes.nn.activations import Activation, as_formula
from deepnotes.nn.expressions import Expression, Node
from deepnotes.nn.layers import Dense
from deepnotes.nn.optimizers import SGD, Adam, AdamW, RMSProp
from deepnotes.nn.plan import Plan
from deepnotes.nn.steps import Gradient, gradient_step


class Mutant(NamedTuple):
    """A fault, the check that detects it, and a function that creates the faulty backend."""

    fault: str
    check: str
    make: Callable[[], Backend]


def kernel(name: str, function: Callable[..., Any]) -> Callable[[], Backend]:
    """Return a function that creates a NumPy backend with one equation replaced."""

    @wraps(EQUATIONS[name])
    def replacement(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, **options)

    return lambda: Backend("mutant", np, {name: replacement})


def program(program_class: type[EagerProgram]) -> Callable[[], Backend]:
    """Return a function that creates a NumPy backend whose programs are instances of `program_class`."""

    class ProgramBackend(Backend):
        def compile(self, plan: Plan) -> Program:
            return program_class(self, plan)

    return lambda: ProgramBackend("mutant", np)


def inference(inference_class: type[EagerInference]) -> Callable[[], Backend]:
    """Return a function that creates a NumPy backend whose inference is an instance of `inference_class`."""

    class InferenceBackend(Backend):
        def compile_inference(self, layers: Any, layout: Any, dtype: str) -> Inference:
            return inference_class(self, layers, layout, dtype)

    return lambda: InferenceBackend("mutant", np)


def namespace(**functions: Callable[..., Any]) -> Callable[[], Backend]:
    """Return a function that creates a backend on NumPy's namespace, with these functions replaced."""

    def make() -> Backend:
        module = SimpleNamespace(**{name: getattr(np, name) for name in dir(np) if not name.startswith("__")})
        for name, function in functions.items():
            setattr(module, name, function)
        return Backend("mutant", module)

    return make


# --- equations --------------------------------------------------------------------------------------------------------


def _drop_last_term(xp: ModuleType, W: Any, A_prev: Any, b: Any) -> Any:
    return W[:, :-1] @ A_prev[:-1] + b


def _tf32(x: np.ndarray) -> np.ndarray:
    if x.dtype != np.float32:
        return x
    bits = x.view(np.int32) if x.flags.c_contiguous else np.ascontiguousarray(x).view(np.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(np.float32)


def _tf32_product(xp: ModuleType, W: Any, A: Any, b: Any) -> Any:
    return _tf32(W) @ _tf32(A) + b


def _rounded_up(xp: ModuleType, W: Any, A: Any, b: Any) -> Any:
    return np.nextafter(W @ A + b, W.dtype.type(np.inf))


def _averaged_twice(xp: ModuleType, W: Any, dZ: Any) -> Any:
    return W.T @ dZ * (1 / dZ.shape[1])


def _square_transposed(xp: ModuleType, W: Any, dZ: Any) -> Any:
    return (W if W.shape[0] == W.shape[1] else W.T) @ dZ


def _relu_without_nan(xp: ModuleType, Z: Any) -> Any:
    return np.where(Z > 0, Z, np.zeros_like(Z))


def _leaky_relu_0_01(xp: ModuleType, Z: Any, slope: float = 0.01) -> Any:
    return np.where(Z >= 0, Z, slope * Z)


def _relu_slope_1_at_0(xp: ModuleType, dA: Any, Z: Any, A: Any) -> Any:
    return dA * (Z >= 0).astype(dA.dtype)


def _widened_sigmoid(xp: ModuleType, Z: Any) -> Any:
    return 1 / (1 + np.exp(-Z.astype(np.float64)))


def _wrong_axis(xp: ModuleType, dZ: Any) -> Any:
    square = dZ.shape[0] == dZ.shape[1]
    return np.sum(1 / dZ.shape[1] * dZ, axis=0 if square else 1).reshape(-1, 1)


def _unstable_tanh(xp: ModuleType, Z: Any) -> Any:
    Z = np.clip(Z, -40, 40)
    return (np.exp(Z) - np.exp(-Z)) / (np.exp(Z) + np.exp(-Z))


def _softmax_without_max(xp: ModuleType, Z: Any) -> Any:
    return np.exp(Z) / np.sum(np.exp(Z), axis=0, keepdims=True)


def _epsilon_inside(  # noqa: PLR0913 - an equation of nine symbols
    xp: ModuleType, theta: Any, g: Any, m: Any, v: Any, rate: Any, epsilon: Any, b1: Any, b2: Any
) -> Any:
    m, v = b1 * m + g, b2 * v + g * g
    return theta - rate * (m / np.sqrt(v + epsilon)), m, v


def _wrong_momentum_sign(
    xp: ModuleType, theta: Any, g: Any, v: Any, rate: Any, momentum: Any, nesterov: bool = False
) -> Any:
    v = momentum * v - g
    return theta + rate * (momentum * v - g if nesterov else -v * -1), v


def _plain_momentum(
    xp: ModuleType, theta: Any, g: Any, v: Any, rate: Any, momentum: Any, nesterov: bool = False
) -> Any:
    v = momentum * v + g
    return theta - rate * v, v


def _in_place_relu(xp: ModuleType, Z: Any) -> Any:
    if not Z.flags.writeable:
        return np.maximum(Z, 0)
    return np.maximum(Z, 0, out=Z)


def _sum_sequentially(x: np.ndarray) -> np.ndarray:
    """Return the sums over the last axis, added up sequentially."""
    return np.add.accumulate(x, axis=-1)[..., -1]


def _sequential_product(xp: ModuleType, dZ: Any, A_prev: Any) -> Any:
    return _sum_sequentially((1 / dZ.shape[1] * dZ)[:, None, :] * A_prev[None, :, :])


def _sequential_bias(xp: ModuleType, dZ: Any) -> Any:
    return _sum_sequentially(1 / dZ.shape[1] * dZ)[:, None]


def _loss_with_cancellation(xp: ModuleType, Z: Any, Y: Any) -> Any:
    return np.mean(np.maximum(Z, 0) + np.log1p(np.exp(-abs(Z))) - Y * Z, axis=0, keepdims=True, dtype=Z.dtype)


def _loss_without_log1p(xp: ModuleType, Z: Any, Y: Any, label_smoothing: float = 0.0) -> Any:
    Y = Y - label_smoothing * (Y - 1 / len(Y))
    Z = Z - np.max(Z, axis=0, keepdims=True)
    return -np.sum(Y * (Z - np.log(np.sum(np.exp(Z), axis=0, keepdims=True))), axis=0, keepdims=True)


def _half_precision_sum(xp: ModuleType, dZ: Any) -> Any:
    return np.sum((1 / dZ.shape[1] * dZ).astype(np.float16), axis=1, keepdims=True).astype(dZ.dtype)


def _clip_elements(xp: ModuleType, g: Any, max_norm: float) -> Any:
    return np.clip(g, -max_norm, max_norm).astype(g.dtype)


def _flush(x: Any) -> Any:
    return np.where(abs(x) < np.finfo(x.dtype).tiny, np.zeros_like(x), x)


# --- programs ---------------------------------------------------------------------------------------------------------


class _StepOffByOne(EagerProgram):
    def update(self, state: State, g: Any, rate: float) -> None:
        state.step += 1
        super().update(state, g, rate)
        state.step -= 1


class _DecaysBiases(EagerProgram):
    def __init__(self, backend: Backend, plan: Plan) -> None:
        super().__init__(backend, plan)
        self.decays = np.ones_like(self.decays)  # type: ignore[assignment]


class _StaleBuffer(EagerProgram):
    """Copies each batch into a buffer as large as the largest batch so far, and computes with the whole buffer."""

    def batch(self, data: Data, indices: np.ndarray) -> Data:
        current = super().batch(data, indices)
        previous = getattr(self, "_previous", None)
        if previous is not None and previous.X.shape[1] > current.X.shape[1]:
            m = current.X.shape[1]
            current = Data(
                *(
                    None if a is None else np.concatenate([a, b[:, m:]], axis=1)
                    for a, b in zip(current, previous, strict=True)
                )
            )
        self._previous = current
        return current


class _ScalesByFullBatchSize(EagerProgram):
    def train(self, state: State, batches: Batches) -> Chunk:
        self._full = batches.batch_size
        try:
            return super().train(state, batches)
        finally:
            del self._full

    def gradients(self, state: State, data: Data) -> Gradient:
        gradient = super().gradients(state, data)
        return gradient._replace(flat=gradient.flat * (data.X.shape[1] / getattr(self, "_full", data.X.shape[1])))


class _SameMask(EagerProgram):
    def gradients(self, state: State, data: Data) -> Gradient:
        return gradient_step(self.ops, self.plan, state.theta, self.decays, np.asarray(0), *data)


class _RandomMask(EagerProgram):
    def gradients(self, state: State, data: Data) -> Gradient:
        step = np.asarray(np.random.randint(1 << 30))  # noqa: NPY002
        return gradient_step(self.ops, self.plan, state.theta, self.decays, step, *data)


class _IgnoresWeights(EagerProgram):
    def gradients(self, state: State, data: Data) -> Gradient:
        return super().gradients(state, Data(data.X, data.Y))


class _FillsUpBatches(EagerProgram):
    """Fills up a batch to a whole block with copies of the last sample, whose weight is 0."""

    def gradients(self, state: State, data: Data) -> Gradient:
        m = data.X.shape[1]
        filled = -(-m // 16) * 16
        copies: Any = np.minimum(np.arange(filled), m - 1)
        weights: Any = np.ones((1, m)) if data.w is None else data.w
        w = weights[:, copies] * (np.arange(filled) < m) * (filled / m)
        batch = Data(data.X[:, copies], data.Y[:, copies], w.astype(self.plan.dtype))
        return super().gradients(state, batch)._replace(weight=np.float64(m))


class _TrainsOnNan(EagerProgram):
    def train(self, state: State, batches: Batches) -> Chunk:
        data, order, batch_size, rates, (loss_sum, weight_sum) = batches
        cost = 0.0
        for update, rate in enumerate(rates.tolist()):
            gradient = self.gradients(state, self.batch(data, order[update * batch_size : (update + 1) * batch_size]))
            self.update(state, gradient.flat, rate)
            cost = float(gradient.cost)
            loss_sum, weight_sum = loss_sum + cost * float(gradient.weight), weight_sum + float(gradient.weight)
        return Chunk(loss_sum, weight_sum, len(rates), cost)


class _SgdForUnknown(EagerProgram):
    def __init__(self, backend: Backend, plan: Plan) -> None:
        known = type(plan.optimizer) in (SGD, RMSProp, Adam, AdamW)
        super().__init__(backend, plan if known else replace(plan, optimizer=SGD(0.1)))


def _miscompiled(change: Callable[[Node], Node]) -> type[EagerProgram]:
    """Return a program that computes the activations of user-defined classes by formulas with changed nodes."""

    def changed(formula: Expression) -> Expression:
        return replace(formula, nodes=tuple(change(node) for node in formula.nodes))

    def miscompile(layer: Any, outputs: int, dtype: str) -> Any:
        if not isinstance(layer, Dense) or type(layer.g) is Activation:
            return layer
        g = as_formula(layer.g, dtype, outputs)
        return replace(layer, activation=replace(g, formula=changed(g.formula), derivative=changed(g.derivative)))

    class Miscompiled(EagerProgram):
        def __init__(self, backend: Backend, plan: Plan) -> None:
            pairs = zip(plan.layers, plan.layout.sizes[1:], strict=True)
            super().__init__(backend, replace(plan, layers=tuple(miscompile(*pair, plan.dtype) for pair in pairs)))

    return Miscompiled


class _SharedBuffer(EagerProgram):
    def gradients(self, state: State, data: Data) -> Gradient:
        gradient = super().gradients(state, data)
        if not hasattr(self, "_buffer"):
            self._buffer = np.empty_like(gradient.flat)
        self._buffer[...] = gradient.flat
        return gradient._replace(flat=self._buffer)


class _OldParameters(EagerInference):
    def predict(self, theta: Any, X: Any) -> Any:
        if not hasattr(self, "_theta"):
            self._theta = theta
        return super().predict(self._theta, X)


class _DropoutInPredictions(EagerInference):
    def predict(self, theta: Any, X: Any) -> Any:
        from deepnotes.nn.steps import forward

        parameters = self.layout.split(np, theta)
        return forward(self.backend.ops, self.layers, parameters, X, 0, np.asarray(0))[0]


class _SharedWorkspace(EagerInference):
    def predict(self, theta: Any, X: Any) -> Any:
        import time

        self._X = X
        time.sleep(1e-3)  # long enough for another thread to overwrite it
        return super().predict(theta, self._X)


class _MisreadingBackend(Backend):
    """Reads the memory of every array as if it were in C order."""

    def from_numpy(self, x: np.ndarray, dtype: Any = None) -> Any:
        return np.asarray(x.ravel(order="K").reshape(x.shape), dtype=dtype)


class _WideningBackend(Backend):
    def from_numpy(self, x: np.ndarray, dtype: Any = None) -> Any:
        x = np.asarray(x, dtype=dtype)
        return x.astype(np.float64) if x.dtype == np.float32 else x


class _FlushingArray(np.ndarray):
    """An array whose arithmetic flushes subnormal numbers to 0."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        plain = [np.asarray(x) if isinstance(x, np.ndarray) else x for x in inputs]
        result = getattr(ufunc, method)(*plain, **options)
        if isinstance(result, np.ndarray | np.floating) and result.dtype.kind == "f":
            return np.asarray(_flush(np.asarray(result))).view(_FlushingArray)
        return result


class _FlushingBackend(Backend):
    def from_numpy(self, x: np.ndarray, dtype: Any = None) -> Any:
        return np.asarray(x, dtype=dtype).view(_FlushingArray)

    def to_numpy(self, x: Any) -> np.ndarray:
        return np.asarray(x)

    def is_array(self, x: object) -> bool:
        return isinstance(x, np.ndarray)


def _wrong_coefficient(xp: ModuleType, G: Any, steps: int, epsilon: float) -> Any:
    X = (G.T if G.shape[0] > G.shape[1] else G) / np.maximum(np.sqrt(np.sum(G * G)), np.asarray(epsilon, G.dtype))
    for _ in range(steps):
        S = X @ X.T
        X = 3.4455 * X + (2.0315 * (S @ S) - 4.7750 * S) @ X
    return X.T if G.shape[0] > G.shape[1] else X


def _reversed_pairs(xp: ModuleType, g: Any, S: Any, Y: Any) -> Any:
    return EQUATIONS["lbfgs_direction"](xp, g, S[::-1], Y[::-1])


def _long_step(xp: ModuleType, g: Any, S: Any, Y: Any) -> Any:
    return EQUATIONS["lbfgs_direction"](xp, g, S, Y) if any(np.any(y) for y in Y) else -2 * g


MUTANTS = [
    Mutant("the last term of a product is dropped", "equations.linear", kernel("linear", _drop_last_term)),
    Mutant("1/m is forgotten", "equations.weight_gradient", kernel("weight_gradient", lambda xp, dZ, A: dZ @ A.T)),
    Mutant("1/m is applied twice", "equations.input_gradient", kernel("input_gradient", _averaged_twice)),
    Mutant("the bias gradient sums the wrong axis", "equations.bias_gradient", kernel("bias_gradient", _wrong_axis)),
    Mutant("ReLU swallows NaN", "semantics.nan.relu", kernel("relu", _relu_without_nan)),
    Mutant("the leaky slope is 0.01", "equations.leaky_relu", kernel("leaky_relu", _leaky_relu_0_01)),
    Mutant("the derivative of ReLU at 0 is 1", "semantics.ties", kernel("relu_backward", _relu_slope_1_at_0)),
    Mutant("products use TF32 instead of float32", "semantics.precision", kernel("linear", _tf32_product)),
    Mutant("results are biased by one unit in the last place", "semantics.bias", kernel("linear", _rounded_up)),
    Mutant("tanh is computed by an unstable formula", "equations.tanh", kernel("tanh", _unstable_tanh)),
    Mutant(
        "softmax does not subtract the maximum", "semantics.extremes.softmax", kernel("softmax", _softmax_without_max)
    ),
    Mutant("Adam's bias correction is off by one step", "programs.optimizer.adam", program(_StepOffByOne)),
    Mutant("epsilon is inside the root", "equations.adam", kernel("adam", _epsilon_inside)),
    Mutant("the momentum has the wrong sign", "equations.momentum", kernel("momentum", _wrong_momentum_sign)),
    Mutant(
        "Nesterov momentum is computed as plain momentum", "equations.momentum", kernel("momentum", _plain_momentum)
    ),
    Mutant("a coefficient of Muon is off by 1e-3", "programs.muon", kernel("orthogonalize", _wrong_coefficient)),
    Mutant(
        "the pairs of L-BFGS are in the wrong order",
        "equations.lbfgs_direction",
        kernel("lbfgs_direction", _reversed_pairs),
    ),
    Mutant("the first step of L-BFGS is twice too long", "programs.lbfgs", kernel("lbfgs_direction", _long_step)),
    Mutant("weight decay is applied to biases, too", "programs.optimizer.adamw", program(_DecaysBiases)),
    Mutant("a buffer is left over from the last batch", "programs.ragged_batch", program(_StaleBuffer)),
    Mutant("the last batch is scaled by the full size", "programs.ragged_batch", program(_ScalesByFullBatchSize)),
    Mutant("square weights are transposed", "equations.input_gradient", kernel("input_gradient", _square_transposed)),
    Mutant("every step has the same dropout mask", "programs.dropout", program(_SameMask)),
    Mutant("dropout masks do not depend on the seed", "determinism.training", program(_RandomMask)),
    Mutant("float32 is widened", "equations.sigmoid", kernel("sigmoid", _widened_sigmoid)),
    Mutant("float32 is widened when it is transferred", "transfers.round_trip", lambda: _WideningBackend("mutant", np)),
    Mutant("the input is overwritten", "equations.relu", kernel("relu", _in_place_relu)),
    Mutant(
        "memory that is not contiguous is misread", "transfers.round_trip", lambda: _MisreadingBackend("mutant", np)
    ),
    Mutant(
        "a sum is computed in half precision", "equations.bias_gradient", kernel("bias_gradient", _half_precision_sum)
    ),
    Mutant("maximum ignores NaN", "semantics.nan.namespace", namespace(maximum=np.fmax)),
    Mutant(
        "elements are clipped, instead of the norm",
        "equations.clip_by_global_norm",
        kernel("clip_by_global_norm", _clip_elements),
    ),
    Mutant("sample weights are not scaled", "equations.sample_scale", kernel("sample_scale", lambda xp, w: w * 1)),
    Mutant("sample weights are ignored", "programs.sample_weights", program(_IgnoresWeights)),
    Mutant(
        "samples that fill up a block count in the statistics", "programs.layer.batch_norm", program(_FillsUpBatches)
    ),
    Mutant("training continues after a NaN", "programs.not_finite", program(_TrainsOnNan)),
    Mutant("a result is overwritten by the next one", "semantics.stale", program(_SharedBuffer)),
    Mutant("predictions use old parameters", "inference.new_parameters", inference(_OldParameters)),
    Mutant("predictions apply dropout", "inference.samples", inference(_DropoutInPredictions)),
    Mutant("all threads share a workspace", "selection.concurrent_predictions", inference(_SharedWorkspace)),
    Mutant(
        "a weight gradient is summed sequentially",
        "programs.many_samples",
        kernel("weight_gradient", _sequential_product),
    ),
    Mutant(
        "a bias gradient is summed sequentially", "semantics.many_samples", kernel("bias_gradient", _sequential_bias)
    ),
    Mutant(
        "small losses are computed as a difference",
        "semantics.tails",
        kernel("sigmoid_cross_entropy", _loss_with_cancellation),
    ),
    Mutant(
        "small losses are computed as log(1 + x)",
        "inference.tails",
        kernel("softmax_cross_entropy", _loss_without_log1p),
    ),
    Mutant("an optimizer without a kernel trains as SGD", "programs.unknown_parts", program(_SgdForUnknown)),
    Mutant(
        "a kernel for a user-defined activation computes minimum as maximum",
        "programs.own_parts.hard_swish",
        program(_miscompiled(lambda node: node._replace(operation="maximum") if node.operation == "minimum" else node)),
    ),
    Mutant(
        "a kernel for a user-defined activation has another option",
        "programs.own_parts.soft_shrink",
        program(_miscompiled(lambda node: node._replace(value=0.5) if node.value == 0.4 else node)),
    ),
    Mutant(
        "subnormals are flushed to 0, but this is not declared",
        "semantics.subnormals",
        lambda: _FlushingBackend("mutant", np),
    ),
]
"""The table in docs/conformance.md lists the same faults."""
