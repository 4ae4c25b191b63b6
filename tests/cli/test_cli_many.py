"""Commands that train several networks: ``train --folds``, ``train --members`` and ``search``; ensembles as models."""

import argparse
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import main
from deepnotes.cli import search as search_command
from deepnotes.cli.search_space import as_options, draw_settings
from deepnotes.cli.train_defaults import Recipe
from deepnotes.cli.training_data import TrainingData
from deepnotes.cli.training_runs import mean_history, train_alone
from deepnotes.datasets.splits import folds, train_validation_split
from deepnotes.datasets.tables import read_table, write_table
from deepnotes.network.training.history import History

QUICK = ("--layers", "8", "--epochs", "3", "--quiet")
KINDS = np.array(["daisy", "rose", "tulip"])

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def fails(capsys):
    """Return a function that runs a command, checks that it fails with the given status, and returns its stderr."""

    def call(*argv, status):
        assert main([str(word) for word in argv]) == status
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return err

    return call


@pytest.fixture
def flowers():
    """Write flowers.csv with three classes that overlap a little; return the arguments to train on it."""
    rng = np.random.default_rng(7)
    kinds = np.arange(150) % 3
    X = rng.normal(size=(150, 3)) + 2 * np.eye(3)[kinds]
    write_table("flowers.csv", ["length", "width", "weight", "kind"], [*X.T, KINDS[kinds]])
    return ("flowers.csv", "--target", "kind")


@pytest.fixture
def flats():
    """Write flats.csv with text and missing numbers; return the arguments to train on it."""
    rng = np.random.default_rng(8)
    zones, area = rng.integers(0, 3, 120), rng.uniform(40, 240, 120)
    price = 1000 * area + 50_000 * zones + rng.normal(0, 1_000, 120)
    cells = np.array([f"{x:.1f}" if i % 9 else "" for i, x in enumerate(area)])
    with open("flats.csv", "w") as file:
        file.write("zone,area,price\n")
        file.writelines(f"{'nse'[z]},{a},{p:.2f}\n" for z, a, p in zip(zones, cells, price, strict=True))
    return ("flats.csv", "--target", "price", "--impute", "mean")


def parse_json(out):
    """Return the JSON object in `out`; fail if it contains NaN or Infinity."""
    return json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} in JSON"))


def load_ensemble(path):
    ensemble = dn.load(path).network
    assert isinstance(ensemble, dn.Ensemble)
    return ensemble


# --- folds ------------------------------------------------------------------------------------------------------------


def test_folds_report_the_mean_and_the_spread_of_each_score(run, flowers):
    out, err = run("train", *flowers, "--folds", 5, "--layers", 8, "--epochs", 5)
    assert "150 to train on, 0 held out; 5 folds of 30 rows" in out
    accuracy = re.search(
        r"accuracy  (\d+\.\d\d)% ± (\d+\.\d\d)% of the held-out rows, mean ± standard deviation of 5 folds\n", out
    )
    assert accuracy
    assert re.search(r"loss      \d+\.\d+ ± \d+\.\d+ \(categorical_cross_entropy\)", out)
    assert "6 networks" in out
    assert "flowers.safetensors, trained on 150 rows" in out
    assert "networks 6/6" in err
    metadata = dn.load("flowers.safetensors").metadata
    assert metadata["folds"]["mean"]["accuracy"] == pytest.approx(float(accuracy[1]) / 100, abs=1e-4)
    assert metadata["folds"]["std"]["accuracy"] == pytest.approx(float(accuracy[2]) / 100, abs=1e-4)


def test_json_of_folds(run, flowers):
    result = parse_json(run("train", *flowers, *QUICK, "--folds", 4, "--json")[0])
    scores = result["folds"]["scores"]
    assert result["folds"]["number"] == len(scores) == 4
    for name in ("accuracy", "loss"):
        values = [one[name] for one in scores]
        assert result["folds"]["mean"][name] == pytest.approx(np.mean(values))
        assert result["folds"]["std"][name] == pytest.approx(np.std(values, ddof=1))
    assert result["metrics_of"] == "training"
    assert result["epochs"] == len(result["history"]["loss"]) == 3
    assert result["members"] is None


def test_the_score_of_a_fold_is_that_of_a_network_which_never_saw_it(run, flowers):
    """Wrong targets in one fold change the score of this fold, but not those of networks that are scored on others."""
    result = parse_json(run("train", *flowers, *QUICK, "--folds", 3, "--json")[0])
    table = read_table("flowers.csv")
    kinds = table.column("kind")
    test = folds(150, 3, np.random.default_rng(0), np.unique(kinds, return_inverse=True)[1])[1]
    columns = {name: column.copy() for name, column in table.columns.items()}
    for name in ("length", "width", "weight"):
        columns[name][test] = columns[name][test][::-1] * 50
    write_table("changed.csv", table.names, columns)
    changed = parse_json(run("train", "changed.csv", *flowers[1:], *QUICK, "--folds", 3, "--json")[0])
    before, after = (one["folds"]["scores"] for one in (result, changed))
    assert before[1] != after[1]
    net = dn.load("flowers.safetensors").network
    X = np.array([table.column(name) for name in ("length", "width", "weight")])
    y = np.searchsorted(KINDS, kinds)
    train = np.setdiff1d(np.arange(150), test)
    alone = dn.Network(net.layers, 3, seed=0, standardizer=dn.Standardizer.fit(X.T[train].T))
    alone.fit(X, y, samples=train, epochs=3, optimizer=same_optimizer(len(train)), l2=0.05)
    names = ["accuracy", "balanced_accuracy", "f1", "roc_auc"]
    assert before[1] == pytest.approx(alone.evaluate(X[:, test], y[test], metrics=names))


def same_optimizer(rows):
    """Return the optimizer of ``train`` for three epochs on this number of rows."""
    steps = 3 * -(-rows // 32)
    return dn.Adam(dn.CosineDecay(3e-3, steps, warmup=steps // 20))


def test_folds_without_early_stopping_train_on_all_rows(run, flowers):
    def rows(*options):
        return parse_json(run("train", *flowers, *QUICK, "--folds", 2, "--json", *options)[0])["rows"]

    assert rows() == {"training": 150, "early_stopping": 0, "validation": 0}
    assert rows("--early-stopping", 1) == {"training": 135, "early_stopping": 15, "validation": 0}
    assert rows("--validation", 0.1) == {"training": 135, "early_stopping": 0, "validation": 15}
    assert rows("--early-stopping-share", 0.2) == {"training": 120, "early_stopping": 30, "validation": 0}


def test_each_fold_has_its_own_encoding(run, flats, monkeypatch):
    """Fill values are those of the rows that a fold trains on."""
    fitted = []
    original = TrainingData.encoder

    def encoder(self, rows):
        fitted.append(len(rows))
        return original(self, rows)

    monkeypatch.setattr(TrainingData, "encoder", encoder)
    out, _ = run("train", *flats, "--layers", 8, "--epochs", 30, "--folds", 3, "--json")
    assert fitted == [120, 80, 80, 80]
    assert parse_json(out)["folds"]["mean"]["r2"] > 0


def test_folds_of_a_regression(run, flats):
    out, _ = run("train", *flats, "--layers", 8, "--epochs", 30, "--folds", 3)
    for pattern in (
        r"RMSE      [\d,]+ ± [\d,]+ on the held-out rows, mean",
        r"MAE       [\d,]+ ± [\d,]+\n",
        r"R²        -?\d\.\d{4} ± \d\.\d{4}\n",
    ):
        assert re.search(pattern, out), out


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--folds", "1"), 2, "argument --folds: got '1', wanted a whole number of at least 2"),
        (("--members", "0"), 2, "argument --members: got '0', wanted a whole number of at least 2"),
        (("--folds", "151"), 1, "flowers.csv has 150 rows, but --folds 151 needs at least 151"),
        (("--members", "2", "--learning-rate", "1e30"), 1, "network 0: training stopped before update"),
    ],
)
def test_options_that_cannot_be_used(fails, flowers, options, status, message):
    err = fails("train", *flowers, *QUICK, *options, status=status)
    assert message in err
    assert not Path("flowers.safetensors").exists()


@pytest.mark.parametrize(("m", "k"), [(10, 3), (7, 7), (100, 5)])
def test_folds_divide_the_samples(m, k):
    labels = np.arange(m) % 3
    parts = folds(m, k, np.random.default_rng(0), labels)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(m))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    counts = [np.bincount(labels[part], minlength=3) for part in parts]
    assert (np.ptp(counts, axis=0) <= 1).all()
    np.testing.assert_array_equal(parts[0], folds(m, k, np.random.default_rng(0), labels)[0])


@pytest.mark.parametrize(
    ("m", "k", "rng"), [(5, 6, np.random.default_rng()), (5, 1, np.random.default_rng()), (5, 2.0, None), (1, 2, None)]
)
def test_folds_with_bad_arguments_are_refused(m, k, rng):
    with pytest.raises(dn.ArgumentError):
        folds(m, k, rng)


# --- ensembles --------------------------------------------------------------------------------------------------------


def test_members_are_saved_in_one_model_file(run, flowers):
    out, _ = run("train", *flowers, "--members", 4, "--layers", "8", "--epochs", 5)
    assert "the mean of 4 networks" in out
    assert re.search(r"members   4; each alone, on average: accuracy \d+\.\d\d% of 30 held-out rows", out)
    ensemble = load_ensemble("flowers.safetensors")
    assert [net.seed for net in ensemble] == [0, 1, 2, 3]
    assert ensemble.metadata["classes"] == list(KINDS)
    assert [net.metadata for net in ensemble] == [{}] * 4
    assert {"rows", "accuracy", "balanced_accuracy", "loss"} < set(ensemble.metadata["validation"])


def test_json_of_members(run, flowers):
    result = parse_json(run("train", *flowers, *QUICK, "--members", 3, "--seed", 7, "--json", "--plot", "c.png")[0])
    assert [member["seed"] for member in result["members"]] == [7, 8, 9]
    assert all(len(member["history"]["val_loss"]) == member["epochs"] == 3 for member in result["members"])
    assert result["parameters"] == sum(net.layout.size for net in load_ensemble("flowers.safetensors"))
    assert (result["epochs"], result["history"]) == (None, None)
    assert result["metrics"]["loss"] <= max(member["metrics"]["loss"] for member in result["members"])
    assert Path("c.png").stat().st_size > 1000


def test_predict_evaluate_and_export_take_an_ensemble(run, flowers):
    pytest.importorskip("onnxruntime", reason='the extra "onnx" is not installed')
    run("train", *flowers, *QUICK, "--members", 3, "-o", "m.st")
    out, _ = run("evaluate", "m.st", "flowers.csv")
    assert "m.st: 3 networks, 3 features, backend numpy, float32" in out
    predicted = list(csv.DictReader(io.StringIO(run("predict", "m.st", "flowers.csv")[0])))
    table, ensemble = read_table("flowers.csv"), dn.load("m.st", backend="numpy").network
    X = np.array([table.column(name) for name in ("length", "width", "weight")])
    A = ensemble.predict(X)
    np.testing.assert_allclose([[float(row[f"p_{kind}"]) for kind in KINDS] for row in predicted], A.T, rtol=1e-6)
    accuracy = np.mean([row["prediction"] == kind for row, kind in zip(predicted, table.column("kind"), strict=True)])
    assert f"accuracy  {accuracy:.2%} of 150 rows" in out
    out, _ = run("export", "m.st", "--onnx", "m.onnx", "--python", "m.py")
    assert "the mean of 3 networks: 3 features, dense 8 relu, 3 softmax" in out
    assert "run by onnxruntime" in out
    exported = subprocess.run([sys.executable, "m.py", "flowers.csv"], capture_output=True, text=True, check=True)
    assert [row["prediction"] for row in csv.DictReader(io.StringIO(exported.stdout))] == [
        row["prediction"] for row in predicted
    ]


def test_folds_of_an_ensemble(run, flowers):
    result = parse_json(run("train", *flowers, *QUICK, "--members", 2, "--folds", 3, "--json")[0])
    assert len(result["members"]) == 2
    assert len(result["folds"]["scores"]) == 3
    assert len(dn.load("flowers.safetensors").network) == 2


def test_members_are_resumed_from_their_checkpoints(run, flowers):
    command = ("train", *flowers, *QUICK, "--members", 2, "--checkpoint", "run", "--every", "1")
    run(*command)
    content = Path("flowers.safetensors").read_bytes()
    for name in ("run/0000", "run/0001"):
        (checkpoint, *_) = Path(name).glob("step-*.safetensors")
        assert run("predict", checkpoint, "flowers.csv")[0].startswith("prediction,p_daisy")
    out, _ = run(*(argument for argument in command if argument != "--quiet"), "--resume")
    assert "resumed   network 0, after" in out
    assert Path("flowers.safetensors").read_bytes() == content


def test_the_mean_history_is_over_the_networks_that_were_still_trained():
    mean = mean_history([History([4.0, 2.0], [], {"accuracy": [0.5, 1.0]}), History([2.0], [], {"accuracy": [0.0]})])
    assert mean.loss == [3.0, 2.0]
    assert mean.metrics == {"accuracy": [0.25, 1.0]}


# --- search -----------------------------------------------------------------------------------------------------------

SEARCH = ("--trials", "5", "--epochs", "2")


def table_rows(out):
    """Return the rows of the printed table of trials, and check that its columns are aligned."""
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("trial"))
    end = next(i for i in range(start, len(lines)) if not lines[i].strip())
    width = lines[start].index("learning rate") + len("learning rate")
    assert all(line[width : width + 2] == "  " for line in lines[start + 1 : end] if "trials with" not in line)
    return [line.split() for line in lines[start + 1 : end]]


def test_search_reports_trials_best_first_and_saves_the_best(run, flowers):
    out, err = run("search", *flowers, *SEARCH)
    rows = table_rows(out)
    assert sorted(int(row[0]) for row in rows) == [1, 2, 3, 4, 5]
    losses = [float(row[1]) for row in rows]
    assert losses == sorted(losses)
    assert "96 to train trials on, 24 to compare them, 30 for test" in out
    assert re.search(rf"best      trial {rows[0][0]}: --layers [\d,]+ --activation \w+ --learning-rate ", out)
    assert "% of 30 test rows" in out
    assert "flowers.safetensors, trained on 120 rows with the best settings" in out
    assert "trials 5/5  best loss" in err
    net = dn.load("flowers.safetensors").network
    assert net.metadata["search"]["trial"] == int(rows[0][0])
    assert net.metadata["test"]["rows"] == 30


def test_json_csv_and_plot_of_search(run, flowers):
    pytest.importorskip("matplotlib")
    out, _ = run("search", *flowers, *SEARCH, "--json", "--csv", "t.csv", "--plot", "t.svg", "--quiet")
    result = parse_json(out)
    trials = result["trials"]
    assert [trial["metrics"]["loss"] for trial in trials] == sorted(trial["metrics"]["loss"] for trial in trials)
    assert result["best"] == trials[0]["trial"]
    assert (result["requested"], result["ended_by"], result["metrics_of"]) == (5, "trials", "test")
    rows = list(csv.DictReader(io.StringIO(Path("t.csv").read_text())))
    assert [int(row["trial"]) for row in rows] == [trial["trial"] for trial in trials]
    for row, trial in zip(rows, trials, strict=True):
        assert float(row["loss"]) == trial["metrics"]["loss"]
        assert row["layers"] == ",".join(map(str, trial["settings"]["layers"]))
        assert float(row["l2"]) == trial["settings"]["l2"]
    assert Path("t.svg").read_text().startswith("<?xml")


def test_the_printed_options_train_the_same_network(run, flowers):
    """The settings have few digits, so the printed options are exact: ``train`` gives the loss of the trial."""
    result = parse_json(run("search", *flowers, *SEARCH, "--json", "--test", 0.2, "--seed", 3)[0])
    best = result["trials"][0]
    settings = best["settings"] | {"layers": tuple(best["settings"]["layers"])}
    table = read_table("flowers.csv")
    y = np.searchsorted(KINDS, table.column("kind"))
    others, test = train_validation_split(150, 0.2, np.random.default_rng(3), y)
    write_table("others.csv", table.names, {name: column[others] for name, column in table.columns.items()})
    write_table("test.csv", table.names, {name: column[test] for name, column in table.columns.items()})
    options = as_options(settings).split()
    run("train", "others.csv", *flowers[1:], *options, "--epochs", 2, "--seed", 3, "--validation", 0, "--quiet")
    again = parse_json(run("evaluate", "others.safetensors", "test.csv", "--json")[0])["metrics"]
    assert again == pytest.approx(result["metrics"])


def test_test_rows_take_no_part_in_the_search(run, flowers):
    def search(table):
        write_table("table.csv", table.names, table.columns)
        return parse_json(run("search", "table.csv", *flowers[1:], *SEARCH, "--json")[0])

    table = read_table("flowers.csv")
    strata = np.unique(table.column("kind"), return_inverse=True)[1]
    _, test = train_validation_split(150, 0.2, np.random.default_rng(0), strata)
    before = search(table)
    table.columns["length"][test] = 1e3
    after = search(table)
    assert [trial["metrics"] for trial in before["trials"]] == [trial["metrics"] for trial in after["trials"]]
    assert before["metrics"] != after["metrics"]


def test_search_of_a_regression_with_encoded_columns(run, flats):
    out, err = run("search", *flats, *SEARCH)
    assert "RMSE" in out.splitlines()[5]
    assert len(table_rows(out)) == 5
    assert "column 'zone': one-hot, 3 categories" in err


def test_the_same_seed_gives_the_same_trials(run, flowers):
    def search(seed):
        result = parse_json(run("search", *flowers, *SEARCH, "--json", "--quiet", "--seed", seed)[0])
        return [(trial["trial"], trial["settings"], trial["metrics"]) for trial in result["trials"]]

    assert search(1) == search(1) != search(2)


def test_settings_are_drawn_from_the_whole_space():
    recipe = Recipe((64, 32), 0.2, 0.01)
    settings = list(islice(draw_settings(argparse.Namespace(seed=0, optimizer="adam"), recipe), 300))
    assert settings[0] == {
        "layers": (64, 32), "activation": "relu", "learning_rate": 3e-3, "dropout": 0.2, "l2": 0.01,
    }  # fmt: skip
    for name, values in {"activation": 4, "dropout": 6, "layers": 16}.items():
        assert len({one[name] for one in settings}) == values
    rates = [one["learning_rate"] for one in settings]
    assert 1e-4 <= min(rates) < 2e-4
    assert 2e-2 < max(rates) <= 3e-2
    assert 0.2 < np.mean([one["l2"] == 0 for one in settings]) < 0.45


def test_trials_that_diverge_come_last(run, flowers, monkeypatch):
    def settings(args, recipe):
        for rate in (1e30, 0.01, 1e30):
            yield {"layers": (8,), "activation": "relu", "learning_rate": rate, "dropout": 0.0, "l2": 0.0}

    monkeypatch.setattr(search_command, "draw_settings", settings)
    out, _ = run("search", *flowers, "--epochs", 3, "--trials", 3, "--csv", "t.csv", "--plot", "t.png")
    rows = table_rows(out)
    assert [row[0] for row in rows] == ["2", "1", "3"]
    assert rows[1][1:3] == ["not", "finite"]
    assert Path("t.png").exists()


def test_if_the_best_settings_diverge_on_more_rows_the_next_best_are_used(run, flowers, monkeypatch):
    calls = []

    def first_with_a_large_rate(args, *others):
        calls.append(args.learning_rate)
        args.learning_rate = 1e30 if len(calls) == 1 else args.learning_rate
        train_alone(args, *others)

    monkeypatch.setattr(search_command, "train_alone", first_with_a_large_rate)
    out, err = run("search", *flowers, *SEARCH)
    best, second = table_rows(out)[:2]
    assert f"trial {best[0]}: training stopped before update" in err
    assert f"best      trial {second[0]}:" in out
    assert dn.load("flowers.safetensors").metadata["search"]["trial"] == int(second[0])


def test_a_header_that_is_too_long_is_refused_before_the_search(fails, flowers, monkeypatch):
    monkeypatch.setattr("deepnotes.network.formats.containers.HEADER_LIMIT", 1 << 16)
    monkeypatch.setattr(search_command, "fit_many", None)
    assert "make a header of" in fails("search", *flowers, *SEARCH, status=1)


def test_if_no_trial_is_finite_nothing_is_written(fails, flowers, monkeypatch):
    def settings(args, kind):
        while True:
            yield {"layers": (8,), "activation": "relu", "learning_rate": 1e30, "dropout": 0.0, "l2": 0.0}

    monkeypatch.setattr(search_command, "draw_settings", settings)
    err = fails("search", *flowers, "--epochs", 3, "--trials", 2, status=1)
    assert "the loss of each trial became NaN or infinite" in err
    assert not Path("flowers.safetensors").exists()


def test_a_search_ends_at_its_time_limit(run, fails, flowers):
    err = fails("search", *flowers, "--minutes", 1e-6, "--trials", 2, "--epochs", 50, status=1)
    assert "no trial was trained to the end within 1e-06 min" in err
    result = parse_json(run("search", *flowers, "--minutes", 0.05, "--trials", 100_000, "--epochs", 2, "--json")[0])
    assert result["ended_by"] == "time"
    assert 0 < len(result["trials"]) < 100_000


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--test", "0"), 2, "argument --test: got '0'"),
        (("--minutes", "0"), 2, "argument --minutes: got '0', wanted a number above 0"),
        (("--learning-rate", "1"), 2, "unrecognized arguments: --learning-rate 1"),
        (("--csv", "flowers.csv"), 2, "--csv flowers.csv would overwrite flowers.csv"),
        (("--csv", "flowers.safetensors"), 2, "are the same file"),
        (("--plot", "t.gif"), 2, "argument --plot"),
        (("--test", "0.99"), 1, "change --test or --validation"),
    ],
)
def test_search_refuses_bad_options(fails, flowers, options, status, message):
    assert message in fails("search", *flowers, *SEARCH, *options, status=status)
    assert not Path("flowers.safetensors").exists()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_keeps_the_trials_that_have_ended(flowers):
    command = [sys.executable, "-m", "deepnotes", "search", *flowers, "--trials", "100000", "--epochs", "2", "--json"]
    process = subprocess.Popen([*command, "--csv", "t.csv"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("trials 1/"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert re.search(r"interrupted after \d+ of 100000 trials, which are kept", err), err
    assert re.search(r"deepnotes: interrupted; the best of \d+ trials? was written to flowers\.safetensors", err)
    result = json.loads(out)
    assert result["ended_by"] == "interrupt"
    assert len(result["trials"]) == len(list(csv.DictReader(io.StringIO(Path("t.csv").read_text())))) >= 1
    assert dn.load("flowers.safetensors").metadata["search"]["trial"] == result["best"]
