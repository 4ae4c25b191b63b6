"""Parquet, .npy and IDX files, and the choice of columns."""

import gzip
import struct

import numpy as np
import pytest
from table_errors import error_of

from deepnotes.datasets.idx_files import DTYPES
from deepnotes.datasets.npy_files import find_companion
from deepnotes.datasets.tables import read_table
from deepnotes.utils.errors import ArgumentError, TableError


def idx(array, code=0x08):
    """Return the content of an IDX file that holds an array."""
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(DTYPES[code]).tobytes()


# --- choice of columns -----------------------------------------------------------------------------------------------


def test_excluded_columns_are_not_read(csv_file):
    path = csv_file("a,mixed,b\n1,2,3\n4,oops,5\n6,,7\n")
    assert "column 'mixed' has 'oops'" in error_of(path)
    table = read_table(path, exclude=["mixed"])
    assert table.names == ["a", "b"]
    assert table.others == ["mixed"]
    assert read_table(path, columns=["b"]).column("b").tolist() == [3, 5, 7]
    assert read_table(path, text=["mixed"], missing="keep").column("mixed").tolist() == ["2", "oops", ""]


def test_unknown_and_invalid_column_names_are_refused(csv_file, npz_file):
    for path in (csv_file("alpha,beta\n1,2\n"), npz_file(alpha=np.ones(1), beta=np.ones(1))):
        for arguments in ({"columns": ["alhpa"]}, {"exclude": ["alhpa"]}, {"columns": ["beta"], "text": ["alhpa"]}):
            with pytest.raises(TableError, match=r"no column 'alhpa' \(did you mean 'alpha'\?\); columns: "):
                read_table(path, **arguments)
        with pytest.raises(TableError, match="no column is left to read; columns: alpha, beta"):
            read_table(path, exclude=["alpha", "beta"])
        with pytest.raises(ArgumentError, match="exclude='alpha', wanted a collection of column names"):
            read_table(path, exclude="alpha")
    with pytest.raises(ArgumentError, match="missing='drop', wanted 'error' or 'keep'"):
        read_table(path, missing="drop")


def test_missing_values_are_kept_on_request(csv_file, npz_file):
    table = read_table(csv_file("a,b\n1,x\nNA,\n"), missing="keep")
    assert np.isnan(table.column("a")).tolist() == [False, True]
    assert table.column("b").tolist() == ["x", ""]
    table = read_table(npz_file(a=np.array([np.nan, 1])), missing="keep")
    assert np.isnan(table.column("a")).tolist() == [True, False]


# --- .npy -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "y"),
    [("X.npy", "y.npy"), ("X_train.npy", "y_train.npy"), ("images-2.npy", "labels-2.npy"), ("test_x.npy", "test_y.npy"),
     ("features.npy", "targets.npy"), ("run 1 data.npy", "run 1 labels.npy")],
)  # fmt: skip
def test_targets_are_read_from_the_companion_file(tmp_path, x, y):
    np.save(tmp_path / x, np.arange(6, dtype=np.int16).reshape(3, 2))
    assert read_table(tmp_path / x).names == ["x0", "x1"]
    np.save(tmp_path / y, np.array([1, 0, 1]))
    table = read_table(tmp_path / x)
    assert table.names == ["x0", "x1", "y"]
    assert table.features()[0].tolist() == [[0, 1, 1], [2, 3, 0], [4, 5, 1]]
    np.save(tmp_path / y, np.ones(2))
    assert error_of(tmp_path / x).endswith("array 'y' has shape (2,), wanted (3,) or (3, k) to match 'X'")


@pytest.mark.parametrize("name", ["Xavier.npy", "maximum.npy", "metadata.npy", "y.npy", "dataset.npy"])
def test_other_file_names_have_no_companion(tmp_path, name):
    for candidate in (name.replace("X", "y"), name.replace("data", "labels")):
        (tmp_path / candidate).touch()
    assert find_companion(tmp_path / name) is None


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(3), "array 'X' has shape (3,), wanted (samples, features), both at least 1"),
        (np.ones((2, 0)), "array 'X' has shape (2, 0), wanted (samples, features), both at least 1"),
        (np.array([["a"]]), "array 'X' is text, but features must be numbers"),
        (np.array([[{}]], object), "the file cannot be read: it holds Python objects, which need pickle"),
        (np.ones((1, 1), complex), "the file has dtype complex128, wanted real numbers or text"),
        (np.ones((1, 1), [("a", "f8")]), "the file has dtype [('a', '<f8')], wanted real numbers or text"),
        (np.array([[1, np.inf]]), "array 'X' has inf at [0, 1] where a finite number was expected"),
        (np.array([[1, np.nan]]), "row 1: column 'x1' has nan where a finite number was expected"),
    ],
)
def test_invalid_arrays_are_refused(tmp_path, array, message):
    path = tmp_path / "a.npy"
    np.save(path, array, allow_pickle=True)
    assert error_of(path) == f"a.npy: {message}"


def test_a_truncated_array_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((4, 2)))
    path.write_bytes(path.read_bytes()[:-1])
    assert error_of(path) == "a.npy: the file ends before the end of its array, which takes 64 bytes"
    path.write_bytes(b"")
    assert "is not in NumPy's array format" in error_of(path)


# --- IDX --------------------------------------------------------------------------------------------------------------

IMAGES = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
LABELS = np.array([7, 0, 7], np.uint8)


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images.idx3-ubyte", "train-images.idx"])
def test_labels_are_read_from_the_companion_idx_file(tmp_path, name, gz):
    compress, suffix = (gzip.compress, ".gz") if gz else (bytes, "")
    (tmp_path / f"{name}{suffix}").write_bytes(compress(idx(IMAGES)))
    table = read_table(tmp_path / f"{name}{suffix}")
    assert table.names == ["pixel_0_0", "pixel_0_1", "pixel_1_0", "pixel_1_1"]
    (tmp_path / f"{name.replace('images', 'labels').replace('idx3', 'idx1')}.gz").write_bytes(
        gzip.compress(idx(LABELS))
    )
    table = read_table(tmp_path / f"{name}{suffix}")
    assert table.column("label").tolist() == LABELS.tolist()
    assert table.features(exclude=["label"])[0].tolist() == IMAGES.reshape(3, 4).tolist()


@pytest.mark.parametrize("code", DTYPES)
def test_idx_files_of_every_dtype_are_read(tmp_path, code):
    path = tmp_path / "a.idx"
    path.write_bytes(idx(np.array([[1, 2], [3, 100]]), code))
    assert read_table(path).features()[0].tolist() == [[1, 2], [3, 100]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty, wanted an IDX file"),
        (b"\x89PNG....", "the first bytes are 89 50 4e 47, wanted an IDX file"),
        (b"\0\0\x08\x00", "the first bytes are 00 00 08 00, wanted an IDX file"),
        (b"\0\0\x08\x05" + bytes(20), "the first bytes are 00 00 08 05, wanted an IDX file"),
        (b"\0\0\x07\x01" + bytes(20), "the first bytes are 00 00 07 01, wanted an IDX file"),
        (b"\0\0\x08\x02\0\0", "the file ends within its header"),
        (idx(IMAGES)[:-1], "its header declares shape (3, 2, 2), which takes 12 bytes, but 11 bytes follow"),
        (idx(IMAGES) + b"x", "its header declares shape (3, 2, 2), which takes 12 bytes, but more bytes follow"),
        (idx(IMAGES[:0]), "its array has shape (0, 2, 2), wanted sizes of at least 1"),
        (gzip.compress(idx(IMAGES), mtime=0)[:-9], "the gzip file is damaged"),
        (gzip.compress(idx(IMAGES), mtime=0)[:-5] + b"oops!", "the gzip file is damaged"),
    ],
)
def test_invalid_idx_files_are_refused(tmp_path, content, message):
    path = tmp_path / "a-images.idx"
    path.write_bytes(content)
    assert error_of(path).startswith(f"a-images.idx: {message}")


def test_a_different_number_of_labels_than_images_is_refused(tmp_path):
    (tmp_path / "images.idx").write_bytes(idx(IMAGES))
    (tmp_path / "labels.idx").write_bytes(idx(LABELS[:2]))
    assert error_of(tmp_path / "images.idx") == (
        "labels.idx: the labels have shape (2,), wanted (3,): one label for each image"
    )


# --- Parquet ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def parquet(tmp_path):
    """Return a function that writes columns to a Parquet file and returns its path."""
    pa = pytest.importorskip("pyarrow", reason='the extra "data" (pyarrow) is not installed')
    pq = pytest.importorskip("pyarrow.parquet", reason='the extra "data" (pyarrow) is not installed')

    def write(columns, **options):
        path = tmp_path / "data.parquet"
        pq.write_table(pa.table(columns), path, **options)
        return path

    write.pa = pa  # type: ignore[attr-defined]
    return write


def test_parquet_columns_become_numbers_or_strings(parquet):
    pa = parquet.pa
    columns = {
        "f": pa.array([1.5, 2.5, 3.5], pa.float32()),
        "i": pa.array([1, 2, 3], pa.int64()),
        "b": pa.array([True, False, True]),
        "d": pa.array([1, 2, 3]).cast(pa.decimal128(21, 2)),
        "s": ["x", "é", "zz"],
        "c": pa.array(["u", "v", "u"]).dictionary_encode(),
    }
    table = read_table(parquet(columns, row_group_size=2))
    assert {name: table.column(name).tolist() for name in table.names} == {
        "f": [1.5, 2.5, 3.5], "i": [1, 2, 3], "b": [1, 0, 1], "d": [1, 2, 3], "s": ["x", "é", "zz"],
        "c": ["u", "v", "u"],
    }  # fmt: skip


def test_missing_values_in_a_parquet_file_are_refused_or_kept(parquet):
    path = parquet({"a": [1.0, None, float("nan")], "s": ["x", None, ""], "t": [[1], [2], [3]]})
    assert error_of(path) == "data.parquet: column 't' has type list<element: int64>, wanted numbers or text"
    with pytest.raises(TableError, match=r"row 2: column 'a' has nan where .*; one more is missing, in row 3"):
        read_table(path, exclude=["t"])
    table = read_table(path, exclude=["t"], missing="keep")
    assert np.isnan(table.column("a")).tolist() == [False, True, True]
    assert table.column("s").tolist() == ["x", "", ""]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1.0, float("inf")]}, "row 2: column 'a' has inf where a finite number was expected"),
        ({"a": []}, "the file has no rows"),
    ],
)
def test_parquet_files_with_infinity_or_without_rows_are_refused(parquet, columns, message):
    assert error_of(parquet(columns)) == f"data.parquet: {message}"


def test_a_file_that_is_not_parquet_is_refused(tmp_path):
    pytest.importorskip("pyarrow", reason='the extra "data" (pyarrow) is not installed')
    (tmp_path / "a.parquet").write_bytes(b"a,b\n1,2\n")
    assert error_of(tmp_path / "a.parquet").startswith("a.parquet: the Parquet file cannot be read: ")
    assert error_of(tmp_path / "b.parquet") == "b.parquet: cannot be read: No such file or directory"


def test_a_parquet_file_without_pyarrow_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").touch()
    assert error_of(tmp_path / "a.parquet") == (
        'a.parquet: reading .parquet files requires pyarrow: pip install "deepnotes[data]"'
    )
