"""``evaluate``, ``train`` and ``search`` say how many of the rows were trained on."""

import json
import re
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import main
from deepnotes.cli.tasks import Classification, Regression, Task
from deepnotes.cli.training_rows import (
    KEPT,
    KEY,
    describe_training_rows,
    note_on_held_out_rows,
    note_on_training_rows,
)

KINDS = Classification(("a", "b"), "categorical_cross_entropy")
REGRESSION = Regression(0.0, 1.0, "mean_squared_error")


def rows(m: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return samples, shape (3, m), and targets, shape (m,)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, m)), rng.normal(size=m)


def test_rows_are_recognized_one_by_one():
    X, y = rows(100)
    metadata = json.loads(json.dumps(describe_training_rows(X[:, :60], y[:60], REGRESSION)))
    assert note_on_training_rows(metadata, X, y, REGRESSION).startswith(
        "60 of 100 rows are equal to rows that the model"
    )
    assert note_on_training_rows(metadata, X[:, 30:], y[30:], REGRESSION).startswith("30 of 70 rows")
    assert note_on_training_rows(metadata, X[:, 60:], y[60:], REGRESSION) == ""
    assert note_on_training_rows(metadata, X, y + 1, REGRESSION) == ""
    assert note_on_training_rows(metadata, X[::-1], y, REGRESSION) == ""


def test_the_sketch_of_many_rows_is_small_and_estimates_the_share():
    X, y = rows(20 * KEPT)
    metadata = describe_training_rows(X[:, : 10 * KEPT], y[: 10 * KEPT], REGRESSION)
    assert len(json.dumps(metadata)) < 12 * KEPT
    found = re.match(r"about (\d+)% of the 20,000 rows are", note_on_training_rows(metadata, X, y, REGRESSION))
    assert found
    assert 44 <= int(found[1]) <= 56
    assert note_on_training_rows(metadata, *rows(20 * KEPT, seed=1), REGRESSION) == ""


def test_the_rows_of_the_model_that_training_started_from_are_added():
    X, y = rows(100)
    first = describe_training_rows(X[:, :60], y[:60], REGRESSION)
    second = describe_training_rows(X[:, 50:90], y[50:90], REGRESSION, first)
    assert note_on_training_rows(second, X, y, REGRESSION).startswith("90 of 100 rows")


@pytest.mark.parametrize("task", [KINDS, REGRESSION])
def test_notation_makes_no_difference(task: Task):
    X = np.array([[0.0, 1.0], [1.0, 0.0]])
    y: Any = np.array(["a", "b"]) if task is KINDS else np.array([0.0, 2.0])
    metadata = describe_training_rows(X, y, task)
    assert note_on_training_rows(metadata, X.copy(order="F"), y, task).startswith("2 of 2 rows")
    assert note_on_training_rows(metadata, np.where(X == 0, -0.0, X), y, task).startswith("2 of 2 rows")


@pytest.mark.parametrize("damaged", [{}, {KEY: 3}, {KEY: {}}, {KEY: {"hashes": "?"}}, {KEY: {"hashes": "AAAA"}}])
def test_damaged_or_missing_sketches_are_ignored(damaged):
    assert note_on_training_rows(damaged, *rows(5), REGRESSION) == ""


def test_evaluate_says_that_rows_were_trained_on(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    X, _ = rows(90)
    kind = np.array(["a", "b"])[(X[0] > 0).astype(int)]
    table = {"u": X[0], "v": X[1], "kind": kind}
    dn.write_table("all.csv", list(table), table)
    dn.write_table("new.csv", list(table), {name: values[60:] for name, values in table.items()})
    np.savez("old.npz", **{name: values[:60] for name, values in table.items()})
    options = ["--layers", "4", "--epochs", "2", "--backend", "numpy"]
    assert main(["train", "old.npz", "--target", "kind", *options, "--validation", "0", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "old.safetensors", "all.csv", "--json"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"note: \d\d of 90 rows are equal to rows that the model was trained on, so the scores may", err)
    assert json.loads(out)["note"] in err
    assert main(["evaluate", "old.safetensors", "new.csv", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["note"] is None
    assert "trained on" not in err


def test_held_out_rows_that_are_trained_on_are_counted_over_all_folds():
    X, y = rows(10)
    X[:, 7], y[7] = X[:, 2], y[2]
    parts = [(np.arange(5), np.arange(5, 10)), (np.arange(5, 10), np.arange(5))]
    note = "are equal to rows to train on, so the scores may be too good"
    assert note_on_held_out_rows(X, y, REGRESSION, parts[:1]) == f"1 of 5 held-out rows {note}"
    assert note_on_held_out_rows(X, y, REGRESSION, parts) == f"2 of 10 held-out rows {note}"
    assert note_on_held_out_rows(X, y, REGRESSION, [(np.arange(7), np.arange(8, 10))]) == ""


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Return the path of a table of 60 different rows, in the current directory."""
    monkeypatch.chdir(tmp_path)
    X, y = rows(60)
    dn.write_table("t.csv", ["a", "b", "c", "y"], [*X, y])
    return tmp_path / "t.csv"


QUICK = ["--target", "y", "--epochs", "2", "--layers", "4", "--backend", "numpy"]


def notes_of(capsys, *arguments: str) -> list[str]:
    """Return the notes in the JSON object of ``train``, each of which stderr has, too."""
    assert main(["train", *arguments, *QUICK, "--json"]) == 0
    out, err = capsys.readouterr()
    notes: list[str] = json.loads(out)["notes"]
    assert [line.removeprefix("note: ") for line in err.splitlines() if "too good" in line] == notes
    return notes


@pytest.mark.parametrize("options", [(), ("--folds", "4"), ("--members", "2")])
def test_train_says_that_rows_occur_several_times(table, capsys, options: tuple[str, ...]):
    assert notes_of(capsys, "t.csv", *options) == []
    header, *lines = table.read_text().splitlines()
    table.write_text("\n".join([header, *lines, *lines, *lines]))
    (note,) = notes_of(capsys, "t.csv", *options)
    assert re.match(r"\d+ of \d+ held-out rows are equal to rows to train on", note)


def test_train_says_that_the_validation_file_has_rows_of_the_data(table, capsys):
    (note,) = notes_of(capsys, "t.csv", "--validation-file", str(table))
    assert note.startswith("60 of 60 held-out rows are equal to rows to train on")


def test_train_from_a_model_says_that_it_was_trained_on_held_out_rows(table, capsys):
    assert notes_of(capsys, "t.csv", "-o", "first.safetensors") == []
    continued = ("t.csv", "--from", "first.safetensors", "-o", "second.safetensors")
    assert notes_of(capsys, *continued) == []  # the same rows are held out
    (note,) = notes_of(capsys, *continued, "--seed", "1")
    assert re.match(r"\d+ of 12 held-out rows are equal to rows that first.safetensors was trained on", note)


def test_search_says_that_rows_occur_several_times(table, capsys):
    header, *lines = table.read_text().splitlines()
    table.write_text("\n".join([header, *lines, *lines]))
    options = ["--target", "y", "--trials", "1", "--epochs", "2", "--backend", "numpy", "--json"]
    assert main(["search", "t.csv", *options]) == 0
    out, err = capsys.readouterr()
    note = json.loads(out)["note"]
    assert re.match(r"\d+ of 24 test rows are equal to rows to train on", note)
    assert f"note: {note}" in err
