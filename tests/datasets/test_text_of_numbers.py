"""Text that looks like numbers: read as numbers from CSV and as text from Parquet, unless options say otherwise."""

import itertools
import json

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import main
from deepnotes.datasets.tables import read_table

pytest.importorskip("pyarrow", reason='the extra "data" (pyarrow) is not installed')
pd = pytest.importorskip("pandas", reason='the extra "test" (pandas) is not installed')

QUICK = ("--epochs", "1", "--layers", "4", "--backend", "numpy", "--quiet")
FILES = ("a.csv", "a.parquet")
TEXTS = ("code", "zip", "amount", "gap", "flag", "grade", "label")


@pytest.fixture(autouse=True)
def frame(tmp_path, monkeypatch):
    """Write a data frame of text that looks like numbers to a.csv and a.parquet in the temporary directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPNOTES_BACKEND", raising=False)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "code": rng.choice(["7", "10", "12", "9"], 120),
            "zip": rng.choice(["007", "012", "100"], 120),
            "amount": [f"{x:.2f}" for x in rng.uniform(0, 50, 120)],
            "gap": [None if i % 9 == 1 else str(i % 5) for i in range(120)],
            "flag": rng.choice(["true", "false"], 120),
            "grade": pd.Categorical(rng.choice(["3", "4"], 120)),
            "label": rng.choice(["1", "2", "03"], 120),
            "x": rng.normal(size=120).round(3),
        }
    )
    frame.to_csv("a.csv", index=False)
    frame.to_parquet("a.parquet")
    return frame


def test_by_default_csv_gives_numbers_and_parquet_gives_text():
    tables = [read_table(name, missing="keep") for name in FILES]
    for name in TEXTS:
        assert [table.column(name).dtype.kind for table in tables] == ["f", "U"]


@pytest.mark.parametrize("options", [{"numeric": TEXTS}, {"text": TEXTS}])
def test_each_option_gives_the_same_columns_from_both_files(options):
    from_csv, from_parquet = (read_table(name, missing="keep", **options) for name in FILES)
    for name in TEXTS:
        column = from_csv.column(name)
        assert column.dtype.kind == ("f" if "numeric" in options else "U")
        np.testing.assert_array_equal(column, from_parquet.column(name))


@pytest.mark.parametrize("target", ["x", "label", "code", "amount"])
@pytest.mark.parametrize("numeric", ["code,amount,gap,flag,label", "amount", "zip,amount"])
def test_both_files_give_the_same_model_and_predictions(target, numeric, run):
    numbers = numeric.split(",")
    texts = [name for name in TEXTS if name not in numbers and name != target]
    options = ["--numeric", numeric, "--impute", "mean", "--target", target]
    options += ["--categorical", ",".join(texts)] if texts else []
    options += ["--task", "classification"] if target in TEXTS and target not in numbers else []
    reports = {name: json.loads(run("train", name, *options, *QUICK, "--json", "-o", name[2:])[0]) for name in FILES}
    first, second = ({key: reports[name][key] for key in ("task", "classes", "metrics", "history")} for name in FILES)
    assert first == second
    assert first["task"] == ("regression" if target in ("x", "amount") else "classification")
    models = [dn.load(name[2:]).network for name in FILES]
    assert models[0].metadata == models[1].metadata
    assert all(np.array_equal(models[0].parameters[name], models[1].parameters[name]) for name in models[0].parameters)
    for command in ("predict", "evaluate"):
        results = set()
        for model, data in itertools.product(FILES, FILES):
            result = json.loads(run(command, model[2:], data, "--json", "--backend", "numpy")[0])
            results.add(json.dumps(result | {"model": "", "data": ""}))
        assert len(results) == 1


def test_a_model_trained_on_one_format_predicts_for_both(run):
    for name in FILES:
        run("train", name, "--target", "x", "--exclude", "amount,gap,flag,grade,label", *QUICK, "-o", "m")
        predictions = [run("predict", "m", data, "--backend", "numpy")[0] for data in FILES]
        assert predictions[0] == predictions[1]
        features = dn.load("m").metadata["features"]
        assert features == (["code", "zip"] if name == "a.csv" else [
            "code=10", "code=12", "code=7", "code=9", "zip=007", "zip=012", "zip=100"])  # fmt: skip


def test_the_error_for_many_distinct_numbers_stored_as_text_names_the_option(capsys, run):
    assert main(["train", "a.parquet", "--target", "x", "--exclude", "gap", *QUICK]) == 1
    assert "column 'amount' is text with 94 distinct values" in (err := capsys.readouterr().err)
    assert err.endswith("; use --numeric (numeric=) to read it as numbers\n")
    assert main(["train", "a.parquet", "--target", "amount", "--exclude", "gap", *QUICK]) == 1
    assert "the target is text, with 118 distinct numbers such as '" in (err := capsys.readouterr().err)
    assert "use --numeric to read it as numbers, or --task classification to use it as it is" in err
    options = ("--target", "amount", "--exclude", "gap")
    report = run("train", "a.parquet", *options, "--numeric", "amount", *QUICK, "--json")[0]
    assert json.loads(report)["task"] == "regression"
    report = run("train", "a.parquet", *options, "--validation", "0", "--task", "classification", *QUICK, "--json")[0]
    assert json.loads(report)["task"] == "classification"


def test_training_from_disk_gives_the_same_features(run):
    options = ("--target", "x", "--exclude", "gap,flag,zip,grade", "--numeric", "code,amount,label")
    run("train", "a.parquet", *options, *QUICK, "-o", "m")
    run("train", "a.parquet", *options, *QUICK, "--from-disk", "-o", "d")
    assert dn.load("m").metadata["features"] == dn.load("d").metadata["features"] == ["code", "amount", "label"]
