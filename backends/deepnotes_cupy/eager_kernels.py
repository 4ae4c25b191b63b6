"""Level 2: equations as fused kernels and cuBLAS products of the chosen precision, for eager execution.

The equation itself is called for empty arrays, and for arrays that are neither float32 nor float64 or have an
unexpected number of dimensions.
"""

from collections.abc import Callable
from functools import cache, wraps
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends import ACTIVATIONS, Activation, trace
from deepnotes.equations import EQUATIONS
from deepnotes_cupy import control, generated
from deepnotes_cupy.arrays import flatten_by_sample, unflatten_by_sample
from deepnotes_cupy.lowering import LoweredActivation, identity, lower_activation, update_launch
from deepnotes_cupy.sources import Launch
from deepnotes_cupy.tape import Tape

if TYPE_CHECKING:
    from deepnotes_cupy.base import DeviceBackend

OPTIMIZERS = {"momentum": 1, "rmsprop": 1, "adam": 2}
"""The update equations with a kernel, and their numbers of slots."""


def kernels(backend: "DeviceBackend") -> dict[str, Callable[..., Any]]:
    """Return the functions that replace equations, by the name of the equation."""
    fused = FusedEquations(backend)
    table: dict[str, Callable[..., Any]] = {}
    for name in ACTIVATIONS:
        if name != "identity":
            table[name] = _kernel(name, 1, fused.activate, name)
            table[f"{name}_backward"] = _kernel(f"{name}_backward", 3, fused.backward, name)
    for name in ("linear", "weight_gradient", "input_gradient"):
        table[name] = _kernel(name, 2, getattr(fused, name))
    for name, slots in OPTIMIZERS.items():
        table[name] = _kernel(name, 2 + slots, fused.update, name, slots, matrices=False)
    table["dropout_mask"] = _kernel("dropout_mask", 0, fused.dropout_mask)
    return table


def _kernel(name: str, arrays: int, function: Callable[..., Any], *leading: Any, matrices: bool = True) -> Any:
    """Return a kernel: it calls `function` if its first `arrays` arguments are supported, else the equation.

    The arguments `leading` are passed to `function` before those of the equation.
    """
    equation = EQUATIONS[name]

    @wraps(equation)
    def kernel(xp: Any, *arguments: Any, **options: Any) -> Any:
        if arrays and not _are_supported(arguments[:arrays], 2 if matrices else 1):
            return equation(xp, *arguments, **options)
        return function(xp, *leading, *arguments, **options)

    return kernel


def _are_supported(arrays: tuple[Any, ...], dimensions: int) -> bool:
    """Return whether all arrays are non-empty, have the same float dtype, and have this number of dimensions."""
    dtype = arrays[0].dtype
    return dtype in (np.float32, np.float64) and all(
        x.ndim == dimensions and x.dtype == dtype and x.size for x in arrays
    )


class FusedEquations:
    """Functions that replace equations; they return new arrays, computed in the current stream.

    Parameters
    ----------
    backend : DeviceBackend
    """

    def __init__(self, backend: "DeviceBackend") -> None:
        self._backend, self._device = backend, backend.device

    # --- products ---------------------------------------------------------------------------------------------------

    def linear(self, xp: Any, W: Any, A_prev: Any, b: Any) -> Any:
        """Return ``Z = W A_prev + b`` (N2)."""
        (n, n_prev), m = W.shape, A_prev.shape[1]
        tape = self._tape(W)
        Z = self._device.empty(n * m, tape.dtype)
        operands, strides = (tape.factor(_flat(xp, W)), _factor(tape, xp, A_prev)), (n_prev, tape.stride(n_prev))
        tape.product((True, False), (n, m, n_prev), 1.0, *operands, Z, strides)
        b = _flat(xp, xp.broadcast_to(b, (n, 1)))
        tape.launch(identity().forward, (n, m), Z, b, None, None, 0, n, m)
        return self._run(tape, Z, n, m)

    def weight_gradient(self, xp: Any, dZ: Any, A_prev: Any) -> Any:
        """Return ``dW = (1/m) dZ A_prevᵀ`` (N13)."""
        (n, m), n_prev = dZ.shape, A_prev.shape[0]
        tape, scale = self._tape(dZ), self._scale(dZ)
        dW = self._device.empty(n * n_prev, tape.dtype)
        rounded = _factor(tape, xp, dZ, scale)
        tape.product_over_samples((n_prev, n, m), 1 / (m * scale), _factor(tape, xp, A_prev), rounded, dW)
        tape.run()
        return dW.reshape(n, n_prev)

    def input_gradient(self, xp: Any, W: Any, dZ: Any) -> Any:
        """Return ``dA_prev = Wᵀ dZ`` (N15)."""
        (n, n_prev), m = W.shape, dZ.shape[1]
        tape, scale = self._tape(W), self._scale(dZ)
        dA = self._device.empty(n_prev * m, tape.dtype)
        operands, strides = (tape.factor(_flat(xp, W)), _factor(tape, xp, dZ, scale)), (n_prev, tape.stride(n))
        tape.product((False, False), (n_prev, m, n), 1 / scale, *operands, dA, strides)
        return self._run(tape, dA, n_prev, m)

    # --- activations ------------------------------------------------------------------------------------------------

    def activate(self, xp: Any, name: str, Z: Any, *option: float, **options: float) -> Any:
        """Return ``A = g(Z)`` (N3)."""
        n, m = Z.shape
        tape = self._tape(Z)
        A = self._device.empty(n * m, tape.dtype)
        z = flatten_by_sample(xp, Z)
        g = _activation(name, tape.dtype, n, option, options)
        factor = () if g.by_rows else (None, 0)
        tape.launch(g.forward, (n, m), z, None, A, *factor, n, m)
        return self._run(tape, A, n, m)

    def backward(self, xp: Any, name: str, dA: Any, Z: Any, A: Any, *option: float, **options: float) -> Any:
        """Return ``dZ = dA * g'(Z)`` (N12)."""
        n, m = dA.shape
        tape = self._tape(dA)
        D = self._device.empty(n * m, tape.dtype)
        D.reshape(m, n)[...] = dA.T
        g = _activation(name, tape.dtype, n, option, options)
        z, a = (flatten_by_sample(xp, x) if needed else None for x, needed in ((Z, g.needs_Z), (A, g.needs_A)))
        sizes = (n, m) if g.by_rows else (None, 0, 1.0, None, n, m, m, 1.0)
        tape.launch(g.backward, (n, m), D, z, a, *sizes)
        return self._run(tape, D, n, m)

    # --- updates ----------------------------------------------------------------------------------------------------

    def update(
        self, xp: Any, name: str, slots: int, theta: Any, g: Any, *arguments: Any, **options: Any
    ) -> tuple[Any, ...]:
        """Return the next θ and slots of the update equation `name`, shape (p,) each."""
        if options:
            arguments = signature(EQUATIONS[name]).bind(None, theta, g, *arguments, **options).args[3:]
        tape, p = self._tape(theta), theta.size
        flags = tuple(x for x in arguments if isinstance(x, bool))
        numbers = [float(x) for x in arguments[slots : len(arguments) - len(flags)]]
        theta, *new_slots = (xp.array(x) for x in (theta, *arguments[:slots]))
        scalars = self._send(np.array([0.0, *numbers]))
        launch = _update(name, slots, tape.dtype, len(numbers), flags)
        tape.launch(launch, (p,), theta, _flat(xp, g), *new_slots, p, 0, self._control(), scalars)
        tape.run()
        return (theta, *new_slots)

    # --- dropout and samples ------------------------------------------------------------------------------------------

    def dropout_mask(
        self, xp: Any, shape: tuple[int, int], rate: float, seed: int, step: Any, layer: int, dtype: Any
    ) -> Any:
        """Return the dropout mask: 1 for elements that are kept, 0 for the others."""
        n, m = shape
        if not n * m:
            return xp.zeros(shape, dtype=dtype)
        tape = Tape(self._device, str(np.dtype(dtype)), "float32")
        mask = self._device.empty(n * m, tape.dtype)
        mask[...] = 1
        device_control = self._control(step=int(step))
        tape.launch("dropout", (n, m), mask, mask, n, m, round(rate * 2**32), seed, layer, device_control, 1.0)
        return self._run(tape, mask, n, m)

    def _tape(self, x: Any) -> Tape:
        dtype = str(x.dtype)
        return Tape(self._device, dtype, self._backend.factors(dtype))

    def _scale(self, dZ: Any) -> float:
        """Return the factor by which dZ is multiplied before it is rounded; only Programs use a dynamic scale."""
        scale = self._backend.loss_scale
        return float(scale) if isinstance(scale, int | float) and str(dZ.dtype) == "float32" else 1.0

    def _control(self, **values: float) -> Any:
        """Return a new structure ``Control`` on the device, with the given values in the fields of the keywords."""
        host = control.initial(0)
        for name, value in values.items():
            control.read(host)[name] = value
        return self._send(host)

    def _send(self, host: np.ndarray) -> Any:
        """Return a copy of a host array on the device."""
        with self._device.section():
            copy = self._device.empty(host.size, str(host.dtype))
            self._device.upload(host, copy)
        return copy

    def _run(self, tape: Tape, flat: Any, n: int, m: int) -> Any:
        tape.run()
        return unflatten_by_sample(flat, n, m)


def _flat(xp: Any, x: Any) -> Any:
    """Return the elements of an array, in C order, as a flat array."""
    return xp.ascontiguousarray(x).reshape(-1)


def _factor(tape: Tape, xp: Any, x: Any, scale: float = 1.0) -> Any:
    return tape.factor(flatten_by_sample(xp, x), x.shape[0], scale=scale)


def _activation(
    name: str, dtype: str, outputs: int, option: tuple[float, ...], options: dict[str, float]
) -> LoweredActivation:
    defaults = ACTIVATIONS[name].options
    values = defaults | dict(zip(defaults, option, strict=False)) | options
    return _lower(name, dtype, outputs, tuple(values.items()))


@cache
def _lower(name: str, dtype: str, outputs: int, options: tuple[tuple[str, float], ...]) -> LoweredActivation:
    return lower_activation(Activation(name, **dict(options)), dtype, outputs)


@cache
def _update(name: str, slots: int, dtype: str, scalars: int, flags: tuple[bool, ...]) -> Launch:
    """Return the kernel of an update equation; its scalars are arguments of the kernel, its last arguments `flags`."""
    arrays = ["theta", "g", *(f"slot{i}" for i in range(slots))]
    numbers = [f"scalar{i}" for i in range(scalars)]
    step = trace(
        lambda xp, *arguments: EQUATIONS[name](xp, *arguments, *flags), arrays, dtype, numbers=numbers, dimensions=1
    )
    return update_launch(generated.update(step, slots, numbers), slots)
