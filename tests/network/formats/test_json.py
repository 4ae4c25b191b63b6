"""Networks as JSON: they are read back with the same bits, and damaged or malicious texts are refused."""

import json
from typing import Any

import array_api_strict
import numpy as np
import pytest
from fuzzing import altered, damaged
from hypothesis import given, settings
from hypothesis import strategies as st

import deepnotes as dn

STRICT = dn.Backend("strict", array_api_strict)


class Cube(dn.ActivationFunction):
    """A user-defined activation that has a formula."""

    name = "cube"

    def forward(self, ops: dn.Ops, Z: Any) -> Any:
        return Z * Z * Z


def network(**options: Any) -> dn.Network:
    layers = [
        dn.Dense(5, dn.Activation("leaky_relu", slope=0.2), "he_uniform"),
        dn.Residual([dn.LayerNorm(), dn.Dropout(0.25), dn.Dense(5, Cube()), dn.Noise(0.1)]),
        dn.GLU(4),
        dn.RMSNorm(),
        dn.BatchNorm(),
        dn.Dense(3),
        dn.PReLU(),
        dn.Dense(2, "softmax"),
    ]
    standardizer = dn.Standardizer.fit(np.arange(12.0).reshape(3, 4) / 7)
    return dn.Network(layers, 3, **{"seed": 2**64 - 1, "standardizer": standardizer, "backend": "numpy"} | options)


def text(**changes: Any) -> str:
    """Return the JSON of a small network, with these entries changed."""
    net = dn.Network([dn.Dense(2, "relu"), dn.Dense(1)], inputs=3, seed=0, backend="numpy")
    return json.dumps(json.loads(net.to_json()) | changes)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", ["numpy", STRICT], ids=["numpy", "strict"])
def test_networks_are_read_back_with_the_same_bits(backend: Any, dtype: str) -> None:
    net = network(dtype=dtype)
    net.metadata = {"classes": ["no", "ja ✓"], "threshold": 0.1}
    loaded = dn.from_json(net.to_json(), backend=backend)
    assert loaded.flat().tobytes() == net.flat().tobytes()
    assert (loaded.metadata, loaded.seed, loaded.dtype) == (net.metadata, net.seed, dtype)
    X = np.random.default_rng(0).normal(size=(3, 6))
    np.testing.assert_allclose(loaded.predict(X), net.predict(X), rtol=1e-5)
    assert loaded.to_json() == net.to_json()


def test_text_and_file_hold_the_same_network(tmp_path: Any) -> None:
    net = network()
    net.save(tmp_path / "net.safetensors")
    loaded = dn.from_json(net.to_json(), backend="numpy")
    assert repr(loaded) == repr(dn.load(tmp_path / "net.safetensors", backend="numpy"))
    np.testing.assert_array_equal(loaded.standardizer.mean, net.standardizer.mean)  # type: ignore[union-attr]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4))
def test_any_float32_is_read_back_from_its_shortest_decimal(numbers: list[float]) -> None:
    theta = np.array(numbers, np.float32)
    net = dn.Network([dn.Dense(1)], inputs=3, theta=theta, backend="numpy")
    content = net.to_json()
    assert dn.from_json(content, backend="numpy").flat().tobytes() == theta.tobytes()
    assert json.loads(content)["tensors"]["W1"][0] == [float(str(x)) for x in theta[:3]]


def test_a_decimal_is_as_short_as_in_its_own_dtype() -> None:
    net = dn.Network([dn.Dense(1)], inputs=2, theta=np.array([0.1, -0.0, 1e-45]), backend="numpy")
    assert json.loads(net.to_json())["tensors"] == {"W1": [[0.1, -0.0]], "b1": [[1e-45]]}


def test_the_metadata_of_a_model_make_a_model(tmp_path: Any) -> None:
    from deepnotes.cli import main

    path = str(tmp_path / "m.safetensors")
    assert main(["train", "iris", "--epochs", "1", "-o", path]) == 0
    model = dn.load(path)
    assert isinstance(dn.from_json(model.network.to_json()), dn.Model)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_json_does_not_have_are_refused(number: float) -> None:
    net = network()
    net.set_flat(np.full(net.layout.size, number))
    with pytest.raises(dn.ModelFileError, match="W1 has numbers that are NaN or infinite"):
        net.to_json()


def test_metadata_that_are_not_json_are_refused() -> None:
    net = network()
    for value in ({"a": np.nan}, {"a": {1, 2}}, [1]):
        net.metadata = value  # type: ignore[assignment]
        with pytest.raises(dn.ModelFileError, match="metadata"):
            net.to_json()


def test_user_defined_layers_are_refused() -> None:
    class Own(dn.Layer):
        pass

    net = dn.Network([dn.Dense(1), Own()], inputs=2, backend="numpy")
    with pytest.raises(dn.ModelFileError, match="user-defined"):
        net.to_json()


TENSORS = {"W1": [[1, 2, 3], [4, 5, 6]], "b1": [[0], [0]], "W2": [[1, 2]], "b2": [[0]]}


def test_numbers_may_be_whole() -> None:
    assert dn.from_json(text(tensors=TENSORS), backend="numpy").parameters["W1"][1, 2] == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model.json", "text is not valid JSON"),
        ("", "text is not valid JSON"),
        ("[" * 100_000, "text is not valid JSON"),
        ("[1]", "text is JSON, but not a network"),
        ("{}", "text is JSON, but not a network"),
        ('{"tensors": {"W1": [[NaN]]}}', "NaN is not JSON"),
        ('{"tensors": {}, "tensors": {}}', "a key occurs twice"),
        (text(format=3), "text has format 3, but this version of deepnotes reads formats up to 2"),
        (text(format=True), "unknown format True"),
        (text(network={}), "text: its header is invalid"),
        (text(network=7), "text: its header is invalid"),
        (text(metadata=[]), "text: its header is invalid"),
        (text(tensors={}), "the tensors do not match the architecture: unknown: nothing; missing: W1, W2, b1, b2"),
        (text(tensors=TENSORS | {"W3": [[1]]}), "unknown: W3; missing: nothing"),
        (text(tensors=TENSORS | {"W2": [[1, 2, 3]]}), r"tensor W2 has shape \(1, 3\), wanted \(1, 2\)"),
        (text(tensors=TENSORS | {"W2": [[1], [2, 3]]}), "tensor W2 is not a list of rows of numbers"),
        (text(tensors=TENSORS | {"W2": [1, 2]}), "tensor W2 is not a list of rows of numbers"),
        (text(tensors=TENSORS | {"W2": [[1, True]]}), "tensor W2 is not a list of rows of numbers"),
        (text(tensors=TENSORS | {"W2": [[1, "2"]]}), "tensor W2 is not a list of rows of numbers"),
        (text(tensors=TENSORS | {"W2": [[1, None]]}), "tensor W2 is not a list of rows of numbers"),
        (text(tensors=TENSORS | {"W2": []}), r"tensor W2 has shape \(0, 0\)"),
        (text(tensors=TENSORS | {"W2": [[], []]}), r"tensor W2 has shape \(2, 0\)"),
        (text(tensors=TENSORS | {"W2": [[1e39, 0]]}), "tensor W2 has numbers that are too large for float32"),
        (text(tensors=TENSORS | {"W2": [[10**400, 0]]}), "tensor W2 has numbers that are too large for float64"),
        (text(tensors=TENSORS).replace("[[1, 2]]", "[[1e999, 0]]"), "too large for float32"),
    ],
)
def test_invalid_texts_are_refused(content: str, message: str) -> None:
    with pytest.raises(dn.ModelFileError, match=message):
        dn.from_json(content, backend="numpy")


@pytest.mark.parametrize("content", [None, 7, b"{}", {}])
def test_only_text_is_accepted(content: Any) -> None:
    with pytest.raises(dn.ArgumentError, match=r"text: got .*, wanted JSON as a str"):
        dn.from_json(content)


VALID = network().to_json()
DAMAGED = altered(json.loads(VALID)).map(json.dumps) | damaged(VALID.encode()).map(lambda file: file.decode("latin1"))


@settings(max_examples=40)
@given(DAMAGED)
def test_altered_texts_are_read_or_refused(content: str) -> None:
    try:
        net = dn.from_json(content, backend="numpy")
    except dn.ModelFileError:
        return
    assert np.isfinite(net.flat()).all()
