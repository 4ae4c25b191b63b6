"""Tables: what is read, what is refused and where the message says it stands, and what is written."""

import io
import os
import re
import stat
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepnotes import csv_files
from deepnotes.errors import ArgumentError, DTypeError, ShapeError, TableError
from deepnotes.tables import Table, read_table, write_table


@pytest.fixture
def csv_file(tmp_path):
    """Write text or bytes to a CSV file and return its path."""

    def make(content):
        path = tmp_path / "data.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


@pytest.fixture
def npz_file(tmp_path):
    """Save arrays to an .npz file and return its path."""

    def make(**arrays):
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return path

    return make


def error_of(path):
    """Return the message that reading `path` raises, less its folder: one line, always."""
    with pytest.raises(TableError) as caught:
        read_table(path)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{os.path.dirname(path)}{os.sep}", "")


# --- CSV: what is read ------------------------------------------------------------------------------------------------


def test_numbers_and_text(csv_file):
    table = read_table(csv_file("length,kind,n\n1.5,rose,1\n-2e3,tulip,2\n.5,red rose,3\n"))
    assert table.names == ["length", "kind", "n"]
    assert table.n_rows == 3
    assert table.columns["length"].dtype == np.float64
    assert table.columns["length"].tolist() == [1.5, -2000.0, 0.5]
    assert table.columns["kind"].dtype.kind == "U"
    assert table.columns["kind"].tolist() == ["rose", "tulip", "red rose"]
    assert table.columns["n"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "content",
    [
        "a,b\n1,x\n2,y\n",
        "a,b\n1,x\n2,y",
        "a,b\r\n1,x\r\n2,y\r\n",
        "a,b\r1,x\r2,y\r",
        "\ufeffa,b\n1,x\n2,y\n",
        '\ufeff"a","b"\n"1","x"\n"2","y"\n',
        " a ,\tb\n 1\t, x \n2 ,  y\n",
        'a, "b"\n1, "x"\n2, "y"\n',
        "a\u00a0,b\n\u00a01,x\u00a0\n2,y\n",
        "\n\na,b\n\n1,x\n   \n2,y\n\n\n",
    ],
)
def test_equal_tables_in_other_clothes(csv_file, content):
    table = read_table(csv_file(content))
    assert {name: table.column(name).tolist() for name in table.names} == {"a": [1.0, 2.0], "b": ["x", "y"]}


def test_quoted_cells_hold_commas_quotes_and_line_breaks(csv_file):
    table = read_table(csv_file('a,"b, c"\n"x, ""y""\nz",1\n'))
    assert table.names == ["a", "b, c"]
    assert table.column("a").tolist() == ['x, "y"\nz']


def test_text_that_looks_like_a_number_further_down_stays_text(csv_file):
    assert read_table(csv_file("a\nx\n1\nnan\n")).column("a").tolist() == ["x", "1", "nan"]


@pytest.mark.parametrize("cell", ["1_000", "１", "0x10", "1,5", "1e", "--1", "NA", "٣"])
def test_what_is_no_number_makes_a_text_column(csv_file, cell):
    assert read_table(csv_file(f'a\n"{cell}"\n')).column("a").tolist() == [cell]


@pytest.mark.parametrize("cell", ["0", "-0", "+1.5", "1.", ".5", "1e-320", "1E5", "007", "9007199254740993"])
def test_what_is_a_number(csv_file, cell):
    value = read_table(csv_file(f"a\n{cell}\n")).column("a")
    assert value.tobytes() == np.float64(float(cell)).tobytes()


def test_columns_longer_than_a_chunk(csv_file, monkeypatch):
    monkeypatch.setattr(csv_files, "CHUNK_ROWS", 3)
    words = ["a", "long one", "b", "c", "the longest of them", "d", "e"]
    table = read_table(csv_file("n,w\n" + "".join(f"{i},{word}\n" for i, word in enumerate(words))))
    assert table.column("n").tolist() == list(range(7))
    assert table.column("w").tolist() == words


def test_suffix_in_capitals(tmp_path):
    path = tmp_path / "DATA.CSV"
    path.write_text("a\n1\n")
    assert read_table(str(path)).names == ["a"]


# --- CSV: what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n3,abc\n", "data.csv:3: column 'b' has 'abc' where a number was expected"),
        ("a,b\n1,2\n\n\n3,abc\n", "data.csv:5: column 'b' has 'abc' where a number was expected"),
        ("a,b\n1,2\n3, \n", "data.csv:3: column 'b' has an empty cell where a number was expected"),
        ("a,b\n1,\n3,4\n", "data.csv:2: column 'b' has an empty cell where a value was expected"),
        ("a,b\n1,x\n3,\n", "data.csv:3: column 'b' has an empty cell where a value was expected"),
        ("a,b\n1,2\n,\n", "data.csv:3: column 'a' has an empty cell where a number was expected"),
        ('a\n1\n""\n', "data.csv:3: column 'a' has an empty cell where a number was expected"),
        ("a\n1\n2\nnan\n", "data.csv:4: column 'a' has 'nan' where a finite number was expected"),
        ("a\nnan\n2\n", "data.csv:2: column 'a' has 'nan' where a finite number was expected"),
        ("a\n1\n-Infinity\n", "data.csv:3: column 'a' has '-Infinity' where a finite number was expected"),
        ("a\n1\n1e999\n", "data.csv:3: column 'a' has '1e999' where a finite number was expected"),
        ("a\n1\n1_000\n", "data.csv:3: column 'a' has '1_000' where a number was expected"),
        ("a\n1\n１２\n", "data.csv:3: column 'a' has '１２' where a number was expected"),
        ("a\n1\n" + "x" * 99, "data.csv:3: column 'a' has '" + "x" * 56 + "... where a number was expected"),
    ],
)
def test_wrong_cell(csv_file, content, message):
    assert error_of(csv_file(content)) == message


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_the_line_is_the_editors_line(csv_file, newline):
    lines = ["", 'note,"x', 'y",z', '"two', 'lines",1,2', '"three', "long", 'lines",3,bad']
    message = error_of(csv_file(newline.join(lines)))
    assert message == "data.csv:8: column 'z' has 'bad' where a number was expected"
    lines[-1] = 'lines",bad,4'
    message = error_of(csv_file(newline.join(lines)))
    assert message == "data.csv:8: column 'x\\ny' has 'bad' where a number was expected".replace(
        "\\n", repr(newline)[1:-1]
    )


def test_the_line_in_a_later_chunk(csv_file, monkeypatch):
    monkeypatch.setattr(csv_files, "CHUNK_ROWS", 4)
    rows = [str(i) for i in range(20)]
    rows[13] = "oops"
    assert error_of(csv_file("a\n" + "\n".join(rows))).startswith("data.csv:15: column 'a' has 'oops'")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b,c,d\n1,2,3,4\n1,2,3\n", "data.csv:3: 3 cells where the header has 4"),
        ("a,b\n1,2\n\n1,2,\n", "data.csv:4: 3 cells where the header has 2"),
        ("a,b\n1\n", "data.csv:2: 1 cell where the header has 2"),
        ('a,b\n"x\n\ny",1\n1,2,3\n', "data.csv:5: 3 cells where the header has 2"),
    ],
)
def test_ragged_rows(csv_file, content, message):
    assert error_of(csv_file(content)) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "data.csv:1: the file is empty; a header row and rows below it were wanted"),
        ("\ufeff", "data.csv:1: the file is empty; a header row and rows below it were wanted"),
        ("\n \n\n", "data.csv:1: the file is empty; a header row and rows below it were wanted"),
        ("a,b\n", "data.csv:1: no row follows the header"),
        ("\na,b\n\n \n", "data.csv:2: no row follows the header"),
        ("a,b,a\n1,2,3\n", "data.csv:1: two columns have the name 'a'"),
        ("a,b, a \n1,2,3\n", "data.csv:1: two columns have the name 'a'"),
        ("a,,c\n1,2,3\n", "data.csv:1: column 2 has no name"),
        ("\n\n,\n1,2\n", "data.csv:3: column 1 has no name"),
        ("1,2.5\n3,4\n", "data.csv:1: the first row must hold the column names, but it holds numbers: 1, 2.5"),
        ("0,0\n3,4\n", "data.csv:1: the first row must hold the column names, but it holds numbers: 0, 0"),
    ],
)
def test_wrong_header(csv_file, content, message):
    assert error_of(csv_file(content)) == message


def test_some_names_may_be_numbers(csv_file):
    assert read_table(csv_file("1,b\n3,4\n")).names == ["1", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,caf\xe9\n", "data.csv:2: byte 0xe9 is not UTF-8 text, which a .csv file must be"),
        (b"a,b\r\n1,x\r\n2,\0\r\n", "data.csv:3: byte 0x00 is not UTF-8 text, which a .csv file must be"),
        (b"a\r1\r\xff\0", "data.csv:3: byte 0xff is not UTF-8 text, which a .csv file must be"),
        ("a,b\n1,2\n".encode("utf-16"), "data.csv:1: byte 0xff is not UTF-8 text, which a .csv file must be"),
    ],
)
def test_not_text(csv_file, content, message):
    assert error_of(csv_file(content)) == message


@pytest.mark.parametrize(
    ("content", "line"),
    [('a,b\n1,2\n3,"4\n5,6\n7,8\n', 3), ('a,b\n\n1,"2"x\n', 3), ("a\nx\n" + "y" * 200_000, 3)],
)
def test_not_csv(csv_file, content, line):
    assert error_of(csv_file(content)).startswith(f"data.csv:{line}: the row that starts here is not CSV: ")


# --- files ------------------------------------------------------------------------------------------------------------


def test_missing_file(tmp_path):
    assert error_of(tmp_path / "no.csv") == f"no.csv: cannot be read: {os.strerror(2)}"
    assert error_of(tmp_path / "no") == f"no: cannot be read: {os.strerror(2)}"


@pytest.mark.parametrize("name", ["folder", "folder.csv", "folder.npz"])
def test_directory(tmp_path, name):
    (tmp_path / name).mkdir()
    assert error_of(tmp_path / name).startswith(f"{name}: cannot be read: ")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(csv_file):
    path = csv_file("a\n1\n")
    path.chmod(0)
    assert error_of(path) == f"data.csv: cannot be read: {os.strerror(13)}"


def test_a_file_that_fails_while_it_is_read(csv_file, monkeypatch):
    class Failing(io.BytesIO):
        def read(self, *_):
            raise OSError(5, os.strerror(5))

    path = csv_file("a\n1\n")
    monkeypatch.setattr("pathlib.Path.open", lambda *_: Failing())
    assert error_of(path) == f"data.csv: cannot be read: {os.strerror(5)}"


@pytest.mark.parametrize("name", ["data.txt", "data", "data.csv.gz", ".csv"])
def test_unknown_suffix(tmp_path, name):
    path = tmp_path / name
    path.write_text("a\n1\n")
    assert error_of(path) == f"{name}: the suffix is {path.suffix!r}; .csv or .npz was wanted"


def test_paths_that_no_file_can_have(tmp_path):
    assert "cannot be read: " in error_of(tmp_path / "a\0b.csv")
    assert r"\n" in error_of(tmp_path / "a\nb.csv")
    with pytest.raises(ArgumentError, match="path is 5; a path"):
        read_table(5)


def test_a_table_beyond_the_memory(csv_file, monkeypatch):
    def exhausted(*_):
        raise MemoryError

    path = csv_file("a\n1\n")
    monkeypatch.setattr(np, "fromiter", exhausted)
    assert error_of(path) == "data.csv: the table does not fit into memory"


# --- NumPy archives ---------------------------------------------------------------------------------------------------


def test_matrix_and_target(npz_file):
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
def test_shapes_of_the_target(npz_file, y, names):
    table = read_table(npz_file(x=np.ones((3, 1)), Y=y))
    assert table.names == ["x0", *names]
    assert np.array_equal(np.column_stack([table.column(name) for name in names]), y.reshape(3, -1))


def test_matrix_alone_of_every_real_dtype(npz_file):
    for dtype in "?bBhHiIlLqQefdg":
        table = read_table(npz_file(X=np.array([[0, 1]], dtype)))
        assert table.features()[0].tolist() == [[0.0, 1.0]]
    assert read_table(npz_file(X=np.array([[0, 1]], ">f4"))).features()[0].tolist() == [[0.0, 1.0]]


def test_named_columns(npz_file):
    table = read_table(npz_file(b=np.array([1, 2]), a=np.array(["u", "vw"])))
    assert table.names == ["b", "a"]
    assert table.column("b").dtype == np.float64
    assert table.column("a").tolist() == ["u", "vw"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.zeros(3)}, "array 'X' has shape (3,); (samples, features), both over 0, was wanted"),
        ({"X": np.zeros((3, 1, 2))}, "array 'X' has shape (3, 1, 2); (samples, features), both over 0, was wanted"),
        ({"x": np.zeros((0, 2))}, "array 'x' has shape (0, 2); (samples, features), both over 0, was wanted"),
        ({"X": np.zeros((2, 0))}, "array 'X' has shape (2, 0); (samples, features), both over 0, was wanted"),
        ({"X": np.array([["a"]])}, "array 'X' is text, and features must be numbers"),
        ({"X": np.ones((1, 1), complex)}, "array 'X' has dtype complex128; real numbers or text were wanted"),
        ({"X": np.ones((1, 1), "M8[s]")}, "array 'X' has dtype datetime64[s]; real numbers or text were wanted"),
        ({"a": np.array([b"x"])}, "array 'a' has dtype |S1; real numbers or text were wanted"),
        ({"X": np.array([[1, 2], [3, np.nan]])}, "array 'X' has nan at [1, 1] where a finite number was expected"),
        (
            {"X": np.ones((2, 2)), "y": np.array([1, -np.inf])},
            "array 'y' has -inf at [1] where a finite number was expected",
        ),
        ({"a": np.array(["x", ""])}, "array 'a' has an empty text at [1] where a value was expected"),
        (
            {"X": np.ones((2, 2)), "y": np.ones(3)},
            "array 'y' has shape (3,); (2,) or (2, k) was wanted, as 'X' has",
        ),
        (
            {"X": np.ones((2, 2)), "y": np.ones((3, 2))},
            "array 'y' has shape (3, 2); (2,) or (2, k) was wanted, as 'X' has",
        ),
        ({"X": np.ones((1, 1)), "y": np.ones(())}, "array 'y' has shape (); (1,) or (1, k) was wanted, as 'X' has"),
        ({"X": np.ones((1, 1)), "x": np.ones((1, 1))}, "the archive has 'X' and 'x'; one of them was wanted"),
        (
            {"X": np.ones((1, 1)), "y": np.ones(1), "Y": np.ones(1)},
            "the archive has 'y' and 'Y'; one of them was wanted",
        ),
        (
            {"x_train": np.ones((3, 2)), "y_train": np.ones(3)},
            "array 'x_train' has shape (3, 2); an array X of shape (samples, features) was wanted, or else columns "
            "of shape (samples,) only",
        ),
        ({"a": np.ones(3), "b": np.ones(2)}, "array 'b' has 2 values; 3, as 'a' has, was wanted"),
        ({"a": np.ones(0)}, "array 'a' has 0 values; at least one was wanted"),
    ],
)
def test_wrong_arrays(npz_file, arrays, message):
    assert error_of(npz_file(**arrays)) == f"data.npz: {message}"


@pytest.mark.skipif(np.finfo(np.longdouble).max == np.finfo(np.float64).max, reason="no longer doubles here")
def test_a_long_double_beyond_float64(npz_file):
    X = np.array([[np.finfo(np.longdouble).max]])
    assert error_of(npz_file(X=X)) == "data.npz: array 'X' has inf at [0, 0] where a finite number was expected"


def test_object_arrays_are_never_unpickled(npz_file):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    path = npz_file(X=np.array([[Trap()]], dtype=object))
    assert error_of(path).startswith("data.npz: array 'X' cannot be read: Object arrays cannot be loaded")


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\x93NUMPY\x01\x00", b"PK\x05\x06" + bytes(18)])
def test_not_an_archive(tmp_path, content):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    assert error_of(path) == "data.npz: not a NumPy archive, as numpy.savez writes"


def test_an_archive_of_nothing(tmp_path):
    path = tmp_path / "data.npz"
    path.write_bytes(b"PK\x03\x04PK\x05\x06" + bytes(18))
    assert error_of(path) == "data.npz: the archive has no arrays; an array X, or columns, were wanted"


def test_an_archive_of_something_else(tmp_path):
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("X", "text")
    assert error_of(path) == "data.npz: array 'X' has no array format; real numbers or text were wanted"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_no_truncation_and_no_altered_byte_escapes(tmp_path, save):
    path = tmp_path / "data.npz"
    save(path, X=np.arange(4.0).reshape(2, 2), y=np.array(["a", "b"]))
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        error_of(path)
    generator = np.random.default_rng(0)
    refused = 0
    for at in range(0, len(whole), 3):
        altered = bytearray(whole)
        altered[at] ^= int(generator.integers(1, 256))
        path.write_bytes(altered)
        try:
            read_table(path)
        except TableError:
            refused += 1
    assert refused > 50


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.fixture
def flowers(csv_file):
    return read_table(csv_file('length,"a\nb",kind,Width\n1,2,rose,3\n4,5,tulip,6\n'))


def test_features_in_the_order_of_the_table(flowers):
    X, names = flowers.features(exclude=["kind"])
    assert names == ["length", "a\nb", "Width"]
    assert X.dtype == np.float64
    assert X.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_features_in_the_order_asked_for(flowers):
    X, names = flowers.features(names=("Width", "length"), exclude=["nothing"])
    assert names == ["Width", "length"]
    assert X.tolist() == [[3, 1], [6, 4]]


def test_features_are_new(flowers):
    flowers.features(names=["length"])[0][:] = 0
    assert flowers.column("length").tolist() == [1, 4]


def test_text_among_the_features(flowers):
    with pytest.raises(TableError) as caught:
        flowers.features()
    assert str(caught.value).endswith(
        "data.csv:3: column 'kind' is text, its first value is 'rose', and features must be numbers"
    )


def test_text_among_the_features_of_an_archive(npz_file):
    with pytest.raises(TableError, match=r"data\.npz: column 'a' is text, its first value is 'u', and features must"):
        read_table(npz_file(a=np.array(["u"]))).features()


def test_missing_names_are_all_told(flowers):
    with pytest.raises(TableError) as caught:
        flowers.features(names=["lenght", "Width", "WIDTH", "zzz"])
    assert str(caught.value).endswith(
        "data.csv: no column 'lenght' (did you mean 'length'?), no column 'WIDTH' (did you mean 'Width'?), "
        "no column 'zzz'; columns: length, 'a\\nb', kind, Width"
    )


def test_unknown_name_to_exclude(flowers):
    with pytest.raises(TableError, match=r"no column 'kinds' \(did you mean 'kind'\?\); columns: length, "):
        flowers.features(exclude=["kinds"])


def test_no_feature_left(flowers):
    for arguments in ({"exclude": flowers.names}, {"names": []}):
        with pytest.raises(TableError, match="no column is left to be a feature; columns: length, "):
            flowers.features(**arguments)


@pytest.mark.parametrize("argument", ["exclude", "names"])
def test_a_string_is_not_a_sequence_of_names(flowers, argument):
    with pytest.raises(ArgumentError, match=f"^{argument} is the string 'kind'; a sequence of column names was wanted"):
        flowers.features(**{argument: "kind"})


def test_column_lists_ten_names_at_most():
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
        (["a"], {"b": np.zeros(1)}, ArgumentError, "names are a and columns are b; the same names"),
        (["a", "b"], {"b": np.zeros(1), "a": np.zeros(1)}, ArgumentError, "the same names in the same order"),
        (["a"], {"a": np.zeros(1, int)}, DTypeError, "column 'a' has dtype int64; float64 or unicode"),
        (["a"], {"a": np.zeros((2, 1))}, ShapeError, r"column 'a' has shape \(2, 1\); \(m,\) was wanted"),
        (["a"], {"a": np.zeros(0)}, ShapeError, r"column 'a' has shape \(0,\); .* at least 1"),
        (["a", "b"], {"a": np.zeros(2), "b": np.zeros(3)}, ShapeError, r"column 'b' has shape \(3,\)"),
    ],
)
def test_wrong_table(names, columns, error, message):
    with pytest.raises(error, match=message):
        Table(names, columns)


# --- writing ----------------------------------------------------------------------------------------------------------


def written(names, columns):
    stream = io.StringIO()
    write_table(stream, names, columns)
    return stream.getvalue()


def test_what_is_written():
    columns = [
        np.array([0.1, 1e22, -0.0]),
        np.array([0.1, 1 / 3, 16777216], np.float32),
        np.array([1, -2, 2**62]),
        np.array([True, False, True]),
        np.array(["x", " y, z", 'say "w"\n']),
    ]
    assert written(["a", "b", "c", "d", "e f"], columns) == (
        "a,b,c,d,e f\n"
        "0.1,0.1,1,1,x\n"
        '1e+22,0.33333334,-2,0," y, z"\n'
        '-0.0,16777216.0,4611686018427387904,1,"say ""w""\n"\n'
    )


def test_print_options_change_nothing():
    with np.printoptions(precision=2, suppress=True):
        assert written(["a"], [np.array([0.123456789], np.float32)]) == "a\n0.12345679\n"


def test_columns_by_name_and_as_lists():
    assert written(["b", "a"], {"a": [1, 2], "c": [0], "b": ["x", "y"]}) == "b,a\nx,1\ny,2\n"


def test_a_table_goes_back_and_forth(csv_file, tmp_path):
    first = read_table(csv_file('a,"b ""c"""\n0.1,"x\ry"\n1e-300,"u, v"\n'))
    write_table(tmp_path / "copy.csv", first.names, first.columns)
    again = read_table(tmp_path / "copy.csv")
    assert again.names == first.names
    assert all(np.array_equal(again.column(name), first.column(name)) for name in first.names)


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.sampled_from([np.float64, np.float32])
)
def test_floats_round_trip_bit_for_bit(tmp_path_factory, values, dtype):
    with np.errstate(over="ignore"):
        column = np.array(values).astype(dtype)
    column[np.isinf(column)] = 0
    path = tmp_path_factory.getbasetemp() / "round.csv"
    write_table(path, ["a"], [column])
    assert read_table(path).column("a").astype(dtype).tobytes() == column.tobytes()


TEXT = st.text(st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"]), min_size=1).map(str.strip)


@given(st.lists(TEXT.filter(bool), min_size=1), TEXT.filter(lambda name: name and csv_files._number(name) is None))
def test_text_round_trips(tmp_path_factory, values, name):
    path = tmp_path_factory.getbasetemp() / "text.csv"
    write_table(path, [name], [np.array(["text", *values])])
    table = read_table(path)
    assert table.names == [name]
    assert table.column(name).tolist() == ["text", *values]


def test_a_file_is_replaced_and_no_other_is_left(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("old")
    write_table(str(path), ["a"], [[1]])
    assert path.read_bytes() == b"a\n1\n"
    assert os.listdir(tmp_path) == ["out.csv"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "other").touch()
    write_table(tmp_path / "out.csv", ["a"], [[1]])
    assert stat.S_IMODE((tmp_path / "out.csv").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "out.csv"
    path.write_text("old")
    monkeypatch.setattr(csv_files, "write_rows", full)
    with pytest.raises(TableError, match=rf"^{re.escape(str(path))}: cannot be written: No space left on device$"):
        write_table(path, ["a"], [[1]])
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_an_interruption_leaves_the_old_file(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    path = tmp_path / "out.csv"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_table(path, ["a"], [[1]])
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_paths_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "no" / "out.csv", tmp_path / "file" / "out.csv", tmp_path / "a\0b.csv"):
        with pytest.raises(TableError, match="cannot be written: "):
            write_table(path, ["a"], [[1]])
    assert os.listdir(tmp_path) == ["file"]


def test_text_that_utf_8_does_not_have(tmp_path):
    with pytest.raises(TableError, match=r"out\.csv: cannot be written: .*surrogates not allowed"):
        write_table(tmp_path / "out.csv", ["a"], [["\ud800"]])
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="devices and links of POSIX")
def test_devices_and_links_stay_what_they_are(tmp_path):
    fifo, link, real = tmp_path / "fifo", tmp_path / "link.csv", tmp_path / "real.csv"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_table(fifo, ["a"], [[1]])
        assert os.read(reader, 99) == b"a\n1\n"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    link.symlink_to(real)
    write_table(link, ["a"], [[2]])
    assert link.is_symlink()
    assert real.read_text() == "a\n2\n"


def test_streams_that_fail():
    class Stream:
        def __init__(self, error):
            self.error = error

        def write(self, text):
            raise self.error

    with pytest.raises(TableError, match=r"^the stream cannot be written to: full$"):
        write_table(Stream(OSError(28, "full")), ["a"], [[1]])
    with pytest.raises(BrokenPipeError):
        write_table(Stream(BrokenPipeError()), ["a"], [[1]])
    closed = io.StringIO()
    closed.close()
    with pytest.raises(TableError, match="closed file"):
        write_table(closed, ["a"], [[1]])


@pytest.mark.parametrize(
    ("names", "columns", "error", "message"),
    [
        ([], [], ArgumentError, r"^names are \[\]; a sequence of at least one column name was wanted"),
        ("ab", [[1], [2]], ArgumentError, "^names are 'ab'; a sequence"),
        ([1], [[1]], ArgumentError, r"^names are \[1\]; a sequence"),
        (["a", ""], [[1], [2]], ArgumentError, "column 2 has no name"),
        (["a", "a"], [[1], [2]], ArgumentError, "two columns have the name 'a'"),
        (["a", "b"], [[1]], ArgumentError, "^columns are 1; 2 were wanted"),
        (["a", "b"], {"a": [1]}, ArgumentError, "^columns have no b; a column for each"),
        (["a", "b"], [[1], [1, 2]], ShapeError, r"^column 'b' has shape \(2,\)"),
        (["a"], [[[1]]], ShapeError, r"^column 'a' has shape \(1, 1\)"),
        (["a"], [[[1], [1, 2]]], ShapeError, "^column 'a' is no array"),
        (["a"], [[1j]], DTypeError, "^column 'a' has dtype complex128; real numbers or text were wanted"),
        (["a"], [[None]], DTypeError, "^column 'a' has dtype object; real numbers or text were wanted"),
    ],
)
def test_wrong_columns_write_nothing(tmp_path, names, columns, error, message):
    with pytest.raises(error, match=message):
        write_table(tmp_path / "out.csv", names, columns)
    assert os.listdir(tmp_path) == []


def test_neither_path_nor_stream():
    with pytest.raises(ArgumentError, match=r"^path_or_stream is 5; a path or a text stream was wanted"):
        write_table(5, ["a"], [[1]])
