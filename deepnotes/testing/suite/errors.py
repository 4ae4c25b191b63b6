"""Errors: bad input raises the same class of error on every backend and changes nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np

from deepnotes.network.network import Network
from deepnotes.nn.layers import Dense
from deepnotes.nn.optimizers import SGD
from deepnotes.testing.checks import CheckFunction, Trial, check
from deepnotes.utils.errors import (
    ArgumentError,
    DataError,
    DTypeError,
    NonFiniteLossError,
    ShapeError,
    UnknownNameError,
    UnknownParameterError,
)

X = np.linspace(-1, 1, 40).reshape(4, 10)
Y = np.linspace(0, 1, 20).reshape(2, 10)
LABELS = np.arange(10) % 3


def _replace_element(x: np.ndarray, value: float) -> np.ndarray:
    x = x.copy()
    x[1, 3] = value
    return x


def _fit(**changes: Any) -> Callable[[Network], Any]:
    """Return a function that trains the given network, with some arguments replaced."""
    arguments: dict[str, Any] = {"X": X, "Y": Y, "epochs": 1} | changes
    return lambda net: net.fit(**arguments)


def _fit_classifier(**changes: Any) -> Callable[[Network], Any]:
    """Return a function that trains a new classifier on the given network's backend, with some arguments replaced."""
    arguments: dict[str, Any] = {"X": X, "Y": LABELS, "epochs": 1} | changes

    def train(net: Network) -> Any:
        return Network([Dense(3, "softmax")], 4, backend=net.backend, seed=0).fit(**arguments)

    return train


CASES: dict[str, dict[str, tuple[type[Exception], Callable[[Network], Any]]]] = {
    "shapes": {
        "samples as rows": (ShapeError, lambda net: net.predict(X.T)),
        "one dimension": (ShapeError, lambda net: net.predict(X[:, 0])),
        "three dimensions": (ShapeError, lambda net: net.predict(X[None])),
        "one feature too many": (ShapeError, _fit(X=np.vstack([X, X[:1]]))),
        "a sample without a target": (ShapeError, _fit(Y=Y[:, :9])),
        "an output without a target": (ShapeError, _fit(Y=Y[:1])),
        "one weight too few": (ShapeError, _fit(sample_weight=np.ones(9))),
        "one label too few": (ShapeError, _fit_classifier(Y=LABELS[:9])),
        "validation samples with three features": (ShapeError, _fit(validation=(X[:3], Y))),
    },
    "dtypes": {
        "strings": (DTypeError, lambda net: net.predict(np.full((4, 2), "a"))),
        "objects": (DTypeError, lambda net: net.predict(np.full((4, 2), None))),
        "complex numbers": (DTypeError, lambda net: net.predict(X + 1j)),
        "strings as targets": (DTypeError, _fit(Y=np.full((2, 10), "a"))),
        "strings as weights": (DTypeError, _fit(sample_weight=["a"] * 10)),
    },
    "values": {
        "NaN in X": (DataError, _fit(X=_replace_element(X, np.nan))),
        "infinity in X": (DataError, _fit(X=_replace_element(X, np.inf))),
        "a number in X beyond the range of the dtype": (DataError, _fit(X=_replace_element(X, 1e300))),
        "NaN in Y": (DataError, _fit(Y=_replace_element(Y, np.nan))),
        "no samples": (DataError, _fit(X=X[:, :0], Y=Y[:, :0])),
        "a label too large": (DataError, _fit_classifier(Y=LABELS + 1)),
        "a negative label": (DataError, _fit_classifier(Y=LABELS - 1)),
        "a label with a fraction": (DataError, _fit_classifier(Y=LABELS + 0.5)),
        "a negative weight": (DataError, _fit(sample_weight=-np.ones(10))),
        "a weight of NaN": (DataError, _fit(sample_weight=np.full(10, np.nan))),
        "a target outside 0 .. 1": (DataError, lambda net: _sigmoid_network(net).fit(X, 2 * Y[:1] + 1, epochs=1)),
    },
    "arguments": {
        "a batch size of 0": (ArgumentError, _fit(batch_size=0)),
        "half an epoch": (ArgumentError, _fit(epochs=0.5)),
        "negative l1": (ArgumentError, _fit(l1=-1)),
        "negative l2": (ArgumentError, _fit(l2=-1)),
        "clipping to 0": (ArgumentError, _fit(clip_norm=0)),
        "a loss for different outputs": (ArgumentError, _fit(loss="categorical_cross_entropy")),
        "validation data that are not a pair": (ArgumentError, _fit(validation=X)),
    },
    "names": {
        "an unknown optimizer": (UnknownNameError, _fit(optimizer="adma")),
        "an unknown loss": (UnknownNameError, _fit(loss="mse2")),
        "an unknown metric": (UnknownNameError, _fit(metrics="acuracy")),
        "an unknown parameter": (UnknownParameterError, lambda net: net.parameters["W9"]),
    },
}
"""For each kind of bad input: faults, each with the expected class of error and a function that causes it.

The functions take a network with 4 inputs and 2 outputs.
"""


def _sigmoid_network(net: Network) -> Network:
    return Network([Dense(1, "sigmoid")], 4, backend=net.backend, seed=0)


def make_error_check(kind: str) -> CheckFunction:
    """Return the check of one kind of bad input."""

    def run(trial: Trial) -> None:
        net = Network([Dense(3, "tanh"), Dense(2)], 4, backend=trial.backend, seed=0)
        before = net.flat()
        for fault, (error, function) in CASES[kind].items():
            with trial.raises(error, fault):
                function(net)
            trial.same(net.flat(), before, f"{fault}: the parameters afterwards")

    return run


for _kind in CASES:
    check(f"errors.{_kind}", "the same class of error, and unchanged parameters")(make_error_check(_kind))


@check("errors.divergence")
def divergence(trial: Trial) -> None:
    """Training that diverges raises an error and leaves finite parameters."""
    for dtype in trial.dtypes:
        net = Network([Dense(5, "relu"), Dense(5, "relu"), Dense(1)], 4, backend=trial.backend, dtype=dtype, seed=0)
        with trial.raises(NonFiniteLossError, f"{dtype}: a learning rate of 1e30"):
            net.fit(X, Y[:1], optimizer=SGD(1e30), epochs=100)
        trial.that(np.isfinite(net.flat()).all(), f"{dtype}: finite parameters")
