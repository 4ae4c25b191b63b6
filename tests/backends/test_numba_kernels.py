"""The kernels of the Numba backend: each agrees with the equation of the same name."""

from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.equations import EQUATIONS
from deepnotes.nn.activations import LIBRARY

pytestmark = pytest.mark.slow

pytest.importorskip("numba")

BACKEND = dn.get_backend("numba")
ACTIVATIONS = sorted(name for name in BACKEND.kernels if name in LIBRARY)
UPDATES = {"momentum": (1, (0.1, 0.9)), "rmsprop": (1, (0.1, 0.9, 1e-8)), "adam": (2, (0.1, 1e-8, 0.9, 0.999))}
SHAPES = [(1, 1), (3, 1), (1, 17), (7, 40), (130, 5)]


def random_array(shape: tuple[int, ...], dtype: str, scale: float = 4.0) -> np.ndarray:
    return (scale * np.random.default_rng(sum(shape)).normal(size=shape)).astype(dtype)


def assert_close(actual: Any, expected: Any, dtype: str) -> None:
    """Assert that two results differ by at most 32 units in the last place of the largest value."""
    expected = np.asarray(expected, dtype=np.float64)
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
    assert actual.dtype == dtype
    np.testing.assert_allclose(actual, expected, rtol=0, atol=32 * np.finfo(dtype).eps * scale)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_their_derivatives_agree_with_the_equations(
    name: str, shape: tuple[int, int], dtype: str
) -> None:
    Z, dA = random_array(shape, dtype), random_array(shape, dtype, 1.0)
    exact = Z.astype(np.float64)
    A = EQUATIONS[name](np, exact)
    assert_close(getattr(BACKEND.ops, name)(Z), A, dtype)
    expected = EQUATIONS[f"{name}_backward"](np, dA.astype(np.float64), exact, A)
    actual = getattr(BACKEND.ops, f"{name}_backward")(dA, Z, A.astype(dtype))
    assert_close(actual, expected, dtype)


@pytest.mark.parametrize(("name", "option"), [("leaky_relu", "slope"), ("elu", "alpha")])
def test_options_can_be_passed_by_name_and_by_position(name: str, option: str) -> None:
    Z = random_array((4, 9), "float64")
    expected = EQUATIONS[name](np, Z, 0.3)
    np.testing.assert_allclose(getattr(BACKEND.ops, name)(Z, 0.3), expected, rtol=1e-14)
    np.testing.assert_allclose(getattr(BACKEND.ops, name)(Z, **{option: 0.3}), expected, rtol=1e-14)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_nan_are_nan(name: str) -> None:
    Z = random_array((5, 33), "float32")
    Z[2, 20] = np.nan
    assert np.isnan(getattr(BACKEND.ops, name)(Z)[2, 20])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", UPDATES)
def test_updates_agree_with_the_equations(name: str, dtype: str) -> None:
    count, scalars = UPDATES[name]
    theta, g, *slots = (abs(random_array((1003,), dtype, s)) for s in (1.0, 0.5, 0.2, 0.3)[: 2 + count])
    before = [np.array(x) for x in (theta, g, *slots)]
    actual = getattr(BACKEND.ops, name)(theta, g, *slots, *scalars)
    expected = EQUATIONS[name](np, *(x.astype(np.float64) for x in before), *scalars)
    for result, value in zip(actual, expected, strict=True):
        assert_close(result, value, dtype)
    for x, y in zip((theta, g, *slots), before, strict=True):
        np.testing.assert_array_equal(x, y)  # the arguments are unchanged


def test_nesterov_momentum_agrees_with_the_equation() -> None:
    theta, g, v = (random_array((50,), "float64", s) for s in (1.0, 0.5, 0.2))
    actual = BACKEND.ops.momentum(theta, g, v, 0.1, 0.9, nesterov=True)
    for result, value in zip(actual, EQUATIONS["momentum"](np, theta, g, v, 0.1, 0.9, nesterov=True), strict=True):
        np.testing.assert_allclose(result, value, rtol=1e-14)


@pytest.mark.parametrize("shape", [*SHAPES, (4, 6)], ids=str)
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.999])
def test_dropout_masks_match_the_equation_bit_for_bit(shape: tuple[int, int], rate: float) -> None:
    arguments = (shape, rate, 2**64 - 5, np.asarray(2**40 + 7), 3, np.float32)
    actual = BACKEND.ops.dropout_mask(*arguments)
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, EQUATIONS["dropout_mask"](np, *arguments))


@pytest.mark.parametrize("layout", ["fortran", "strided", "read-only", "float16"])
def test_any_layout_and_dtype_is_accepted(layout: str) -> None:
    Z = random_array((6, 10), "float64")
    if layout == "fortran":
        Z = np.asfortranarray(Z)
    elif layout == "strided":
        Z = random_array((12, 20), "float64")[::2, ::-2]
    elif layout == "read-only":
        Z.flags.writeable = False
    else:
        Z = Z.astype(np.float16)
    actual = BACKEND.ops.silu(Z)
    assert actual.dtype == Z.dtype
    np.testing.assert_allclose(actual, EQUATIONS["silu"](np, Z), rtol=4 * float(np.finfo(Z.dtype).eps))


class Cubic(dn.ActivationFunction):
    """A user-defined activation with a power, which no expression has, so the network runs eagerly."""

    range = "real"

    def forward(self, ops: Any, Z: Any) -> Any:
        return Z**3

    def backward(self, ops: Any, dA: Any, Z: Any, A: Any) -> Any:
        return 3 * dA * Z * Z


def test_a_network_with_an_activation_that_cannot_be_traced_trains_as_on_numpy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    X, Y = random_array((5, 64), "float64", 1.0), random_array((1, 64), "float64", 1.0)
    parameters = []
    with caplog.at_level("DEBUG", "deepnotes"):
        for backend in ("numpy", "numba"):
            layers = [dn.Dense(8, "gelu"), dn.Dropout(0.3), dn.Dense(4, Cubic()), dn.Dense(1)]
            net = dn.Network(layers, inputs=5, backend=backend, dtype="float64", seed=0)
            net.fit(X, Y, epochs=3, batch_size=16)
            parameters.append(net.flat())
    np.testing.assert_allclose(parameters[1], parameters[0], rtol=0, atol=1e-12)
    assert "so it runs eagerly" in caplog.text
