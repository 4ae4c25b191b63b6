"""``--impute`` fills all columns by one rule, or single columns by rules of their own."""

from pathlib import Path

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import main

QUICK = ("--epochs", "1", "--layers", "2", "--backend", "numpy", "--validation", "0")


@pytest.fixture(autouse=True)
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{i},{i * i},{i % 4},{'uvv'[i % 3]},{i}\n" for i in range(30)]
    rows[3], rows[4] = ",,,,3\n", ",,,u,4\n"
    Path("a.csv").write_text('area,"rooms, all",floor,kind,y\n' + "".join(rows))


def fills(*options):
    assert main(["train", "a.csv", "--target", "y", "--task", "regression", *QUICK, *options]) == 0
    columns = dn.load("a.safetensors").metadata["columns"]
    return {column["name"]: column.get("fill") for column in columns}


def present(values):
    return np.array([value for i, value in enumerate(values) if i not in (3, 4)], float)


def test_each_column_is_filled_by_its_rule():
    found = fills(*[f"--impute={rule}" for rule in ("mean", "area=zero", "rooms, all=median", "kind=most_frequent")])
    assert found["area"] == 0
    assert found["rooms, all"] == np.median(present([i * i for i in range(30)]))
    assert found["floor"] == pytest.approx(present([i % 4 for i in range(30)]).mean())
    assert found["kind"] == "v"
    assert fills("--impute", "area=zero,floor=most_frequent,kind=mean", "--impute", "rooms, all=zero")["floor"] == 1


def test_columns_without_a_rule_are_reported(capsys):
    options = ["--target", "y", "--impute", "area=mean"]
    assert main(["train", "a.csv", *options]) == 1
    err = capsys.readouterr().err
    assert [f"column {name!r}" in err for name in ("area", "rooms, all", "floor", "kind")] == [False, True, True, True]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("average", "unknown imputation 'average'"),
        ("area=average", "unknown imputation 'average'"),
        ("area=mean,floor=x", "unknown imputation 'x'"),
        ("aera=mean", "argument --impute: aera=mean: column 'aera' does not exist"),
        ("y=mean", "argument --impute: y=mean: column 'y' is not a feature"),
    ],
)
def test_invalid_rules_are_refused(value, message, capsys):
    assert main(["train", "a.csv", "--target", "y", "--task", "regression", "--impute", value]) == 2
    assert message in capsys.readouterr().err


def test_the_encoder_takes_a_rule_for_each_column():
    table = dn.read_table("a.csv", missing="keep")
    encoder = dn.Encoder.fit(table, ["area", "kind"], impute={"area": "median", "kind": "most_frequent"})
    assert [feature.fill for feature in encoder.features] == [np.median(present(range(30))), "v"]
    with pytest.raises(dn.utils.errors.TableError, match="column 'kind' has"):
        dn.Encoder.fit(table, ["area", "kind"], impute={"area": "median"})
    with pytest.raises(dn.utils.errors.ArgumentError, match="wanted one of mean"):
        dn.Encoder.fit(table, ["area"], impute={"area": "average"})
    with pytest.raises(dn.utils.errors.TableError, match="no column 'aera'"):
        dn.Encoder.fit(table, ["area"], impute={"aera": "mean"})
