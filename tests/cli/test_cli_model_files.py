"""Model files on the command line: replaced, resumed with more epochs, trained on, and predictions with an id."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import main

pytest.importorskip("pyarrow")

QUICK = ["--backend", "numpy", "--epochs", "3", "--layers", "8", "--dropout", "0"]


def write(path: str, rows: int, seed: int = 0, **columns: Any) -> dict[str, Any]:
    """Write a table of flats, and return it."""
    rng = np.random.default_rng(seed)
    table: dict[str, Any] = {"id": [f"{i:03}" for i in range(rows)], "area": rng.uniform(30, 200, rows).round(1)}
    table["town"] = np.array(["Aub", "Ulm"])[rng.integers(0, 2, rows)]
    table["price"] = 500 + 5 * table["area"] + 100.0 * (table["town"] == "Ulm")
    table |= columns
    lines = [",".join(map(str, row)) for row in zip(*table.values(), strict=True)]
    Path(path).write_text("\n".join([",".join(table), *lines]) + "\n", encoding="utf-8")
    return table


@pytest.fixture
def run(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs a command in a directory with a table, and returns its status and its output."""
    monkeypatch.chdir(tmp_path)
    write("flats.csv", 60)

    def command(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        return status, *capsys.readouterr()

    return command


def train(run, *arguments: str) -> dict[str, Any]:
    """Train a model of the price, and return the JSON object."""
    target = [] if "--from" in arguments else ["--target", "price", *QUICK]
    status, out, err = run("train", "flats.csv", "--exclude", "id", *target, *arguments, "--json")
    assert status == 0, err
    outcome: dict[str, Any] = json.loads(out)
    return outcome


# --- a model file that exists -----------------------------------------------------------------------------------------


def test_a_model_of_another_target_is_not_replaced(run):
    train(run, "-o", "model")
    before = Path("model").read_bytes()
    status, _, err = run("train", "flats.csv", "--target", "area", "--exclude", "id", *QUICK, "-o", "model")
    assert status == 2
    assert "model exists and holds a model of 'price' from 2 columns (area, town); to replace it, use --force" in err
    assert Path("model").read_bytes() == before
    status, _, err = run("train", "flats.csv", "--target", "area", "--exclude", "id", *QUICK, "-o", "model", "--force")
    assert status == 0
    assert "note: model is replaced; it holds a model of 'price'" in err
    assert dn.load("model").target == "area"


def test_replacing_an_earlier_model_is_said(run):
    train(run, "-o", "model")
    for exclude in ("id", "id,town"):
        status, _, err = run("train", "flats.csv", "--exclude", exclude, "--target", "price", *QUICK, "-o", "model")
        assert status == 0
        assert "note: model is replaced; it holds a model of 'price' from 2 columns (area, town)" in err


def test_other_files_and_networks_are_not_replaced(run):
    Path("notes.txt").write_text("mine", encoding="utf-8")
    dn.Network([dn.Dense(1)], inputs=2, seed=0).save("net")
    for path, held in (("notes.txt", "is not a model file"), ("net", "holds a network that no command trained")):
        status, _, err = run("train", "flats.csv", "--exclude", "id", "--target", "price", *QUICK, "-o", path)
        assert status == 2
        assert f"{path} exists and {held}" in err
    assert Path("notes.txt").read_text(encoding="utf-8") == "mine"


def test_search_does_not_replace_another_model_either(run):
    train(run, "-o", "model")
    status, _, err = run("search", "flats.csv", "--target", "area", "--exclude", "id", "--trials", "1", "-o", "model")
    assert status == 2
    assert "model exists and holds a model of 'price'" in err


# --- more epochs ------------------------------------------------------------------------------------------------------


def test_resuming_with_more_epochs_says_what_to_do(run):
    train(run, "--checkpoint", "run", "-o", "model")
    more = [*QUICK, "--exclude", "id", "--target", "price", "--epochs", "6", "--checkpoint", "run", "-o", "model"]
    status, _, err = run("train", "flats.csv", *more, "--resume")
    assert status == 1
    assert "a run can only be resumed with the same --epochs" in err
    assert "--from MODEL --epochs MORE, without --resume" in err
    status, _, err = run(
        "train", "flats.csv", *more, "--checkpoint", "constant", "--schedule", "constant", "--epochs", "3"
    )
    assert status == 0
    resumed = [*more, "--checkpoint", "constant", "--schedule", "constant", "--resume", "--json"]
    status, out, err = run("train", "flats.csv", *resumed)
    assert status == 0
    assert json.loads(out)["epochs"] == 6


# --- training from a model --------------------------------------------------------------------------------------------


def test_training_from_a_model_starts_with_its_predictions(run):
    train(run, "-o", "first", "--epochs", "60")
    first = dn.load("first", backend="numpy")
    outcome = train(run, "--from", "first", "--epochs", "1", "--learning-rate", "1e-9", "-o", "second", "--seed", "7")
    assert outcome["target"] == "price"
    second = dn.load("second", backend="numpy")
    table = dn.read_table("flats.csv")
    np.testing.assert_allclose(second.predict(table), first.predict(table), rtol=1e-4)
    assert second.network.layers == first.network.layers
    assert second.network.seed == 7


def test_training_from_a_model_goes_on(run):
    before = train(run, "-o", "first")["metrics"]["loss"]
    assert train(run, "--from", "first", "--epochs", "40", "-o", "first")["metrics"]["loss"] < before


def test_training_from_an_ensemble_trains_all_members(run):
    train(run, "--members", "2", "-o", "two")
    train(run, "--from", "two", "--members", "2", "--epochs", "1", "--learning-rate", "1e-9", "-o", "again")
    table = dn.read_table("flats.csv")
    first, second = (dn.load(path, backend="numpy").predict(table) for path in ("two", "again"))
    np.testing.assert_allclose(second, first, rtol=1e-4)
    status, _, err = run("train", "flats.csv", "--from", "two")
    assert status == 2
    assert "--from two: it has 2 networks; use --members 2" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "9"], "--layers 9: --from first has 8"),
        (["--target", "area"], "--target area: --from first has price"),
        (["--task", "classification"], "--task classification: --from first has regression"),
        (["--loss", "huber"], "--loss huber: --from first has mean_squared_error"),
        (["--dropout", "0.5"], "--dropout cannot be combined with --from"),
        (["--folds", "3"], "--folds cannot be combined with --from"),
    ],
)
def test_options_that_contradict_the_model_are_refused(run, options, message):
    train(run, "-o", "first")
    status, _, err = run("train", "flats.csv", "--from", "first", "-o", "second", *options)
    assert status == 2
    assert message in err
    assert not Path("second").exists()


def test_data_that_do_not_suit_the_model_are_refused(run):
    train(run, "-o", "first")
    write("ems.csv", 20, town=["Ems"] * 20)
    status, _, err = run("train", "ems.csv", "--from", "first")
    assert status == 1
    assert "ems.csv: column 'town' has 20 rows with a category that first does not know" in err
    Path("other.csv").write_text("area,price\n1,2\n3,4\n", encoding="utf-8")
    status, _, err = run("train", "other.csv", "--from", "first")
    assert status == 1
    assert "other.csv: no column 'town'" in err
    dn.Network([dn.Dense(1)], inputs=2, seed=0).save("net")
    status, _, err = run("train", "flats.csv", "--from", "net")
    assert status == 1
    assert "use a model that 'deepnotes train' wrote" in err


# --- a file of held-out rows ------------------------------------------------------------------------------------------


def test_the_rows_of_a_validation_file_are_held_out(run):
    held_out = write("valid.csv", 30, seed=1)
    outcome = train(run, "--validation-file", "valid.csv", "-o", "model")
    assert outcome["rows"]["validation"] == 30
    assert sum(outcome["rows"].values()) == 90
    model = dn.load("model", backend="numpy")
    assert outcome["metrics"]["r2"] == pytest.approx(model.score(held_out))
    alone = dn.Encoder.fit(dn.read_table("flats.csv"), ["area", "town"])
    assert model.encoder == alone


def test_the_report_counts_the_rows_of_data_without_those_of_the_validation_file(run):
    write("valid.csv", 30, seed=1)
    arguments = ("--target", "price", "--validation-file", "valid.csv", "-o", "model")
    status, out, _ = run("train", "flats.csv", *QUICK, *arguments)
    assert status == 0
    assert re.search(r"data +flats\.csv: 60 rows, ", out)
    assert re.search(r"rows +60 to train on, 30 held out", out)


def test_classes_keep_their_spelling_in_a_validation_file(run):
    write("flats.csv", 60, price=["007", "x"] * 30)
    write("valid.csv", 10, price=["007"] * 10)
    train(run, "--validation-file", "valid.csv", "--epochs", "1", "-o", "model")
    assert dn.load("model").labels == ("007", "x")


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        ("area,price\n1,2\n", 1, "valid.csv: no column 'town'"),
        ("area,town,price\nbig,Ulm,2\n", 1, "valid.csv"),
        ("area,town,price\n,Ulm,2\n", 1, "valid.csv:2: column 'area'"),
        ("area,town,price\n50,Ulm,\n", 1, "valid.csv:2: column 'price'"),
    ],
)
def test_a_validation_file_that_does_not_suit_is_refused(run, content, status, message):
    Path("valid.csv").write_text(content, encoding="utf-8")
    options = ["--exclude", "id", "--target", "price", *QUICK, "--validation-file", "valid.csv"]
    actual, _, err = run("train", "flats.csv", *options)
    assert (actual, message in err) == (status, True), err


@pytest.mark.parametrize("options", [["--validation", "0.1"], ["--folds", "3"], ["--from-disk"]])
def test_options_that_hold_out_rows_in_another_way_are_refused(run, options):
    status, _, err = run("train", "flats.csv", "--target", "price", "--validation-file", "flats.csv", *options)
    assert status == 2
    assert re.search(rf"{options[0]} cannot be combined with --validation-file", err)


def test_the_model_does_not_overwrite_the_validation_file(run):
    write("valid.csv", 30)
    status, _, err = run("train", "flats.csv", "--target", "price", "--validation-file", "valid.csv", "-o", "valid.csv")
    assert status == 2
    assert "would overwrite valid.csv" in err


# --- predictions with columns of the data -----------------------------------------------------------------------------


def test_columns_are_kept_as_they_are_in_the_file(run):
    train(run, "-o", "model")
    Path("new.csv").write_text(
        'id,area,town,"last, first",p_x\n007,50.50,Ulm,"a, b",1\n8,70,Aub,,2\n', encoding="utf-8"
    )
    status, out, _ = run("predict", "model", "new.csv", "--keep", "id,area", "--keep", "last, first", "--keep", "p_x")
    assert status == 0
    rows = list(csv.reader(io.StringIO(out)))
    assert rows[0] == ["id", "area", "last, first", "p_x", "prediction"]
    assert [row[:-1] for row in rows[1:]] == [["007", "50.50", "a, b", "1"], ["8", "70", "", "2"]]
    expected = dn.load("model", backend="numpy").predict({"area": [50.5, 70], "town": ["Ulm", "Aub"]})
    assert [float(row[-1]) for row in rows[1:]] == expected.tolist()
    status, out, _ = run("predict", "model", "new.csv", "--keep", "id", "--json")
    assert json.loads(out)["predictions"]["id"] == ["007", "8"]


def test_kept_text_that_a_spreadsheet_would_run_is_said(run):
    train(run, "-o", "model")
    Path("new.csv").write_text("id,area,town\n=1+1,50,Ulm\n", encoding="utf-8")
    _, _, err = run("predict", "model", "new.csv", "--keep", "id")
    assert "spreadsheets would read '=1+1' as a formula" in err


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--keep", "nope"], 1, "new.csv: no column 'nope'"),
        (["--keep", "prediction"], 2, "--keep prediction: the predictions have a column of this name"),
        (["--keep", "id", "--from-disk"], 2, "--keep cannot be combined with --from-disk"),
    ],
)
def test_columns_that_cannot_be_kept_are_refused(run, options, status, message):
    train(run, "-o", "model")
    write("new.csv", 5, prediction=[0] * 5)
    actual, out, err = run("predict", "model", "new.csv", *options)
    assert (actual, out) == (status, "")
    assert message in err
