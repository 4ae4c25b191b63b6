"""Exported ONNX files: outputs of ONNX Runtime and ONNX's reference implementation are within the error bounds."""

import json
import sys
import warnings
from dataclasses import replace
from typing import Any

import literature
import numpy as np
import pytest

import deepnotes as dn
from deepnotes.datasets.encoding import Encoder
from deepnotes.datasets.tables import Table
from deepnotes.network.formats.chain import Chain, Target
from deepnotes.network.formats.check_vectors import Vectors, expected, vectors_from, vectors_of, worst
from deepnotes.network.formats.onnx_encoding import sample_columns
from deepnotes.network.formats.onnx_writing import run, to_onnx
from deepnotes.network.loading.conversion import network_of
from deepnotes.nn.activations import LIBRARY

onnx = pytest.importorskip("onnx", reason='the extra "onnx" is not installed')
pytest.importorskip("onnxruntime", reason='the extra "onnx" is not installed')

ACTIVATIONS: list[Any] = [
    dn.Activation(name, **options)
    for name, traits in LIBRARY.items()
    for options in [traits.options, *([dict.fromkeys(traits.options, 0.3)] if traits.options else [])]
]
COUPLED = {"softmax", "log_softmax"}
USER_DEFINED: list[Any] = [*literature.ACTIVATIONS, *literature.COUPLED]
DTYPES = ["float32", "float64"]
EXTREMES = [
    0.0, -0.0, 1e-40, -1e-40, 1e-30, -1e-30, 1e-8, -1e-8, 1e-4, -1e-4, 0.5, -0.5, 5.0, -5.0, 20.0, -20.0, 60.0, -60.0,
    88.0, -88.0, 100.0, -100.0, 709.0, -709.0, 1e4, -1e4, 1e30, -1e30, np.inf, -np.inf, np.nan,
]  # fmt: skip


def network(activation: Any, dtype: str = "float32", **settings: Any) -> dn.Network:
    layers = [dn.Dense(7, activation), dn.Dropout(0.5), dn.Dense(5, activation)]
    standardizer = dn.Standardizer.fit(np.array([[1, 2, 4], [-3, 0, 1], [1e6, 1e6 + 1, 1e6 + 3], [1e-5, 2e-5, 0]]))
    return dn.Network(layers, inputs=4, dtype=dtype, seed=1, **{"standardizer": standardizer} | settings)


def reference(content: bytes, X: np.ndarray) -> np.ndarray:
    """Return the outputs of ONNX's reference implementation for X, whose rows are samples."""
    from onnx.reference import ReferenceEvaluator

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        outputs: Any = ReferenceEvaluator(content).run(None, {"X": X})
    return np.asarray(outputs[0])


def check(chain: Chain, X: np.ndarray, random: bool = False) -> None:
    """Check the outputs of ONNX Runtime, ONNX's reference implementation and the network: shape, dtype and errors.

    The rows of X are samples. If X and the parameters are random, pass ``random=True``: the bounds are then narrower.
    """
    A = expected(chain, X.T, random)
    tests = Vectors(X, A.value.astype(np.float64).T, (A.rules.slack * A.error).T)
    content = to_onnx(chain)
    for actual in (run(content, tests)[0], reference(content, X)):
        assert actual.shape == (len(X), chain.outputs)
        assert actual.dtype == ("float64" if chain.target else chain.dtype)
        assert worst(actual, tests) <= 1
    if chain.target is None:
        with np.errstate(all="ignore"):
            assert worst(network_of(chain, "numpy").predict(X.T).T, tests) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS + USER_DEFINED, ids=str)
def test_networks_with_each_activation_stay_within_their_bounds(activation: dn.Activation, dtype: str) -> None:
    chain = Chain.of(network(activation, dtype))
    rng = np.random.default_rng(3)
    X = (rng.normal(size=(4, 33)) * chain.standardizer.scale + chain.standardizer.mean).astype(dtype).T  # type: ignore[union-attr]
    check(chain, X, random=True)
    check(chain, vectors_of(chain).X)
    check(chain, X[:1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [g for g in ACTIVATIONS if g.name not in COUPLED] + USER_DEFINED, ids=str)
def test_each_activation_stays_within_its_bounds_at_extreme_inputs(activation: dn.Activation, dtype: str) -> None:
    """The network is one neuron with weight 1, so that infinities reach the activation unchanged."""
    net = dn.Network([dn.Dense(1, activation)], inputs=1, dtype=dtype, seed=0)
    net.parameters["W1"] = [[1.0]]
    X = np.concatenate([EXTREMES, np.linspace(-120, 120, 2001), -np.logspace(-12, 2, 500)])
    with np.errstate(over="ignore"):
        check(Chain.of(net), X.astype(dtype).reshape(-1, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", sorted(COUPLED))
def test_softmax_stays_within_its_bounds_at_extreme_inputs(activation: str, dtype: str) -> None:
    net = dn.Network([dn.Dense(3, activation)], inputs=3, dtype=dtype, seed=0)
    net.parameters["W1"] = np.eye(3)
    rows = [[0, 0, 0], [1e30, 0, -1e30], [-1e30, -1e30, -1e30], [0, -50, -80], [1000, 999, 0], [np.nan, 0, 1]]
    check(Chain.of(net), np.array(rows, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_onnx_runtime_standardizes_inputs_to_the_same_bits(dtype: str) -> None:
    """One mean is a million: it must be subtracted in double precision, since single precision would lose digits."""
    net = dn.Network([dn.Dense(4)], inputs=4, dtype=dtype, standardizer=network("relu").standardizer, seed=0)
    net.parameters["W1"] = np.eye(4)
    X = np.array([[1, 2, 1e6 + 1.5, 1e-5], [0, -1, 1e6, 3e-5]], dtype)
    actual, _ = run(to_onnx(Chain.of(net)), Vectors(X, X, X))
    np.testing.assert_array_equal(actual, net.predict(X.T).T)


def test_outputs_are_converted_to_the_units_of_the_target() -> None:
    net = dn.Network([dn.Dense(3, "tanh"), dn.Dense(1)], inputs=4, seed=0)
    net.metadata = {"target_mean": 250_000.0, "target_scale": 80_000.0, "target": "price"}
    chain = Chain.of(net, Target(250_000.0, 80_000.0))
    X = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
    check(chain, X)
    (actual, _), (A, _) = (run(to_onnx(c), Vectors(X, X, X)) for c in (chain, Chain.of(net)))
    np.testing.assert_array_equal(actual, A.astype(np.float64) * 80_000 + 250_000)
    properties = {entry.key: json.loads(entry.value) for entry in onnx.load_from_string(to_onnx(chain)).metadata_props}
    # The outputs are no longer standardized, and the metadata say so.
    assert properties == {"target_mean": 0.0, "target_scale": 1.0, "target": "price"}


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_the_file_contains_names_metadata_versions_and_shapes(backend: str, tmp_path: Any) -> None:
    if backend == "numba":
        pytest.importorskip("numba", reason='the extra "numba" is not installed')
    net = network("gelu", backend=backend)
    net.metadata = {"features": ["a", "b", "ç", "d"], "classes": list("vwxyz"), "best": 3, "weights": None}
    net.to_onnx(tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {entry.key: json.loads(entry.value) for entry in model.metadata_props} == net.metadata
    assert (model.producer_name, model.producer_version) == ("deepnotes", dn.__version__)
    assert (model.ir_version, [(entry.domain, entry.version) for entry in model.opset_import]) == (7, [("", 13)])
    (input_info,), (result,) = model.graph.input, model.graph.output
    shapes = [[d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] for x in (input_info, result)]
    assert (input_info.name, result.name, shapes) == ("X", "A", [["m", 4], ["m", 5]])
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(model.graph.initializer[2]), net.parameters["W1"])
    assert "Dropout" not in {node.op_type for node in model.graph.node}
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


@pytest.mark.parametrize(
    ("name", "op"), [("relu", "Relu"), ("tanh", "Tanh"), ("softmax", "Softmax"), ("leaky_relu", "LeakyRelu")]
)
def test_activations_defined_by_onnx_become_a_single_node(name: str, op: str) -> None:
    net = dn.Network([dn.Dense(3, name), dn.Dense(2)], inputs=2, seed=0)
    assert [node.op_type for node in onnx.load_from_string(to_onnx(Chain.of(net))).graph.node] == ["Gemm", op, "Gemm"]


class Reversed(dn.ActivationFunction):
    """A user-defined activation that is not a formula."""

    def forward(self, ops: Any, Z: Any) -> Any:
        return Z[::-1]

    def backward(self, ops: Any, dA: Any, Z: Any, A: Any) -> Any:
        return dA[::-1]

    def __repr__(self) -> str:
        return "Reversed()"


class Scaled(dn.ActivationFunction):
    """A user-defined activation with an attribute that may change."""

    def __init__(self) -> None:
        self.slope = 2.0

    def forward(self, ops: Any, Z: Any) -> Any:
        return self.slope * Z

    def __repr__(self) -> str:
        return "Scaled()"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("g", USER_DEFINED, ids=str)
def test_a_loaded_formula_is_exported_to_the_same_file(g: dn.ActivationFunction, dtype: str, tmp_path: Any) -> None:
    net = network(g, dtype)
    net.save(tmp_path / "model.safetensors")
    loaded = dn.load(tmp_path / "model.safetensors", backend="numpy")
    assert to_onnx(Chain.of(loaded)) == to_onnx(Chain.of(net))


def test_an_activation_that_returns_its_argument_is_exported() -> None:
    """The output is then not computed by a node of the activation."""

    class Same(dn.ActivationFunction):
        def forward(self, ops: Any, Z: Any) -> Any:
            return Z

        def __repr__(self) -> str:
            return "Same()"

    net = dn.Network([dn.Dense(3, Same()), dn.Dense(2, Same())], inputs=2, seed=0)
    check(Chain.of(net), np.array([[1, -2], [0.5, np.nan]], "float32"))


class Twice(dn.Layer):
    """A user-defined layer."""

    def __repr__(self) -> str:
        return "Twice()"


@pytest.mark.parametrize("write", ["to_onnx", "to_python"])
@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([dn.Dense(3, Reversed()), dn.Dense(1)], r"layer 1 has the user-defined activation Reversed\(\), .* an index"),
        ([dn.Dense(3), dn.Dense(1, Scaled())], "layer 2 has .* attributes that may change: Scaled is not a frozen"),
        ([dn.Dense(3), Twice(), dn.Dense(1)], r"layer 2 is the user-defined layer Twice\(\)"),
    ],
)
def test_user_defined_parts_that_are_not_formulas_are_refused_by_name(
    layers: Any, message: str, write: str, tmp_path: Any
) -> None:
    net = dn.Network(layers, inputs=2, seed=0)
    with pytest.raises(dn.ModelFileError, match=message):
        getattr(net, write)(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", ["to_onnx", "to_python"])
def test_custom_preprocessing_invalid_metadata_and_unwritable_paths_are_refused(write: str, tmp_path: Any) -> None:
    class Clipped(dn.Standardizer):
        """User-defined preprocessing."""

    net = dn.Network([dn.Dense(1)], inputs=1, seed=0, standardizer=Clipped(np.zeros((1, 1)), np.ones((1, 1))))
    with pytest.raises(dn.ModelFileError, match=r"the inputs are preprocessed by .*Clipped"):
        getattr(net, write)(tmp_path / "model")
    net = dn.Network([dn.Dense(1)], inputs=1, seed=0)
    net.metadata = ["no", "dict"]  # type: ignore[assignment]
    with pytest.raises(dn.ModelFileError, match="metadata is"):
        getattr(net, write)(tmp_path / "model")
    net.metadata = {}
    with pytest.raises(dn.ModelFileError, match="cannot write"):
        getattr(net, write)(tmp_path / "no" / "model")
    with pytest.raises(dn.ArgumentError, match="path=None"):
        getattr(net, write)(None)
    assert not list(tmp_path.iterdir())


def test_metadata_that_are_not_json_are_refused(tmp_path: Any) -> None:
    net = dn.Network([dn.Dense(1)], inputs=1, seed=0)
    for value in (np.zeros(1), float("nan"), {1, 2}):
        net.metadata = {"x": value}
        with pytest.raises(dn.ModelFileError, match="wanted JSON values"):
            net.to_onnx(tmp_path / "model.onnx")


@pytest.mark.parametrize("call", ["dn.from_onnx('model.onnx')", "net.to_onnx('model.onnx')"])
def test_the_error_without_onnx_says_how_to_install_it(
    call: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(dn.MissingExtraError, match=r'an ONNX file: .*; to fix it: pip install "deepnotes\[onnx\]"'):
        eval(call, {"dn": dn, "net": dn.Network([dn.Dense(1)], inputs=1, seed=0)})


def test_networks_too_large_for_the_format_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain.of(network("relu"))
    monkeypatch.setattr("deepnotes.network.formats.onnx_writing.LIMIT", 100)
    with pytest.raises(
        dn.ModelFileError, match=r"the parameters have \d+ bytes, but an ONNX file must be smaller than 2 GiB"
    ):
        to_onnx(chain)


def test_a_relative_change_of_1e_14_in_the_weights_exceeds_the_bounds() -> None:
    net = dn.Network([dn.Dense(2, "tanh"), dn.Dense(1)], inputs=2, seed=4, dtype="float64")
    chain = Chain.of(net)
    tests = vectors_of(chain)
    net.parameters["W1"] = np.asarray(net.parameters["W1"]) * (1 + 1e-14)
    assert worst(run(to_onnx(chain), tests)[0], tests) <= 1
    assert worst(run(to_onnx(Chain.of(net)), tests)[0], tests) > 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("standardized", [True, False])
def test_columns_are_encoded_and_imputed(dtype: str, standardized: bool) -> None:
    """Numbers, categories that are numbers and text, each with and without missing values."""
    rng = np.random.default_rng(0)
    columns: dict[str, np.ndarray] = {
        "a": rng.normal(size=40), "b": np.where(np.arange(40) % 3 == 0, np.nan, rng.normal(size=40)),
        "c": rng.choice([0.1, 2.5, 1e300], 40),
        "d": np.where(np.arange(40) % 5 == 0, np.nan, rng.choice([1.0, 2.0], 40)),
        "e": rng.choice(["x", "y"], 40), "f": np.where(np.arange(40) % 7 == 0, "", rng.choice(["ü", "no"], 40)),
    }  # fmt: skip
    table = Table(list(columns), columns)
    encoder = Encoder.fit(table, categorical=["c", "d"], impute="mean")
    encoder = Encoder(tuple(replace(f, fill=f.fill if f.name in "bdf" else None) for f in encoder.features))
    X = encoder(table)
    standardizer = dn.Standardizer.fit(X) if standardized else None
    net = dn.Network([dn.Dense(6, "tanh"), dn.Dense(2)], len(X), dtype=dtype, seed=0, standardizer=standardizer)
    content = to_onnx(Chain.of(net), encoder)
    feeds = {name: x.reshape(-1, 1).astype(object if x.dtype.kind == "U" else float) for name, x in columns.items()}
    tests = vectors_from(Chain.of(net), X)
    assert worst(run(content, feeds)[0], tests) <= 1
    inputs, drawn = sample_columns(encoder)
    assert worst(run(content, inputs)[0], vectors_from(Chain.of(net), drawn)) <= 1
    assert "" in inputs["f"]
    assert np.isnan(inputs["b"]).any()
