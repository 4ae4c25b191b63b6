"""Writing tables: the content of files, atomic replacement, and errors."""

import io
import os
import re
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepnotes.datasets import csv_files
from deepnotes.datasets.tables import read_table, write_table
from deepnotes.utils.errors import ArgumentError, DTypeError, ShapeError, TableError


def to_csv(names, columns):
    """Return the text that write_table writes."""
    stream = io.StringIO()
    write_table(stream, names, columns)
    return stream.getvalue()


def test_the_format_of_numbers_and_text():
    columns = [
        np.array([0.1, 1e22, -0.0]),
        np.array([0.1, 1 / 3, 16777216], np.float32),
        np.array([1, -2, 2**62]),
        np.array([True, False, True]),
        np.array(["x", " y, z", 'say "w"\n']),
    ]
    assert to_csv(["a", "b", "c", "d", "e f"], columns) == (
        "a,b,c,d,e f\n"
        "0.1,0.1,1,1,x\n"
        '1e+22,0.33333334,-2,0," y, z"\n'
        '-0.0,16777216.0,4611686018427387904,1,"say ""w""\n"\n'
    )


def test_numpy_print_options_are_ignored():
    with np.printoptions(precision=2, suppress=True):
        assert to_csv(["a"], [np.array([0.123456789], np.float32)]) == "a\n0.12345679\n"


def test_columns_may_be_a_mapping_of_lists():
    assert to_csv(["b", "a"], {"a": [1, 2], "c": [0], "b": ["x", "y"]}) == "b,a\nx,1\ny,2\n"


def test_a_table_is_read_back_unchanged(csv_file, tmp_path):
    first = read_table(csv_file('a,"b ""c"""\n0.1,"x\ry"\n1e-300,"u, v"\n'))
    write_table(tmp_path / "copy.csv", first.names, first.columns)
    copy = read_table(tmp_path / "copy.csv")
    assert copy.names == first.names
    assert all(np.array_equal(copy.column(name), first.column(name)) for name in first.names)


@pytest.mark.slow
@settings(deadline=None)
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


@settings(deadline=None)
@given(st.lists(TEXT.filter(bool), min_size=1), TEXT.filter(lambda name: name and csv_files.number_of(name) is None))
def test_text_round_trips(tmp_path_factory, values, name):
    path = tmp_path_factory.getbasetemp() / "text.csv"
    write_table(path, [name], [np.array(["text", *values])])
    table = read_table(path, text=[name])
    assert table.names == [name]
    assert table.column(name).tolist() == ["text", *values]


def test_a_file_is_replaced_and_no_temporary_file_is_left(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("old")
    write_table(str(path), ["a"], [[1]])
    assert path.read_bytes() == b"a\n1\n"
    assert os.listdir(tmp_path) == ["out.csv"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_new_file_has_default_permissions(tmp_path):
    (tmp_path / "other").touch()
    write_table(tmp_path / "out.csv", ["a"], [[1]])
    assert stat.S_IMODE((tmp_path / "out.csv").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    def raise_disk_full(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "out.csv"
    path.write_text("old")
    monkeypatch.setattr(csv_files, "write_rows", raise_disk_full)
    with pytest.raises(TableError, match=rf"^{re.escape(str(path))}: cannot be written: No space left on device$"):
        write_table(path, ["a"], [[1]])
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_an_interruption_leaves_the_old_file(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    path = tmp_path / "out.csv"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_table(path, ["a"], [[1]])
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_invalid_paths_are_refused(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "no" / "out.csv", tmp_path / "file" / "out.csv", tmp_path / "a\0b.csv"):
        with pytest.raises(TableError, match="cannot be written: "):
            write_table(path, ["a"], [[1]])
    assert os.listdir(tmp_path) == ["file"]


def test_text_that_utf_8_cannot_encode_is_refused(tmp_path):
    with pytest.raises(TableError, match=r"out\.csv: cannot be written: .*surrogates not allowed"):
        write_table(tmp_path / "out.csv", ["a"], [["\ud800"]])
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="POSIX devices and links")
def test_pipes_and_links_are_not_replaced(tmp_path):
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


def test_errors_of_a_stream_are_reported():
    class FailingStream:
        def __init__(self, error):
            self.error = error

        def write(self, text):
            raise self.error

    with pytest.raises(TableError, match=r"^the stream cannot be written to: full$"):
        write_table(FailingStream(OSError(28, "full")), ["a"], [[1]])
    with pytest.raises(BrokenPipeError):
        write_table(FailingStream(BrokenPipeError()), ["a"], [[1]])
    closed = io.StringIO()
    closed.close()
    with pytest.raises(TableError, match="closed file"):
        write_table(closed, ["a"], [[1]])


@pytest.mark.parametrize(
    ("names", "columns", "error", "message"),
    [
        ([], [], ArgumentError, r"^names=\[\], wanted a sequence of at least one column name"),
        ("ab", [[1], [2]], ArgumentError, "^names='ab', wanted a sequence"),
        ([1], [[1]], ArgumentError, r"^names=\[1\], wanted a sequence"),
        (["a", ""], [[1], [2]], ArgumentError, "column 2 has no name"),
        (["a", "a"], [[1], [2]], ArgumentError, "two columns have the name 'a'"),
        (["a", "b"], [[1]], ArgumentError, "^columns has 1 columns, wanted 2"),
        (["a", "b"], {"a": [1]}, ArgumentError, "^columns has no entry for b, wanted one column for each"),
        (["a", "b"], [[1], [1, 2]], ShapeError, r"^column 'b' has shape \(2,\)"),
        (["a"], [[[1]]], ShapeError, r"^column 'a' has shape \(1, 1\)"),
        (["a"], [[[1], [1, 2]]], ShapeError, "^column 'a' is not an array"),
        (["a"], [[1j]], DTypeError, "^column 'a': got an array of complex128, wanted real numbers or text"),
        (["a"], [[None]], DTypeError, "^column 'a': got an array of object, wanted real numbers or text"),
    ],
)
def test_invalid_columns_are_refused_and_nothing_is_written(tmp_path, names, columns, error, message):
    with pytest.raises(error, match=message):
        write_table(tmp_path / "out.csv", names, columns)
    assert os.listdir(tmp_path) == []


def test_an_object_that_is_neither_path_nor_stream_is_refused():
    with pytest.raises(ArgumentError, match=r"^path_or_stream=5, wanted a path or a text stream"):
        write_table(5, ["a"], [[1]])
