"""deepnotes train --loss quantile and --loss gaussian: what is predicted, scored and saved, and what is refused."""

import csv
import io
import json

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.datasets.tables import write_table

TRAIN = (
    *("train", "wave.csv", "--target", "y", "--layers", "16", "--activation", "tanh", "--backend", "numpy"),
    *("--dropout", "0", "--epochs", "60", "--learning-rate", "0.01", "--l2", "0"),
)
TABLE = {"x": np.random.default_rng(0).uniform(0, 1, 400)}

pytestmark = pytest.mark.usefixtures("wave")


@pytest.fixture
def wave(folder):
    """Write wave.csv, whose target has a noise that grows with x, and other units than the network's outputs."""
    noise = (0.05 + 0.4 * TABLE["x"]) * np.random.default_rng(1).normal(size=400)
    write_table("wave.csv", ["x", "y"], [TABLE["x"], 1000 * (np.sin(6 * TABLE["x"]) + noise) + 5000])


def y() -> np.ndarray:
    values: np.ndarray = dn.read_table("wave.csv").column("y")
    return values


def predictions(run, *arguments: str) -> dict[str, np.ndarray]:
    rows = list(csv.reader(io.StringIO(run("predict", *arguments, "wave.csv")[0])))
    return dict(zip(rows[0], np.array(rows[1:], float).T, strict=True))


def test_each_quantile_is_a_column_in_the_units_of_the_target(run):
    out, _ = run(*TRAIN, "--loss", "quantile", "-o", "model.st")
    columns = predictions(run, "model.st")
    assert list(columns) == ["prediction", "quantile_0.05", "quantile_0.5", "quantile_0.95"]
    np.testing.assert_array_equal(columns["prediction"], columns["quantile_0.5"])
    assert (columns["quantile_0.05"] <= columns["quantile_0.5"]).all()
    covered = (columns["quantile_0.05"] <= y()) & (y() <= columns["quantile_0.95"])
    assert 0.8 < covered.mean() < 0.97
    width = columns["quantile_0.95"] - columns["quantile_0.05"]
    assert width[TABLE["x"] > 0.8].mean() > 1.1 * width[TABLE["x"] < 0.2].mean()
    assert "of the targets are between the quantiles 0.05 and 0.95; wanted 90%" in out
    model = dn.load("model.st", "numpy")
    np.testing.assert_array_equal(model.predict(TABLE), columns["prediction"])
    np.testing.assert_array_equal(model.predict_quantiles(TABLE).T, list(columns.values())[1:])
    assert model.score("wave.csv") > 0.8
    result = json.loads(run("evaluate", "model.st", "wave.csv", "--json")[0])
    assert result["metrics"]["coverage"] == pytest.approx(covered.mean())
    assert result["metrics"]["r2"] == pytest.approx(model.score("wave.csv"))
    with pytest.raises(dn.ArgumentError, match="return_std=True needs a model of 'deepnotes train --loss gaussian'"):
        model.predict(TABLE, return_std=True)


def test_the_mean_and_the_standard_deviation_are_columns_in_the_units_of_the_target(run):
    out, _ = run(*TRAIN, "--loss", "gaussian", "-o", "model.st")
    columns = predictions(run, "model.st")
    assert list(columns) == ["prediction", "std"]
    assert 0.8 < np.mean(abs(y() - columns["prediction"]) < 1.645 * columns["std"]) < 0.97
    assert columns["std"][TABLE["x"] > 0.8].mean() > 250 > 200 > columns["std"][TABLE["x"] < 0.2].mean()
    assert "of the targets are within 1.645 standard deviations of the mean; wanted 90%" in out
    model = dn.load("model.st", "numpy")
    mean, std = model.predict(TABLE, return_std=True)
    np.testing.assert_array_equal(mean, columns["prediction"])
    np.testing.assert_array_equal(std, columns["std"])
    with pytest.raises(dn.ArgumentError, match="predict_quantiles needs a model of 'deepnotes train --loss quantile'"):
        model.predict_quantiles(TABLE)


def test_quantiles_with_folds_members_and_a_start(run, fails):
    few = (*TRAIN, "--loss", "quantile", "--quantiles", "0.1,0.9", "--epochs", "2")
    trained = json.loads(run(*few, "--folds", "2", "--members", "2", "-o", "model.st", "--json")[0])
    assert trained["quantiles"] == [0.1, 0.9]
    assert set(trained["folds"]["mean"]) == {"rmse", "mae", "r2", "loss", "coverage"}
    columns = predictions(run, "model.st")
    assert list(columns) == ["prediction", "quantile_0.1", "quantile_0.9"]
    np.testing.assert_allclose(columns["prediction"], (columns["quantile_0.1"] + columns["quantile_0.9"]) / 2)
    run(*few, "-o", "one.st", "--quiet")
    again = ("train", "wave.csv", "--from", "one.st", "--epochs", "1", "--backend", "numpy", "-o", "two.st")
    run(*again)
    assert dn.load("two.st", "numpy").metadata["quantiles"] == [0.1, 0.9]
    message = fails(2, *again, "--loss", "quantile", "--quantiles", "0.2,0.9")
    assert "--quantiles 0.2,0.9: --from one.st has 0.1,0.9" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--quantiles", "0.1,0.9"), "--quantiles needs --loss quantile"),
        (("--loss", "quantile", "--quantiles", "0.9,0.1"), "quantiles[1]=0.1, wanted more than quantiles[0]=0.9"),
        (("--loss", "quantile", "--quantiles", "0.5"), "'0.5', wanted several numbers between 0 and 1"),
        (("--loss", "quantile", "--quantiles", "0.5,1"), "quantiles[1]=1"),
        (("--loss", "gaussian", "--members", "2"), "--loss gaussian cannot be combined with --members"),
        (("--loss", "gaussian", "--target", "kind"), "but the task is a classification"),
        (("--loss", "quantile", "--target", "x,y"), "but there are several targets"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(fails, options, message):
    kind = np.array(["low", "high"])[(TABLE["x"] > 0.5).astype(int)]
    write_table("wave.csv", ["x", "y", "z", "kind"], [TABLE["x"], y(), TABLE["x"] ** 2, kind])
    assert message in fails(2, *TRAIN, *options, "-o", "model.st")


def test_an_export_is_refused_with_another_way(run, fails):
    run(*TRAIN, "--loss", "gaussian", "--epochs", "1", "-o", "model.st", "--quiet")
    message = fails(2, "export", "model.st", "--python", "model.py")
    assert "model.st predicts several numbers for each target" in message
    assert "dn.load('model.st').network.to_onnx" in message


@pytest.mark.parametrize(
    "change",
    [
        {"quantiles": [0.9, 0.1]},
        {"quantiles": [0.5]},
        {"quantiles": "abc"},
        {"loss": "gaussian"},
        {"target": ["x", "y"]},
    ],
)
def test_a_file_with_an_invalid_description_is_refused(run, fails, change):
    run(*TRAIN, "--loss", "quantile", "--epochs", "1", "-o", "model.st", "--quiet")
    net = dn.load("model.st", "numpy").network
    net.metadata = net.metadata | change
    net.save("other.st")
    assert "has no valid description of its inputs and outputs" in fails(1, "predict", "other.st", "wave.csv")
