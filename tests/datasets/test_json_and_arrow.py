"""JSON Lines and Feather files are read like the same table in Parquet, and hostile ones are refused."""

import contextlib
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest

from deepnotes.cli import main
from deepnotes.datasets.tables import read_table
from deepnotes.utils.errors import TableError

QUICK = ("--epochs", "1", "--layers", "2", "--backend", "numpy")

FRAME = pd.DataFrame(
    {
        "size": [1.5, None, 3.0] * 10,
        "count": [1, 2, 3] * 10,
        "flag": [True, False, True] * 10,
        "kind": ["007", "rose", None] * 10,
        "y": ["yes", "no", "no"] * 10,
    }
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, frame=FRAME):
    if ".jsonl" in name or ".ndjson" in name:
        frame.to_json(name, orient="records", lines=True)
    elif name.endswith(".feather"):
        frame.to_feather(name)
    elif name.endswith(".parquet"):
        frame.to_parquet(name)
    else:
        table = pa.Table.from_pandas(frame)
        with pa.ipc.new_stream(name, table.schema) as stream:
            stream.write_table(table, max_chunksize=7)
    return name


def refusal(content, name="a.jsonl"):
    Path(name).write_bytes(content)
    with pytest.raises(TableError) as caught:
        read_table(name, missing="keep")
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.feather", "a.arrow"])
def test_a_file_has_the_table_of_the_same_frame_in_parquet(name):
    expected = read_table(write("a.parquet"), missing="keep")
    table = read_table(write(name), missing="keep")
    assert table.names == expected.names
    for column in table.names:
        np.testing.assert_array_equal(table.column(column), expected.column(column))
    assert {name: gap.count for name, gap in table.gaps.items()} == {"size": 10, "kind": 10}


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.feather", "a.arrow"])
def test_a_model_is_trained_and_used_on_it(name, capsys):
    write(name)
    assert main(["train", name, "--target", "y", "--impute", "mean", *QUICK]) == 0
    assert main(["predict", "a.safetensors", name, "-o", "p.csv"]) == 0, capsys.readouterr().err
    assert main(["evaluate", "a.safetensors", name]) == 0
    assert Path("p.csv").read_text().count("\n") == 31


@pytest.mark.parametrize("name", ["a.jsonl", "a.feather"])
def test_dates_numbers_in_text_and_spellings(name):
    frame = pd.DataFrame({"day": ["1970-01-02", "1970-01-03"], "text": ["7", "8"], "code": [7, 9007199254740993]})
    write(name, frame)
    table = read_table(name, dates=["day"], numeric=["text"], spelled=["code"])
    assert table.column("day").tolist() == [1, 2]
    assert table.column("text").tolist() == [7, 8]
    assert table.labels("code").tolist() == ["7", "9007199254740993"]
    assert read_table(name, text=["code"], exclude=["day"]).column("code").tolist() == ["7", "9007199254740993"]


def test_typed_dates_of_feather_need_an_option():
    pd.DataFrame({"day": pd.to_datetime(["1970-01-02"]), "x": [1]}).to_feather("a.feather")
    with pytest.raises(TableError, match=r"column 'day' has type timestamp.*use --dates \(dates=\)"):
        read_table("a.feather")
    assert read_table("a.feather", dates=["day"]).column("day").tolist() == [1]


def test_a_line_may_lack_keys_and_blank_lines_have_no_row():
    Path("a.jsonl").write_text('{"a": 1}\r\n\n{"b": "x", "a": NaN}\n{"a": 2.5, "b": null, "c": true}')
    table = read_table("a.jsonl", missing="keep")
    np.testing.assert_array_equal(table.column("a"), [1, np.nan, 2.5])
    assert table.column("b").tolist() == ["", "x", ""]
    np.testing.assert_array_equal(table.column("c"), [np.nan, np.nan, 1])
    with pytest.raises(TableError, match=r"a\.jsonl:3: column 'a' has no value where a number was expected") as caught:
        read_table("a.jsonl")
    assert "a.jsonl:1: column 'b' has no value where a value was expected; one more is missing, in line 4" in str(
        caught.value.problems[1]
    )


def test_all_values_that_do_not_fit_are_reported_with_their_lines(capsys):
    rows: list[dict[str, object]] = [{"a": i, "b": i, "c": i, "y": i % 2} for i in range(20)]
    rows[3]["a"], rows[7]["a"], rows[4]["b"], rows[5]["c"] = "x", "z", [1], float("inf")
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["train", "a.jsonl", "--target", "y"]) == 1
    lines = [line.strip().partition(";")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines[1:] == [
        "a.jsonl:4: column 'a' has 'x' where a number was expected",
        "a.jsonl:5: column 'b' has a list where a number or text was expected",
        "a.jsonl:6: column 'c' has an infinite number where a finite number was expected",
    ]
    assert main(["train", "a.jsonl", "--target", "y", "--exclude", "b,c", "--categorical", "a", *QUICK]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.jsonl: the file has no rows"),
        (b'{"a": 1}\n{"a": 1', "a.jsonl:2: the line is not JSON"),
        (b'{"a": 1}\n[1, 2]\n', "a.jsonl:2: wanted a JSON object, such as"),
        (b'[\n{"a": 1},\n{"a": 2}\n]', "a.jsonl:1: the line is not JSON"),
        (b'[{"a": 1}, {"a": 2}]', "each line must be one object, as pandas.DataFrame.to_json"),
        (b'{"a": 1, "a": 2}\n', "a.jsonl:1: the line is not JSON: the key 'a' occurs twice"),
        (b'{"": 1}\n', "a key is empty"),
        (b'{"a": "\xff"}\n', "a.jsonl:1: byte 0xff is not UTF-8 text"),
        (b'{"a": 1}\n{"a": ' + b"[" * 100_000 + b"\n", "a.jsonl:2: the JSON is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}\n", "a.jsonl:1: the line is not JSON"),
        (b'{"a": 1' + b"0" * 400 + b"}\n", "an infinite number where a finite number was expected"),
        (b'{"a": "x\\u0000"}\n', "wanted text that does not end in NUL"),
        (b'{"a": "\\ud800"}\n', "a.jsonl: cannot be read: "),
        (b'{"a": 9007199254740992}\n{"a": 9007199254740993}\n', "integers that are equal as float64"),
        (b"".join(b'{"k%d": 1}\n' % i for i in range(15_000)), "would take 1,800,000,000 bytes of memory"),
        (gzip.compress(b'{"a": 1}\n' * 1000, mtime=0)[:-20], "the gzip file is damaged"),
    ],
)
def test_hostile_json_lines_are_refused(content, message):
    assert message in refusal(content)


def test_hostile_arrow_files_are_refused():
    write("a.feather")
    whole = Path("a.feather").read_bytes()
    for content in (b"", b"ARROW1", b"FEA1" + whole, whole[:-100], whole[: len(whole) // 2], b"x" * 100):
        assert refusal(content, "b.feather").startswith("b.feather: ")
    random = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(whole)
        for position in random.integers(0, len(whole), 4):
            damaged[position] = random.integers(256)
        Path("b.feather").write_bytes(damaged)
        with contextlib.suppress(TableError):
            read_table("b.feather", missing="keep")


def test_offsets_that_point_outside_an_arrow_file_are_refused():
    table = pa.table({"a": pa.array(["x", "yy", "zzz"])})
    stream = io.BytesIO()
    pyarrow.feather.write_feather(table, stream, compression="uncompressed")
    offsets = np.array([0, 1, 3, 6], "<i4").tobytes()
    content = stream.getvalue()
    assert offsets in content
    damaged = content.replace(offsets, np.array([0, 1, 3, 1 << 29], "<i4").tobytes())
    assert "the Arrow file cannot be read" in refusal(damaged, "a.arrow")
