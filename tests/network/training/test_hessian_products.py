"""Products of Hessians with vectors, compared with PyTorch (tests/fixtures/make_hessians.py) and with differences."""

from pathlib import Path
from typing import Any, cast

import array_api_strict
import numpy as np
import part_networks
import pytest
from test_pytorch import CASES, STORED, network, settings, split_by_name, weights

import deepnotes as dn

with np.load(Path(__file__).parents[2] / "fixtures" / "hessians.npz") as file:
    PRODUCTS = dict(file)

LAYERS: dict[str, list[dn.Layer]] = {
    "layer_norm": [dn.LayerNorm(), dn.Dense(7, "tanh"), dn.LayerNorm(0.01), dn.Dense(3)],
    "rms_norm": [dn.RMSNorm(), dn.Dense(7, "tanh"), dn.RMSNorm(0.01), dn.Dense(3)],
    "prelu": [dn.Dense(7), dn.PReLU(), dn.Dense(6), dn.PReLU(), dn.Dense(3)],
    "residual": [
        dn.Residual([dn.Dense(7, "tanh"), dn.Dense(5)]),
        dn.Dense(6, "silu"),
        dn.Residual([dn.LayerNorm(), dn.Dense(6, "relu"), dn.Residual([dn.Dense(6, "tanh")])]),
        dn.Dense(3),
    ],
    "glu": [dn.GLU(7), dn.Dense(3)],
    "swiglu": [dn.SwiGLU(7), dn.SwiGLU(3)],
}
X, Y = STORED["X"], STORED["real"]
STRICT = dn.Backend("strict", array_api_strict)
BACKENDS = pytest.mark.parametrize("backend", ["numpy", "numba", STRICT], ids=["numpy", "numba", "strict"])


def of_layers(name: str, backend: Any = "numpy") -> dn.Network:
    net = dn.Network(LAYERS[name], inputs=5, backend=backend, dtype="float64", seed=0)
    net.parameters.update(split_by_name(net, PRODUCTS[f"{name}/start"]))
    return net


def compare(net: dn.Network, name: str, found: dict[str, np.ndarray]) -> None:
    """Compare a product with PyTorch's, to 1e-10 of the largest element."""
    wanted = PRODUCTS[name]
    for key, part in split_by_name(net, wanted).items():
        np.testing.assert_allclose(found[key], part, rtol=0, atol=1e-10 * abs(wanted).max())


def direction(net: dn.Network) -> dict[str, np.ndarray]:
    return split_by_name(net, PRODUCTS["v"][: net.layout.size])


@pytest.mark.parametrize("name", sorted(CASES.keys() & PRODUCTS.keys()))
def test_products_match_pytorch_for_all_activations_and_losses(name: str) -> None:
    case = CASES[name]
    net = network(case, "recorded")
    options = {key: value for key, value in settings(case).items() if key in ("loss", "l2")}
    found = net.hessian_vector_product(X, STORED[case.targets], direction(net), sample_weight=weights(case), **options)
    compare(net, name, found)


@BACKENDS
@pytest.mark.parametrize("name", LAYERS)
def test_products_match_pytorch_for_all_layers(name: str, backend: Any) -> None:
    net = of_layers(name, backend)
    compare(net, name, net.hessian_vector_product(X, Y, direction(net)))


def difference(net: dn.Network, v: np.ndarray, step: float, *data: Any, **options: Any) -> Any:
    """Return the central difference of the gradient in the direction v, in the order of the flat buffer."""
    theta, sides = net.flat(), list[Any]()
    for sign in (1, -1):
        net.set_flat(theta + sign * step * v)
        g = net.gradients(*data, **options)
        sides.append(net.layout.join(cast(Any, np), _layers(net, g)))
    net.set_flat(theta)
    return (sides[0] - sides[1]) / (2 * step)


def _layers(net: dn.Network, g: dict[str, Any]) -> list[dict[str, Any]]:
    """Return arrays by name as a list with one dict for each layer."""
    by_layer: list[dict[str, Any]] = [{} for _ in net.layers]
    for entry in net.layout.entries.values():
        by_layer[entry.layer][entry.key] = net.backend.to_numpy(g.get(entry.name, np.zeros(entry.parameter.shape)))
    return by_layer


def test_a_product_is_the_derivative_of_the_gradient_with_dropout_noise_and_l2() -> None:
    layers = [dn.Dense(8, "gelu"), dn.Dropout(0.3), dn.Noise(0.2), dn.LayerNorm(), dn.SwiGLU(6), dn.Dense(3, "softmax")]
    scaled = dn.Standardizer.fit(X)
    net = dn.Network(layers, inputs=5, backend="numpy", dtype="float64", seed=3, standardizer=scaled)
    v = np.random.default_rng(0).normal(size=net.layout.size)
    options: dict[str, Any] = {"Y": STORED["labels"], "sample_weight": STORED["weight"], "l2": 0.1}
    found = net.hessian_vector_product(X, v=v, **options)
    np.testing.assert_allclose(found, difference(net, v, 1e-5, X, **options), rtol=0, atol=1e-7 * abs(found).max())
    by_name = net.hessian_vector_product(X, v=net.layout.by_name(np, v), **options)
    np.testing.assert_array_equal(np.concatenate([by_name[name].ravel() for name in net.layout.entries]), found)


def test_statistics_have_no_part_in_a_product() -> None:
    layers = [dn.BatchNorm(), dn.Dense(4, "tanh"), dn.BatchNorm(), dn.Dense(3)]
    net = dn.Network(layers, inputs=5, backend="numpy", dtype="float64", seed=3)
    v = np.random.default_rng(0).normal(size=net.layout.size)
    found = net.hessian_vector_product(X, Y, v)
    trained = net.layout.trained
    assert not found[trained:].any()
    v[trained:] = 0
    np.testing.assert_array_equal(net.hessian_vector_product(X, Y, v), found)
    wanted = difference(net, v, 1e-5, X, Y)
    np.testing.assert_allclose(found[:trained], wanted[:trained], rtol=0, atol=1e-7 * abs(found).max())


@pytest.mark.parametrize(
    "part",
    [part for part in part_networks.PARTS if not isinstance(part, dn.Optimizer)],
    ids=lambda part: type(part).__name__,
)
def test_user_defined_activations_and_losses_have_products(part: Any) -> None:
    net, options = part_networks.make_network(part, "float64", "numpy")
    inputs, targets = part_networks.make_data(part)
    v = np.random.default_rng(0).normal(size=net.layout.size)
    found = net.hessian_vector_product(inputs, targets, v, loss=options["loss"])
    wanted = difference(net, v, 1e-6, inputs, targets, loss=options["loss"])
    assert np.median(abs(found - wanted)) < 1e-7 * abs(found).max()  # at a kink, the difference is wrong
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * abs(found).max())


def test_a_hessian_is_symmetric() -> None:
    net = of_layers("residual")
    p = net.layout.size
    H = np.array([net.hessian_vector_product(X, Y, row) for row in np.eye(p)[:40]])
    np.testing.assert_allclose(H[:, :40], H[:, :40].T, rtol=0, atol=1e-14)


def test_parts_that_are_left_out_are_0() -> None:
    net = of_layers("glu")
    v = {name: np.zeros(W.shape) for name, W in net.parameters.items()} | {"b2": np.ones((3, 1))}
    found, wanted = (net.hessian_vector_product(X, Y, part) for part in ({"b2": np.ones((3, 1))}, v))
    assert list(found) == list(net.parameters)
    for name, part in found.items():
        np.testing.assert_array_equal(part, wanted[name])
    zeros = net.hessian_vector_product(X, Y, {})
    assert not any(part.any() for part in zeros.values())


def test_a_network_in_single_precision_gives_the_product_in_double_precision() -> None:
    net = of_layers("layer_norm")
    single = dn.Network(net.layers, inputs=5, dtype="float32", seed=0, theta=net.flat(), backend="numpy")
    net.set_flat(single.flat().astype(np.float64))
    v = PRODUCTS["v"][: net.layout.size]
    found = single.hessian_vector_product(X, Y, v)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, net.hessian_vector_product(X, Y, v))
    assert single.dtype == "float32"


class Sine(dn.ActivationFunction):
    """An activation with a function outside the array protocol."""

    def forward(self, ops: dn.Ops, Z: Any) -> Any:
        return ops.xp.sin(Z)  # type: ignore[attr-defined]

    def backward(self, ops: dn.Ops, dA: Any, Z: Any, A: Any) -> Any:
        return dA * ops.xp.cos(Z)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("v", "error", "message"),
    [
        (np.ones(3), dn.ShapeError, r"v has shape \(3,\), wanted \(78,\)"),
        ({"W9": np.ones((7, 5))}, dn.UnknownParameterError, "unknown parameter 'W9'"),
        ({"W2": np.ones((5, 7))}, dn.ShapeError, r"v\['W2'\] has shape \(5, 7\), wanted \(7, 5\)"),
        (np.full(78, np.nan), dn.DataError, "v"),
        (np.ones(78) * 1j, dn.DTypeError, "v: got an array of complex128"),
        (None, dn.DTypeError, "v"),
    ],
)
def test_invalid_vectors_are_refused(v: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        of_layers("rms_norm").hessian_vector_product(X, Y, v)


def test_functions_outside_the_protocol_are_named() -> None:
    net = dn.Network([dn.Dense(3, Sine())], inputs=5, backend="numpy")
    with pytest.raises(dn.NotAnExpressionError, match="the network or its loss uses sin, which is not in the array"):
        net.hessian_vector_product(X, Y, np.ones(net.layout.size))
