"""``deepnotes data`` writes the built-in data sets, and ``train`` reads them by name."""

import json

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import data
from deepnotes.datasets import load_iris

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize("name", data.SETS)
def test_the_file_has_the_rows_that_train_reads_by_name(name, run):
    out, err = run("data", name)
    written, built_in = dn.read_table(f"{name}.csv"), data.read(name)
    assert err == ""
    assert f"{name}.csv: {built_in.n_rows:,} rows" in out
    assert written.names == built_in.names
    for column in written.names:
        expected = built_in.column(column)
        np.testing.assert_array_equal(written.column(column), expected if name == "iris" else expected.astype(float))


def test_rows_are_held_out_of_each_class(run):
    result = json.loads(run("data", "iris", "-o", "flowers.csv", "--held-out", "held_out.csv", "--json")[0])
    assert result["files"] == {"flowers.csv": 120, "held_out.csv": 30}
    parts = [dn.read_table(file) for file in result["files"]]
    assert [list(np.unique(part.column("species"), return_counts=True)[1]) for part in parts] == [[40] * 3, [10] * 3]
    rows = np.concatenate([np.column_stack([part.column(name) for name in part.names[:-1]]) for part in parts])
    np.testing.assert_array_equal(np.unique(rows, axis=0), np.unique(load_iris().X, axis=0))
    first = (dn.read_table("held_out.csv").column("petal_width")).tolist()
    run("data", "iris", "-o", "flowers.csv", "--held-out", "held_out.csv", "--seed", "1")
    assert dn.read_table("held_out.csv").column("petal_width").tolist() != first


def test_a_network_trains_on_the_built_in_flowers(run):
    result = json.loads(run("train", "iris", "--quiet", "--json")[0])
    assert result["classes"] == ["setosa", "versicolor", "virginica"]
    assert result["metrics"]["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["iriss"], "unknown data 'iriss'; did you mean 'iris'?"),
        (["iris", "-o", "iris.parquet"], "--output iris.parquet: the file is written as CSV"),
        (["iris", "-o", "a.csv", "--held-out", "a.csv"], "are the same file"),
        (["iris", "--seed", "-1"], "--seed"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_written(arguments, message, fails, folder):
    assert message in fails(2, "data", *arguments)
    assert not list(folder.iterdir())
