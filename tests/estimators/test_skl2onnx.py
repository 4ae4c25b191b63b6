"""Our estimators in pipelines that skl2onnx exports, run in ONNX Runtime and read back."""

import warnings
from pathlib import Path
from typing import Any

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


def fitted(target: str, dtype: str = "float32", **settings: Any) -> Any:
    """Return a pipeline of a scaler and one of our estimators."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    made = dn.DenseRegressor if "number" in target else dn.DenseClassifier
    options = {"hidden_layer_sizes": (5, 4), "max_iter": 3, "random_state": 0, "backend": "numpy"} | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_pipeline(StandardScaler(), made(**options)).fit(X.astype(dtype), TARGETS[target])


def exported(model: Any, dtype: str = "float32", zipmap: Any = False) -> Any:
    """Return the ONNX model."""
    dn.register_skl2onnx()
    classifier = hasattr(model, "predict_proba")
    options = {id(model): {"zipmap": zipmap}} if classifier else {}
    return skl2onnx.to_onnx(model, X[:1].astype(dtype), options=options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_pipeline_predicts_the_same(target: str, dtype: str, tmp_path: Path) -> None:
    model = fitted(target, dtype, activation=["gelu", dn.Activation("leaky_relu", slope=0.1)])
    content, rows = exported(model, dtype).SerializeToString(), X.astype(dtype)
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == "float32" else {"rtol": 1e-10, "atol": 1e-12}
    for some in (rows, rows[:1]):
        found = session.run(None, {"X": some})
        wanted = model.predict(some)
        if "number" in target:
            np.testing.assert_allclose(found[0].reshape(wanted.shape), wanted, **close)
        else:
            np.testing.assert_array_equal(found[0], wanted)
            np.testing.assert_allclose(found[1], model.predict_proba(some), **close)
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    net, outputs = dn.from_onnx(path, backend="numpy"), found[-1].reshape(1, -1)
    np.testing.assert_allclose(net.predict(rows[:1].T).T, outputs, rtol=1e-4, atol=1e-5)


def test_labels_with_their_probabilities() -> None:
    model = fitted("two classes")
    session = runtime.InferenceSession(
        exported(model, zipmap=True).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    _, found = session.run(None, {"X": X[:2]})
    np.testing.assert_allclose([list(row.values()) for row in found], model.predict_proba(X[:2]), rtol=1e-4)
    assert list(found[0]) == ["no", "yes"]


def test_an_activation_of_ones_own_is_refused() -> None:
    class Own(dn.ActivationFunction):
        """An activation of a user's own."""

        def forward(self, ops: Any, Z: Any) -> Any:
            return ops.silu(Z)

        def backward(self, ops: Any, dA: Any, Z: Any, A: Any) -> Any:
            return ops.silu_backward(dA, Z, A)

    with pytest.raises(dn.ModelFileError, match="layer 1 has the activation"):
        exported(fitted("classes", activation=Own()))
