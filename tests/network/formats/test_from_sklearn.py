"""Networks converted from fitted scikit-learn estimators make the same predictions."""

import warnings
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.network.formats.chain import Chain
from deepnotes.network.formats.check_vectors import Vectors, expected, worst

pytest.importorskip("sklearn", reason='the extra "sklearn" is not installed')

rng = np.random.default_rng(2)
X = rng.normal(3, 5, size=(60, 4))
TARGETS = {
    "binary": np.array(["no", "yes"])[np.arange(60) % 2],
    "multiclass": np.arange(60) % 3 + 5,
    "multilabel": rng.integers(0, 2, (60, 3)),
    "regression": X[:, 0],
    "regression, two outputs": X[:, :2],
}


def fit_estimator(kind: str, dtype: str = "float64", scaled: bool = False, **settings: Any) -> Any:
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    class_ = MLPRegressor if kind.startswith("regression") else MLPClassifier
    estimator = class_(**{"hidden_layer_sizes": (5, 4), "max_iter": 3, "random_state": 0} | settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (make_pipeline(StandardScaler(), estimator) if scaled else estimator).fit(X.astype(dtype), TARGETS[kind])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("kind", TARGETS)
def test_converted_networks_make_the_same_predictions(kind: str, activation: str, dtype: str) -> None:
    estimator = fit_estimator(kind, dtype, activation=activation)
    rows = X.astype(dtype)
    theirs = estimator.predict(rows) if kind.startswith("regression") else estimator.predict_proba(rows)
    theirs = theirs[:, 1:] if kind == "binary" else theirs.reshape(60, -1)
    net = dn.from_sklearn(estimator, backend="numpy")
    assert (net.dtype, net.backend.name, theirs.dtype) == (dtype, "numpy", dtype)
    A = expected(Chain.of(net), rows.T)
    tests = Vectors(rows, A.value.astype(np.float64).T, (A.rules.slack * A.error).T)
    assert worst(theirs, tests) <= 1
    assert worst(net.predict(rows.T).T, tests) <= 1
    if kind in {"binary", "multiclass"}:
        labels = (net.predict(rows.T)[0] > 0.5) * 1 if kind == "binary" else net.predict(rows.T).argmax(axis=0)
        assert [net.metadata["classes"][i] for i in labels] == [str(y) for y in estimator.predict(rows)]


def test_a_scaler_in_a_pipeline_becomes_the_standardizer() -> None:
    estimator = fit_estimator("multiclass", scaled=True)
    net = dn.from_sklearn(estimator)
    assert net.standardizer is not None
    np.testing.assert_array_equal(net.standardizer.mean.ravel(), estimator[0].mean_)
    # Both libraries standardize in double precision, with the same operations.
    A = expected(Chain.of(net), X.T)
    assert worst(estimator.predict_proba(X), Vectors(X, A.value.astype(np.float64).T, A.rules.slack * A.error.T)) <= 1


def test_affine_steps_of_a_pipeline_are_converted() -> None:
    from sklearn.decomposition import PCA, TruncatedSVD
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

    for steps in (
        [MinMaxScaler()], [MinMaxScaler((-2, 5))], [MaxAbsScaler()], [RobustScaler()], [PCA(3)], [TruncatedSVD(2)],
        [RobustScaler(with_centering=False), PCA(2, whiten=True), StandardScaler()], ["passthrough", StandardScaler()],
        [StandardScaler(with_mean=False), MinMaxScaler(), StandardScaler(with_std=False)],
    ):  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = make_pipeline(*steps, MLPClassifier(5, max_iter=3, random_state=0)).fit(X, TARGETS["multiclass"])
        net = dn.from_sklearn(theirs, backend="numpy")
        np.testing.assert_allclose(net.predict(X.T).T, theirs.predict_proba(X), rtol=1e-12, atol=1e-14)


def test_our_estimators_are_converted_with_any_activation() -> None:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler

    class Custom(dn.ActivationFunction):
        """A user-defined activation."""

        def forward(self, ops: Any, Z: Any) -> Any:
            return ops.silu(Z)

        def backward(self, ops: Any, dA: Any, Z: Any, A: Any) -> Any:
            return ops.silu_backward(dA, Z, A)

    for activation in (
        ["tanh", "gelu"], "silu", dn.Activation("leaky_relu", slope=0.2), ["relu", dn.Activation("elu", alpha=0.5)],
        ["relu", Custom()], "logistic",
    ):  # fmt: skip
        ours: Any = dn.DenseClassifier((5, 4), activation, max_iter=3, random_state=0, backend="numpy")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = make_pipeline(MinMaxScaler(), ours).fit(X, TARGETS["multiclass"])
        net = dn.from_sklearn(model, backend="numpy")
        assert net.metadata["classes"] == ["5", "6", "7"]
        np.testing.assert_allclose(net.predict(X.T).T, model.predict_proba(X), rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(dn.from_sklearn(ours).flat(), ours.to_network().flat())


def test_feature_names_and_dtype_are_kept_in_the_model_file(tmp_path: Any) -> None:
    from sklearn.neural_network import MLPRegressor

    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = MLPRegressor(max_iter=2, random_state=0).fit(pandas.DataFrame(X, columns=list("wxyz")), X[:, 0])
    net = dn.from_sklearn(estimator, dtype="float32")
    assert (net.metadata, net.dtype) == ({"features": list("wxyz")}, "float32")
    net.save(tmp_path / "model.safetensors")
    assert dn.load(tmp_path / "model.safetensors").metadata == net.metadata


def test_a_poisson_regressor_is_converted_and_exported(tmp_path: Any) -> None:
    """The last activation is exp, which model files, ONNX files and Python files can represent."""
    estimator = fit_estimator("regression", loss="poisson")
    net = dn.from_sklearn(estimator)
    np.testing.assert_allclose(net.predict(X.T)[0], estimator.predict(X), rtol=1e-13)
    net.save(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(dn.load(tmp_path / "model.safetensors").predict(X.T), net.predict(X.T))
    net.to_python(tmp_path / "model.py")
    assert "exp(np, linear" in (tmp_path / "model.py").read_text()
    pytest.importorskip("onnx", reason="onnx is not installed")
    net.to_onnx(tmp_path / "model.onnx")
    reloaded = dn.from_onnx(tmp_path / "model.onnx")
    assert reloaded.layers[-1].g == dn.Activation("exp")  # type: ignore[attr-defined]
    np.testing.assert_array_equal(reloaded.predict(X.T), net.predict(X.T))


def test_our_estimators_are_converted_with_an_activation_for_each_layer() -> None:
    activation = ["gelu", dn.Activation("leaky_relu", slope=0.2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = dn.DenseClassifier((6, 5), activation, max_iter=3, random_state=0).fit(X, X[:, 0] > 0)
    net = dn.from_sklearn(estimator)
    np.testing.assert_allclose(net.predict(X.T)[0], estimator.predict_proba(X)[:, 1], rtol=1e-12)


def test_estimators_and_steps_without_an_equivalent_layer_are_refused() -> None:
    from sklearn.decomposition import PCA
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LinearRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    unsupported = fit_estimator("regression")
    unsupported.out_activation_ = "cubed"
    for estimator, message in (
        (LinearRegression(), "a LinearRegression, wanted a fitted MLPClassifier, MLPRegressor, DenseClassifier or"),
        (MLPClassifier(), "a MLPClassifier, but is not fitted"),
        (make_pipeline(StandardScaler(), MLPClassifier()), "a MLPClassifier, but is not fitted|a Pipeline, but is"),
        (3, "estimator is a int, wanted a fitted"),
        (unsupported, "estimator has the activation 'cubed', wanted one of logistic, identity, sigmoid, tanh, .*, exp"),
    ):
        with pytest.raises(dn.ArgumentError, match=message):
            dn.from_sklearn(estimator)
    for step, message in (
        (SimpleImputer(), "estimator has the step SimpleImputer, wanted one of StandardScaler, MinMaxScaler, .*"),
        (MinMaxScaler(clip=True).fit(X), r"MinMaxScaler\(clip=True\), but no layer can clip its inputs"),
        (PCA(4), "a Pipeline, but is not fitted"),
    ):
        with pytest.raises(dn.ArgumentError, match=message):
            dn.from_sklearn(make_pipeline(step, fit_estimator("regression")))
    with pytest.raises(dn.ArgumentError, match="dtype='float16'"):
        dn.from_sklearn(fit_estimator("regression"), dtype="float16")
    with pytest.raises(dn.UnknownNameError, match="nmupy"):
        dn.from_sklearn(fit_estimator("regression"), backend="nmupy")
