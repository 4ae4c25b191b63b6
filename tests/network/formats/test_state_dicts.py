"""Parameters under PyTorch's names: the same numbers in a ``torch.nn.Sequential``, and invalid entries are refused."""

from typing import Any

import array_api_strict
import numpy as np
import pytest

import deepnotes as dn

STRICT = dn.Backend("strict", array_api_strict)
LAYERS = [
    dn.Dense(8, "relu"),
    dn.Residual([dn.LayerNorm(), dn.Dropout(0.1), dn.Residual([dn.Dense(8), dn.PReLU()]), dn.Dense(8, "tanh")]),
    dn.GLU(6),
    dn.RMSNorm(),
    dn.Noise(0.1),
    dn.Dense(3, "softmax"),
]
SHAPES = {
    "0.weight": (8, 4),
    "0.bias": (8,),
    "2.0.weight": (8,),
    "2.0.bias": (8,),
    "2.2.0.weight": (8, 8),
    "2.2.0.bias": (8,),
    "2.2.1.weight": (8,),
    "2.3.weight": (8, 8),
    "2.3.bias": (8,),
    "3.weight": (12, 8),
    "3.bias": (12,),
    "5.weight": (6,),
    "7.weight": (3, 6),
    "7.bias": (3,),
}


def network(layers: list[dn.Layer] = LAYERS, inputs: int = 4, **options: Any) -> dn.Network:
    """Return a network whose parameters are all different."""
    net = dn.Network(layers, inputs, **{"seed": 0, "dtype": "float64", "backend": "numpy"} | options)
    theta = np.random.default_rng(7).normal(size=net.layout.size)
    theta[net.layout.trained :] = abs(theta[net.layout.trained :])  # running variances are not negative
    net.set_flat(theta)
    return net


def test_names_and_shapes_follow_the_modules_of_a_sequential() -> None:
    state = network().state_dict()
    assert {name: array.shape for name, array in state.items()} == SHAPES
    assert list(state) == list(SHAPES)


@pytest.mark.parametrize("backend", ["numpy", STRICT], ids=["numpy", "strict"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_state_is_loaded_with_the_same_bits(backend: Any, dtype: str) -> None:
    net, other = network(dtype=dtype), dn.Network(LAYERS, 4, seed=1, dtype=dtype, backend=backend)
    state = net.state_dict()
    assert {array.dtype.name for array in state.values()} == {dtype}
    other.load_state_dict(dict(reversed(state.items())))
    np.testing.assert_array_equal(other.flat(), net.flat())


def test_a_state_is_a_copy() -> None:
    net = network()
    before = net.flat()
    for array in net.state_dict().values():
        array[...] = 0
    np.testing.assert_array_equal(net.flat(), before)


def test_a_weight_of_one_column_keeps_its_axis() -> None:
    assert network([dn.Dense(5)], inputs=1).state_dict()["0.weight"].shape == (5, 1)


class Scale(dn.Layer):
    """A user-defined layer."""

    def parameters(self, inputs: int) -> dict[str, dn.Parameter]:
        return {"s": dn.Parameter((inputs, 1), lambda rng, shape: np.ones(shape), decays=False)}


def test_parameters_of_a_user_defined_layer_keep_their_names_and_shapes() -> None:
    state = network([dn.Dense(2, "relu"), Scale(), dn.Dense(1)]).state_dict()
    assert {name: state[name].shape for name in list(state)[2:4]} == {"2.s": (2, 1), "3.weight": (1, 2)}


def test_a_single_slope_stands_for_all() -> None:
    net = network([dn.Dense(3), dn.PReLU()])
    net.load_state_dict(net.state_dict() | {"1.weight": np.array([0.5])})
    np.testing.assert_array_equal(net.parameters["alpha2"], [[0.5]] * 3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"2.bias": None}, dn.UnknownParameterError, r"state lacks 2.bias \(1,\); wanted 0.weight, 0.bias, 2.weight"),
        ({"4.x": 0}, dn.UnknownParameterError, "state has the unknown 4.x; wanted 0.weight"),
        ({"2.bias": None, 3: 0}, dn.UnknownParameterError, r"state lacks 2.bias \(1,\) and has the unknown 3; wanted"),
        (
            {"0.weight": np.ones((4, 3)), "2.bias": 0.0},
            dn.ShapeError,
            r"state\['0.weight'\] has shape \(4, 3\), wanted \(3, 4\); state\['2.bias'\] has shape \(\), wanted \(1,\)",
        ),
        ({"2.bias": [np.nan]}, dn.DataError, r"state\['2.bias'\]"),
        ({"2.bias": np.ones(1) * 1j}, dn.DTypeError, r"state\['2.bias'\]: got an array of complex128"),
        ({"2.bias": ["a"]}, dn.DTypeError, r"state\['2.bias'\]"),
        ({"2.bias": np.ma.masked_all(1)}, dn.DataError, r"state\['2.bias'\]"),
    ],
)
def test_an_invalid_state_changes_nothing(change: dict[Any, Any], error: type[Exception], message: str) -> None:
    net = network([dn.Dense(3, "relu"), dn.Dense(1)])
    before = net.flat()
    state = {name: array + 1 for name, array in net.state_dict().items()} | change
    with pytest.raises(error, match=message):
        net.load_state_dict({name: array for name, array in state.items() if array is not None})
    np.testing.assert_array_equal(net.flat(), before)


def test_numbers_beyond_the_dtype_are_refused() -> None:
    net = network([dn.Dense(1)], dtype="float32")
    with pytest.raises(dn.DataError, match=r"state\['0.bias'\]"):
        net.load_state_dict(net.state_dict() | {"0.bias": np.array([1e39])})


@pytest.mark.parametrize("state", [None, [1], "model.pt", np.ones(3)])
def test_a_state_that_is_no_mapping_is_refused(state: Any) -> None:
    with pytest.raises(dn.ArgumentError, match=r"state: got .*, wanted a dict of arrays by name"):
        network().load_state_dict(state)


def test_residual_blocks_that_overlap_are_refused() -> None:
    net = network([dn.Dense(4), dn.Dense(4), dn.Shortcut(2), dn.Dense(4), dn.Shortcut(3)])
    with pytest.raises(dn.ArgumentError, match=r"layers\[2\]: Shortcut\(layers=2\) begins outside"):
        net.state_dict()


# --- PyTorch ----------------------------------------------------------------------------------------------------------


def module_of(torch: Any, layer: dn.Layer, inputs: int) -> list[Any]:
    """Return PyTorch's modules for a layer."""
    nn = torch.nn

    class Residual(nn.Sequential):  # type: ignore[misc, name-defined, unused-ignore]
        def forward(self, x: Any) -> Any:
            return x + super().forward(x)

    activations = {
        "relu": nn.ReLU, "tanh": nn.Tanh, "softmax": lambda: nn.Softmax(-1), "sigmoid": nn.Sigmoid, "elu": nn.ELU,
        "gelu": nn.GELU, "silu": nn.SiLU, "mish": nn.Mish, "selu": nn.SELU, "softsign": nn.Softsign,
        "relu6": nn.ReLU6, "hardswish": nn.Hardswish, "celu": nn.CELU, "log_softmax": lambda: nn.LogSoftmax(-1),
        "gelu_tanh": lambda: nn.GELU(approximate="tanh"), "softplus": lambda: nn.Softplus(threshold=500),
        "leaky_relu": lambda: nn.LeakyReLU(0.001),
    }  # fmt: skip
    match layer:
        case dn.Dense():
            assert isinstance(layer.g, dn.Activation)
            linear, name = nn.Linear(inputs, layer.units), layer.g.name
            return [linear] if name == "identity" else [linear, activations[name]()]
        case dn.Residual():
            return [Residual(*modules_of(torch, layer.layers, inputs))]
        case dn.GLU():
            return [nn.Linear(inputs, 2 * layer.units), nn.GLU(-1)]
        case dn.BatchNorm():
            return [nn.BatchNorm1d(inputs)]
        case dn.LayerNorm():
            return [nn.LayerNorm(inputs)]
        case dn.RMSNorm():
            return [nn.RMSNorm(inputs, eps=1e-5)]
        case dn.PReLU():
            return [nn.PReLU(inputs)]
        case _:
            return [nn.Dropout(0.1)]


def modules_of(torch: Any, layers: Any, inputs: int) -> list[Any]:
    modules = []
    for layer in layers:
        modules += module_of(torch, layer, inputs)
        inputs = getattr(layer, "units", inputs)
    return modules


ACTIVATIONS = [
    "relu", "tanh", "sigmoid", "elu", "gelu", "gelu_tanh", "silu", "mish", "selu", "softsign", "relu6", "hardswish",
    "celu", "softplus", "leaky_relu",
]  # fmt: skip


@pytest.mark.parametrize(
    "layers",
    [
        LAYERS,
        [dn.Dense(5), dn.LayerNorm(), dn.Dense(2)],
        [dn.BatchNorm(), dn.Dense(5), dn.BatchNorm(), dn.Dense(2)],
        [dn.Dense(5), dn.RMSNorm(), dn.Dense(2)],
        [dn.Dense(5), dn.PReLU(), dn.Dense(2)],
        [dn.GLU(5), dn.Dense(2, "log_softmax")],
        [dn.Dense(4, activation) for activation in ACTIVATIONS],
    ],
    ids=["all", "LayerNorm", "BatchNorm", "RMSNorm", "PReLU", "GLU", "activations"],
)
def test_pytorch_computes_the_same_outputs_in_both_directions(layers: list[dn.Layer]) -> None:
    torch = pytest.importorskip("torch", reason='the extra "peers" is not installed')
    net = network(layers)
    model = torch.nn.Sequential(*modules_of(torch, layers, 4)).double().eval()
    X = np.random.default_rng(1).normal(size=(4, 50))
    theirs = {name: tuple(array.shape) for name, array in model.state_dict().items() if "num_batches" not in name}
    assert theirs == {name: array.shape for name, array in net.state_dict().items()}
    other = dn.Network(layers, 4, dtype="float64", backend="numpy")
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        np.testing.assert_allclose(other.predict(X), model(torch.tensor(X.T)).numpy().T, rtol=1e-12, atol=1e-12)
        model.load_state_dict({name: torch.from_numpy(array) for name, array in net.state_dict().items()})
        np.testing.assert_allclose(net.predict(X), model(torch.tensor(X.T)).numpy().T, rtol=1e-12, atol=1e-12)


def test_tensors_that_cannot_be_converted_are_refused() -> None:
    torch = pytest.importorskip("torch", reason='the extra "peers" is not installed')
    net, model = network([dn.Dense(1)], dtype="float32"), torch.nn.Sequential(torch.nn.Linear(4, 1))
    with pytest.raises(dn.DTypeError, match=r"pass state\['0.weight'\].detach\(\)"):
        net.load_state_dict(dict(model.named_parameters()))
    with pytest.raises(dn.DTypeError, match="bfloat16"):
        net.load_state_dict(model.bfloat16().state_dict())
