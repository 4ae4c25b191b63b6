"""User-defined activations in model files: saved as formulas, loaded without their classes, and never trusted."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import literature
import numpy as np
import pytest

import deepnotes as dn
from deepnotes.network.formats import containers
from deepnotes.nn.activations import FormulaActivation
from deepnotes.nn.expressions import LARGEST

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(4, 30)), RNG.normal(size=(2, 30))


def network(g: dn.ActivationFunction, dtype: str = "float64") -> dn.Network:
    """Return a trained network with a user-defined activation."""
    net = dn.Network([dn.Dense(6, g), dn.Dense(2)], inputs=4, seed=0, dtype=dtype, backend="numpy")
    net.fit(X, Y, epochs=2)
    return net


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("g", literature.ACTIVATIONS, ids=lambda g: type(g).__name__)
def test_a_loaded_formula_gives_the_same_bits_in_predictions_and_training(tmp_path: Path, g: Any, dtype: str) -> None:
    net = network(g, dtype)
    net.save(tmp_path / "model.safetensors")
    loaded = dn.load(tmp_path / "model.safetensors", backend="numpy")
    assert isinstance(loaded.layers[0].g, FormulaActivation)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(loaded.predict(X), net.predict(X))
    reference = dn.load(tmp_path / "model.safetensors", backend="numpy")
    reference.layers = net.layers  # with the activation's class in place of its formula
    for trained in (loaded, reference):
        trained.partial_fit(X, Y)
    np.testing.assert_array_equal(loaded.theta, reference.theta)


def test_a_loaded_formula_is_saved_with_the_same_bytes(tmp_path: Path) -> None:
    network(literature.Mish()).save(tmp_path / "first.safetensors")
    dn.load(tmp_path / "first.safetensors").save(tmp_path / "second.safetensors")
    assert (tmp_path / "first.safetensors").read_bytes() == (tmp_path / "second.safetensors").read_bytes()


def test_a_loaded_formula_runs_on_the_numba_backend(tmp_path: Path) -> None:
    pytest.importorskip("numba", reason='the extra "numba" is not installed')
    net = network(literature.Mish())
    net.save(tmp_path / "model.safetensors")
    loaded = dn.load(tmp_path / "model.safetensors", backend="numba")
    np.testing.assert_allclose(loaded.predict(X), net.predict(X), rtol=1e-12)


def test_an_activation_without_a_formula_is_refused(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Flipped(dn.ActivationFunction):
        def forward(self, ops: Any, Z: Any) -> Any:
            return Z[::-1]

        def backward(self, ops: Any, dA: Any, Z: Any, A: Any) -> Any:
            return dA[::-1]

    with pytest.raises(dn.ModelFileError, match="a model file cannot describe, since it uses an index"):
        network(Flipped()).save(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_an_activation_that_may_change_is_refused(tmp_path: Path) -> None:
    class Scaled(dn.ActivationFunction):
        def __init__(self, slope: float) -> None:
            self.slope = slope

        def forward(self, ops: Any, Z: Any) -> Any:
            return self.slope * Z

    with pytest.raises(dn.ModelFileError, match="attributes that may change: Scaled is not a frozen dataclass"):
        network(Scaled(2.0)).save(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"formula": None},
        {"formula": []},
        {"derivative": {}},
        {"range": "everything"},
        {"range": ["real"]},
        {"activation": 3},
        {"activation_initializer": "os.system"},
        {"activation_initializer": None},
        {"formula.dtype": "float32"},
        {"formula.results": [0, 1]},
        {"formula.nodes": [["input", "Z"], ["constant", 1.0]], "formula.results": [1]},  # a number, not an array like Z
        {"formula.arrays": ["A"]},
        {"derivative.arrays": ["Z"]},
        {"formula.nodes": [["input", "Z"], ["eval", 0]]},
        {"formula.nodes": [["input", "Z"], ["exp", 1]]},
        {"formula.nodes": [["input", "Z"], ["sum", 0]]},
        {"formula.nodes": [["input", "Z"]] * (LARGEST + 1)},
    ],
    ids=str,
)
def test_altered_formulas_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "model.safetensors"
    net = network(literature.SoftSign())
    net.save(path)
    with containers.open_container(path) as file:
        header = {key: value for key, value in file.header.items() if key not in ("format", "digests")}
        header = json.loads(json.dumps(header))
    layer = header["network"]["layers"][0]
    for name, value in change.items():
        key, _, inner = name.partition(".")
        if inner:
            layer[key][inner] = value
        else:
            layer[key] = value
    containers.write(path, header, {name: np.asarray(W) for name, W in net.parameters.items()})
    with pytest.raises(dn.ModelFileError, match=r"model\.safetensors"):
        dn.load(path)
