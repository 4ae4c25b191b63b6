"""The repr of an object is short: a prompt prints it after each line whose value is not used, such as a call of fit."""

from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.network.importance import Importance

X = np.random.default_rng(0).normal(size=(50, 300))
Y = (X[0] > 0).astype(int)


def network(**options: Any) -> dn.Network:
    return dn.Network(
        [dn.Dense(4, "tanh"), dn.Dropout(0.1), dn.Dense(1, "sigmoid")], 50, seed=0, backend="numpy", **options
    )


def table() -> dn.Table:
    return dn.read_table({f"x{i}": values for i, values in enumerate(X)})


def test_a_layer_is_the_call_that_makes_it() -> None:
    for text in (
        "Dense(3)", "Dense(3, 'relu')", "Dense(3, bias_initializer='he_normal')", "Dropout(rate=0.5)",
        "Dense(3, 'relu', constraint=NonNegative())", "Dense(3, constraint=MaxNorm(limit=2.0))",
        "Dense(3, Activation('elu', alpha=0.5), initializer='zeros', bias_initializer='zeros')",
    ):  # fmt: skip
        layer = eval(text, vars(dn).copy())
        assert repr(layer) == text
    assert repr(dn.Dense(units=3, activation="identity")) == "Dense(3)"


def test_a_layer_with_a_user_defined_activation_and_a_derived_layer() -> None:
    class Square(dn.ActivationFunction):
        def forward(self, ops: Any, Z: Any) -> Any:
            return ops.xp.multiply(Z, Z)

        def backward(self, ops: Any, dA: Any, Z: Any, A: Any) -> Any:
            return dA * Z * 2

    class Wide(dn.Dense):
        pass

    assert repr(Wide(3, Square())) == "Wide(3, Square())"


def test_a_network_lists_its_layers() -> None:
    assert repr(network()).startswith("Network([Dense(4, 'tanh'), Dropout(rate=0.1), Dense(1, 'sigmoid')], inputs=50, ")


def test_a_history_has_its_last_values() -> None:
    history = dn.History([2.0, 0.25], [3.0, 1 / 3], {"val_accuracy": [0.5, 0.75]}, best_epoch=1)
    assert repr(history) == "History(2 epochs, loss=0.25, val_loss=0.3333, val_accuracy=0.75, best_epoch=1)"
    assert repr(dn.History([0.5])) == "History(1 epoch, loss=0.5)"
    assert repr(dn.History()) == "History(0 epochs)"


@pytest.mark.parametrize(
    ("make", "begins"),
    [
        (lambda: network().fit(X, Y, epochs=50, metrics="accuracy"), "History(50 epochs, loss=0."),
        (lambda: dn.fit_many([network()], X, Y, epochs=50)[0], "FitResult(index=0, network=Network(["),
        (lambda: dn.learning_rate_test(network(), X, Y), "RateTest("),
        (lambda: dn.Standardizer.fit(X), "Standardizer(50 features)"),
        (table, "Table(dict: 300 rows, columns: x0, x1, "),
        (lambda: dn.Encoder.fit(table()), "Encoder(50 inputs of x0, x1, "),
        (lambda: Importance([f"x{i}" for i in range(50)], X, 0.5, "accuracy"), "Importance(accuracy 0.5, falls: x"),
    ],
    ids=["History", "FitResult", "RateTest", "Standardizer", "Table", "Encoder", "Importance"],
)  # fmt: skip
def test_arrays_and_lists_are_left_out(make: Any, begins: str) -> None:
    text = repr(make())
    assert text.startswith(begins)
    assert len(text) < 400
    assert "\n" not in text
    assert "array(" not in text


def test_a_rate_test_has_its_rates_and_the_suggestion() -> None:
    rates = dn.RateTest(np.array([0.1, 0.2, 0.4, 0.8]), np.array([4.0, 3.0, 1.0, 0.5]), 0.0)
    assert repr(rates) == "RateTest(4 updates, rates 0.1 to 0.8, suggestion=0.4)"
    assert repr(dn.RateTest(np.array([]), np.array([]), 0.0)) == "RateTest(0 updates, suggestion=None)"


def test_a_gradient_report_is_the_table_that_it_prints() -> None:
    report = dn.check_gradients(network(dtype="float64"), X[:, :3], Y[:3])
    assert repr(report) == str(report)
