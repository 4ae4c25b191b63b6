"""User-defined activations in model files: saved as formulas, loaded without their classes, and never trusted."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hostile
import literature
import numpy as np
import pytest
from fuzzing import bounded

import deepnotes as dn
from deepnotes.backends import EagerInference
from deepnotes.nn.activations import FormulaActivation
from deepnotes.nn.expressions import LARGEST
from deepnotes.nn.formulas import KERNEL

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
    assert isinstance(loaded.layers[0].g, FormulaActivation)
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
    write_altered(path, change)
    with pytest.raises(dn.ModelFileError, match=r"model\.safetensors"):
        dn.load(path)


def write_altered(path: Path, change: dict[str, Any]) -> None:
    """Write a model file with a formula, with changes to the description of its first layer and correct digests."""
    net = network(literature.SoftSign())
    net.save(path)
    header = hostile.header_of(path.read_bytes())
    layer = header["network"]["layers"][0]
    for name, value in change.items():
        key, _, inner = name.partition(".")
        (layer[key] if inner else layer)[inner or key] = value
    path.write_bytes(hostile.sealed(header, hostile.tensors(path.read_bytes())))


def chain(start: int, count: int, *operations: tuple[str, int]) -> list[list[Any]]:
    """Return `count` nodes, computed by operations in turn, each from the node before it, given as often as it says."""
    nodes: list[list[Any]] = []
    for i in range(count):
        name, arguments = operations[i % len(operations)]
        last = start + i - 1
        nodes.append([name, *[last] * arguments])
    return nodes


def rows(start: int, count: int) -> list[list[Any]]:
    """Return nodes that subtract the maximum over the outputs again and again, broadcast to all outputs."""
    nodes: list[list[Any]] = []
    for i in range(start, start + count - 2, 3):
        nodes += [["max", i - 1], ["spread", i, i - 1], ["subtract", i - 1, i + 1]]
    return nodes


def wide(start: int, count: int) -> list[list[Any]]:
    """Return nodes of which half must be kept until the other half is computed."""
    half = count // 2
    powers = [["multiply", 0, start + i - 1] for i in range(half)]
    sums = [["add", start + half + i - 1, start + half - i - 1] for i in range(half)]
    return powers + sums


LARGE: dict[str, Callable[[int, int], list[list[Any]]]] = {
    "a deep chain": lambda start, count: chain(start, count, ("exp", 1), ("sqrt", 1), ("negative", 1)),
    "shared values": lambda start, count: chain(start, count, ("add", 2), ("maximum", 2)),
    "reductions": rows,
    "many values at once": wide,
}


def write_large(path: Path, kind: str, count: int) -> None:
    """Write a model file whose formulas have `count` nodes."""
    inputs: dict[str, list[list[Any]]] = {"formula": [["input", "Z"]]}
    inputs["derivative"] = [["input", name] for name in ("dA", "A", "Z")]
    change: dict[str, Any] = {}
    for key, first in inputs.items():
        nodes = first + LARGE[kind](len(first), count - len(first))
        change |= {f"{key}.nodes": nodes, f"{key}.results": [len(nodes) - 1]}
    write_altered(path, change)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LARGE)
def test_the_largest_formulas_are_processed_in_bounded_time_and_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.safetensors"
    write_large(path, kind, LARGEST)
    size = path.stat().st_size

    def export_to_onnx(net: dn.Network) -> None:
        pytest.importorskip("onnx", reason='the extra "onnx" is not installed')
        net.to_onnx(tmp_path / "model.onnx")

    with bounded(size):
        net = dn.load(path, backend="numpy")
    assert len(repr(net) + net.summary()) < 2000
    uses = [
        lambda: net.predict(X), lambda: net.save(tmp_path / "again"), lambda: net.to_python(tmp_path / "model.py"),
        lambda: export_to_onnx(net), lambda: net.partial_fit(X, Y),
    ]  # fmt: skip
    for use in uses:
        with bounded(size), np.errstate(all="ignore"), suppress(dn.NonFiniteLossError):
            use()


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_formula_is_not_compiled(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("numba", reason='the extra "numba" is not installed')
    path = tmp_path / "model.safetensors"
    write_large(path, kind, KERNEL + 4)
    net = dn.load(path, backend="numba")
    assert type(net.inference) is EagerInference
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(net.predict(X), dn.load(path, backend="numpy").predict(X))


@pytest.mark.parametrize(
    ("count", "message"), [(100_000, "nodes must be a list of 1 to 10,000 nodes"), (1_000_000, "its header has")]
)
def test_a_formula_of_too_many_nodes_is_refused_in_bounded_time_and_memory(
    tmp_path: Path, count: int, message: str
) -> None:
    path = tmp_path / "model.safetensors"
    write_large(path, "a deep chain", count)
    with bounded(path.stat().st_size), pytest.raises(dn.ModelFileError, match=message):
        dn.load(path)
