"""Text that looks like numbers: numbers in a CSV, text in Parquet, and what was asked for in both."""

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
    """Write a frame of text that looks like numbers in both formats, into a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPNOTES_BACKEND", raising=False)
    rng = np.random.default_rng(0)
    made = pd.DataFrame(
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
    made.to_csv("a.csv", index=False)
    made.to_parquet("a.parquet")
    return made


def test_by_itself_it_is_of_numbers_in_a_csv_and_text_in_parquet():
    tables = [read_table(name, missing="keep") for name in FILES]
    for name in TEXTS:
        assert [table.column(name).dtype.kind for table in tables] == ["f", "U"]


@pytest.mark.parametrize("options", [{"numeric": TEXTS}, {"text": TEXTS}])
def test_both_options_make_the_same_of_both(options):
    ours, theirs = (read_table(name, missing="keep", **options) for name in FILES)
    for name in TEXTS:
        column = ours.column(name)
        assert column.dtype.kind == ("f" if "numeric" in options else "U")
        np.testing.assert_array_equal(column, theirs.column(name))


@pytest.mark.parametrize("target", ["x", "label", "code", "amount"])
@pytest.mark.parametrize("numeric", ["code,amount,gap,flag,label", "amount", "zip,amount"])
def test_the_same_model_and_the_same_predictions(target, numeric, run):
    numbers = numeric.split(",")
    texts = [name for name in TEXTS if name not in numbers and name != target]
    words = ["--numeric", numeric, "--impute", "mean", "--target", target]
    words += ["--categorical", ",".join(texts)] if texts else []
    words += ["--task", "classification"] if target in TEXTS and target not in numbers else []
    told = {name: json.loads(run("train", name, *words, *QUICK, "--json", "-o", name[2:])[0]) for name in FILES}
    first, second = ({key: told[name][key] for key in ("task", "classes", "metrics", "history")} for name in FILES)
    assert first == second
    assert first["task"] == ("regression" if target in ("x", "amount") else "classification")
    models = [dn.load(name[2:]) for name in FILES]
    assert models[0].metadata == models[1].metadata
    assert all((models[0].parameters[name] == models[1].parameters[name]).all() for name in models[0].parameters)
    for command in ("predict", "evaluate"):
        found = set()
        for model, data in itertools.product(FILES, FILES):
            result = json.loads(run(command, model[2:], data, "--json", "--backend", "numpy")[0])
            found.add(json.dumps(result | {"model": "", "data": ""}))
        assert len(found) == 1


def test_a_model_of_either_reads_both(run):
    for name in FILES:
        run("train", name, "--target", "x", "--exclude", "amount,gap,flag,grade,label", *QUICK, "-o", "m")
        found = [run("predict", "m", data, "--backend", "numpy")[0] for data in FILES]
        assert found[0] == found[1]
        features = dn.load("m").metadata["features"]
        assert features == (["code", "zip"] if name == "a.csv" else [
            "code=10", "code=12", "code=7", "code=9", "zip=007", "zip=012", "zip=100"])  # fmt: skip


def test_many_distinct_numbers_as_text_say_how_to_read_them(capsys, run):
    assert main(["train", "a.parquet", "--target", "x", "--exclude", "gap", *QUICK]) == 1
    assert "column 'amount' is text of 94 distinct values" in (err := capsys.readouterr().err)
    assert err.endswith("; --numeric (numeric=) reads it as numbers\n")
    assert main(["train", "a.parquet", "--target", "amount", "--exclude", "gap", *QUICK]) == 1
    assert "the target is text of 118 distinct numbers, such as '" in (err := capsys.readouterr().err)
    assert "--numeric reads it as numbers, and --task classification uses it as it is" in err
    told = run("train", "a.parquet", "--target", "amount", "--numeric", "amount", "--exclude", "gap", *QUICK, "--json")[
        0
    ]
    assert json.loads(told)["task"] == "regression"
    words = ("--target", "amount", "--exclude", "gap", "--validation", "0", "--task", "classification")
    assert json.loads(run("train", "a.parquet", *words, *QUICK, "--json")[0])["task"] == "classification"


def test_from_disk_too(run):
    words = ("--target", "x", "--exclude", "gap,flag,zip,grade", "--numeric", "code,amount,label")
    run("train", "a.parquet", *words, *QUICK, "-o", "m")
    run("train", "a.parquet", *words, *QUICK, "--from-disk", "-o", "d")
    assert dn.load("m").metadata["features"] == dn.load("d").metadata["features"] == ["code", "amount", "label"]
