"""Import of chains of layers from ONNX files: deepnotes and ONNX Runtime agree within the error bounds."""

import io
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.backends.bounds import UNIT, BoundedArray, Bounds, gamma
from deepnotes.network.formats.chain import Chain
from deepnotes.network.formats.check_vectors import Vectors, worst
from deepnotes.nn.activations import LIBRARY

onnx = pytest.importorskip("onnx", reason='the extra "onnx" is not installed')
pytest.importorskip("onnxruntime", reason='the extra "onnx" is not installed')
graphs = pytest.importorskip("onnx_graphs")
helper, chain, model, run, write = onnx.helper, graphs.chain, graphs.model, graphs.run, graphs.write
rng = np.random.default_rng(5)
W1, W2 = rng.normal(size=(4, 3)), rng.normal(size=(2, 4))
b1, b2 = rng.normal(size=4), rng.normal(size=2)
X = rng.normal(size=(6, 3)).astype("float32")


def check_import(content: Any, folder: Path, rows: np.ndarray = X, file_input: np.ndarray | None = None) -> dn.Network:
    """Check that predictions of the loaded network and of ONNX Runtime are within the network's error bounds.

    (None of these graphs has a Sigmoid: ONNX Runtime's is too inaccurate.)

    Parameters
    ----------
    content : onnx.ModelProto
        The model.
    folder : Path
        The directory for its file.
    rows : ndarray, shape (m, n[0])
        The samples.
    file_input : ndarray, optional
        The samples in the layout and dtype of the model's input; by default `rows`.
    """
    net = dn.from_onnx(write(content, folder), backend="numpy")
    vectors = outputs_with_bounds(Chain.of(net), rows)
    assert worst(net.predict(rows.T).T, vectors) <= 1
    outputs = run(content, rows if file_input is None else file_input)
    transposed = outputs.ndim == 2 and outputs.shape != vectors.A.shape
    assert worst((outputs.T if transposed else outputs).reshape(vectors.A.shape), vectors) <= 1
    return net


def outputs_with_bounds(loaded: Chain, rows: np.ndarray) -> Vectors:
    """Return the outputs for `rows`, with error bounds that allow for a standardization in single precision.

    Such a standardization has four rounding errors: in two constants, a sum and a product. The first constant and the
    sum may be as large as ``mean / scale``.
    """
    bounds = Bounds(loaded.dtype, random=False)
    preprocessed: Any = bounds.from_numpy(loaded.preprocess(rows.T))
    if loaded.standardizer is not None:
        size = abs(preprocessed.value) + abs(loaded.standardizer.mean / loaded.standardizer.scale)
        preprocessed = BoundedArray(bounds.rules, preprocessed.value, gamma(4, UNIT["float32"]) * size)
    A: Any = loaded.forward(bounds.ops, preprocessed, lambda name, W: bounds.from_numpy(W))
    return Vectors(rows, A.value.astype(np.float64).T, A.rules.slack * A.error.T)


CHAINS: dict[str, Any] = {
    "Gemm with transB": [("Gemm", W1, b1, {"transB": 1}), ("Relu",), ("Gemm", W2, b2, {"transB": 1})],
    "Gemm": [("Gemm", W1.T, b1), ("Relu",), ("Gemm", W2.T, b2)],
    "alpha and beta": [("Gemm", W1.T, b1, {"alpha": 0.5, "beta": 2.0}), ("Tanh",), ("Gemm", W2.T, b2, {"beta": 0.0})],
    "Gemm without a bias": [("Gemm", W1.T), ("Relu",), ("Gemm", W2.T, 0.5)],
    "MatMul and Add": [("MatMul", W1.T), ("Add", b1), ("Relu",), ("MatMul", W2.T), ("Add", b2.reshape(1, 2))],
    "a bias as the first operand": [("MatMul", W1.T), ("Add", b1, ...), ("Relu",), ("MatMul", W2.T), ("Sub", b2)],
    "no bias, no activation": [("MatMul", W1.T), ("MatMul", W2.T)],
    "no-ops": [
        ("Identity",), ("Flatten",), ("Gemm", W1.T, b1), ("Dropout",), ("Relu",), ("Dropout", 0.4),
        ("Reshape", [-1, 4]), ("Identity",), ("Gemm", W2.T, b2), ("Softmax",), ("Identity",),
    ],
    "Reshape copies the number of samples": [("Reshape", [0, -1]), ("Gemm", W1.T, b1), ("Reshape", [0, 4])],
    "folded weights": [("MatMul", W1.T), ("Add", b1), ("Mul", 3.0), ("Div", b1), ("Tanh",)],
    "outputs scaled to the units of a target": [("Gemm", W1.T, b1), ("Mul", 100.0), ("Add", 20.0)],
    "samples as columns": [
        ("Transpose",), ("MatMul", W1, ...), ("Add", b1.reshape(4, 1)), ("Relu",), ("MatMul", W2, ...),
        ("Add", b2.reshape(2, 1)), ("Softmax", {"axis": 0}),
    ],
    "transposed twice": [("Transpose",), ("Gemm", W1.T, b1, {"transA": 1}), ("Elu",), ("Gemm", W2, ..., {"transB": 1})],
    "weights on the left": [("Gemm", W1.T, ..., {"transA": 1, "transB": 1}), ("Relu",)],
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_dense_chains_are_read(name: str, tmp_path: Path) -> None:
    net = check_import(chain(*CHAINS[name]), tmp_path)
    assert (net.inputs, net.dtype, net.standardizer) == (3, "float32", None)
    assert all(type(layer) is dn.Dense for layer in net.layers)


def test_graphs_whose_input_has_samples_as_columns_are_read(tmp_path: Path) -> None:
    steps = [("MatMul", W1, ...), ("Add", b1.reshape(4, 1)), ("Tanh",)]
    check_import(chain(*steps, shape=(3, "m")), tmp_path, file_input=X.T)
    check_import(chain(("Gemm", W1.T, b1, {"transA": 1}), shape=(3, "m")), tmp_path, file_input=X.T)
    transposed = [("Transpose",), ("Gemm", W1.T, b1), ("Tanh",)]
    check_import(chain(*transposed, shape=(3, "m")), tmp_path, file_input=X.T)
    check_import(
        chain(("Transpose",), ("Sub", np.array([1.0, 2.0, 3.0])), *transposed[1:], shape=(3, "m")),
        tmp_path,
        file_input=X.T,
    )
    check_import(chain(("Transpose",), ("Sub", np.array([[1.0], [2.0], [3.0]])), *steps), tmp_path)
    scaled = [("Sub", np.array([[1.0], [2.0], [3.0]])), *steps]
    assert check_import(chain(*scaled, shape=(3, "m")), tmp_path, file_input=X.T).standardizer is not None


def test_weights_from_constant_nodes_and_constant_expressions_are_read(tmp_path: Path) -> None:
    def constant(name: str, x: np.ndarray) -> Any:
        return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(x.astype("float32")))

    nodes = [
        constant("W", W1.reshape(2, 6)), constant("b", b1.reshape(1, 4)),
        helper.make_node("Reshape", ["W", "shape"], ["V"]), helper.make_node("Transpose", ["V"], ["Vt"], perm=[1, 0]),
        helper.make_node("Squeeze", ["b", "axis"], ["c"]), helper.make_node("Cast", ["c"], ["d"], to=1),
        helper.make_node("Gemm", ["in", "Vt", "d"], ["Z"]),
        helper.make_node("Constant", [], ["slope"], value_float=0.25),
        helper.make_node("Mul", ["Z", "slope"], ["scaled"]), helper.make_node("Max", ["scaled", "Z"], ["out"]),
    ]  # fmt: skip
    content = model(nodes, {"shape": np.array([4, 3]), "axis": np.array([0])}, "out")
    net = check_import(content, tmp_path)
    assert net.layers[0] == dn.Dense(4, dn.Activation("leaky_relu", slope=0.25))
    np.testing.assert_array_equal(net.parameters["W1"], W1.astype("float32"))


STANDARDIZERS: dict[str, Any] = {
    "Sub and Div": [("Sub", [1.0, 2.0, 3.0]), ("Div", [0.5, 2.0, 4.0])],
    "Mul and Add": [("Mul", [2.0, 0.5, 0.25]), ("Add", [-2.0, -1.0, -0.75])],
    "scalar constants": [("Div", 255.0), ("Sub", 0.5), ("Div", 0.25)],
    "Scaler": [("ai.onnx.ml.Scaler", {"offset": [1.0, 2.0, 3.0], "scale": [2.0, 0.5, 0.25]})],
    "in double precision": [("Cast", {"to": 11}), ("Cast", {"to": 1}), ("Sub", [[1.0, 2.0, 3.0]])],
}  # fmt: skip


@pytest.mark.parametrize("name", STANDARDIZERS)
def test_standardizing_nodes_become_a_standardizer(name: str, tmp_path: Path) -> None:
    steps = [tuple(np.array(x) if isinstance(x, list) else x for x in step) for step in STANDARDIZERS[name]]
    net = check_import(chain(*steps, ("Gemm", W1.T, b1), ("Tanh",)), tmp_path)
    assert net.standardizer is not None
    if name in {"Sub and Div", "Mul and Add", "Scaler"}:
        expected = [[1.0], [2.0], [3.0]]
        np.testing.assert_array_equal(net.standardizer.mean, expected)
        np.testing.assert_array_equal(net.standardizer.scale, [[0.5], [2.0], [4.0]])


def test_images_are_flattened(tmp_path: Path) -> None:
    pixels = rng.integers(0, 256, (5, 2, 2, 3)).astype("float32")
    W = rng.normal(size=(12, 2))
    for flat in [("Flatten",)], [("Reshape", np.array([-1, 12]))], [("Reshape", np.array([0, -1]))]:
        content = chain(("Div", 255.0), *flat, ("Gemm", W, b2), ("Softmax",), shape=("m", 2, 2, 3))
        assert check_import(content, tmp_path, pixels.reshape(5, 12), pixels).inputs == 12


def test_integer_inputs_are_cast_to_floats(tmp_path: Path) -> None:
    content = chain(("Cast", {"to": 1}), ("Gemm", W1.T, b1), inputs="int64")
    check_import(content, tmp_path, X.round() * 3, (X.round() * 3).astype(np.int64))


def test_inputs_without_a_shape_are_read(tmp_path: Path) -> None:
    check_import(chain(("Reshape", np.array([-1, 3])), ("Gemm", W1.T, b1), shape=(None, None)), tmp_path)
    check_import(chain(("Sub", 1.0), ("Gemm", W1.T, b1), shape=None), tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LIBRARY)
def test_parameters_and_metadata_are_unchanged_by_export_and_import(name: str, dtype: str, tmp_path: Path) -> None:
    for option in (None, 0.0, 1.0, -0.5, 0.3):
        if option is not None and LIBRARY[name].positive and (option <= 0 or option == 1):
            continue  # celu with alpha=1 is elu with alpha=1, and is read as such
        options = {} if option is None else dict.fromkeys(LIBRARY[name].options, option)
        options = {"alpha": 0.5} if name == "celu" and not options else options
        layers = [
            dn.Dense(4, dn.Activation(name, **options)),
            dn.Dropout(0.3),
            dn.Dense(2, dn.Activation(name, **options)),
        ]
        standardizer = dn.Standardizer.fit(rng.normal(3, 7, size=(3, 9)))
        net = dn.Network(layers, inputs=3, dtype=dtype, seed=2, standardizer=standardizer)
        net.metadata = {"features": ["a", "b", "c"], "classes": ["1", "two"], "version": "1.10", "x": [1, None]}
        net.to_onnx(tmp_path / "model.onnx")
        loaded = dn.from_onnx(tmp_path / "model.onnx")
        assert loaded.layers == (layers[0], layers[2])  # dropout is not exported
        assert (loaded.dtype, loaded.metadata) == (dtype, net.metadata)
        np.testing.assert_array_equal(loaded.flat(), net.flat())
        np.testing.assert_array_equal(loaded.standardizer.mean, net.standardizer.mean)  # type: ignore[union-attr]
        np.testing.assert_array_equal(loaded.standardizer.scale, net.standardizer.scale)  # type: ignore[union-attr]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_loaded_network_runs_on_any_backend(backend: str, tmp_path: Path) -> None:
    pytest.importorskip(f"deepnotes_{backend}")
    if backend == "numba":
        pytest.importorskip("numba", reason='the extra "numba" is not installed')
    net = dn.from_onnx(write(chain(*CHAINS["Gemm"]), tmp_path), backend=backend)
    assert net.backend.name == backend
    assert worst(net.predict(X.T).T, outputs_with_bounds(Chain.of(net), X)) <= 1


@pytest.mark.parametrize(
    ("exporter", "dtype"), [("TorchScript", "float32"), ("TorchScript", "float64"), ("dynamo", "float32")]
)
def test_models_from_both_pytorch_exporters_are_read(exporter: str, dtype: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason='the extra "peers" is not installed')
    nn = torch.nn
    if exporter == "dynamo":
        pytest.importorskip("onnxscript", reason="PyTorch's newer exporter needs onnxscript")
    functions = [
        nn.ReLU(), nn.Sigmoid(), nn.Tanh(), nn.GELU(), nn.GELU(approximate="tanh"), nn.SiLU(), nn.ELU(0.5),
        nn.LeakyReLU(0.25), *([nn.Softplus()] if dtype == "float32" else []), nn.Softmax(-1),
    ]  # fmt: skip
    torch.manual_seed(1)
    layers = [nn.Flatten(), *(part for g in functions for part in (nn.Linear(3, 3), nn.Dropout(0.5), g))]
    net, x = nn.Sequential(*layers).eval().to(getattr(torch, dtype)), torch.randn(5, 3).to(getattr(torch, dtype))
    stream: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            if exporter == "dynamo":
                dynamic = ({0: torch.export.Dim("m")},)
                program = torch.onnx.export(net, (x,), dynamo=True, dynamic_shapes=dynamic, verbose=False)
                stream.write(program.model_proto.SerializeToString())
            else:
                torch.onnx.export(net, (x,), stream, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "m"}})
        finally:
            logging.disable(logging.NOTSET)
    path = tmp_path / "torch.onnx"
    path.write_bytes(stream.getvalue())
    loaded = dn.from_onnx(path)
    names = [layer.g.name for layer in loaded.layers]  # type: ignore[attr-defined]
    assert names == [
        "relu", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu", "elu", "leaky_relu",
        *(["softplus"] if dtype == "float32" else []), "softmax",
    ]  # fmt: skip
    assert worst(loaded.predict(x.numpy().T).T, outputs_with_bounds(Chain.of(loaded), x.numpy())) <= 1
    assert worst(net(x).detach().numpy(), outputs_with_bounds(Chain.of(loaded), x.numpy())) <= 1


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
@pytest.mark.parametrize("zipmap", [True, False])
def test_models_from_skl2onnx_are_read(kind: str, zipmap: bool, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason='the extra "sklearn" is not installed')
    skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx is not installed")
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = rng.normal(3, 5, size=(60, 3)).astype("float32")
    y = {
        "binary": np.array(["no", "yes"])[np.arange(60) % 2], "multiclass": np.arange(60) % 3 + 5,
        "multilabel": rng.integers(0, 2, (60, 4)), "regression": rows[:, 0],
    }[kind]  # fmt: skip
    estimator = (MLPRegressor if kind == "regression" else MLPClassifier)(
        hidden_layer_sizes=(5,), max_iter=3, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = make_pipeline(StandardScaler(), estimator).fit(rows, y)
        options = {} if kind == "regression" else {id(pipeline): {"zipmap": zipmap and kind != "multilabel"}}
        content = skl2onnx.to_onnx(pipeline, rows[:1], options=options)
    net = dn.from_onnx(write(content, tmp_path))
    expected = pipeline.predict(rows).reshape(-1, 1) if kind == "regression" else pipeline.predict_proba(rows)
    assert worst(expected, outputs_with_bounds(Chain.of(net), rows)) <= 1
    classes = {"binary": ["no", "yes"], "multiclass": ["5", "6", "7"]}
    assert net.metadata.get("classes") == classes.get(kind)
    assert net.outputs == expected.shape[1]


def test_an_output_can_be_chosen_by_name(tmp_path: Path) -> None:
    content = chain(*CHAINS["Gemm"])
    content.graph.output.append(helper.make_tensor_value_info("v0", 1, None))
    with pytest.raises(
        dn.ModelFileError, match=r"it has 2 numeric outputs among v2, v0; choose one with output=\.\.\."
    ):
        dn.from_onnx(write(content, tmp_path))
    assert dn.from_onnx(write(content, tmp_path), output="v0").outputs == 4
    with pytest.raises(dn.ModelFileError, match="it has no output 'v1'; outputs: v2, v0"):
        dn.from_onnx(write(content, tmp_path), output="v1")


def test_metadata_from_other_exporters_stay_strings(tmp_path: Path) -> None:
    content = chain(*CHAINS["Gemm"])
    helper.set_model_props(content, {"version": "1.10", "classes": "[1]"})
    assert dn.from_onnx(write(content, tmp_path)).metadata == {"version": "1.10", "classes": "[1]"}


if sys.platform != "win32":

    def test_paths_that_are_not_regular_files_are_refused(tmp_path: Path) -> None:
        import os

        os.mkfifo(tmp_path / "pipe")
        for name, message in (("pipe", "not a regular file"), (".", "Is a directory"), ("none", "No such file")):
            with pytest.raises(dn.ModelFileError, match=message):
                dn.from_onnx(tmp_path / name)
        with pytest.raises(dn.ArgumentError, match="path=3"):
            dn.from_onnx(3)
