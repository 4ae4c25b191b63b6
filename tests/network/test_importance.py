"""Permutation importance of the columns of a table for a model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import main

COLUMNS = ["strong", "weak", "kind", "noise"]


def weighted_model(**metadata: Any) -> dn.Model:
    """Return the model ``10 strong + weak + 3 [kind is b]``, which ignores the column noise."""
    net = dn.Network([dn.Dense(1)], inputs=5, dtype="float64", theta=np.array([10.0, 1, 0, 3, 0, 0]), seed=0)
    net.metadata = {"features": ["strong", "weak", "kind=a", "kind=b", "noise"], "target": "y", "task": "regression"}
    net.metadata |= {"loss": "mean_squared_error", "target_mean": 0.0, "target_scale": 1.0}
    net.metadata["columns"] = [
        *({"name": name} for name in COLUMNS[:2]), {"name": "kind", "categories": ["a", "b"]}, {"name": "noise"},
    ]  # fmt: skip
    return dn.Model(net)


@pytest.fixture
def table() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    table: dict[str, Any] = {name: rng.normal(size=200) for name in ("strong", "weak", "noise")}
    table["kind"] = np.array(["a", "b"])[rng.integers(0, 2, 200)]
    table["y"] = 10 * table["strong"] + table["weak"] + 3.0 * (table["kind"] == "b")
    return table


def test_the_importance_of_a_column_is_the_fall_of_the_score(table):
    model = weighted_model()
    found = model.importance(table, repeats=4, seed=3)
    assert (found.columns, found.score_name, found.falls.shape) == (COLUMNS, "R²", (4, 4))
    assert found.score == pytest.approx(1)
    rng = np.random.default_rng(3)
    orders = [rng.permutation(200) for _ in range(4)]
    expected = [
        [1 - model.score(table | {name: table[name][order]}, table["y"]) for order in orders] for name in COLUMNS
    ]
    np.testing.assert_allclose(found.falls, expected, atol=1e-12)
    np.testing.assert_allclose(found.mean, np.mean(expected, axis=1), atol=1e-12)
    np.testing.assert_allclose(found.std, np.std(expected, axis=1, ddof=1), atol=1e-12)
    assert found.falls[3].tolist() == [0.0] * 4


def test_the_table_begins_with_the_most_important_column(table):
    columns = weighted_model().importance(table).as_dict()
    assert columns["column"] == ["strong", "kind", "weak", "noise"]
    assert columns["importance"] == sorted(columns["importance"], reverse=True)
    assert len(columns["std"]) == 4


def test_the_seed_determines_the_orders(table):
    model = weighted_model()
    first, again, other = (model.importance(table, seed=seed).falls for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first[0] != other[0]).all()


def test_importances_agree_with_those_of_scikit_learn(table):
    inspection = pytest.importorskip("sklearn.inspection")
    pandas = pytest.importorskip("pandas")
    model, frame = weighted_model(), pandas.DataFrame(table)
    model.fit = lambda X, y: None  # type: ignore[attr-defined]  # scikit-learn asks for it
    theirs = inspection.permutation_importance(model, frame[COLUMNS], frame.y, n_repeats=50, random_state=0)
    found = model.importance(frame, repeats=50)
    bound = 4 * np.hypot(theirs.importances_std, found.std) / 50**0.5
    assert (abs(theirs.importances_mean - found.mean) <= bound + 1e-12).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"repeats": 1}, dn.ArgumentError, "repeats=1, wanted"),
        ({"seed": -1}, dn.ArgumentError, "seed=-1, wanted"),
        ({"y": [1.0]}, dn.DataError, r"y has shape \(1,\)"),
    ],
)
def test_invalid_arguments_are_refused(table, options, error, message):
    with pytest.raises(error, match=message):
        weighted_model().importance(table, **options)


def test_one_row_cannot_be_shuffled(table):
    with pytest.raises(dn.DataError, match="only one row"):
        weighted_model().importance({name: values[:1] for name, values in table.items()})


def test_a_notebook_shows_a_table(table):
    html = weighted_model().importance(table)._repr_html_()
    assert html.index("strong") < html.index("noise")
    assert "the mean fall of R²" in html


def test_the_command_reports_writes_and_plots(table, tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyarrow")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    weighted_model().save("model")
    dn.write_table("data.csv", list(table), table)
    assert main(["importance", "model", "data.csv", "-o", "found.csv", "--plot", "found.svg", "--seed", "5"]) == 0
    report = capsys.readouterr().out.splitlines()
    expected = weighted_model().importance(dn.read_table("data.csv"), seed=5)
    assert [line.split()[0] for line in report[-4:]] == expected.as_dict()["column"]
    assert report[-4].split() == ["strong", f"{expected.mean[0]:.4f}", f"{expected.std[0]:.4f}"]
    written = dn.read_table("found.csv")
    assert written.column("importance").tolist() == expected.as_dict()["importance"]
    assert Path("found.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert main(["importance", "model", "data.csv", "--seed", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["columns"] == expected.as_dict()


def test_the_command_refuses_to_overwrite_its_input(table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    weighted_model().save("model")
    np.savez("data.npz", **table)
    assert main(["importance", "model", "data.npz", "-o", "model"]) == 2
    assert "would overwrite model" in capsys.readouterr().err
    assert main(["importance", "model", "data.npz", "--repeats", "1"]) == 2


def test_a_plot_has_one_bar_for_each_column():
    pytest.importorskip("matplotlib")
    plots = pytest.importorskip("deepnotes.plots")
    columns = [f"column {i}" for i in range(25)]
    (ax,) = plots.importances(columns, np.arange(25) / 10, np.full(25, 0.05), "accuracy").axes
    assert [label.get_text() for label in ax.get_yticklabels()] == columns[:4:-1]
    assert [bar.get_width() for bar in ax.patches] == [i / 10 for i in range(24, 4, -1)]
    assert ax.get_title() == "20 of 25 columns"
    assert ax.get_xlabel() == "fall of accuracy if the column is shuffled"
    for arguments in (([], [], []), (["a"], [1.0, 2.0], [0.0])):
        with pytest.raises(dn.ArgumentError, match="wanted the same number"):
            plots.importances(*arguments)


def rare_model() -> dn.Model:
    """Return a model that predicts the class "no" for all rows, with a larger probability of "yes" for a larger x."""
    net = dn.Network([dn.Dense(2, "softmax")], inputs=2, dtype="float64", seed=0)
    net.parameters["W1"] = np.array([[0.0, 0.0], [0.1, 0.0]])
    net.parameters["b1"] = np.array([[9.0], [0.0]])
    net.metadata = {"features": ["x", "noise"], "target": "y", "task": "classification", "classes": ["no", "yes"]}
    net.metadata |= {"loss": "categorical_cross_entropy"}
    return dn.Model(net)


@pytest.fixture
def rare() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 400))
    return {"x": x, "noise": noise, "y": np.where(x > np.quantile(x, 0.98), "yes", "no")}


def test_the_importance_for_a_rare_class_needs_another_metric(rare):
    model = rare_model()
    assert not model.importance(rare).falls.any()
    for metric in ("roc_auc", "average_precision"):
        found = model.importance(rare, metric=metric)
        assert (found.score, found.score_name) == (pytest.approx(1), metric)
        assert found.mean[0] > 0.3
        assert found.mean[1] == 0
    assert model.importance(rare, metric="balanced_accuracy").score == 0.5
    assert model.importance(rare, metric="f1").score == pytest.approx(0.98 / 1.98)
    assert model.importance(rare, metric="accuracy").score == 0.98


def test_a_metric_that_does_not_suit_the_task_or_the_rows_is_refused(rare, table):
    with pytest.raises(dn.ArgumentError, match=r"metric='r2', wanted one of accuracy, .*average_precision for 'y'"):
        rare_model().importance(rare, metric="r2")
    with pytest.raises(dn.ArgumentError, match="metric='roc_auc', wanted one of r2 for 'y'"):
        weighted_model().importance(table, metric="roc_auc")
    with pytest.raises(dn.DataError, match="metric='roc_auc' is not defined for these rows, in which a class does not"):
        rare_model().importance(rare, np.full(400, "no"), metric="roc_auc")


def test_the_command_says_that_accuracy_ignores_a_rare_class(rare, tmp_path, capsys):
    rare_model().save(tmp_path / "rare.safetensors")
    dn.write_table(tmp_path / "rare.csv", list(rare), list(rare.values()))
    arguments = ["importance", str(tmp_path / "rare.safetensors"), str(tmp_path / "rare.csv"), "--json"]
    assert main(arguments) == 0
    assert "note: 98.0% of the rows are of class 'no', so accuracy says little" in capsys.readouterr().err
    assert main([*arguments, "--metric", "roc_auc"]) == 0
    out, err = capsys.readouterr()
    assert "note:" not in err
    assert json.loads(out)["score"] == "roc_auc"
    assert json.loads(out)["columns"]["column"] == ["x", "noise"]
