"""NumPy archives: how they are read, and the errors for archives that cannot be read."""

import zipfile

import numpy as np
import pytest
from table_errors import error_of

from deepnotes.datasets.tables import read_table
from deepnotes.utils.errors import TableError


def test_a_matrix_and_a_target_are_read(npz_file):
    X = np.arange(6, dtype=np.int16).reshape(3, 2)
    table = read_table(npz_file(X=X, y=np.array([1, 0, 1], np.uint8), extra=np.array([{}], dtype=object)))
    assert table.names == ["x0", "x1", "y"]
    assert all(column.dtype == np.float64 for column in table.columns.values())
    assert np.array_equal(table.features(exclude=["y"])[0], X)
    assert table.column("y").tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("y", "names"),
    [(np.zeros(3), ["y"]), (np.zeros((3, 1)), ["y"]), (np.zeros((3, 2)), ["y0", "y1"]), (np.array(["a"] * 3), ["y"])],
)
def test_the_target_may_have_one_or_two_dimensions(npz_file, y, names):
    table = read_table(npz_file(x=np.ones((3, 1)), Y=y))
    assert table.names == ["x0", *names]
    assert np.array_equal(np.column_stack([table.column(name) for name in names]), y.reshape(3, -1))


def test_a_matrix_may_have_any_real_dtype(npz_file):
    for dtype in "?bBhHiIlLqQefdg":
        table = read_table(npz_file(X=np.array([[0, 1]], dtype)))
        assert table.features()[0].tolist() == [[0.0, 1.0]]
    assert read_table(npz_file(X=np.array([[0, 1]], ">f4"))).features()[0].tolist() == [[0.0, 1.0]]


def test_one_dimensional_arrays_are_read_as_columns(npz_file):
    table = read_table(npz_file(b=np.array([1, 2]), a=np.array(["u", "vw"])))
    assert table.names == ["b", "a"]
    assert table.column("b").dtype == np.float64
    assert table.column("a").tolist() == ["u", "vw"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.zeros(3)}, "array 'X' has shape (3,), wanted (samples, features), both at least 1"),
        ({"X": np.zeros((3, 1, 2))}, "array 'X' has shape (3, 1, 2), wanted (samples, features), both at least 1"),
        ({"x": np.zeros((0, 2))}, "array 'x' has shape (0, 2), wanted (samples, features), both at least 1"),
        ({"X": np.zeros((2, 0))}, "array 'X' has shape (2, 0), wanted (samples, features), both at least 1"),
        ({"X": np.array([["a"]])}, "array 'X' is text, but features must be numbers"),
        ({"X": np.ones((1, 1), complex)}, "array 'X' has dtype complex128, wanted real numbers or text"),
        ({"X": np.ones((1, 1), "M8[s]")}, "array 'X' has dtype datetime64[s], wanted real numbers or text"),
        ({"a": np.array([b"x"])}, "array 'a' has dtype |S1, wanted real numbers or text"),
        ({"X": np.array([[1, 2], [3, np.nan]])}, "row 2: column 'x1' has nan where a finite number was expected"),
        (
            {"X": np.ones((2, 2)), "y": np.array([1, -np.inf])},
            "array 'y' has -inf at [1] where a finite number was expected",
        ),
        ({"a": np.array(["x", ""])}, "row 2: column 'a' has an empty string where a value was expected"),
        (
            {"X": np.ones((2, 2)), "y": np.ones(3)},
            "array 'y' has shape (3,), wanted (2,) or (2, k) to match 'X'",
        ),
        (
            {"X": np.ones((2, 2)), "y": np.ones((3, 2))},
            "array 'y' has shape (3, 2), wanted (2,) or (2, k) to match 'X'",
        ),
        ({"X": np.ones((1, 1)), "y": np.ones(())}, "array 'y' has shape (), wanted (1,) or (1, k) to match 'X'"),
        ({"X": np.ones((1, 1)), "x": np.ones((1, 1))}, "the archive has 'X' and 'x', wanted only one of them"),
        (
            {"X": np.ones((1, 1)), "y": np.ones(1), "Y": np.ones(1)},
            "the archive has 'y' and 'Y', wanted only one of them",
        ),
        (
            {"x_train": np.ones((3, 2)), "y_train": np.ones(3)},
            "array 'x_train' has shape (3, 2), wanted an array X of shape (samples, features), or only arrays "
            "of shape (samples,), one per column",
        ),
        ({"a": np.ones(3), "b": np.ones(2)}, "array 'b' has 2 values, wanted 3 as in 'a'"),
        ({"a": np.ones(0)}, "array 'a' has 0 values, wanted at least one"),
    ],
)
def test_invalid_arrays_are_refused(npz_file, arrays, message):
    assert error_of(npz_file(**arrays)) == f"data.npz: {message}"


@pytest.mark.skipif(np.finfo(np.longdouble).max == np.finfo(np.float64).max, reason="long doubles are doubles here")
def test_a_long_double_beyond_float64_is_refused(npz_file):
    X = np.array([[np.finfo(np.longdouble).max]])
    assert error_of(npz_file(X=X)) == "data.npz: array 'X' has inf at [0, 0] where a finite number was expected"


def test_object_arrays_are_never_unpickled(npz_file):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    path = npz_file(X=np.array([[Trap()]], dtype=object))
    assert error_of(path).startswith("data.npz: array 'X' cannot be read: it holds Python objects")


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\x93NUMPY\x01\x00", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_not_an_archive_is_refused(tmp_path, content):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    assert error_of(path) == "data.npz: not a NumPy archive (as written by numpy.savez)"


def test_an_empty_archive_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    path.write_bytes(b"PK\x03\x04PK\x05\x06" + bytes(18))
    assert error_of(path) == "data.npz: the archive is empty, wanted an array X, or one array per column"


def test_an_archive_without_npy_files_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("X", "text")
    assert error_of(path) == "data.npz: array 'X' is not in NumPy's array format"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_truncated_and_altered_archives_are_refused(tmp_path, save):
    path = tmp_path / "data.npz"
    save(path, X=np.arange(4.0).reshape(2, 2), y=np.array(["a", "b"]))
    valid = path.read_bytes()
    for size in range(0, len(valid), 7):
        path.write_bytes(valid[:size])
        error_of(path)
    generator = np.random.default_rng(0)
    refused = 0
    for position in range(0, len(valid), 3):
        altered = bytearray(valid)
        altered[position] ^= int(generator.integers(1, 256))
        path.write_bytes(altered)
        try:
            read_table(path)
        except TableError:
            refused += 1
    assert refused > 50
