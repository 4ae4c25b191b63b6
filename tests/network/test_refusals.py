"""Masked arrays, invalid weights, strings that end in NUL and metrics without a known direction are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes import plots
from deepnotes.datasets.splits import train_validation_split

X = np.random.default_rng(0).normal(size=(3, 12))
Y = np.arange(12) % 2
MASK = np.zeros((3, 12), bool)
MASK[1, 4] = True
X_MASKED = np.ma.array(X, mask=MASK)
Y_MASKED, W_MASKED = (np.ma.array(values, mask=MASK[1]) for values in (Y, np.ones(12)))


def network(**options: Any) -> dn.Network:
    return dn.Network([dn.Dense(2, "softmax")], 3, seed=0, **options)


MASKED = {
    "fit X": lambda net: net.fit(X_MASKED, Y),
    "fit Y": lambda net: net.fit(X, Y_MASKED),
    "fit sample_weight": lambda net: net.fit(X, Y, sample_weight=W_MASKED),
    "fit class_weight": lambda net: net.fit(X, Y, class_weight=np.ma.array([1.0, 2.0], mask=[False, True])),
    "fit validation": lambda net: net.fit(X, Y, validation=(X_MASKED, Y)),
    "fit validation weights": lambda net: net.fit(X, Y, validation=(X, Y, W_MASKED)),
    "partial_fit": lambda net: net.partial_fit(X_MASKED, Y),
    "predict": lambda net: net.predict(X_MASKED),
    "predict one sample": lambda net: net.predict(X_MASKED[:, 4:5]),
    "predict a list": lambda net: net.predict(list(X_MASKED)),
    "evaluate X": lambda net: net.evaluate(X_MASKED, Y),
    "evaluate Y": lambda net: net.evaluate(X, Y_MASKED),
    "gradients": lambda net: net.gradients(X_MASKED, Y),
    "parameters": lambda net: net.parameters.update(W1=X_MASKED[:2, 3:6]),
    "set_flat": lambda net: net.set_flat(np.ma.array(net.flat(), mask=[True] + 7 * [False])),
    "theta": lambda net: network(theta=np.ma.array(net.flat(), mask=[True] + 7 * [False])),
    "standardizer": lambda net: dn.Standardizer.fit(X_MASKED),
    "standardized": lambda net: dn.Standardizer.fit(X)(X_MASKED),
    "confusion": lambda net: plots.confusion(Y_MASKED, Y),
    "stratify": lambda net: train_validation_split(12, 0.5, np.random.default_rng(0), Y_MASKED),
    "table": lambda net: dn.Table(["a"], {"a": np.ma.array(X[1], mask=MASK[1])}),
    "write_table": lambda net: dn.write_table("never.csv", ["a"], [X_MASKED[1]]),
}


@pytest.mark.parametrize("backend", ["numpy", "numba", "plain"])
@pytest.mark.parametrize("call", MASKED.values(), ids=MASKED)
def test_arrays_with_masked_elements_are_refused(call: Any, backend: str) -> None:
    if backend == "numba":
        pytest.importorskip("numba")
    net = network(backend=dn.Backend("plain", np) if backend == "plain" else backend)
    before = net.flat()
    with pytest.raises(dn.DataError, match=r"has 1 masked elements, .* pass .*\.filled\(value\)"):
        call(net)
    np.testing.assert_array_equal(net.flat(), before)


def test_a_masked_array_without_masked_elements_is_accepted() -> None:
    np.testing.assert_array_equal(network().predict(np.ma.array(X)), network().predict(X))


def hit_rate(A: np.ndarray, Y: np.ndarray) -> float:
    return float((A.argmax(axis=0) == Y.argmax(axis=0)).mean())


@pytest.mark.parametrize("monitor", ["hit_rate", "val_hit_rate", "val_score", "val_val_loss", "Loss", 3])
def test_early_stopping_requires_a_mode_for_a_user_defined_metric(monitor: Any) -> None:
    """A larger hit rate is better, so with mode="min" as a default, the worst epoch would be restored."""
    with pytest.raises(dn.ArgumentError, match=r"needs mode='min' if smaller .* or mode='max' if"):
        dn.EarlyStopping(monitor=monitor)
    stopping = dn.EarlyStopping()
    stopping.monitor = monitor
    with pytest.raises(dn.ArgumentError, match=r"needs mode='min' if smaller .* or mode='max' if"):
        network().fit(X, Y, metrics=hit_rate, early_stopping=stopping)


def test_early_stopping_finds_the_best_epoch_by_a_user_defined_metric() -> None:
    values = iter([0.2, 0.9, 0.5, 0.1, 0.1])

    def score(A: np.ndarray, Y: np.ndarray) -> float:
        return next(values)

    history = network().fit(
        X, Y, metrics=score, early_stopping=dn.EarlyStopping(1, "val_score", mode="max"), epochs=5, validation=(X, Y)
    )
    assert history.best_epoch == 2


@pytest.mark.parametrize("monitor", ["loss", "val_loss", "accuracy", "val_r2", "mean_squared_error", None])
def test_early_stopping_requires_no_mode_for_the_loss_and_known_metrics(monitor: str | None) -> None:
    assert dn.EarlyStopping(monitor=monitor).mode is None


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ({1: 1.0, 2: 10.0}, r"class_weight has the class 2, wanted classes from 0 to 1"),
        ([1.0], "class_weight has 1 weights, wanted 2"),
        ([1.0, 2.0, 3.0], "class_weight has 3 weights, wanted 2"),
        (np.ones((2, 1)), "wanted 'balanced', a mapping or a sequence"),
        ({0: np.nan}, r"class_weight\[0\]=nan"),
        ([1.0, -1.0], r"class_weight\[1\]=-1.0"),
        ({True: 2.0}, "class_weight: class=True"),
        ({0.0: 2.0}, "class_weight: class=0.0"),
    ],
    ids=str,
)
@pytest.mark.parametrize("last", [dn.Dense(2, "softmax"), dn.Dense(1, "sigmoid")], ids=["softmax", "sigmoid"])
def test_invalid_class_weights_are_refused(class_weight: Any, message: str, last: dn.Dense) -> None:
    net = dn.Network([last], 3, seed=0)
    before = net.flat()
    for train in (net.fit, net.partial_fit):
        with pytest.raises(dn.ArgumentError, match=message):
            train(X, Y, class_weight=class_weight)
    np.testing.assert_array_equal(net.flat(), before)


def test_weights_that_are_all_0_or_out_of_range_are_refused() -> None:
    net, zeros = network(), np.zeros(12)
    for call, message in (
        (lambda: net.fit(X, Y, sample_weight=zeros), "sample_weight: every sample has the weight 0"),
        (lambda: net.evaluate(X, Y, sample_weight=zeros), "sample_weight: every sample has the weight 0"),
        (lambda: net.gradients(X, Y, sample_weight=zeros), "sample_weight: every sample has the weight 0"),
        (lambda: net.partial_fit(X, Y, sample_weight=zeros), "sample_weight: every sample has the weight 0"),
        (lambda: net.fit(X, Y, validation=(X, Y, zeros)), "w_val: every sample has the weight 0"),
        (lambda: net.fit(X, Y, class_weight=[0.0, 0.0]), "class_weight is 0 for every sample"),
        (lambda: net.fit(X, Y, class_weight=[1.0, 0.0], sample_weight=Y), "class_weight times sample_weight is 0"),
        (
            lambda: net.partial_fit(X, Y, sample_weight=[1e300] * 12),
            r"sample_weight\[0\] is 1e\+300, the first of 12 values beyond the range of float32",
        ),
        (lambda: net.partial_fit(X, Y, sample_weight=[1e-60] * 12), "weight is 1e-60, but rounds to 0 in float32"),
    ):
        with pytest.raises(dn.DataError, match=message):
            call()
    with pytest.raises(dn.ArgumentError, match="class_weight='balanced' needs all samples"):
        net.partial_fit(X, Y, class_weight="balanced")
    with pytest.raises(dn.ArgumentError, match=r"wanted a pair \(X_val, Y_val\), \(X_val, Y_val, w_val\), or an array"):
        net.fit(X, Y, validation=(X, Y, Y, Y))


def test_strings_that_end_in_nul_are_refused(tmp_path: Path) -> None:
    """NumPy's strings drop NULs at the end, so two classes could become one. A CSV file must not contain any NUL."""
    with pytest.raises(dn.DataError, match="column 'kind' has text that ends in NUL"):
        dn.write_table(tmp_path / "out.csv", ["kind"], [["a", "a\0"]])
    (tmp_path / "table.csv").write_bytes(b"x,kind\n1,a\n2,a\0\n")
    with pytest.raises(dn.TableError, match=r"table\.csv:3: byte 0x00"):
        dn.read_table(tmp_path / "table.csv")
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for texts in (["a", "a\0"], pyarrow.array(["a", "a\0"]).dictionary_encode()):
        parquet.write_table(pyarrow.table({"x": [1.0, 2.0], "kind": texts}), tmp_path / "table.parquet")
        with pytest.raises(dn.TableError, match=r"column 'kind' has 'a\\x00', wanted text that does not end in NUL"):
            dn.read_table(tmp_path / "table.parquet")
    parquet.write_table(pyarrow.table({"x": [1.0, 2.0], "kind": ["a", "a\0b"]}), tmp_path / "table.parquet")
    assert dn.read_table(tmp_path / "table.parquet").columns["kind"].tolist() == ["a", "a\0b"]


def test_classes_and_categories_of_a_model_file_that_end_in_nul_are_refused() -> None:
    from deepnotes.cli.tasks import from_metadata

    with pytest.raises(ValueError, match="ends in NUL"):
        from_metadata({"task": "classification", "loss": "categorical_cross_entropy", "classes": ["a", "a\0"]}, 2)
    with pytest.raises(ValueError, match="is not a valid value"):
        dn.Encoder.from_metadata([{"name": "kind", "categories": ["a", "a\0"]}])
