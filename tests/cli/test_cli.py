"""Commands that succeed, and the models, predictions, metrics and files that they write."""

import argparse
import csv
import io
import json
import math
import os

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import train_defaults
from deepnotes.cli.output import format_number
from deepnotes.cli.tasks import Classification, Regression, suggest_task
from deepnotes.cli.train_options import _average
from deepnotes.datasets import load_digits
from deepnotes.datasets.splits import train_validation_split
from deepnotes.datasets.tables import read_table, write_table
from deepnotes.nn.hidden_layers import hidden_layers
from deepnotes.nn.optimizers import BY_NAME as OPTIMIZERS

QUICK = ("--epochs", "2", "--quiet")
SMALL = ("--layers", "32", "--dropout", "0", "--quiet", "--json")
KINDS = np.array(["rose", "red tulip", "daisy, wild"])


pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def flowers():
    """Write flowers.csv with three classes that are easy to separate; return the arguments to train on it."""
    rng = np.random.default_rng(7)
    kinds = np.arange(150) % 3
    X = rng.normal(size=(150, 3)) + 3 * np.eye(3)[kinds]
    columns = [X[:, 0], [f"note {i}" for i in range(150)], X[:, 1], KINDS[kinds], 1e4 * X[:, 2]]
    write_table("flowers.csv", ["length", "note", "width", "kind", "weight"], columns)
    return ("flowers.csv", "--target", "kind", "--exclude", "note")


@pytest.fixture
def houses():
    """Write houses.csv, with prices that are almost a linear function of two columns; return the training arguments."""
    rng = np.random.default_rng(8)
    area, age = rng.uniform(40, 240, 300), rng.uniform(0, 90, 300)
    price = 40_000 + 2_000 * area - 800 * age + rng.normal(0, 1_000, 300)
    write_table("houses.csv", ["area", "age", "price"], [area, age, price])
    return ("houses.csv", "--target", "price")


def parse_json(out):
    """Return the JSON object in `out`; fail if it contains NaN or Infinity."""
    return json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} in JSON"))


def parameters(path):
    """Return θ and the standardizer's arrays from a model file."""
    network = dn.load(path).network
    assert network.standardizer is not None
    return [network.flat(), network.standardizer.mean, network.standardizer.scale]


# --- train ------------------------------------------------------------------------------------------------------------


def test_train_on_digits_with_default_options(run, folder):
    out, err = run("train", "digits")
    accuracy = float(out.split("accuracy  ")[1].split("%")[0])
    assert accuracy >= 97
    assert "digits: 1,797 rows, 64 features" in out
    assert "359 held-out rows" in out
    assert "dense" in out
    assert "epoch 1/" in err
    assert "epoch 1/" not in out
    assert "classification, since the target 'digit' is text" in err
    assert dn.load("digits.safetensors").network.inputs == 64
    assert [path.name for path in folder.iterdir()] == ["digits.safetensors"]


def test_json_output_of_train(run):
    out, err = run("train", "digits", "--json", "--backend", "numpy")
    result = parse_json(out)
    assert result["metrics"]["accuracy"] >= 0.97
    assert result["rows"] == {"training": 1294, "early_stopping": 144, "validation": 359}
    assert (result["backend"], result["dtype"], result["seed"]) == ("numpy", "float32", 0)
    assert result["classes"] == [str(digit) for digit in range(10)]
    assert len(result["history"]["loss"]) == len(result["history"]["val_accuracy"]) == result["epochs"]
    assert result["best_epoch"] == 1 + np.argmin(result["history"]["val_loss"])
    assert result["parameters"] == dn.load(result["model"]).network.layout.size
    assert "held-out rows" in err


def test_the_seed_determines_the_model_file(run, folder):
    runs = [run("train", "digits", "--json", *QUICK, "--seed", seed, "-o", f"{i}.st") for i, seed in enumerate("334")]
    result = [parse_json(out) for out, _ in runs]
    files = [(folder / f"{i}.st").read_bytes() for i in range(3)]
    assert result[0]["metrics"] == result[1]["metrics"]
    assert files[0] == files[1]
    assert result[0]["metrics"] != result[2]["metrics"]
    assert files[0] != files[2]


def test_quiet_suppresses_all_output_except_json(run, flowers):
    assert run("train", *flowers, *QUICK) == ("", "")
    out, err = run("train", *flowers, *QUICK, "--json")
    assert parse_json(out)["command"] == "train"
    assert err == ""


def test_train_replaces_an_old_model(run, flowers, folder):
    (folder / "flowers.safetensors").write_text("old")
    run("train", *flowers, *QUICK, "--force")
    assert dn.load("flowers.safetensors").network.outputs == 3


def test_model_metadata_describes_inputs_outputs_and_validation(run, flowers, houses):
    run("train", *flowers, *QUICK)
    metadata = dn.load("flowers.safetensors").metadata
    assert metadata["features"] == ["length", "width", "weight"]
    assert metadata["target"] == "kind"
    assert metadata["classes"] == sorted(KINDS)
    assert metadata["loss"] == "categorical_cross_entropy"
    assert set(metadata["validation"]) == {"rows", "accuracy", "balanced_accuracy", "f1", "roc_auc", "loss"}
    run("train", *houses, *QUICK)
    metadata = dn.load("houses.safetensors").metadata
    assert metadata["target_mean"] == pytest.approx(250_000, rel=0.2)
    assert set(metadata["validation"]) == {"rows", "rmse", "mae", "r2", "loss"}


@pytest.mark.parametrize("row", [0, -1])
def test_held_out_rows_do_not_change_the_model(run, flowers, row):
    table = read_table("flowers.csv")
    strata = np.unique(table.column("kind"), return_inverse=True)[1]
    train, held_out = train_validation_split(150, 0.2, np.random.default_rng(5), strata)

    def train_on_changed(rows):
        columns = {name: column.copy() for name, column in table.columns.items()}
        columns["length"][rows] += 1e6
        write_table("changed.csv", table.names, columns)
        run("train", "changed.csv", *flowers[1:], *QUICK, "--seed", 5)
        return parameters("changed.safetensors")

    original = train_on_changed([])
    assert all(map(np.array_equal, original, train_on_changed(held_out)))
    assert not any(map(np.array_equal, original, train_on_changed(train[row])))


def test_held_out_targets_do_not_scale_the_target(run, houses):
    table = read_table("houses.csv")
    train, held_out = train_validation_split(300, 0.2, np.random.default_rng(0))
    table.columns["price"][held_out] *= 100
    write_table("changed.csv", table.names, table.columns)
    run("train", "changed.csv", "--target", "price", *QUICK)
    metadata = dn.load("changed.safetensors").metadata
    assert metadata["target_mean"] == pytest.approx(table.column("price")[train].mean())
    assert metadata["target_scale"] == pytest.approx(table.column("price")[train].std())
    run("train", *houses, *QUICK)
    assert all(map(np.array_equal, parameters("changed.safetensors"), parameters("houses.safetensors")))


def test_without_validation_all_rows_are_used_for_training(run, flowers):
    out, _ = run("train", *flowers, "--validation", 0, "--epochs", 3, "--early-stopping", "none")
    assert "150 training rows" in out
    result = parse_json(run("train", *flowers, *QUICK, "--validation", "0", "--json")[0])
    assert result["metrics_of"] == "training"
    assert result["rows"] == {"training": 150, "early_stopping": 0, "validation": 0}
    assert result["history"]["val_loss"] == []
    assert dn.load("flowers.safetensors").metadata["training"]["rows"] == 150


def test_early_stopping_restores_the_best_epoch(run, flowers):
    result = parse_json(
        run("train", *flowers, "--json", "--quiet", "--early-stopping", "1", "--learning-rate", "0.1")[0]
    )
    assert result["best_epoch"] <= result["epochs"] < 200
    assert result["rows"] == {"training": 108, "early_stopping": 12, "validation": 30}
    table, net = read_table("flowers.csv"), dn.load("flowers.safetensors").network
    _, stopping, _ = parts_of(table.column("kind"), 0.2, 0.1)
    X = np.array([table.column(name) for name in net.metadata["features"]])[:, stopping]
    kept = net.evaluate(X, np.searchsorted(sorted(KINDS), table.column("kind")[stopping]))["loss"]
    assert kept == pytest.approx(min(result["history"]["val_loss"]), rel=1e-5)


def parts_of(kinds, held_out, stopping, seed=0):
    """Return the rows that ``train`` trains on, stops early by, and holds out."""
    strata = np.unique(kinds, return_inverse=True)[1]
    others, test = train_validation_split(len(kinds), held_out, np.random.default_rng(seed), strata)
    count = round(len(others) * stopping)
    train, chosen = train_validation_split(
        len(others), count / len(others), np.random.default_rng(seed), strata[others]
    )
    return others[train], others[chosen], test


@pytest.mark.thinned(4)
@pytest.mark.parametrize("schedule", train_defaults.SCHEDULES)
def test_every_schedule_trains(run, flowers, schedule):
    result = parse_json(run("train", *flowers, *SMALL, "--schedule", schedule)[0])
    assert result["metrics"]["accuracy"] > 0.9


@pytest.mark.thinned(4)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_trains(run, flowers, houses, optimizer):
    result = parse_json(run("train", *flowers, *SMALL, "--optimizer", optimizer)[0])
    assert result["metrics"]["accuracy"] > 0.9
    result = parse_json(run("train", *houses, *SMALL, "--optimizer", optimizer)[0])
    assert result["metrics"]["r2"] > 0.9


@pytest.mark.parametrize(
    ("schedule", "last_factor"),
    [
        ("constant", 1), ("cosine", 0), ("step", 0.01), ("exponential", 0.01), ("inverse", 0.1), ("plateau", 1),
        ("one-cycle", 0), ("cyclic", 1 / 4 + 3 / 4 / 125),  # one of 125 updates before the lowest rate
    ],
)  # fmt: skip
def test_each_schedule_ends_at_its_final_learning_rate(schedule, last_factor):
    last_rate = train_defaults.SCHEDULES[schedule](2.0, 1000, 10)(999)
    assert last_rate == pytest.approx(2 * last_factor, abs=1e-4, rel=1e-2)
    lowest = {"one-cycle": 2 * 0.04, "cyclic": 2 / 4}  # with which these begin
    assert train_defaults.SCHEDULES[schedule](2.0, 1, 1)(0) == pytest.approx(lowest.get(schedule, 2))


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_layers_have_the_normalization_and_shortcuts_that_are_asked_for(run, fails, flowers, norm):
    result = parse_json(
        run("train", *flowers, *SMALL, "--layers", "8,8,5", "--dropout", "0.1", "--norm", norm, "--residual")[0]
    )
    assert (result["norm"], result["residual"], result["metrics"]["accuracy"] > 0.8) == (norm, True, True)
    hidden = hidden_layers([8, 8, 5], ["relu"] * 3, [0.1] * 3, norm, residual=True)
    assert dn.load("flowers.safetensors").network.layers[:-1] == tuple(hidden)
    run("train", *flowers, *QUICK, "--from", "flowers.safetensors", "-o", "again.safetensors")
    assert dn.load("again.safetensors").network.layers[:-1] == tuple(hidden)
    error = fails(2, "train", *flowers, *QUICK, "--from", "flowers.safetensors", "--residual")
    assert "--residual cannot be combined with --from" in error


@pytest.mark.parametrize(
    ("text", "average"),
    [
        ("ema", dn.EMA(0.999)), ("ema=0.9", dn.EMA(0.9)), ("swa", dn.SWA(16, every=2)), ("swa=0", dn.SWA(2, every=2)),
        ("swa=0.95", dn.SWA(20, every=2)),
    ],
)  # fmt: skip
def test_averages_of_weights(text, average):
    args = argparse.Namespace(average=_average(text), epochs=10, batch_size=32, optimizer="adam")
    assert train_defaults.make_average(args, rows=50) == average


@pytest.mark.parametrize("extra", [[], ["--folds", "2"]], ids=str)
def test_a_model_has_the_averaged_weights(run, flowers, extra):
    def train(*options):
        result = parse_json(run("train", *flowers, *QUICK, "--json", *extra, *options, "--force")[0])
        return result, dn.load("flowers.safetensors").network.flat()

    alone, averaged = train(), train("--average", "ema=0.5")
    assert averaged[0]["average"] == {"ema": 0.5}
    assert alone[0]["average"] is None
    assert not np.array_equal(alone[1], averaged[1])
    np.testing.assert_allclose(train("--average", "ema=0")[1], alone[1], rtol=1e-6)  # the average of one update


@pytest.mark.parametrize(
    ("text", "message"),
    [("emma", "unknown average 'emma'"), ("ema=1", "a number of at least 0 and less than 1"), ("swa=", "a number")],
)
def test_averages_that_do_not_exist_are_refused(fails, flowers, text, message):
    assert message in fails(2, "train", *flowers, "--average", text)


def test_network_options_are_applied(run, flowers):
    run(
        "train", *flowers, *QUICK, "--layers", "7, 5", "--activation", "tanh", "--dropout", "0", "--dtype", "float64",
        "--l2", "0.1", "--clip-norm", "1", "--batch-size", "16", "--optimizer", "sgd", "--momentum", "0",
    )  # fmt: skip
    network = dn.load("flowers.safetensors").network
    assert network.layers == (dn.Dense(7, "tanh"), dn.Dense(5, "tanh"), dn.Dense(3, "softmax"))
    assert network.dtype == "float64"
    run("train", *flowers, *QUICK, "--layers", "none")
    assert len(dn.load("flowers.safetensors").network.layers) == 1


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mean_squared_error", "mean_absolute_error"])
def test_classification_with_other_losses(run, flowers, loss):
    assert parse_json(run("train", *flowers, *SMALL, "--loss", loss)[0])["metrics"]["accuracy"] > 0.9
    assert parse_json(run("evaluate", "flowers.safetensors", "flowers.csv", "--json")[0])["loss"] == loss


@pytest.mark.thinned(3)
@pytest.mark.parametrize("loss", ["huber", "mean_absolute_error", "poisson"])
def test_regression_with_other_losses(run, houses, loss):
    assert parse_json(run("train", *houses, *SMALL, "--loss", loss)[0])["metrics"]["r2"] > 0.9
    assert min(read_predictions(run("predict", "houses.safetensors", "houses.csv")[0])["prediction"]) > 0


# --- choice of the task -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "task", "reason"),
    [
        (np.array(["a", "b"]), Classification, "is text"),
        (np.array([0.0, 1.0]), Classification, "has 2 distinct values, all whole numbers"),
        (np.arange(60.0) // 3, Classification, "has 20 distinct values, all whole numbers"),
        (np.arange(59.0) // 3, Regression, "has 20 distinct whole numbers in 59 rows, so they hardly recur"),
        (np.arange(20.0), Regression, "has 20 distinct whole numbers in 20 rows, so they hardly recur"),
        (np.array([1.0, 2.0, 2.0, 3.0]), Regression, "has 3 distinct whole numbers in 4 rows, so they hardly recur"),
        (np.arange(21.0), Regression, "has 21 distinct whole numbers, more than 20"),
        (np.array([0.5, 1.0]), Regression, "has values that are not whole numbers"),
    ],
)
def test_the_suggested_task_depends_on_the_target_column(column, task, reason):
    assert suggest_task(column) == (task, reason)


def test_a_requested_task_overrides_the_suggested_one(run):
    write_table("counts.csv", ["x", "n"], [np.arange(40.0), np.arange(40) % 4])
    run("train", "counts.csv", "--target", "n", "--task", "regression", *QUICK)
    assert dn.load("counts.safetensors").network.outputs == 1
    _, err = run("train", "counts.csv", "--target", "n", "--task", "classification", "--epochs", "1")
    assert "since" not in err
    assert dn.load("counts.safetensors").metadata["classes"] == ["0", "1", "2", "3"]


# --- predict and evaluate ---------------------------------------------------------------------------------------------


def read_predictions(text):
    """Return the columns of a predictions file: strings for predicted classes, numbers for everything else."""
    header, *rows = csv.reader(io.StringIO(text))
    columns = zip(*rows, strict=True)
    return {
        name: np.array(column if name == "prediction" and "p_" in "".join(header) else list(map(float, column)))
        for name, column in zip(header, columns, strict=True)
    }


def test_train_predict_and_evaluate_a_classifier(run, flowers, folder):
    run("train", *flowers, "--quiet")
    out, err = run("predict", "flowers.safetensors", "flowers.csv", "-o", "out.csv")
    assert (out, err) == ("", "150 predictions written to out.csv\n")
    columns = read_predictions((folder / "out.csv").read_text())
    assert list(columns) == ["prediction", *(f"p_{kind}" for kind in sorted(KINDS))]
    p = np.array([columns[f"p_{kind}"] for kind in sorted(KINDS)])
    assert p.sum(axis=0) == pytest.approx(1)
    assert np.array_equal(columns["prediction"], np.array(sorted(KINDS))[p.argmax(axis=0)])

    result = parse_json(run("evaluate", "flowers.safetensors", "flowers.csv", "--json")[0])
    truth = read_table("flowers.csv").column("kind")
    assert result["metrics"]["accuracy"] == np.mean(columns["prediction"] == truth) > 0.9
    p_of_truth = p[np.searchsorted(sorted(KINDS), truth), range(150)]
    assert result["metrics"]["loss"] == pytest.approx(-np.log(p_of_truth).mean(), rel=1e-4)
    assert result["rows"] == 150
    out, _ = run("evaluate", "flowers.safetensors", "flowers.csv")
    assert f"accuracy  {result['metrics']['accuracy']:.2%} of 150 rows" in out


def test_train_and_evaluate_report_the_same_metrics_for_held_out_rows(run, flowers):
    trained = parse_json(run("train", *flowers, "--json", *QUICK)[0])
    table = read_table("flowers.csv")
    strata = np.unique(table.column("kind"), return_inverse=True)[1]
    _, held_out = train_validation_split(150, 0.2, np.random.default_rng(0), strata)
    write_table("held_out.csv", table.names, {name: column[held_out] for name, column in table.columns.items()})
    evaluated = parse_json(run("evaluate", "flowers.safetensors", "held_out.csv", "--json")[0])
    assert evaluated["metrics"] == pytest.approx(trained["metrics"], rel=1e-6)


def test_train_predict_and_evaluate_a_regression(run, houses):
    trained = parse_json(run("train", *houses, "--json", "--quiet")[0])
    assert trained["metrics"]["r2"] > 0.97
    assert trained["metrics"]["rmse"] < 25_000
    predicted = read_predictions(run("predict", "houses.safetensors", "houses.csv")[0])["prediction"]
    price = read_table("houses.csv").column("price")
    result = parse_json(run("evaluate", "houses.safetensors", "houses.csv", "--json")[0])["metrics"]
    assert result["rmse"] == pytest.approx(math.sqrt(np.mean((predicted - price) ** 2)))
    assert result["mae"] == pytest.approx(np.abs(predicted - price).mean())
    assert result["r2"] == pytest.approx(1 - np.mean((predicted - price) ** 2) / price.var())
    out, _ = run("evaluate", "houses.safetensors", "houses.csv")
    assert f"RMSE      {format_number(result['rmse'])} on 300 rows" in out


def test_feature_columns_are_matched_by_name(run, flowers):
    run("train", *flowers, *QUICK)
    table = read_table("flowers.csv")
    names = ["weight", "length", "width"]
    write_table("other.csv", ["extra", *names], [table.column("note"), *(table.column(name) for name in names)])
    assert run("predict", "flowers.safetensors", "other.csv") == run("predict", "flowers.safetensors", "flowers.csv")


def test_evaluate_with_a_renamed_target_column(run, flowers):
    run("train", *flowers, *QUICK)
    table = read_table("flowers.csv")
    write_table(
        "renamed.csv", ["species" if name == "kind" else name for name in table.names], [*table.columns.values()]
    )
    result = parse_json(run("evaluate", "flowers.safetensors", "renamed.csv", "--target", "species", "--json")[0])
    assert (
        result["metrics"] == parse_json(run("evaluate", "flowers.safetensors", "flowers.csv", "--json")[0])["metrics"]
    )


def test_train_and_predict_with_npz_files(run):
    rng = np.random.default_rng(9)
    X = rng.normal(size=(90, 4)).astype(np.float32)
    y = (X[:, 0] > 0).astype(np.int64)
    np.savez("data.npz", X=X, y=y)
    np.savez("new.npz", X=X)
    result = parse_json(run("train", "data.npz", "--json", "--quiet")[0])
    assert (result["target"], result["classes"], result["features"]) == ("y", ["0", "1"], 4)
    columns = read_predictions(run("predict", "data.safetensors", "new.npz")[0])
    assert list(columns) == ["prediction", "p_0", "p_1"]
    assert np.mean(columns["prediction"] == y.astype(str)) > 0.9


def test_predict_and_evaluate_on_digits(run):
    run("train", "digits", "-o", "model", *QUICK)
    columns = read_predictions(run("predict", "model", "digits")[0])
    result = parse_json(run("evaluate", "model", "digits", "--json")[0])
    assert result["metrics"]["accuracy"] == np.mean(columns["prediction"] == load_digits().y.astype(str))


def test_json_output_of_predict(run, flowers, folder):
    run("train", *flowers, *QUICK)
    out, _ = run("predict", "flowers.safetensors", "flowers.csv", "--json")
    assert len(parse_json(out)["predictions"]["prediction"]) == 150
    out, _ = run("predict", "flowers.safetensors", "flowers.csv", "--json", "-o", "out.csv")
    assert parse_json(out)["output"] == "out.csv"
    assert len((folder / "out.csv").read_text().splitlines()) == 151


def test_predictions_can_be_written_to_a_device(run, flowers):
    run("train", *flowers, *QUICK)
    run("predict", "flowers.safetensors", "flowers.csv", "-o", os.devnull)
    assert not os.path.isfile(os.devnull)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_resuming_from_a_checkpoint_gives_the_same_model(run, flowers):
    train = ("train", *flowers, *SMALL, "--epochs", "6")
    uninterrupted = parse_json(run(*train, "-o", "uninterrupted")[0])
    run(*train, "-o", "first", "--checkpoint", "run", "--every", "2")
    names = sorted(os.listdir("run"))
    assert len(names) == 3
    os.remove(f"run/{names[2]}")
    resumed = parse_json(run(*train, "-o", "second", "--checkpoint", "run", "--every", "2", "--resume")[0])
    assert resumed["history"] == uninterrupted["history"]
    for actual, expected in zip(parameters("second"), parameters("uninterrupted"), strict=True):
        np.testing.assert_array_equal(actual, expected)
    accuracy = parse_json(run("evaluate", f"run/{names[1]}", flowers[0], "--json")[0])["metrics"]["accuracy"]
    assert accuracy > 0.5  # a checkpoint is a model file with the names of its columns


def test_resume_reports_where_training_continues(run, flowers):
    train = ("train", *flowers, "--epochs", "4", "--checkpoint", "run", "--every", "3")
    run(*train)
    os.remove(sorted(os.path.join("run", name) for name in os.listdir("run"))[-1])
    out, _ = run(*train, "--resume")
    assert "resumed   after 12 updates, in epoch 3" in out
