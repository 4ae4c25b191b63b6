"""Tables: errors for files that cannot be read, and access to columns and features."""

import io
import os
from typing import Any

import numpy as np
import pytest
from table_errors import error_of

from deepnotes.datasets import csv_files
from deepnotes.datasets.tables import Table, read_table
from deepnotes.utils.errors import ArgumentError, DTypeError, ShapeError, TableError

# --- files ------------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_an_error(tmp_path):
    assert error_of(tmp_path / "no.csv") == f"no.csv: cannot be read: {os.strerror(2)}"
    assert error_of(tmp_path / "no") == f"no: cannot be read: {os.strerror(2)}"


@pytest.mark.parametrize("name", ["folder", "folder.csv", "folder.npz"])
def test_a_directory_is_an_error(tmp_path, name):
    (tmp_path / name).mkdir()
    assert error_of(tmp_path / name).startswith(f"{name}: cannot be read: ")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can read all files")
def test_an_unreadable_file_is_an_error(csv_file):
    path = csv_file("a\n1\n")
    path.chmod(0)
    assert error_of(path) == f"data.csv: cannot be read: {os.strerror(13)}"


def test_an_error_while_reading_is_reported(csv_file, monkeypatch):
    class FailingFile(io.BytesIO):
        def read(self, *_):
            raise OSError(5, os.strerror(5))

    path = csv_file("a\n1\n")
    monkeypatch.setattr("pathlib.Path.open", lambda *_: FailingFile())
    assert error_of(path) == f"data.csv: cannot be read: {os.strerror(5)}"


@pytest.mark.parametrize("name", ["data.doc", "data", ".csv", ".csv.gz"])
def test_an_unknown_suffix_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_text("a\n1\n")
    assert error_of(path) == (
        f"{name}: the suffix is {path.suffix!r}, wanted .csv, .tsv, .jsonl, .ndjson (also with .gz), .parquet, "
        f".feather, .arrow, .npz, .npy or the name of an IDX file{'; decompress it first' if name == '.csv.gz' else ''}"
    )


def test_invalid_paths_are_refused(tmp_path):
    assert "cannot be read: " in error_of(tmp_path / "a\0b.csv")
    assert r"\n" in error_of(tmp_path / "a\nb.csv")
    with pytest.raises(ArgumentError, match="path=5, wanted a path"):
        read_table(5)


def test_a_table_that_does_not_fit_into_memory_is_an_error(csv_file, monkeypatch):
    def raise_memory_error(*_):
        raise MemoryError

    path = csv_file("a\n1\n")
    monkeypatch.setattr(csv_files, "_parse", raise_memory_error)
    assert error_of(path) == "data.csv: the table does not fit into memory"


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.fixture
def flowers(csv_file):
    return read_table(csv_file('length,"a\nb",kind,Width\n1,2,rose,3\n4,5,tulip,6\n'))


def test_features_are_in_table_order(flowers):
    X, names = flowers.features(exclude=["kind"])
    assert names == ["length", "a\nb", "Width"]
    assert X.dtype == np.float64
    assert X.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_features_are_in_the_requested_order(flowers):
    X, names = flowers.features(names=("Width", "length"), exclude=["nothing"])
    assert names == ["Width", "length"]
    assert X.tolist() == [[3, 1], [6, 4]]


def test_features_are_a_copy(flowers):
    flowers.features(names=["length"])[0][:] = 0
    assert flowers.column("length").tolist() == [1, 4]


def test_a_text_column_among_the_features_is_refused(flowers):
    with pytest.raises(TableError) as caught:
        flowers.features()
    assert str(caught.value).endswith(
        "data.csv:3: column 'kind' is text (its first value is 'rose'), but features must be numbers"
    )


def test_a_text_column_of_an_archive_among_the_features_is_refused(npz_file):
    with pytest.raises(TableError, match=r"data\.npz: column 'a' is text \(its first value is 'u'\), but features"):
        read_table(npz_file(a=np.array(["u"]))).features()


def test_all_unknown_names_are_reported(flowers):
    with pytest.raises(TableError) as caught:
        flowers.features(names=["lenght", "Width", "WIDTH", "zzz"])
    assert str(caught.value).endswith(
        "data.csv: no column 'lenght' (did you mean 'length'?), no column 'WIDTH' (did you mean 'Width'?), "
        "no column 'zzz'; columns: length, 'a\\nb', kind, Width"
    )


def test_an_unknown_name_to_exclude_is_refused(flowers):
    with pytest.raises(TableError, match=r"no column 'kinds' \(did you mean 'kind'\?\); columns: length, "):
        flowers.features(exclude=["kinds"])


def test_at_least_one_feature_is_required(flowers):
    choices: list[dict[str, Any]] = [{"exclude": flowers.names}, {"names": []}]
    for arguments in choices:
        with pytest.raises(TableError, match="no column is left as a feature; columns: length, "):
            flowers.features(**arguments)


@pytest.mark.parametrize("argument", ["exclude", "names"])
def test_a_string_is_not_a_sequence_of_names(flowers, argument):
    with pytest.raises(ArgumentError, match=f"^{argument}='kind', wanted a sequence of column names"):
        flowers.features(**{argument: "kind"})


def test_errors_list_at_most_ten_names():
    def table(n):
        return Table([f"c{j}" for j in range(n)], {f"c{j}": np.zeros(1) for j in range(n)})

    with pytest.raises(TableError, match=r"^table: no column 'q'; columns: c0, c1, .*, c9$"):
        table(10).column("q")
    with pytest.raises(TableError, match=r"^table: no column 'q'; columns: c0, c1, .*, c9, \.\.\.$"):
        table(11).column("q")
    with pytest.raises(TableError, match=r"no column 'q9', \.\.\.; columns: c0$"):
        table(1).features(names=[f"q{j}" for j in range(11)])


@pytest.mark.parametrize(
    ("names", "columns", "error", "message"),
    [
        ([], {}, ArgumentError, "at least one"),
        (["a"], {"b": np.zeros(1)}, ArgumentError, "names is a and columns has b, wanted at least one name"),
        (["a", "b"], {"b": np.zeros(1), "a": np.zeros(1)}, ArgumentError, "the same names in the same order"),
        (["a"], {"a": np.zeros(1, int)}, DTypeError, "column 'a': got an array of int64, wanted float64 or unicode"),
        (["a"], {"a": np.zeros((2, 1))}, ShapeError, r"column 'a' has shape \(2, 1\), wanted \(m,\)"),
        (["a"], {"a": np.zeros(0)}, ShapeError, r"column 'a' has shape \(0,\), wanted .* at least 1"),
        (["a", "b"], {"a": np.zeros(2), "b": np.zeros(3)}, ShapeError, r"column 'b' has shape \(3,\)"),
    ],
)
def test_invalid_tables_are_refused(names, columns, error, message):
    with pytest.raises(error, match=message):
        Table(names, columns)
