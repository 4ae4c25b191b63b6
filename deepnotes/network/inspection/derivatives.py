"""The outputs of hidden layers, derivatives of a network by its inputs, and products with the Hessian of its cost."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deepnotes.backends.foreign_arrays import as_host, to_host
from deepnotes.backends.program import Data
from deepnotes.equations.array import Array, Namespace
from deepnotes.equations.ops import Ops
from deepnotes.network.array_validation import check_finite
from deepnotes.network.inputs import as_samples, is_native
from deepnotes.network.inspection.formulas import layer_names
from deepnotes.nn.dual_numbers import Dual, DualNamespace
from deepnotes.nn.plan import Plan
from deepnotes.nn.steps import backward, forward, gradient_step
from deepnotes.utils.errors import ArgumentError, NotAnExpressionError, ShapeError, UnknownParameterError, unknown_name

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike


def activations(network: "NetworkLike", X: Any, layer: int | None) -> Any:
    """Return the outputs of one layer or of all layers; see :meth:`deepnotes.Network.activations`."""
    names = layer_names(network.layers, network.inputs)
    wanted = None if layer is None else _output_name(layer, names[-1].number)
    samples = as_samples(network, X, together=True)
    arrays: dict[str, Array] = {"A0": samples}

    def keep(name: str, index: int, A: Array) -> None:
        arrays[names[index - 1].after] = A

    with np.errstate(all="ignore"), network.backend.execution_context():
        parameters = network.layout.split(network.backend.xp, network.theta)
        forward(network.backend.ops, network.layers, parameters, samples, network.seed, None, keep)
    if wanted is not None:
        return _like(network, X, arrays[wanted])
    return {name: _like(network, X, A) for name, A in arrays.items() if name != "A0"}


def _output_name(layer: int, last: int) -> str:
    """Return the name of the output of the layer with the parameters ``W[layer]``."""
    if isinstance(layer, bool) or not isinstance(layer, int | np.integer) or not -last <= layer <= last:
        raise ArgumentError.of("layer", layer, f"a whole number from {-last} to {last}")
    return f"A{layer if layer >= 0 else last + 1 + layer}"


def input_gradient(network: "NetworkLike", plan: Plan, data: Data, X: Any) -> Any:
    """Return ``∂L/∂X`` of each sample; see :meth:`deepnotes.Network.input_gradient`."""
    backend = network.backend
    found: list[Array] = []

    def keep(name: str, index: int, array: Array) -> None:
        if name == "dA" and index == 0:
            found.append(array)

    with np.errstate(all="ignore"), backend.execution_context():
        decays = backend.from_numpy(network.layout.decays().astype(plan.dtype))
        gradient_step(backend.ops, plan, network.theta, decays, None, *data, observe=keep)
        dX = _per_unit(network, found[0])
    return _like(network, X, dX)


def jacobian(network: "NetworkLike", X: Any) -> Any:
    """Return the derivative of each output by each input; see :meth:`deepnotes.Network.jacobian`."""
    ops, xp, layers = network.backend.ops, network.backend.xp, network.layers
    samples = as_samples(network, X, together=True)
    if not samples.shape[1]:  # the backward pass divides by the number of samples
        return _like(network, X, network.from_host(np.zeros((network.outputs, network.inputs, 0))))
    with np.errstate(all="ignore"), network.backend.execution_context():
        parameters = network.layout.split(xp, network.theta)
        A, caches = forward(ops, layers, parameters, samples, network.seed, None)
        rows = []
        k, m = A.shape
        for output in range(k):
            unit = network.from_host(np.repeat(np.arange(k)[:, None] == output, m, axis=1))
            dA, _ = backward(ops, layers, parameters, caches, unit)
            rows.append(xp.reshape(_per_unit(network, dA), (1, network.inputs, m)))
        derivative = xp.concat(rows, axis=0)
    return _like(network, X, derivative)


def hessian_vector_product(network: "NetworkLike", plan: Plan, data: Data, v: Any) -> Any:
    """Return the Hessian of the cost times `v`; see :meth:`deepnotes.Network.hessian_vector_product`.

    The gradient step runs on dual numbers, in float64: forward accumulation over the backward pass.
    """
    backend, layout = network.backend, network.layout
    xp = backend.xp
    by_name = isinstance(v, Mapping)
    host = _join(network, v) if by_name else _vector(network, v, "v", (layout.size,))
    is_trained = np.arange(layout.size) < layout.trained  # the cost of a batch does not depend on statistics
    direction = network.from_host(host * is_trained)
    X, Y, w = (None if array is None else Dual(xp, array) for array in data)
    theta, step = Dual(xp, network.theta, direction), Dual(xp, xp.asarray(0, dtype=backend.integer))
    ops = Ops(cast(Namespace, DualNamespace(xp)), {})
    with np.errstate(all="ignore"), backend.execution_context():
        decays = Dual(xp, network.from_host(layout.decays()))
        try:
            arrays: Any = theta, decays, step, X, Y, w
            g: Any = gradient_step(ops, plan, *arrays).flat
        except NotAnExpressionError as error:
            raise NotAnExpressionError(f"the network or its loss uses {error}") from None
        product: Any = backend.to_numpy(xp.zeros_like(g.value) if g.tangent is None else g.tangent) * is_trained
    return layout.by_name(cast(Namespace, np), product) if by_name else product


def _join(network: "NetworkLike", v: Mapping[str, Any]) -> np.ndarray:
    """Return a vector from its parts by the names of parameters, 0 for those that are missing, shape (p,)."""
    layout, joined = network.layout, np.zeros(network.layout.size)
    for name, part in v.items():
        if name not in layout.entries:
            raise UnknownParameterError(str(unknown_name("parameter", name, layout.entries)))
        entry = layout.entries[name]
        joined[entry.start : entry.stop] = _vector(network, part, f"v[{name!r}]", entry.parameter.shape).ravel()
    return joined


def _vector(network: "NetworkLike", v: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array as float64, after a check of its shape and values."""
    host = as_host(network.backend, to_host(network.backend, v, name), name)
    if host.shape != shape:
        raise ShapeError.of(name, host.shape, str(shape))
    values = host.astype(np.float64)
    check_finite(network.backend, values, name, host)
    return values


def _per_unit(network: "NetworkLike", dA: Array) -> Array:
    """Return a derivative by the inputs, given that by the standardized inputs."""
    standardizer = network.standardizer
    return dA if standardizer is None else dA / network.from_host(standardizer.scale)


def _like(network: "NetworkLike", X: Any, result: Array) -> Any:
    """Return a result as an array of the backend if X is one, else as a NumPy array."""
    return result if is_native(network, X) else np.array(network.backend.to_numpy(result))
