"""Tables in memory: a data frame gives the same table as a file that holds it."""

import re
import sys
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.datasets import frames

COLUMNS: dict[str, list[Any]] = {
    "whole": [1, 2, 3],
    "gap": [1.5, None, 2.5],
    "flag": [True, False, True],
    "text": ["a", None, " b "],
    "cost": [Decimal("1.5"), Decimal("2.25"), None],
}


def same(table: dn.Table, other: dn.Table) -> None:
    """Assert that two tables have the same columns."""
    assert table.names == other.names
    for name in table.names:
        np.testing.assert_array_equal(table.column(name), other.column(name), err_msg=name)
    assert {name: gap.count for name, gap in table.gaps.items()} == {n: gap.count for n, gap in other.gaps.items()}


def test_a_frame_gives_the_same_table_as_its_parquet_file(tmp_path):
    pandas, polars, pa = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))
    frame = pandas.DataFrame(COLUMNS).astype({"gap": "float32"})
    frame["kind"] = pandas.Categorical(["u", "v", None])
    frame.to_parquet(tmp_path / "frame.parquet")
    expected = dn.read_table(tmp_path / "frame.parquet", missing="keep")
    assert expected.column("flag").tolist() == [1, 0, 1]
    assert expected.column("text").tolist() == ["a", "", "b"]
    for data in (
        frame,
        polars.from_pandas(frame),
        pa.table(frame),
        pa.table(frame).to_batches()[0],
        frame[2::-1][::-1],
    ):
        same(dn.read_table(data, missing="keep"), expected)
    options: dict[str, Any] = {"missing": "keep", "text": ["whole"], "drop_missing": ["gap"], "exclude": ["kind"]}
    same(dn.read_table(frame, **options), dn.read_table(tmp_path / "frame.parquet", **options))


def test_a_frame_without_the_stream_of_arrow_is_read_by_its_to_arrow():
    pa = pytest.importorskip("pyarrow")

    class Frame:
        columns = ("x",)

        def to_arrow(self):
            return pa.table({"x": [1, 2]})

    assert dn.read_table(Frame()).column("x").tolist() == [1, 2]


def test_a_dict_of_columns_is_a_table():
    pytest.importorskip("pyarrow")
    table = dn.read_table(COLUMNS | {"day": [date(1970, 1, 2)] * 3}, missing="keep", dates=["day"])
    assert table.names == [*COLUMNS, "day"]
    assert table.column("day").tolist() == [1, 1, 1]
    assert table.column("cost").tolist()[:2] == [1.5, 2.25]


def test_an_array_is_a_table_whose_rows_are_samples():
    table = dn.read_table(np.arange(6).reshape(3, 2))
    assert table.names == ["x0", "x1"]
    assert table.column("x1").tolist() == [1, 3, 5]


def test_plain_columns_need_no_pyarrow(monkeypatch):
    monkeypatch.setattr(frames, "is_installed", lambda module: False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    columns: dict[str, Any] = {"a": np.array([1.0, 2.0]), "b": ["x", "y"], "c": [True, False], "d": [3, 4]}
    table = dn.read_table(columns)
    assert [table.column(name).tolist() for name in "abcd"] == [[1, 2], ["x", "y"], [1, 0], [3, 4]]
    pandas = pytest.importorskip("pandas")
    assert dn.read_table(pandas.DataFrame({"a": [1.0, 2.0]})).column("a").tolist() == [1, 2]
    with pytest.raises(dn.MissingExtraError, match=re.escape('pip install "deepnotes[data]"')):
        dn.read_table({"a": [1, None]})


def test_the_index_of_a_frame_is_not_a_column():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0]}, index=pandas.Index([5, 6], name="id"))
    assert dn.read_table(frame).names == ["a"]


def test_an_encoder_is_fitted_to_a_frame():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"size": [1.0, None, 3.0], "kind": ["a", "b", "a"], "note": ["x", "y", 5]})
    encoder = dn.Encoder.fit(frame, ["size", "kind"], impute="mean")
    assert encoder.inputs == ["size", "kind=a", "kind=b"]
    np.testing.assert_array_equal(encoder(frame), [[1, 2, 3], [1, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(encoder(frame[["size", "kind"]].to_numpy()), encoder(frame))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "dict: the table has no columns"),
        ({"a": []}, "dict: the table has no rows"),
        ({"a": [1, 2], "b": [1]}, "dict: column 'b' has 1 values, but the first column has 2"),
        ({"a": 3}, "dict: column 'a' is 3, wanted a sequence"),
        ({"a": "word"}, "dict: column 'a' is 'word', wanted a sequence"),
        ({"a": [[1, 2], [3, 4]]}, "dict: column 'a' has type list"),
        ({"a": [1, "x"]}, "dict: column 'a' cannot be read as numbers or text"),
        ({"a": [2**70]}, "dict: column 'a' cannot be read as numbers or text"),
        ({"a": [object()]}, "dict: column 'a' cannot be read as numbers or text"),
        ({"a": np.array([1j, 2])}, "dict: column 'a'"),
        ({"a": [b"x"]}, "dict: column 'a' has type binary"),
        ({"a": [1.0, np.inf]}, "dict: row 2: column 'a' has inf where a finite number was expected"),
        ({"a": np.ma.masked_array([1.0, 2.0], [True, False])}, "1 masked elements"),
        ({"a": ["x\0", "y"]}, "ends in NUL"),
        ({"a": [2**53, 2**53 + 1]}, "integers that are equal as float64"),
        ({"a": [date(2024, 1, 1)]}, "use --dates"),
        (np.ones(3), r"ndarray has shape \(3,\), wanted \(rows, columns\)"),
        (np.ones((3, 0)), "ndarray: the table has no columns"),
        (3, "path=3, wanted a path, a DataFrame, an Arrow table, or a dict of columns"),
        ([1, 2], "wanted a path, a DataFrame"),
    ],
)
def test_what_is_not_a_table_is_refused(data, message):
    pytest.importorskip("pyarrow")
    with pytest.raises(dn.DeepnotesError, match=message):
        dn.read_table(data)


def test_a_frame_with_two_columns_of_one_name_is_refused():
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(np.ones((2, 2)), columns=["a", "a"])
    with pytest.raises(dn.TableError, match="two columns have the name 'a'"):
        dn.read_table(frame)
    with pytest.raises(dn.ArgumentError, match="wanted a path, a DataFrame"):
        dn.read_table(frame.iloc[:, 0])
    assert dn.read_table(pandas.DataFrame({1: [2.0]})).names == ["1"]
