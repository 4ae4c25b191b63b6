"""The command line with all kinds of data: categories, missing values, text, samples on disk, synthetic data."""

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
    """Write flats.csv; return the arguments to train on it without the column `note`, which mixes numbers and text.

    The columns `town` and `zone` are categories, and cells are missing in `area` and `town`.
    """
    rng = np.random.default_rng(0)
    area, town, zone = rng.uniform(20, 200, 120), rng.integers(0, 3, 120), rng.integers(0, 2, 120)
    price = 1000 * area + 50_000 * town + 30_000 * zone
    with open("flats.csv", "w", encoding="utf-8") as file:
        file.write("area,town,zone,note,price\n")
        for i in range(120):
            area_cell = "" if i % 40 == 7 else f"{area[i]:.2f}"
            town_cell = "" if i % 60 == 11 else ["Ulm", "Aub", "Hof"][town[i]]
            file.write(f"{area_cell},{town_cell},{zone[i]},{i if i < 60 else 'see above'},{price[i]:.1f}\n")
    return ("flats.csv", "--target", "price", "--exclude", "note")


def parse_json(out):
    return json.loads(out)


def predictions(out):
    return [row["prediction"] for row in csv.DictReader(io.StringIO(out))]


# --- categories and missing values ------------------------------------------------------------------------------------


def test_new_rows_are_encoded_like_the_training_data(run, flats):
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
    expected = predictions(run("predict", "flats.safetensors", "flats.csv")[0])
    for names, indices in ((["zone", "town", "area"], [0, 3, 7]), (["town", "area", "zone"], [11])):
        new_rows = [[rows[i][name] for name in names] for i in indices]
        with open("new.csv", "w", encoding="utf-8") as file:
            file.write("\n".join(",".join(cells) for cells in [names, *new_rows]))
        actual = predictions(run("predict", "flats.safetensors", "new.csv")[0])
        # The batches have different sizes, so the last bits may differ.
        assert np.array(actual, float) == pytest.approx([float(expected[i]) for i in indices], rel=1e-5)
    result = parse_json(run("evaluate", "flats.safetensors", "flats.csv", "--json")[0])
    assert result["rows"] == 120


def test_an_unknown_category_is_refused_or_encoded_as_zeros(run, fails, flats):
    run("train", *flats, *QUICK, "--impute", "median")
    with open("new.csv", "w", encoding="utf-8") as file:
        file.write("area,town,zone\n30,Ulm,1\n40,Ems,1\n")
    message = fails(1, "predict", "flats.safetensors", "new.csv")
    assert message == (
        "new.csv: row 2: column 'town' has the unknown category 'Ems'; known categories: Aub, Hof, Ulm; use "
        "--unknown zeros (unknown='zeros') to encode unknown categories as zeros\n"
    )
    assert len(predictions(run("predict", "flats.safetensors", "new.csv", "--unknown", "zeros")[0])) == 2


def test_new_rows_may_contain_only_categories_that_look_like_numbers(run):
    write_table("a.csv", ["code", "y"], [["x1", "7", "7", "x1"] * 5, np.arange(20.0) % 4 / 2])
    run("train", "a.csv", "--target", "y", *QUICK)
    with open("new.csv", "w", encoding="utf-8") as file:
        file.write("code\n7\n7\n")
    assert len(predictions(run("predict", "a.safetensors", "new.csv")[0])) == 2


def test_a_category_that_only_held_out_rows_have_is_reported(run):
    kinds = np.array(["a", "b"] * 50, "U4")
    kinds[[i for i in range(100) if i % 5 == 3]] = [f"z{i}" for i in range(20)]
    write_table("a.csv", ["kind", "y"], [kinds, np.arange(100) % 2])
    _, err = run("train", "a.csv", "--target", "y", "--epochs", "1")
    assert "held-out row" in err
    assert "with a category that no training row has, encoded as zeros" in err


def test_missing_values_are_reported_with_line_numbers(fails, flats):
    message = fails(1, "train", *flats, "--task", "regression")
    remedy = "impute them (impute='mean' or --impute mean), or exclude the column"
    assert message.splitlines() == [
        "2 problems in the data:",
        "  flats.csv:9: column 'area' has an empty cell where a number was expected; 2 more are missing, in lines "
        f"49, 89; {remedy}",
        "  flats.csv:13: column 'town' has an empty cell where a value was expected; one more is missing, in line 73; "
        f"{remedy}",
    ]


def test_a_model_trained_without_imputation_refuses_missing_values(run, fails, flats):
    write_table("complete.csv", ["area", "price"], [np.arange(30.0), np.arange(30.0) + 0.5])
    run("train", "complete.csv", "--target", "price", *QUICK)
    message = fails(1, "predict", "complete.safetensors", "flats.csv")
    assert "flats.csv:9: column 'area' has an empty cell" in message
    assert "the model was trained without --impute" in message
    with open("holes.csv", "w", encoding="utf-8") as file:
        file.write("area,price\n1,2\n2,\n")
    assert "column 'price' has an empty cell" in fails(1, "evaluate", "complete.safetensors", "holes.csv")
    assert "a row without a target cannot be used" in fails(1, "train", "holes.csv", "--target", "price")


def test_a_column_of_numbers_and_text_can_be_excluded(run, fails, flats):
    assert "column 'note' has 'see above' where a number was expected" in fails(1, "train", *flats[:3])
    run("train", *flats, *QUICK, "--impute", "zero")
    assert len(predictions(run("predict", "flats.safetensors", "flats.csv")[0])) == 120
    assert "no column 'nose' (did you mean 'note'?)" in fails(1, "train", *flats[:3], "--exclude", "nose")


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ("--impute guess", 2, "unknown imputation 'guess'"),
        ("--categorical price", 2, "--categorical price: this column is the target, so it is not a feature"),
        ("--categorical town,note --exclude note", 2, "column 'note' is both categorical and excluded"),
        ("--categorical tonw --exclude note --impute mean", 1, "no column 'tonw' (did you mean 'town'?)"),
        ("--from-disk --impute mean", 2, "--impute cannot be combined with --from-disk: samples on disk"),
        ("--from-disk", 1, "convert the file to one of these formats"),
    ],
)
def test_invalid_options_and_combinations_are_refused(fails, flats, options, status, message):
    assert message in fails(status, "train", "flats.csv", "--target", "price", *options.split())


def test_models_with_invalid_columns_are_refused(run, fails, flats):
    run("train", *flats, *QUICK, "--impute", "mean")
    network = dn.load("flats.safetensors")
    columns = network.metadata["columns"]
    invalid: list[Any] = [columns[:2], [*columns, columns[0]], 5, ["a"], [{}], [columns[1], columns[0], columns[2]]]
    for invalid_columns in invalid:
        network.metadata["columns"] = invalid_columns
        network.save("changed.safetensors")
        message = fails(1, "predict", "changed.safetensors", "flats.csv")
        assert message.startswith("changed.safetensors has no valid description of its inputs and outputs")


# --- other file formats -----------------------------------------------------------------------------------------------


def test_train_and_evaluate_on_mnist_files(run):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (90, 3, 3)), rng.integers(0, 3, 90)
    with gzip.open("train-images-idx3-ubyte.gz", "wb") as file:
        file.write(idx(images))
    with gzip.open("train-labels-idx1-ubyte.gz", "wb") as file:
        file.write(idx(labels))
    result = parse_json(run("train", "train-images-idx3-ubyte.gz", *QUICK, "--json", "-o", "m")[0])
    assert (result["target"], result["classes"], result["features"]) == ("label", ["0", "1", "2"], 9)
    assert parse_json(run("evaluate", "m", "train-images-idx3-ubyte.gz", "--json")[0])["rows"] == 90


def test_results_are_the_same_in_memory_and_from_disk(run):
    X = np.random.default_rng(0).normal(size=(200, 5))
    np.save("X.npy", X)
    np.save("y.npy", (X[:, 0] > 0).astype(int))
    train = ("train", "X.npy", *QUICK, "--json", "--seed", "3")
    in_memory = parse_json(run(*train, "-o", "a")[0])
    from_disk = parse_json(run(*train, "-o", "b", "--from-disk")[0])
    assert in_memory["rows"] == from_disk["rows"]
    # Means and standard deviations are summed in a different order, so their last bits may differ.
    assert in_memory["history"]["loss"] == pytest.approx(from_disk["history"]["loss"], rel=1e-5)
    for command in ("predict", "evaluate"):
        memory_out, disk_out = (run(command, "a", "X.npy", *options)[0] for options in ([], ["--from-disk"]))
        assert memory_out == disk_out


def test_train_predict_and_evaluate_on_parquet_files(run, fails):
    pa = pytest.importorskip("pyarrow", reason='the extra "data" (pyarrow) is not installed')
    pq = pytest.importorskip("pyarrow.parquet", reason='the extra "data" (pyarrow) is not installed')
    x = np.random.default_rng(0).normal(size=(2, 100))
    columns = {"a": x[0], "b": x[1], "s": ["u", "v"] * 50, "y": np.where(x[0] > 0, "yes", "no")}
    pq.write_table(pa.table(columns), "a.parquet", row_group_size=30)
    run("train", "a.parquet", "--target", "y", *QUICK)
    assert dn.load("a.safetensors").metadata["features"] == ["a", "b", "s=u", "s=v"]
    assert len(predictions(run("predict", "a.safetensors", "a.parquet")[0])) == 100
    message = fails(1, "train", "a.parquet", "--target", "y", "--from-disk")
    assert "column 's' is not part of the numeric matrix that stays on disk; exclude it" in message
    assert "the model encodes or imputes columns" in fails(1, "predict", "a.safetensors", "a.parquet", "--from-disk")
    run("train", "a.parquet", "--target", "y", "--exclude", "s", "--from-disk", *QUICK, "--force")
    assert parse_json(run("evaluate", "a.safetensors", "a.parquet", "--from-disk", "--json")[0])["rows"] == 100
    assert "--target COLUMN is needed" in fails(2, "train", "a.parquet")


def test_a_missing_value_on_disk_is_reported_with_its_row_number(fails):
    X = np.ones((50, 3))
    X[30, 1] = np.nan
    np.savez("a.npz", X=X, y=np.arange(50) % 2)
    message = fails(1, "train", "a.npz", "--from-disk", "--quiet")
    assert message == (
        "a.npz: row 31: column 'x1' has nan where a finite number was expected; samples that stay on disk are not "
        "imputed\n"
    )


@pytest.mark.parametrize(("name", "n_classes"), [("moons", 2), ("spirals", 2), ("blobs", 3), ("teacher", None)])
def test_train_and_evaluate_on_synthetic_data(run, fails, name, n_classes):
    result = parse_json(run("train", name, *QUICK, "--json")[0])
    assert result["rows"] == {"training": 800, "early_stopping": 0, "validation": 200}
    assert (result["classes"] and len(result["classes"])) == n_classes
    assert parse_json(run("evaluate", f"{name}.safetensors", name, "--json")[0])["rows"] == 1000
    assert f"--from-disk is for files, but {name} is a built-in data set" in fails(2, "train", name, "--from-disk")
    assert f"did you mean {name!r}" in fails(2, "train", name[:-1])


# --- predictions as CSV -----------------------------------------------------------------------------------------------


def test_class_names_that_look_like_formulas_are_reported_or_escaped(run):
    kinds = ["=1+1", "@SUM(A1)", "- x", "+y"]
    write_table("a.csv", ["x", "kind"], [np.arange(100.0), kinds * 25])
    run("train", "a.csv", "--target", "kind", *QUICK)
    out, err = run("predict", "a.safetensors", "a.csv")
    assert set(predictions(out)) <= set(kinds)
    assert "as a formula; to write it as text, use --spreadsheet" in err
    _, err = run("predict", "a.safetensors", "a.csv", "--spreadsheet", "-o", "out.csv")
    assert err == "100 predictions written to out.csv\n"
    with open("out.csv", encoding="utf-8") as file:
        assert predictions(file.read()) == [f"'{kind}" for kind in predictions(out)]


@pytest.mark.parametrize(
    ("cell", "written"),
    [("=1", "'=1"), ("+x", "'+x"), ("-x", "'-x"), ("@a", "'@a"), (" =1", "' =1"), ("\t=1", "'\t'=1"), ("-1.5", "-1.5"),
     ("+3", "+3"), ("a=1", "a=1"), ("", '""'), ("x", "x")],
)  # fmt: skip
def test_formulas_are_escaped_only_with_the_option_spreadsheet(cell, written):
    stream = io.StringIO()
    write_table(stream, ["a"], [np.array([cell])], spreadsheet=True)
    assert stream.getvalue() == f"a\n{written}\n"
    stream = io.StringIO()
    write_table(stream, ["a"], [np.array([cell])])
    assert next(csv.reader(io.StringIO(stream.getvalue().split("\n", 1)[1]))) == [cell]
