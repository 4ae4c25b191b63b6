"""Files from other programs: index columns, labels, booleans, missing values, number formats, CSV and Parquet."""

import csv
import io
import json

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.datasets.cells import MISSING, hint_of
from deepnotes.datasets.tables import read_table
from deepnotes.utils.errors import ArgumentError, DataError, TableError

pa = pytest.importorskip("pyarrow", reason='the extra "data" (pyarrow) is not installed')
pq = pytest.importorskip("pyarrow.parquet", reason='the extra "data" (pyarrow) is not installed')
pd = pytest.importorskip("pandas", reason='the extra "test" (pandas) is not installed')

QUICK = ("--epochs", "2", "--layers", "8", "--quiet")


pytestmark = pytest.mark.usefixtures("folder")


def write(text, name="a.csv", encoding="utf-8"):
    """Write a file, and return its name."""
    with open(name, "wb") as file:
        file.write(text.encode(encoding))
    return name


def predictions(out):
    """Return the predictions in the CSV output of ``deepnotes predict``."""
    return [row["prediction"] for row in csv.DictReader(io.StringIO(out))]


# --- the index of a data frame ----------------------------------------------------------------------------------------

FRAME = {"a": [1.5, 2.5, 3.5, 4.5], "y": ["u", "v", "u", "v"]}


def frames():
    """Return data frames with different indices, each with the names of its index columns."""
    frame = pd.DataFrame(FRAME)
    named_index = frame.set_index(pd.Index([7, 9, 8, 10], name="row"))
    pairs = pd.MultiIndex.from_tuples([("p", 1), ("p", 2), ("q", 1), ("q", 2)], names=["group", "member"])
    days = pd.date_range("2024-01-01", periods=4, name="day")
    return {
        "a range": (frame, []),
        "rows in another order": (frame.iloc[[2, 0, 3, 1]], ["__index_level_0__"]),
        "a named range": (frame.rename_axis("number"), []),
        "a named index": (named_index, ["row"]),
        "several levels": (frame.set_index(pairs), ["group", "member"]),
        "several unnamed levels": (
            frame.set_index(pairs.set_names([None, None])), ["__index_level_0__", "__index_level_1__"],
        ),
        "dates": (frame.set_index(days), ["day"]),
    }  # fmt: skip


@pytest.mark.parametrize("kind", frames())
def test_the_index_in_a_parquet_file_is_not_a_feature(kind):
    frame, index = frames()[kind]
    frame.to_parquet("a.parquet")
    table = read_table("a.parquet")
    assert table.names == ["a", "y"]
    assert [note.split("'")[1] for note in table.notes] == index
    disk_table = dn.open_table("a.parquet")
    assert (disk_table.names, list(disk_table.notes)) == (["a", "y"], table.notes)
    if index and kind != "dates":
        assert read_table("a.parquet", columns=[*index, "a"]).names == sorted([*index, "a"], key=["a", *index].index)


def test_parquet_files_without_a_pandas_index_keep_all_columns():
    pq.write_table(pa.table({"index": [1, 2], "a": [3, 4]}), "a.parquet")
    assert read_table("a.parquet").names == ["index", "a"]
    table = pa.table({"index": [1, 2], "a": [3, 4]})
    for metadata in (b"oops", b'{"index_columns": 5}', b'{"index_columns": ["gone", {"kind": "range"}]}', b"[]"):
        pq.write_table(table.replace_schema_metadata({"pandas": metadata}), "a.parquet")
        assert read_table("a.parquet").names == ["index", "a"]


@pytest.mark.parametrize("index", [[0, 1, 2, 3], [2, 0, 3, 1], ["r", "s", "t", "u"]])
def test_the_index_in_a_csv_file_is_not_a_feature(run, index):
    pd.DataFrame(FRAME, index=index).to_csv("a.csv")
    table = read_table("a.csv")
    assert table.names == ["a", "y"]
    assert table.notes == ["the first column, which has no name, is an index and was left out"]
    pd.read_csv("a.csv").to_csv("again.csv", index=False)
    assert read_table("again.csv").names == ["a", "y"]
    assert read_table("again.csv", columns=["Unnamed: 0", "a"]).names == ["Unnamed: 0", "a"]
    _, err = run("train", "a.csv", "--target", "y", "--validation", "0", "--epochs", "1")
    assert "the first column, which has no name, is an index and was left out" in err
    assert dn.load("a.safetensors").metadata["features"] == ["a"]


# --- whole numbers beyond 2^53 ----------------------------------------------------------------------------------------

BIG = [9007199254740992, 9007199254740993, 9007199254740995]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npz"])
def test_large_integers_stay_distinct_classes(run, suffix):
    rng = np.random.default_rng(0)
    y = np.array(BIG * 20, np.uint64)
    columns = {"a": rng.normal(size=60), "y": y}
    if suffix == "csv":
        dn.write_table("a.csv", list(columns), columns)
    elif suffix == "parquet":
        pq.write_table(pa.table(columns), "a.parquet")
    else:
        np.savez("a.npz", X=columns["a"].reshape(-1, 1), y=y)
    report = json.loads(run("train", f"a.{suffix}", "--target", "y", *QUICK, "--json")[0])
    assert report["classes"] == list(map(str, BIG))
    assert json.loads(run("evaluate", "a.safetensors", f"a.{suffix}", "--json")[0])["rows"] == 60
    if suffix != "npz":
        run("train", f"a.{suffix}", "--target", "a", "--categorical", "y", *QUICK, "--force")
        assert dn.load("a.safetensors").metadata["features"] == [f"y={value}" for value in BIG]
        assert len(predictions(run("predict", "a.safetensors", f"a.{suffix}")[0])) == 60


@pytest.mark.parametrize(
    "column",
    [np.array(BIG), np.array(BIG, np.uint64), -np.array(BIG), np.array([2**64 - 1, 2**64 - 2], np.uint64)],
)
def test_large_integers_that_are_equal_as_float64_are_refused_as_features(column):
    columns = {"a": column, "y": np.arange(len(column))}
    dn.write_table("a.csv", ["a", "y"], columns)
    pq.write_table(pa.table(columns), "a.parquet")
    np.savez("a.npz", **columns)
    np.save("a.npy", column.reshape(-1, 1))
    for name in ("a.csv", "a.parquet", "a.npz", "a.npy"):
        with pytest.raises(TableError, match=r"integers that are equal as float64; exclude the column, or declare it"):
            read_table(name)
    with pytest.raises(TableError, match="equal as float64"):
        dn.open_table("a.parquet")
    assert read_table("a.parquet", text=["a"]).column("a").tolist() == list(map(str, column.tolist()))


def test_large_integers_that_differ_as_float64_are_numbers(csv_file):
    assert read_table(csv_file(f"a\n{2**53}\n{2**53 + 1}1\n{2**70}\n")).column("a").tolist() == [
        2.0**53, float(f"{2**53 + 1}1"), 2.0**70,
    ]  # fmt: skip
    decimals = pa.array([2**60, 2**60 + 1]).cast(pa.decimal128(30, 2))
    pq.write_table(pa.table({"a": decimals}), "a.parquet")
    with pytest.raises(TableError, match="equal as float64"):
        read_table("a.parquet")


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        ["007", "012", "100"],
        ["1.0", "2.0"],
        ["1e3", "2e3"],
        ["+5", "-5"],
        ["0", "1"],
        ["00", "0x", "01"],
        ["1.50", "2"],
    ],
)
def test_labels_keep_their_exact_text(run, labels):
    lines = [f"{i % 7},{labels[i % len(labels)]}" for i in range(60)]
    write("a,y\n" + "\n".join(lines))
    task = ["--task", "classification"] if labels[0] == "1.50" else []
    report = json.loads(run("train", "a.csv", "--target", "y", *task, *QUICK, "--json")[0])
    assert sorted(report["classes"]) == sorted(labels)
    assert set(predictions(run("predict", "a.safetensors", "a.csv")[0])) <= set(labels)
    assert json.loads(run("evaluate", "a.safetensors", "a.csv", "--json")[0])["rows"] == 60
    pq.write_table(
        pa.table({"a": [i % 7 for i in range(60)], "y": [labels[i % len(labels)] for i in range(60)]}), "a.parquet"
    )
    assert json.loads(run("evaluate", "a.safetensors", "a.parquet", "--json")[0])["rows"] == 60
    run("train", "a.csv", "--target", "a", "--task", "regression", "--categorical", "y", *QUICK, "--force")
    assert dn.load("a.safetensors").metadata["features"] == [f"y={label}" for label in sorted(labels)]
    for name in ("a.csv", "a.parquet"):
        assert len(predictions(run("predict", "a.safetensors", name)[0])) == 60


def test_one_number_in_two_spellings_is_refused(fails):
    write("a,y\n" + "1,1\n2,1.0\n3,2\n" * 5)
    assert "the classes 1 and 1.0, which are the same number" in fails(1, "train", "a.csv", "--target", "y")
    write("a,y\n" + "1,1\n2,1.0\n3,2\n" * 5)
    message = fails(1, "train", "a.csv", "--target", "a", "--categorical", "y")
    assert "column 'y' has the categories 1 and 1.0, which are the same number" in message


def test_labels_with_leading_zeros_differ_from_numbers(run, fails):
    write("a,y\n" + "1,007\n2,012\n" * 10)
    run("train", "a.csv", "--target", "y", *QUICK)
    write("a,y\n1,7\n2,12\n", "b.csv")
    assert "the target has the class '12', but the model knows only 007, 012" in fails(
        1, "evaluate", "a.safetensors", "b.csv"
    )


def test_regression_targets_may_have_leading_zeros(run):
    write("a,y\n" + "".join(f"{i},{i:03d}.50\n" for i in range(40)))
    report = json.loads(run("train", "a.csv", "--target", "y", *QUICK, "--json")[0])
    assert report["task"] == "regression"
    assert json.loads(run("evaluate", "a.safetensors", "a.csv", "--json")[0])["rows"] == 40


# --- the same data frame as CSV and as Parquet ------------------------------------------------------------------------


def frame_of_all_dtypes():
    """Return a data frame with a column of each common dtype."""
    rng = np.random.default_rng(0)
    flag = rng.integers(0, 2, 80).astype(bool)
    size = rng.normal(size=80)
    size[:2] = 5, -5
    return pd.DataFrame(
        {
            "size": size,
            "flag": flag,
            "maybe": pd.array([None if i % 9 == 3 else bool(x) for i, x in enumerate(flag)], "boolean"),
            "count": pd.array([None if i % 11 == 3 else i % 5 for i in range(80)], "Int64"),
            "arrow": pd.array(flag.tolist(), pd.ArrowDtype(pa.bool_())),
            "small": rng.integers(0, 9, 80).astype("int8"),
            "kind": pd.Categorical(np.array(["u", "v", "w"])[rng.integers(0, 3, 80)]),
            "level": pd.Categorical(rng.integers(1, 4, 80)),
            "word": np.array(["yes", "no"])[rng.integers(0, 2, 80)],
            "half": pd.array(np.round(size, 1).astype("float32"), "Float32"),
        }
    )


@pytest.mark.parametrize("target", ["flag", "arrow", "small", "kind", "level", "word", "size"])
@pytest.mark.parametrize("trained_on", ["a.csv", "a.parquet"])
def test_a_frame_as_csv_and_as_parquet_gives_the_same_predictions(run, trained_on, target):
    frame = frame_of_all_dtypes()
    frame.to_csv("a.csv", index=False)
    frame.to_parquet("a.parquet")
    tables = [read_table(name, missing="keep") for name in ("a.csv", "a.parquet")]
    for name in tables[0].names:
        columns = [table.column(name) for table in tables]
        assert columns[0].dtype.kind == columns[1].dtype.kind
        if columns[0].dtype.kind == "U":
            assert columns[0].tolist() == columns[1].tolist()
        else:
            np.testing.assert_allclose(*columns, rtol=2.0**-24)  # one column is float32
    categorical = "kind" if target == "level" else "level"
    options = ("--impute", "mean", "--exclude", "half", "--categorical", categorical, "-o", "m", *QUICK)
    run("train", trained_on, "--target", target, *options)
    other = "a.parquet" if trained_on == "a.csv" else "a.csv"
    for command in ("predict", "evaluate"):
        outputs = [run(command, "m", name)[0] for name in (trained_on, other)]
        assert outputs[0].replace(trained_on, other) == outputs[1]


@pytest.mark.parametrize("spellings", [("True", "False"), ("true", "false"), ("TRUE", "FALSE")])
def test_booleans_are_numbers_as_features_and_text_as_classes(run, spellings):
    write("a,f,y\n" + "".join(f"{i % 5},{spellings[i % 2]},{spellings[i % 3 % 2]}\n" for i in range(60)))
    table = read_table("a.csv")
    assert table.column("f").tolist() == [1.0, 0.0] * 30
    report = json.loads(run("train", "a.csv", "--target", "y", *QUICK, "--json")[0])
    assert sorted(report["classes"]) == sorted(spellings)
    pq.write_table(pa.table({"a": [1], "f": [True], "y": [False]}), "b.parquet")
    write("a,f,y\n1,1,0\n", "b.csv")
    for name in ("b.parquet", "b.csv"):
        assert json.loads(run("evaluate", "a.safetensors", name, "--json")[0])["rows"] == 1


def test_dates_and_times_in_csv_and_parquet_files(run, fails):
    days = pd.date_range("2024-01-30", periods=40, freq="36h")
    frame = pd.DataFrame({"day": days, "date": days.date, "x": np.arange(40.0), "y": np.arange(40) % 2})
    frame.to_csv("a.csv", index=False)
    frame.to_parquet("a.parquet")
    for name in ("a.csv", "a.parquet"):
        assert "--dates" in fails(1, "train", name, "--target", "y")
        run("train", name, "--target", "y", "--dates", "day,date", "-o", name[2:], *QUICK)
    tables = [read_table(name, dates=["day", "date"]) for name in ("a.csv", "a.parquet")]
    for name in ("day", "date"):
        np.testing.assert_allclose(tables[0].column(name), tables[1].column(name), rtol=1e-15)
    assert tables[0].column("day")[:2].tolist() == [19752.0, 19753.5]
    assert run("evaluate", "csv", "a.parquet")[0].replace("a.parquet", "a.csv") == run("evaluate", "csv", "a.csv")[0]
    with pytest.raises(TableError, match="column 'x' has type double, wanted dates"):
        read_table("a.parquet", dates=["x", "day", "date"])


# --- the type of a column ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", [*MISSING, "NA", "N/A", "NaN", "NaT", "None", "<NA>", "#N/A", "\\N", "NULL", "-NaN"])
@pytest.mark.parametrize("row", [0, 1, 2])
def test_every_spelling_of_a_missing_value_is_recognized_among_numbers(csv_file, word, row):
    cells = ["1", "2", "3"]
    cells[row] = word
    table = read_table(csv_file("a,b\n" + "".join(f"{cell},x\n" for cell in cells)), missing="keep")
    assert np.isnan(table.column("a")).tolist() == [i == row for i in range(3)]
    assert table.gaps["a"].positions == [row + 2]


@pytest.mark.parametrize("cells", [["1", "2", "K"], ["K", "1", "2"], ["1", "K", "2"], ["2", "1", "K"]])
def test_the_type_of_a_column_depends_on_all_its_cells(run, fails, csv_file, cells):
    short_text, long_text = (
        "g,y\n" + "".join(f"{cell},{i % 2}\n" for i, cell in enumerate(cells * times)) for times in (1, 8)
    )
    with pytest.raises(TableError, match="column 'g' has 'K' where a number was expected"):
        read_table(csv_file(short_text))
    assert read_table(csv_file(short_text), text=["g"]).column("g").tolist() == cells
    assert read_table(csv_file(long_text)).column("g").tolist() == cells * 8
    write(long_text)
    for extra in ([], ["--categorical", "g"]):
        run("train", "a.csv", "--target", "y", *extra, *QUICK)
        assert dn.load("a.safetensors").metadata["features"] == ["g=1", "g=2", "g=K"]
    assert "column 'g' has 'K' where a number was expected" in fails(
        1, "train", "a.csv", "--target", "y", "--numeric", "g"
    )
    run("train", "a.csv", "--target", "y", "--numeric", "g", "--missing-value", "K", "--impute", "mean", *QUICK)
    assert len(predictions(run("predict", "a.safetensors", "a.csv")[0])) == 24  # the model stores --missing-value K


def test_the_error_for_a_word_among_many_numbers_suggests_options(csv_file):
    lines = "".join(f"{i}\n" for i in range(50))
    with pytest.raises(TableError, match=r"data\.csv:52: column 'x' has 'oops' where a number was expected$"):
        read_table(csv_file(f"x\n{lines}oops\n"))
    with pytest.raises(TableError, match=r"it occurs 2 times; .*--missing-value oops.*--categorical x"):
        read_table(csv_file(f"x\noops\n{lines}oops\n"))


def test_new_rows_are_read_with_the_column_types_of_the_model(run, fails):
    write("size,zip\n" + "1,01\n2,02\n3,x\n" * 10)
    run("train", "a.csv", "--target", "size", "--task", "regression", *QUICK)
    assert len(predictions(run("predict", "a.safetensors", write("zip\n01\n02\n", "b.csv"))[0])) == 2
    run("train", "a.csv", "--target", "zip", *QUICK, "--force")
    message = fails(1, "predict", "a.safetensors", write("size\noops\nother\n", "b.csv"))
    assert "b.csv:2: column 'size' has 'oops' where a number was expected" in message


# --- numbers and names in other formats -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "message", "options"),
    [
        (['"1,035"', '"2,140"', "999", '"10,000"'], "use --thousands ',' to read it", ["--thousands", ","]),
        (["$100.50", "$99", "$1"], "use --strip to remove the character before the number", ["--strip", "$"]),
        (["5%", "7.5%", "100%"], "use --strip to remove the character after the number", ["--strip", "%"]),
        (['"3,5"', '"4,25"'], "use --decimal ',' to read it", ["--decimal", ","]),
        (["2024-01-31", "2024-02-01"], "use --dates to read the column as dates", ["--dates", "p"]),
        (["31/01/2024", "01/02/2024"], "--dates and --date-format", ["--dates", "p", "--date-format", "%d/%m/%Y"]),
        (["12:30", "13:45"], "--dates and --date-format", ["--dates", "p", "--date-format", "%H:%M"]),
        ([f"name {i}" for i in range(40)], "is text with 32 distinct values in 32 rows", ["--exclude", "p"]),
    ],
)
def test_text_that_is_unlikely_to_be_categories_is_refused(run, fails, cells, message, options):
    write("p,q,y\n" + "".join(f"{cells[i % len(cells)]},{i},{'uv'[i % 2]}\n" for i in range(40)))
    err = fails(1, "train", "a.csv", "--target", "y")
    assert message in err
    assert "exclude" in err
    run("train", "a.csv", "--target", "y", *options, *QUICK)
    assert len(predictions(run("predict", "a.safetensors", "a.csv")[0])) == 40
    run("train", "a.csv", "--target", "y", "--categorical", "p", *QUICK)
    assert len(predictions(run("predict", "a.safetensors", "a.csv", "--unknown", "zeros")[0])) == 40


def test_a_target_that_is_unlikely_to_be_classes_is_refused(run, fails):
    write("p,y\n" + "".join(f'{i},"{i + 1},000"\n' for i in range(40)))
    assert "use --thousands ',' to read it as a number" in fails(1, "train", "a.csv", "--target", "y")
    report = json.loads(run("train", "a.csv", "--target", "y", "--thousands", ",", *QUICK, "--json")[0])
    assert report["task"] == "regression"
    assert json.loads(run("evaluate", "a.safetensors", "a.csv", "--json")[0])["rows"] == 40


TABLE = [["a", "b, c", "y"], ["1.5", "red", "u"], ["2.5", "blue", "v"], ["-3.0", "red", "u"]]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("point", [".", ","])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_separator_is_detected(separator, point, end):
    stream = io.StringIO()
    rows = [[cell.replace(".", point) if cell[-1].isdigit() else cell for cell in row] for row in TABLE]
    csv.writer(stream, delimiter=separator, lineterminator=end).writerows(rows)
    for start in ("", "\ufeff", f"sep={separator}{end}"):
        table = read_table(write(start + stream.getvalue()), decimal=point)
        assert table.names == TABLE[0]
        assert table.column("a").tolist() == [1.5, 2.5, -3]
        assert table.column("b, c").tolist() == ["red", "blue", "red"]
        assert table.lines["a"] == (3 if start.startswith("sep") else 2)


def test_each_format_option_is_applied(csv_file):
    assert read_table(csv_file("caf\xe9,b\n1,\xfc\n".encode("latin-1")), encoding="latin-1").names == ["caf\xe9", "b"]
    assert read_table(csv_file("a\tb\n1\t2\n".encode("utf-16")), encoding="utf-16").names == ["a", "b"]
    table = read_table(csv_file("5.1,3,Iris\n4.9,3,Iris\n"), header=False)
    assert (table.names, table.lines["x2"]) == (["x0", "x1", "x2"], 1)
    table = read_table(csv_file('# made by hand\na,b # names\n1,"#2"\n#3,4\n5,x\n'), comment="#")
    assert table.column("b").tolist() == ["#2", "x"]
    cars = csv_file(' 18.0   8 "chevrolet malibu"\n15.0 ?  "buick 320"\n')
    table = read_table(cars, separator="whitespace", header=False, missing="keep")
    assert table.column("x0").tolist() == [18, 15]
    assert table.column("x2").tolist() == ["chevrolet malibu", "buick 320"]
    table = read_table(csv_file("a,b\n-200,1\n-200.0,2\n3,-200\n"), missing_values=["-200"], missing="keep")
    assert np.isnan(table.column("a")).tolist() == [True, True, False]
    table = read_table(csv_file("a,y\n1,\n2,u\n,v\n"), drop_missing=["y"], missing="keep")
    assert table.column("y").tolist() == ["u", "v"]
    assert table.notes == ["1 row without a value in y was dropped"]
    assert table.gaps["a"].positions == [3]


@pytest.mark.parametrize(
    "options",
    [{"separator": ",,"}, {"separator": '"'}, {"separator": "a"}, {"decimal": ""}, {"decimal": None},
     {"thousands": "."},
     {"strip": "1"}, {"strip": 3}, {"encoding": "nope"}, {"encoding": "base64"}, {"encoding": None}, {"header": "no"},
     {"skip_rows": -1}, {"skip_rows": 1.0}, {"skip_rows": "1"}, {"skip_rows": True},
     {"comment": "//"}, {"missing_values": "NA"}, {"missing_values": [1]}, {"date_format": "iso"},
     {"separator": ",", "decimal": ","}, {"numeric": "a"}, {"dates": "a"}, {"text": ["a"], "numeric": ["a"]},
     {"dates": ["a"], "numeric": ["a"]}, {"text": ["a"], "exclude": ["a"]}],
)  # fmt: skip
def test_invalid_and_contradictory_options_are_refused(csv_file, options):
    with pytest.raises(ArgumentError):
        read_table(csv_file("a,b\n1,2\n"), **options)


def test_the_format_is_kept_in_the_model_and_can_be_overridden(run, fails):
    write("a;d;y\n" + "".join(f"{i},5;{i % 28 + 1:02d}.01.2024;{'uv'[i % 2]}\n" for i in range(40)))
    options = ("--decimal", ",", "--dates", "d", "--date-format", "%d.%m.%Y")
    run("train", "a.csv", "--target", "y", *options, *QUICK)
    metadata = dn.load("a.safetensors").metadata
    assert (metadata["format"], metadata["dates"]) == ({"decimal": ",", "date_format": "%d.%m.%Y"}, ["d"])
    expected = run("predict", "a.safetensors", "a.csv")[0]
    assert json.loads(run("evaluate", "a.safetensors", "a.csv", "--json")[0])["rows"] == 40
    with open("a.csv") as file:
        text = file.read().replace(",5;", ".5;").replace(";", ",")
    write(text, "b.csv")
    assert "where a number with the decimal separator ',' was expected" in fails(1, "predict", "a.safetensors", "b.csv")
    assert run("predict", "a.safetensors", "b.csv", "--decimal", ".")[0] == expected


def test_options_take_column_names_that_contain_commas(run):
    write('"last, first",id,"a, b",c,y\n' + "".join(f"n{i},{i},{i % 3},{i % 4},{i % 2}\n" for i in range(40)))
    run(
        "train",
        "a.csv",
        "--target",
        "y",
        "--exclude",
        "last, first",
        "--exclude",
        "id,c",
        "--categorical",
        "a, b",
        *QUICK,
    )
    assert dn.load("a.safetensors").metadata["features"] == ["a, b=0", "a, b=1", "a, b=2"]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "digits"])
def test_an_excluded_target_is_refused(fails, name):
    target = "digit" if name == "digits" else "y"
    pd.DataFrame(FRAME).to_csv("a.csv", index=False)
    pd.DataFrame(FRAME).to_parquet("a.parquet")
    message = fails(1, "train", name, "--target", target, "--exclude", target)
    assert message == f"{name}: column '{target}' is excluded, so it was not read\n"


def test_rows_without_a_target_are_refused_or_dropped(run, fails):
    write("a,y\n" + "1,u\n2,\n3,v\n" * 10)
    assert "to leave out such rows, use --drop-missing-target" in fails(1, "train", "a.csv", "--target", "y")
    out, err = run("train", "a.csv", "--target", "y", "--drop-missing-target", "--epochs", "1")
    assert "10 rows without a value in y were dropped" in err
    assert "20 rows" in out
    assert "a row without a target cannot be used" in fails(1, "evaluate", "a.safetensors", "a.csv")
    report = run("evaluate", "a.safetensors", "a.csv", "--drop-missing-target", "--json")[0]
    assert json.loads(report)["rows"] == 20


def test_a_csv_file_without_pyarrow_is_refused(csv_file, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(TableError, match=r'reading \.csv files requires pyarrow: pip install "deepnotes\[data\]"'):
        read_table(csv_file("a\n1\n"))


# --- data frames and sparse matrices as inputs ------------------------------------------------------------------------


def test_a_network_accepts_data_frames_of_all_dtypes():
    frame = frame_of_all_dtypes()[["size", "flag", "arrow", "small", "half"]]
    net = dn.Network([dn.Dense(2, "softmax")], inputs=5, seed=0)
    expected = net.predict(frame.astype("float64").to_numpy().T)
    np.testing.assert_array_equal(net.predict(frame.T.astype("Float64")), expected)
    mixed = pd.DataFrame({"a": [True, False], "b": [1.5, 2.5]})
    small = dn.Network([dn.Dense(2, "softmax")], inputs=2, seed=0)
    np.testing.assert_array_equal(small.predict(mixed), small.predict(mixed.to_numpy(float)))
    gaps = pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": pd.array([2, 3], "Int64")})
    with pytest.raises(DataError, match=r"X\[1, 0\] is nan"):
        small.fit(gaps, [0, 1], epochs=1)
    with pytest.raises(dn.utils.errors.DTypeError, match=r"X: got .*wanted real numbers.*deepnotes\.Encoder"):
        small.predict(pd.DataFrame({"a": ["1", "2"], "b": [1, 2]}))


def test_a_network_refuses_sparse_matrices():
    sparse = pytest.importorskip("scipy.sparse", reason='the extra "sklearn" (scipy) is not installed')
    net = dn.Network([dn.Dense(2, "softmax")], inputs=3, seed=0)
    for matrix_class in (sparse.csr_matrix, sparse.csc_array, sparse.coo_array):
        with pytest.raises(
            dn.utils.errors.DTypeError, match=r"X is a sparse .*, but a network takes dense arrays: X\.toarray\(\)"
        ):
            net.predict(matrix_class(np.eye(3)))
        with pytest.raises(dn.utils.errors.DTypeError, match="toarray"):
            net.fit(matrix_class(np.eye(3)), [0, 1, 1], epochs=1)


# --- faults fixed earlier ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header", ["Unnamed: 0,x,y", ",Unnamed: 0,x,y", "Unnamed: 0.1,Unnamed: 0,x,y", "Unnamed: 0,Unnamed: 1,x,y"]
)
def test_an_index_that_was_written_more_than_once_is_not_a_feature(csv_file, header):
    row = ",".join(["{0}"] * (header.count(",") - 1) + ["{0}.5", "a"])
    table = read_table(csv_file("\n".join([header, *(row.format(i) for i in range(6))]) + "\n"))
    assert table.names == ["x", "y"]
    assert len(table.notes) == header.count(",") - 1


def test_an_index_read_from_a_csv_file_is_not_a_feature_of_a_parquet_file(tmp_path):
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "rows.parquet"
    pandas.DataFrame({"Unnamed: 0.1": [0, 1], "Unnamed: 0": [0, 1], "x": [1.5, 2.5]}).to_parquet(path, index=False)
    assert read_table(path).names == ["x"]
    assert read_table(path, columns=["Unnamed: 0"]).names == ["Unnamed: 0"]


def test_missing_values_are_compared_as_numbers_in_categorical_columns_too(csv_file, tmp_path):
    pandas = pytest.importorskip("pandas")
    options = {"missing_values": ["-200"], "text": ["c"], "missing": "keep"}
    table = read_table(csv_file("c,x\n1,1\n-200.0,2\n2,3\n-200,4\n"), **options)
    assert table.column("c").tolist() == ["1", "", "2", ""]
    path = tmp_path / "rows.parquet"
    pandas.DataFrame({"c": [1.0, -200.0, 2.0], "x": [1, 2, 3]}).to_parquet(path)
    assert read_table(path, **options).column("c").tolist() == ["1", "", "2"]


@pytest.mark.parametrize(
    ("cells", "hint"),
    [
        (["950", "800", "1,035"], "--thousands"), (["10", "20", "$30"], "--strip"), (["0", "5%", "10"], "--strip"),
        (["1", "2", "1\u202f035"], "--thousands"), (["1", "2", "2024/01/15"], "--dates"),
    ],
)  # fmt: skip
def test_a_few_numbers_in_another_format_are_not_read_as_categories(csv_file, cells, hint):
    rows = "".join(f'"{cells[i % 3]}",{i}\n' for i in range(80))
    with pytest.raises(dn.TableError, match=hint):
        read_table(csv_file(f"c,x\n{rows}"))


@pytest.mark.parametrize("text", ["15-Jan-2024", "Jan 15 2024", "Jan 15, 2024", "2024/01/15"])
def test_dates_in_common_formats_get_a_hint(text):
    assert "--dates" in hint_of(text)


def test_the_thousands_separator_may_be_a_no_break_space(csv_file):
    table = read_table(csv_file("c;x\n1\u202f035;1\n2;2\n"), thousands="\u202f", separator=";")
    assert table.column("c").tolist() == [1035, 2]


@pytest.mark.parametrize("strip", ["()", "$(", "\u2212"])
def test_strip_refuses_signs(csv_file, strip):
    with pytest.raises(dn.ArgumentError, match="would remove signs"):
        read_table(csv_file("c,x\n(5),1\n"), strip=strip)


def test_text_in_a_parquet_file_is_trimmed_as_in_a_csv_file(tmp_path):
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "rows.parquet"
    pandas.DataFrame({"c": [" <=50K", ">50K", "a\n"], "x": [1, 2, 3]}).to_parquet(path)
    assert read_table(path).column("c").tolist() == ["<=50K", ">50K", "a"]
