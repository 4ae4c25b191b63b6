"""Pipelines with our estimators: exported by skl2onnx, run in ONNX Runtime, and loaded again."""

import warnings
from pathlib import Path
from typing import Any

import literature
import numpy as np
import pytest

import deepnotes as dn

pytest.importorskip("sklearn", reason='the extra "sklearn" is not installed')
skl2onnx = pytest.importorskip("skl2onnx", reason='the extra "skl2onnx" is not installed')
runtime = pytest.importorskip("onnxruntime", reason='the extra "onnx" is not installed')

rng = np.random.default_rng(3)
X = rng.normal(3, 5, size=(60, 4)).astype("float32")
TARGETS: dict[str, Any] = {
    "two classes": np.array(["no", "yes"])[np.arange(60) % 2],
    "classes": np.arange(60) % 3 + 5,
    "text": np.array(["ä", "b", "c"], object)[np.arange(60) % 3],
    "labels": rng.integers(0, 2, (60, 3)),
    "numbers": X[:, 0],
    "two numbers": X[:, :2],
}


def fit_pipeline(target: str, dtype: str = "float32", **settings: Any) -> Any:
    """Return a fitted pipeline of a scaler and one of our estimators."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    estimator = dn.DenseRegressor if "number" in target else dn.DenseClassifier
    options = {"hidden_layer_sizes": (5, 4), "max_iter": 3, "random_state": 0, "backend": "numpy"} | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_pipeline(StandardScaler(), estimator(**options)).fit(X.astype(dtype), TARGETS[target])


def export(model: Any, dtype: str = "float32", zipmap: Any = False) -> Any:
    """Return the ONNX model that skl2onnx exports."""
    dn.register_skl2onnx()
    classifier = hasattr(model, "predict_proba")
    options = {id(model): {"zipmap": zipmap}} if classifier else {}
    return skl2onnx.to_onnx(model, X[:1].astype(dtype), options=options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", TARGETS)
def test_exported_and_reloaded_pipelines_make_the_same_predictions(target: str, dtype: str, tmp_path: Path) -> None:
    model = fit_pipeline(target, dtype, activation=["gelu", dn.Activation("leaky_relu", slope=0.1)])
    content, rows = export(model, dtype).SerializeToString(), X.astype(dtype)
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    tolerances = {"rtol": 1e-4, "atol": 1e-5} if dtype == "float32" else {"rtol": 1e-10, "atol": 1e-12}
    for samples in (rows, rows[:1]):
        actual = session.run(None, {"X": samples})
        expected = model.predict(samples)
        if "number" in target:
            np.testing.assert_allclose(actual[0].reshape(expected.shape), expected, **tolerances)
        else:
            np.testing.assert_array_equal(actual[0], expected)
            np.testing.assert_allclose(actual[1], model.predict_proba(samples), **tolerances)
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    net, outputs = dn.from_onnx(path, backend="numpy"), actual[-1].reshape(1, -1)
    np.testing.assert_allclose(net.predict(rows[:1].T).T, outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalization", ["layer", "rms"])
@pytest.mark.parametrize("target", ["two classes", "classes", "two numbers"])
def test_normalization_and_shortcuts_are_exported(target: str, normalization: str) -> None:
    model = fit_pipeline(target, "float64", hidden_layer_sizes=(5, 5), normalization=normalization, residual=True)
    rows = X.astype("float64")
    session = runtime.InferenceSession(export(model, "float64").SerializeToString(), providers=["CPUExecutionProvider"])
    expected = model.predict(rows) if "number" in target else model.predict_proba(rows)
    np.testing.assert_allclose(session.run(None, {"X": rows})[-1], expected, rtol=1e-10, atol=1e-12)


def test_zipmap_gives_a_dict_of_probabilities_for_each_sample() -> None:
    model = fit_pipeline("two classes")
    session = runtime.InferenceSession(
        export(model, zipmap=True).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    _, actual = session.run(None, {"X": X[:2]})
    np.testing.assert_allclose([list(row.values()) for row in actual], model.predict_proba(X[:2]), rtol=1e-4)
    assert list(actual[0]) == ["no", "yes"]


@pytest.mark.parametrize("g", [*literature.ACTIVATIONS, *literature.COUPLED], ids=str)
def test_a_user_defined_activation_is_exported(g: dn.ActivationFunction) -> None:
    model = fit_pipeline("classes", activation=g)
    session = runtime.InferenceSession(export(model).SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"X": X})[1], model.predict_proba(X), rtol=1e-4, atol=1e-5)


def test_a_user_defined_activation_without_a_formula_is_refused() -> None:
    class Sorted(dn.ActivationFunction):
        """An activation that no formula describes."""

        def forward(self, ops: Any, Z: Any) -> Any:
            return np.sort(Z, axis=0)

        def backward(self, ops: Any, dA: Any, Z: Any, A: Any) -> Any:
            return np.take_along_axis(dA, np.argsort(np.argsort(Z, axis=0), axis=0), axis=0)

    with pytest.raises(dn.ModelFileError, match="layer 1 has the user-defined activation"):
        export(fit_pipeline("classes", activation=Sorted()))
