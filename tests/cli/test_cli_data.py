"""The command line on data of every kind: categories, missing values, text, files that stay on disk, made sets."""

import csv
import gzip
import io
import json
from typing import Any

import numpy as np
import pytest
from test_data_files import idx

import deepnotes as dn
from deepnotes.datasets.tables import write_table

QUICK = ("--epochs", "2", "--layers", "8", "--quiet")


pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def flats():
    """Write flats.csv: a column of categories, one of categories that are numbers, one mixed, and missing values."""
    rng = np.random.default_rng(0)
    area, town, zone = rng.uniform(20, 200, 120), rng.integers(0, 3, 120), rng.integers(0, 2, 120)
    price = 1000 * area + 50_000 * town + 30_000 * zone
    with open("flats.csv", "w", encoding="utf-8") as file:
        file.write("area,town,zone,note,price\n")
        for i in range(120):
            told = "" if i % 40 == 7 else f"{area[i]:.2f}"
            where = "" if i % 60 == 11 else ["Ulm", "Aub", "Hof"][town[i]]
            file.write(f"{told},{where},{zone[i]},{i if i < 60 else 'see above'},{price[i]:.1f}\n")
    return ("flats.csv", "--target", "price", "--exclude", "note")


def outcome(out):
    return json.loads(out)


def predictions(out):
    return [row["prediction"] for row in csv.DictReader(io.StringIO(out))]


# --- categories and missing values ------------------------------------------------------------------------------------


def test_a_model_takes_new_rows_as_it_took_the_old(run, flats):
    out, err = run("train", *flats, "--impute", "mean", "--categorical", "zone", "--epochs", "3")
    assert "column 'area': 3 missing values filled with 1" in err
    assert "column 'town': one-hot, 3 categories" in err
    assert "column 'town': 2 missing values filled with '" in err
    assert "column 'zone': one-hot, 2 categories" in err
    assert "6 features" in out
    metadata = dn.load("flats.safetensors").metadata
    assert metadata["features"] == ["area", "town=Aub", "town=Hof", "town=Ulm", "zone=0", "zone=1"]
    assert [entry["name"] for entry in metadata["columns"]] == ["area", "town", "zone"]
    assert metadata["columns"][2]["categories"] == ["0", "1"]
    with open("flats.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wanted = predictions(run("predict", "flats.safetensors", "flats.csv")[0])
    for names, picked in ((["zone", "town", "area"], [0, 3, 7]), (["town", "area", "zone"], [11])):
        write = [[row[name] for name in names] for row in (rows[i] for i in picked)]
        with open("new.csv", "w", encoding="utf-8") as file:
            file.write("\n".join(",".join(cells) for cells in [names, *write]))
        found = predictions(run("predict", "flats.safetensors", "new.csv")[0])
        assert np.array(found, float) == pytest.approx([float(wanted[i]) for i in picked], rel=1e-5)  # other batches
    told = outcome(run("evaluate", "flats.safetensors", "flats.csv", "--json")[0])
    assert told["rows"] == 120


def test_a_category_that_is_unknown(run, fails, flats):
    run("train", *flats, *QUICK, "--impute", "median")
    with open("new.csv", "w", encoding="utf-8") as file:
        file.write("area,town,zone\n30,Ulm,1\n40,Ems,1\n")
    told = fails(1, "predict", "flats.safetensors", "new.csv")
    assert told == (
        "new.csv: row 2: column 'town' has the category 'Ems', which is unknown; known are Aub, Hof, Ulm; --unknown "
        "zeros encodes unknown categories as zeros\n"
    )
    assert len(predictions(run("predict", "flats.safetensors", "new.csv", "--unknown", "zeros")[0])) == 2


def test_categories_that_look_like_numbers_in_new_rows(run):
    write_table("a.csv", ["code", "y"], [["x1", "7", "7", "x1"] * 5, np.arange(20.0) % 4 / 2])
    run("train", "a.csv", "--target", "y", *QUICK)
    with open("new.csv", "w", encoding="utf-8") as file:
        file.write("code\n7\n7\n")
    assert len(predictions(run("predict", "a.safetensors", "new.csv")[0])) == 2


def test_a_category_that_only_held_out_rows_have(run):
    kinds = np.array(["a", "b"] * 50, "U4")
    kinds[[i for i in range(100) if i % 5 == 3]] = [f"z{i}" for i in range(20)]
    write_table("a.csv", ["kind", "y"], [kinds, np.arange(100) % 2])
    _, err = run("train", "a.csv", "--target", "y", "--epochs", "1")
    assert "held-out row" in err
    assert "of a category that no training row has: as none" in err


def test_missing_values_are_told_with_their_places(fails, flats):
    told = fails(1, "train", *flats, "--task", "regression")
    assert told == (
        "flats.csv:9: column 'area' has an empty cell where a number was expected; 2 more are missing, in lines 49, 89"
        "; impute them (impute='mean' or --impute mean), or exclude the column\n"
    )


def test_a_model_that_was_trained_without_imputation_refuses_missing_values(run, fails, flats):
    write_table("whole.csv", ["area", "price"], [np.arange(30.0), np.arange(30.0) + 0.5])
    run("train", "whole.csv", "--target", "price", *QUICK)
    told = fails(1, "predict", "whole.safetensors", "flats.csv")
    assert "flats.csv:9: column 'area' has an empty cell" in told
    assert "the model was trained without imputation (--impute)" in told
    with open("holes.csv", "w", encoding="utf-8") as file:
        file.write("area,price\n1,2\n2,\n")
    assert "column 'price' has an empty cell" in fails(1, "evaluate", "whole.safetensors", "holes.csv")
    assert "no row can be used without a target" in fails(1, "train", "holes.csv", "--target", "price")


def test_a_mixed_column_harms_nobody_who_excludes_it(run, fails, flats):
    assert "column 'note' has 'see above' where a number was expected" in fails(1, "train", *flats[:3])
    run("train", *flats, *QUICK, "--impute", "zero")
    assert len(predictions(run("predict", "flats.safetensors", "flats.csv")[0])) == 120
    assert "no column 'nose' (did you mean 'note'?)" in fails(1, "train", *flats[:3], "--exclude", "nose")


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        ("--impute guess", 2, "unknown way to impute 'guess'"),
        ("--categorical price", 2, "--categorical price: the target, and so no feature"),
        ("--categorical town,note --exclude note", 2, "column 'note' is both categorical and excluded"),
        ("--categorical tonw --exclude note --impute mean", 1, "no column 'tonw' (did you mean 'town'?)"),
        ("--from-disk --impute mean", 2, "--impute: samples that stay on disk (--from-disk) are taken as they are"),
        ("--from-disk", 1, "convert it to one of them"),
    ],
)
def test_options_that_do_not_go_together(fails, flats, words, status, told):
    assert told in fails(status, "train", "flats.csv", "--target", "price", *words.split())


def test_models_with_columns_that_make_no_sense(run, fails, flats):
    run("train", *flats, *QUICK, "--impute", "mean")
    network = dn.load("flats.safetensors")
    columns = network.metadata["columns"]
    wrong: list[Any] = [columns[:2], [*columns, columns[0]], 5, ["a"], [{}], [columns[1], columns[0], columns[2]]]
    for changed in wrong:
        network.metadata["columns"] = changed
        network.save("changed.safetensors")
        told = fails(1, "predict", "changed.safetensors", "flats.csv")
        assert told.startswith("changed.safetensors does not say what its inputs and outputs mean")


# --- files of other kinds ---------------------------------------------------------------------------------------------


def test_mnist_files(run):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (90, 3, 3)), rng.integers(0, 3, 90)
    with gzip.open("train-images-idx3-ubyte.gz", "wb") as file:
        file.write(idx(images))
    with gzip.open("train-labels-idx1-ubyte.gz", "wb") as file:
        file.write(idx(labels))
    told = outcome(run("train", "train-images-idx3-ubyte.gz", *QUICK, "--json", "-o", "m")[0])
    assert (told["target"], told["classes"], told["features"]) == ("label", ["0", "1", "2"], 9)
    assert outcome(run("evaluate", "m", "train-images-idx3-ubyte.gz", "--json")[0])["rows"] == 90


def test_arrays_in_memory_and_from_disk(run):
    X = np.random.default_rng(0).normal(size=(200, 5))
    np.save("X.npy", X)
    np.save("y.npy", (X[:, 0] > 0).astype(int))
    train = ("train", "X.npy", *QUICK, "--json", "--seed", "3")
    told = [outcome(run(*train, "-o", name, *more)[0]) for name, more in (("a", []), ("b", ["--from-disk"]))]
    assert told[0]["rows"] == told[1]["rows"]
    assert told[0]["history"]["loss"] == pytest.approx(told[1]["history"]["loss"], rel=1e-5)  # statistics in parts
    for command in ("predict", "evaluate"):
        both = [run(command, "a", "X.npy", *more)[0] for more in ([], ["--from-disk"])]
        assert both[0] == both[1]


def test_parquet(run, fails):
    pa = pytest.importorskip("pyarrow", reason='the extra "data" (pyarrow) is not installed')
    pq = pytest.importorskip("pyarrow.parquet", reason='the extra "data" (pyarrow) is not installed')
    x = np.random.default_rng(0).normal(size=(2, 100))
    columns = {"a": x[0], "b": x[1], "s": ["u", "v"] * 50, "y": np.where(x[0] > 0, "yes", "no")}
    pq.write_table(pa.table(columns), "a.parquet", row_group_size=30)
    run("train", "a.parquet", "--target", "y", *QUICK)
    assert dn.load("a.safetensors").metadata["features"] == ["a", "b", "s=u", "s=v"]
    assert len(predictions(run("predict", "a.safetensors", "a.parquet")[0])) == 100
    told = fails(1, "train", "a.parquet", "--target", "y", "--from-disk")
    assert "column 's' is not in the matrix of numbers that stays on disk; exclude it" in told
    assert "the model has categories or imputes" in fails(1, "predict", "a.safetensors", "a.parquet", "--from-disk")
    run("train", "a.parquet", "--target", "y", "--exclude", "s", "--from-disk", *QUICK)
    assert outcome(run("evaluate", "a.safetensors", "a.parquet", "--from-disk", "--json")[0])["rows"] == 100
    assert "--target COLUMN is needed" in fails(2, "train", "a.parquet")


def test_a_missing_value_on_disk_is_told_with_its_place(fails):
    X = np.ones((50, 3))
    X[30, 1] = np.nan
    np.savez("a.npz", X=X, y=np.arange(50) % 2)
    told = fails(1, "train", "a.npz", "--from-disk", "--quiet")
    assert told == (
        "a.npz: row 31: column 'x1' has nan where a finite number was expected; samples that stay on disk are not "
        "imputed\n"
    )


@pytest.mark.parametrize(("name", "task"), [("moons", 2), ("spirals", 2), ("blobs", 3), ("teacher", None)])
def test_made_sets(run, fails, name, task):
    told = outcome(run("train", name, *QUICK, "--json")[0])
    assert told["rows"] == {"training": 800, "validation": 200}
    assert (told["classes"] and len(told["classes"])) == task
    assert outcome(run("evaluate", f"{name}.safetensors", name, "--json")[0])["rows"] == 1000
    assert "is for files" in fails(2, "train", name, "--from-disk")
    assert f"did you mean {name!r}" in fails(2, "train", name[:-1])


# --- predictions as CSV -----------------------------------------------------------------------------------------------


def test_classes_that_are_formulas(run):
    kinds = ["=1+1", "@SUM(A1)", "- x", "+y"]
    write_table("a.csv", ["x", "kind"], [np.arange(100.0), kinds * 25])
    run("train", "a.csv", "--target", "kind", *QUICK)
    out, err = run("predict", "a.safetensors", "a.csv")
    assert set(predictions(out)) <= set(kinds)
    assert "is a formula to spreadsheets; --spreadsheet writes it so that it is text there" in err
    _, err = run("predict", "a.safetensors", "a.csv", "--spreadsheet", "-o", "out.csv")
    assert err == "100 predictions written to out.csv\n"
    with open("out.csv", encoding="utf-8") as file:
        assert predictions(file.read()) == [f"'{kind}" for kind in predictions(out)]


@pytest.mark.parametrize(
    ("cell", "written"),
    [("=1", "'=1"), ("+x", "'+x"), ("-x", "'-x"), ("@a", "'@a"), (" =1", "' =1"), ("\t=1", "'\t'=1"), ("-1.5", "-1.5"),
     ("+3", "+3"), ("a=1", "a=1"), ("", '""'), ("x", "x")],
)  # fmt: skip
def test_text_for_spreadsheets(cell, written):
    stream = io.StringIO()
    write_table(stream, ["a"], [np.array([cell])], spreadsheet=True)
    assert stream.getvalue() == f"a\n{written}\n"
    stream = io.StringIO()
    write_table(stream, ["a"], [np.array([cell])])
    assert next(csv.reader(io.StringIO(stream.getvalue().split("\n", 1)[1]))) == [cell]
