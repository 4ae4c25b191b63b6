"""``evaluate`` and ``train --from`` say how many of the rows were trained on."""

import json
import re
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import main
from deepnotes.cli.tasks import Classification, Regression, Task
from deepnotes.cli.training_rows import KEPT, KEY, describe_training_rows, note_on_training_rows

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


def test_training_from_a_model_says_that_held_out_rows_were_trained_on(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    X, _ = rows(60)
    table = {"u": X[0], "v": X[1], "kind": np.array(["a", "b"])[(X[0] > 0).astype(int)]}
    dn.write_table("a.csv", list(table), table)
    train = ["train", "a.csv", "--epochs", "2", "--backend", "numpy"]
    assert main([*train, "--target", "kind", "--layers", "4", "-o", "m", "--early-stopping", "none"]) == 0
    assert main([*train, "--from", "m", "-o", "same"]) == 0
    assert "trained on, so" not in capsys.readouterr().err
    assert main([*train, "--from", "m", "--seed", "1", "-o", "other"]) == 0
    wanted = r"note: \d+ of 12 held-out rows are equal to rows that m was trained on, so the scores may be too good"
    assert re.search(wanted, capsys.readouterr().err)
