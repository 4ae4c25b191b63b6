# ruff: noqa: E501 - one line for each case
"""Invalid input is refused with an error that names the argument, the value and what is valid; no network changes."""

from collections.abc import Callable
from typing import Any

import array_api_strict
import numpy as np
import pytest

import deepnotes as dn

X = np.random.default_rng(0).normal(size=(4, 6))
Y = np.array([0, 1, 2, 0, 1, 2])


class OnAnotherDevice:
    """An object with the interface of an array on a GPU, such as CuPy's."""

    __module__ = "cupy"
    shape = (4, 6)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)  # kDLCUDA


class Undetached:
    """An object that refuses conversion to NumPy, like a PyTorch tensor that requires a gradient."""

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise RuntimeError("call detach() first")


class Ascent(dn.Schedule):
    """A schedule with negative rates."""

    def __call__(self, step: int) -> float:
        return -1.0


def poison(value: float, *indices: tuple[int, int]) -> np.ndarray:
    """Return a copy of X with `value` at `indices`."""
    poisoned = X.copy()
    for index in indices:
        poisoned[index] = value
    return poisoned


def network(last: Any = None, **settings: Any) -> dn.Network:
    layers = [dn.Dense(5, "relu"), last or dn.Dense(3, "softmax")]
    return dn.Network(layers, inputs=4, **{"backend": "numpy", "seed": 0} | settings)


SIGMOID, LINEAR = dn.Dense(1, "sigmoid"), dn.Dense(1)
BITS = np.array([0, 1, 1, 0, 1, 0])

CASES: list[tuple[str, Callable[[dn.Network], Any], type[Exception], str, Any]] = [
    ("features", lambda n: n.fit(X[:3], Y), dn.ShapeError, r"X has shape \(3, 6\), wanted \(4, m\): 4 features", None),
    ("transposed X", lambda n: n.fit(X.T, Y), dn.ShapeError, r"X\.T, of shape \(4, 6\), would fit", None),
    ("transposed X in predict", lambda n: n.predict(X.T), dn.ShapeError, r"samples are columns here: X\.T", None),
    ("one sample", lambda n: n.predict(X[:, 0]), dn.ShapeError, r"pass X\.reshape\(-1, 1\)", None),
    ("scalar", lambda n: n.predict(3.0), dn.ShapeError, r"X has shape \(\)", None),
    ("lengths", lambda n: n.fit(X, Y[:5]), dn.ShapeError, r"Y has 5 samples .*, but X has 6", None),
    ("transposed Y", lambda n: n.fit(X, np.eye(3)[Y]), dn.ShapeError, r"Y\.T would fit", None),
    ("outputs", lambda n: n.fit(X, np.ones((2, 6)) / 2), dn.ShapeError, r"wanted \(3, 6\), or class indices", None),
    ("no samples", lambda n: n.fit(X[:, :0], Y[:0]), dn.DataError, "X holds no samples", None),
    ("no samples", lambda n: n.evaluate(X[:, :0], Y[:0]), dn.DataError, "X holds no samples", None),
    ("nan", lambda n: n.fit(poison(np.nan, (1, 2), (3, 0)), Y), dn.DataError,
     r"X\[1, 2\] is nan, the first of 2 values that are not finite", None),
    ("inf", lambda n: n.fit(poison(-np.inf, (2, 5)), Y), dn.DataError, r"X\[2, 5\] is -inf; wanted finite", None),
    ("nan, Fortran order", lambda n: n.fit(np.asfortranarray(poison(np.nan, (2, 1))), Y), dn.DataError, r"X\[2, 1\]", None),
    ("nan in Y", lambda n: n.fit(X, [0, 1, np.nan, 0, 1, 0]), dn.DataError, r"Y\[2\] is nan", LINEAR),
    ("label too large", lambda n: n.fit(X, Y + 1), dn.DataError, r"Y\[2\] is 3, wanted a class from 0 to 2 \(2 lab", None),
    ("label negative", lambda n: n.fit(X, Y - 1), dn.DataError, r"Y\[0\] is -1, wanted a class from 0 to 2", None),
    ("label fractional", lambda n: n.fit(X, Y + 0.5), dn.DataError, r"Y\[0\] is 0\.5, wanted a whole number", None),
    ("binary label", lambda n: n.fit(X, BITS + 1), dn.DataError, r"Y\[1\] is 2, wanted between 0 and 1", SIGMOID),
    ("distribution", lambda n: n.fit(X, np.full((3, 6), 0.5)), dn.DataError, r"Y\[:, 0\] sums to 1\.5, wanted 1", None),
    ("one class", lambda n: n.fit(X, BITS, loss="categorical_cross_entropy"), dn.ArgumentError, "softmax",
     dn.Dense(1, "softmax")),
    ("object", lambda n: n.fit(X.astype(object), Y), dn.DTypeError, "X: got an array of object", None),
    ("strings", lambda n: n.fit(X, list("abcabc")), dn.DTypeError, "Y: got an array of <U1, wanted real", None),
    ("complex", lambda n: n.predict(X * 1j), dn.DTypeError, "X: got an array of complex128", None),
    ("ragged", lambda n: n.predict([[1, 2], [3]]), dn.DTypeError, "X: got list, wanted an array of real", None),
    ("device", lambda n: n.predict(OnAnotherDevice()), dn.ForeignArrayError,
     r"X is a cupy\.OnAnotherDevice on another device, .* runs on 'numpy'.*to_numpy\(X\)", None),
    ("loss", lambda n: n.fit(X, Y, loss="categorical_crossentropy"), dn.UnknownNameError,
     "unknown loss 'categorical_crossentropy'; did you mean 'categorical_cross_entropy'", None),
    ("loss by initials", lambda n: n.fit(X, BITS, loss="mse"), dn.UnknownNameError, "mean 'mean_squared_error'", LINEAR),
    ("optimizer", lambda n: n.fit(X, Y, optimizer="adamm"), dn.UnknownNameError, "did you mean 'adam'", None),
    ("metric", lambda n: n.fit(X, Y, metrics=["acuracy"]), dn.UnknownNameError, "did you mean 'accuracy'", None),
    ("loss and activation", lambda n: n.fit(X, BITS, loss="binary_cross_entropy"), dn.ArgumentError,
     "'binary_cross_entropy' needs outputs in the range 'unit' or 'simplex', but .*'identity' are in the range 'real': use", LINEAR),
    ("batch size", lambda n: n.fit(X, Y, batch_size=0), dn.ArgumentError, "batch_size=0, wanted a whole number", None),
    ("batch size", lambda n: n.fit(X, Y, batch_size=2.5), dn.ArgumentError, "batch_size=2.5", None),
    ("epochs", lambda n: n.fit(X, Y, epochs=-1), dn.ArgumentError, "epochs=-1, wanted a whole number of at least 1", None),
    ("patience", lambda n: n.fit(X, Y, early_stopping=-2), dn.ArgumentError, "early_stopping=-2", None),
    ("l1", lambda n: n.fit(X, Y, l1=-0.1), dn.ArgumentError, "l1=-0.1, wanted at least 0 and less than 3.4", None),
    ("l2", lambda n: n.fit(X, Y, l2=-0.1), dn.ArgumentError, "l2=-0.1, wanted at least 0 and less than 3.4", None),
    ("clip_norm", lambda n: n.fit(X, Y, clip_norm=0), dn.ArgumentError, "clip_norm=0, wanted above 0 and less than 3.4", None),
    ("clip_norm", lambda n: n.fit(X, Y, clip_norm=1e300), dn.ArgumentError, r"clip_norm=1e\+300, wanted above 0", None),
    ("monitor", lambda n: n.fit(X, Y, early_stopping=dn.EarlyStopping(monitor="val_loss")), dn.ArgumentError,
     "monitor='val_loss', wanted one of the available values: loss", None),
    ("callbacks", lambda n: n.fit(X, Y, callbacks=(3,)), dn.ArgumentError, r"callbacks\[0\]=3, wanted an object", None),
    ("callbacks", lambda n: n.fit(X, Y, callbacks=(dn.Callback,)), dn.ArgumentError, r"callbacks\[0\]=<class", None),
    ("callbacks", lambda n: n.fit(X, Y, callbacks=dn.Callback()), dn.ArgumentError, "wanted a list of callbacks", None),
    ("schedule", lambda n: n.fit(X, Y, optimizer=dn.SGD(Ascent())), dn.ArgumentError, "learning_rate: got .*, wanted finite", None),
    ("beyond the dtype", lambda n: n.fit(np.where(X[1, 2] == X, 1e39, X), Y), dn.DataError,
     r"X\[1, 2\] is 1e\+39, beyond the range of float32; use dtype='float64'", None),
    ("beyond the dtype", lambda n: n.fit(X, [0, 0, 0, 1e39, 0, 0]), dn.DataError, r"Y\[0, 3\] is 1e\+39, beyond", LINEAR),
    ("label beyond float32", lambda n: n.fit(X, [0, 1, 2, 1e300, 0, 0]), dn.DataError, r"Y\[3\] is 1e\+300, wanted", None),
    ("class weight", lambda n: n.fit(X, Y, class_weight={"a": 1}), dn.ArgumentError, "class_weight: class='a'", None),
    ("class weight", lambda n: n.fit(X, Y, class_weight=3), dn.ArgumentError, "class_weight=3, wanted 'balanced'", None),
    ("theta", lambda n: n.set_flat([1, 2]), dn.ShapeError, r"theta has shape \(2,\), wanted \(43,\)", None),
    ("torch with gradient", lambda n: n.predict(Undetached()), dn.DTypeError, "X: got Undetached, .*call detach", None),
    ("validation", lambda n: n.fit(X, Y, validation=X), dn.ArgumentError, r"a pair \(X_val, Y_val\)", None),
    ("validation X", lambda n: n.fit(X, Y, validation=(X.T, Y)), dn.ShapeError, "X_val has shape", None),
    ("validation Y", lambda n: n.fit(X, Y, validation=(X, Y[:2])), dn.ShapeError, "Y_val has 2 samples", None),
    ("weights", lambda n: n.fit(X, Y, sample_weight=[1, 2]), dn.ShapeError, r"sample_weight has shape \(2,\), wanted \(6,", None),
    ("weights", lambda n: n.fit(X, Y, sample_weight=-np.ones(6)), dn.DataError, r"sample_weight\[0\] is -1.0", None),
    ("weights", lambda n: n.fit(X, Y, sample_weight=np.zeros(6)), dn.DataError, "every sample has the weight 0", None),
    ("class weight", lambda n: n.fit(X, Y, class_weight="balance"), dn.ArgumentError, "class_weight='balance'", None),
    ("class weight", lambda n: n.fit(X, Y, class_weight=[1, 2]), dn.ArgumentError, "has 2 weights, wanted 3: one for each class", None),
    ("class weight", lambda n: n.fit(X, X[:1], class_weight={0: 2}), dn.ArgumentError, "targets are not classes", LINEAR),
    ("parameter", lambda n: n.parameters.__setitem__("W1", X), dn.ShapeError, r"W1 has shape \(4, 6\), wanted", None),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message", "last"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_bad_input_is_refused_before_anything_changes(
    call: Callable[[dn.Network], Any], error: type[Exception], message: str, last: Any
) -> None:
    net = network(last)
    before, generator = net.flat(), net._rng.bit_generator.state
    with pytest.raises(error, match=message) as caught:
        call(net)
    assert isinstance(caught.value, dn.DeepnotesError)
    np.testing.assert_array_equal(net.flat(), before)
    assert net._rng.bit_generator.state == generator


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: dn.Dense(0), dn.ArgumentError, "units=0, wanted a whole number of at least 1"),
        (lambda: dn.Dense(True), dn.ArgumentError, "units=True"),
        (lambda: dn.Dense(3, "rleu"), dn.UnknownNameError, "unknown activation 'rleu'; did you mean 'relu'"),
        (lambda: dn.Dense(3, initializer="he"), dn.UnknownNameError, "unknown initializer 'he'"),
        (lambda: dn.Dropout(1.0), dn.ArgumentError, "rate=1.0, wanted at least 0 and less than 1"),
        (
            lambda: dn.Activation("leaky_relu", alpha=1),
            dn.ArgumentError,
            "leaky_relu has no option 'alpha'; its options: slope",
        ),
        (lambda: dn.Activation("elu", alpha="1"), dn.ArgumentError, "elu: alpha='1', wanted a finite number"),
        (lambda: dn.Loss("hubber"), dn.UnknownNameError, "did you mean 'huber'"),
        (lambda: dn.Network([], 3), dn.ArgumentError, r"layers=\[\], wanted a list of at least one layer"),
        (lambda: dn.Network(dn.Dense(3), 3), dn.ArgumentError, r"layers=Dense.*, wanted a list"),
        (lambda: dn.Network([dn.Dropout(0.5)], 3), dn.ArgumentError, "layers have no parameters"),
        (lambda: dn.Network([dn.Dense(2**30)], 2**40), dn.ArgumentError, "too many to fit into memory"),
        (
            lambda: dn.Network([dn.Dense(3, initializer=lambda r, s: None)], 3),  # type: ignore[return-value]
            dn.ArgumentError,
            "initializer of W1: got obj",
        ),
        (lambda: network(dtype="foo"), dn.ArgumentError, "dtype='foo', wanted 'float32' or 'float64'"),
        (lambda: network(dtype=None), dn.ArgumentError, "dtype=None"),
        (lambda: network(seed=2**64), dn.ArgumentError, "seed=18446744073709551616, wanted less than 2"),
        (lambda: dn.Network([3], 3), dn.ArgumentError, r"layers\[0\]=3, wanted a deepnotes Layer"),  # type: ignore[list-item]
        (lambda: dn.Network([dn.Dense(1)], 0), dn.ArgumentError, "inputs=0"),
        (lambda: network(dtype="float16"), dn.ArgumentError, "dtype='float16', wanted 'float32' or 'float64'"),
        (lambda: network(seed=-1), dn.ArgumentError, "seed=-1, wanted a whole number of at least 0"),
        (lambda: network(backend="nunpy"), dn.UnknownNameError, "did you mean 'numpy'"),
        (lambda: network(backend=3), dn.ArgumentError, "backend=3, wanted a name or a deepnotes Backend"),
        (lambda: network(theta=np.zeros(3)), dn.ShapeError, r"theta has shape \(3,\), wanted \(43,\)"),
        (
            lambda: network(standardizer=dn.Standardizer.fit(X[:2])),
            dn.ShapeError,
            "has 2 features, but the network has 4",
        ),
        (lambda: dn.Adam(0), dn.ArgumentError, "learning_rate=0, wanted a finite number above 0"),
        (lambda: dn.SGD(-0.1), dn.ArgumentError, "learning_rate=-0.1"),
        (lambda: dn.SGD(momentum="x"), dn.ArgumentError, "momentum='x', wanted at least 0 and at most 1"),
        (lambda: dn.Adam(epsilon=float("inf")), dn.ArgumentError, "epsilon=inf, wanted a finite number above 0"),
        (lambda: dn.ReduceOnPlateau(0.1, min_rate=float("nan")), dn.ArgumentError, "min_rate=nan, wanted a finite"),
        (lambda: dn.EarlyStopping(mode="up"), dn.ArgumentError, "mode='up', wanted 'min', 'max' or None"),
        (lambda: dn.Adam(float("nan")), dn.ArgumentError, "learning_rate=nan"),
        (lambda: dn.CosineDecay(0.1, steps=10, warmup=10), dn.ArgumentError, "warmup=10, wanted .* less than steps=10"),
    ],
)
def test_invalid_arguments_of_constructors_are_refused(
    make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_native_arrays_are_checked_like_numpy_arrays() -> None:
    net = network(backend=dn.Backend("strict", array_api_strict), dtype="float64")
    native = array_api_strict.asarray
    with pytest.raises(dn.DataError, match=r"X\[1, 2\] is nan, the first of 2"):
        net.fit(native(poison(np.nan, (1, 2), (3, 0))), Y)
    with pytest.raises(dn.ShapeError, match=r"X\.T, of shape"):
        net.predict(native(X.T.copy()))
    with pytest.raises(dn.DataError, match=r"Y\[2\] is 3"):
        net.fit(native(X), native(Y + 1))
    with pytest.raises(dn.DTypeError, match="X: got an array of complex128"):
        net.fit(native(X * 1j), Y)
    with pytest.raises(dn.DTypeError, match="Y: got an array of complex128"):
        net.fit(native(X), native(Y * 1j))
    bits = dn.Network([dn.Dense(1, "sigmoid")], 4, backend=net.backend, seed=0)
    bits.fit(native(X > 0), native(BITS > 0))


def test_the_prediction_for_a_sample_with_nan_is_nan() -> None:
    """Unlike training, prediction accepts NaN."""
    for activation in ("relu", "leaky_relu", "elu", "tanh", "gelu"):
        net = dn.Network([dn.Dense(5, activation), dn.Dense(2)], inputs=4, seed=0)
        A = net.predict(poison(np.nan, (1, 2)))
        assert np.isnan(A[:, 2]).all()
        assert np.isfinite(np.delete(A, 2, axis=1)).all()
