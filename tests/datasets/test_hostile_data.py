"""Data files that mean harm: no pickle, no import, no file elsewhere, and memory in proportion to the file."""

import gzip
import io
import os
import struct
import zipfile

import numpy as np
import pytest
from fuzzing import bounded
from table_errors import error_of
from test_data_files import IMAGES, idx

from deepnotes.datasets import reading
from deepnotes.datasets.disk_tables import open_table
from deepnotes.datasets.tables import read_table
from deepnotes.utils.errors import TableError


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Return a function that writes a file, of which little may be unpacked."""
    monkeypatch.setattr(reading, "FREE", 1 << 20)

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def npy(header, data=b"", version=b"\1\0"):
    """Return an array file of this header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\1\0" else "<I", len(text)) + text + data


def claims(shape, descr="'<f8'"):
    """Return the header of an array that says so of itself."""
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


def archive(members, method=zipfile.ZIP_DEFLATED):
    """Return an archive of members by name."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return stream.getvalue()


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [
        "(4611686018427387904, 1)",
        "(1099511627776, 1099511627776)",
        "(1" + "0" * 400 + ", 1)",
        "(2305843009213693952, 8)",
    ],
)
def test_sizes_of_2_to_the_62(file, shape):
    whole = npy(claims(shape), bytes(64))
    for path in (file("a.npy", whole), file("a.npz", archive({"X.npy": whole}))):
        for read in (read_table, open_table):
            with bounded(path.stat().st_size), pytest.raises(TableError):
                read(path)


@pytest.mark.parametrize("shape", ["(-1, 4)", "(True, 2)", "(1.0, 2)", "((4,), 1)", "[2, 2]", "(2, 2", "(" * 5000])
def test_shapes_that_are_none(file, shape):
    assert "cannot be read" in error_of(file("a.npy", npy(claims(shape), bytes(64))))


@pytest.mark.parametrize(
    "descr",
    ["'|O'", "'<c16'", "'|V8'", "'<M8[s]'", "[('a', '|O')]", "('<f8', (1000000, 1000000))", "'<U0'", "'os.system'",
     "__import__('os').system('touch here')", "'<U2000000000'", "'|S4'", "{'names': ['a'], 'formats': ['O']}"],
)  # fmt: skip
def test_dtypes_that_no_table_has(file, tmp_path, monkeypatch, descr):
    monkeypatch.chdir(tmp_path)
    whole = npy(claims("(2, 2)", descr), bytes(64))
    for path in (file("a.npy", whole), file("a.npz", archive({"X.npy": whole}))):
        with bounded(path.stat().st_size), pytest.raises(TableError):
            read_table(path)
    assert sorted(os.listdir()) == ["a.npy", "a.npz"]


def test_idx_of_more_than_there_is(file):
    head = bytes([0, 0, 8, 3]) + struct.pack(">3I", *[2**32 - 1] * 3)
    for content in (head, gzip.compress(head + bytes(100))):
        path = file("a.idx", content)
        with bounded(len(content)):
            assert "too many for a file of" in error_of(path)
    head = bytes([0, 0, 8, 2]) + struct.pack(">2I", 1000, 100)
    assert "but it has 50" in error_of(file("a.idx", head + bytes(50)))


def test_a_header_of_hundreds_of_megabytes(file):
    """Found by fuzzing: NumPy takes memory for the whole header before it looks at how long it may be."""
    whole = b"\x93NUMPY\2\0v\0{'" + claims("(4, 2)").encode()[2:] + bytes(64)
    for path in (file("a.npy", whole), file("a.npz", archive({"X.npy": whole}))):
        with bounded(len(whole)):
            assert "its header claims 662,372,470 bytes" in error_of(path)


# --- bombs ------------------------------------------------------------------------------------------------------------


def test_a_bomb_in_an_archive(file):
    stream = io.BytesIO()
    np.save(stream, np.zeros((1_000_000, 4)))
    path = file("a.npz", archive({"X.npy": stream.getvalue()}))
    with bounded(path.stat().st_size):
        assert "too many for a file of" in error_of(path)
    assert "save it with numpy.savez, without compression" in error_of(path)


def test_many_small_bombs_in_an_archive(file):
    """Each fits, and all of them do not: overlapping members are as many more."""
    stream = io.BytesIO()
    np.save(stream, np.zeros(100_000))
    path = file("a.npz", archive({f"a{i}.npy": stream.getvalue() for i in range(20)}))
    with bounded(path.stat().st_size):
        assert "too many for a file of" in error_of(path)


def test_members_that_lie_over_each_other(file):
    content = archive({"a.npy": npy(claims("(2,)"), bytes(16)), "b.npy": npy(claims("(2,)"), bytes(16))})
    at = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    overlapping = bytearray(content)
    overlapping[at + 42 : at + 46] = bytes(4)  # the second entry points to where the first one does
    assert "cannot be read" in error_of(file("a.npz", bytes(overlapping)))
    overlapping[at + 42 : at + 46] = struct.pack("<I", 2**32 - 2)
    assert "data.npz" in error_of(file("data.npz", bytes(overlapping)))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_to_any_size_at_once(file, method):
    path = file("a.npz", archive({"X.npy": npy(claims("(10000000, 4)"), bytes(10**7))}, method))
    with bounded(path.stat().st_size):
        assert "is compressed by a method that NumPy does not use" in error_of(path)


def test_a_bomb_of_gzip(file):
    for name, content in {
        "said": bytes([0, 0, 8, 2]) + struct.pack(">2I", 25_000_000, 4) + bytes(10**8),
        "hidden": idx(IMAGES) + bytes(10**8),
    }.items():
        path = file(f"{name}.idx", gzip.compress(content, 9))
        with bounded(path.stat().st_size):
            assert ("too many" if name == "said" else "but it has more") in error_of(path)


def test_one_long_cell_among_many_short_ones(file):
    """Text takes the width of its longest value in each row: 100 kB of it and many rows would fill the memory."""
    path = file("a.csv", ("a,b\n" + "x" * 100_000 + ",1\n" + "y,2\n" * 100_000).encode())
    with bounded(path.stat().st_size):
        assert "too many for a file of" in error_of(path)
    assert read_table(path, exclude=["a"]).n_rows == 100_001


def test_a_cell_of_more_digits_than_any_number_has(file):
    assert "is not CSV: field larger than field limit" in error_of(file("a.csv", b"a,b\n" + b"0" * 140_000 + b",1\n"))


@pytest.mark.parametrize("cell", ["=cmd|' /C calc'!A0", "@SUM(A1)", "+1+1", "-2+3"])
def test_formulas_are_text(file, cell):
    assert read_table(file("a.csv", f'a,b\n"{cell}",1\n'.encode())).column("a").tolist() == [cell]


# --- texts and names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [0x110000, 0xFFFFFFFF, 0xD800])
def test_numbers_that_are_no_characters(file, point):
    text = npy(claims("(1,)", "'<U1'"), struct.pack("<I", point))
    assert error_of(file("a.npz", archive({"a.npy": text}))) == (
        "a.npz: array 'a' is not valid text: it has numbers that are not characters"
    )


def test_names_that_are_paths_lead_nowhere(file, tmp_path, monkeypatch):
    (tmp_path / "within").mkdir()
    monkeypatch.chdir(tmp_path / "within")
    names = ["../out.npy", "/etc/passwd.npy", "..\\x.npy", "a\x1b[2Jb.npy"]
    path = file("a.npz", archive(dict.fromkeys(names, npy(claims("(2,)"), bytes(16)))))
    assert read_table(path).n_rows == 2
    assert sorted(os.listdir(tmp_path)) == ["a.npz", "within"]
    assert os.listdir() == []


def test_an_array_that_is_there_twice(file):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr("X.npy", npy(claims("(1, 1)"), bytes(8)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            made.writestr("X.npy", npy(claims("(1, 1)"), bytes(8)))
    assert error_of(file("a.npz", stream.getvalue())) == "a.npz: the archive has two arrays of the name 'X'"


# --- every byte -------------------------------------------------------------------------------------------------------

WHOLE = {
    "a.npy": npy(claims("(3, 2)"), np.arange(6.0).tobytes()),
    "a.idx": idx(IMAGES),
    "b.idx": gzip.compress(idx(IMAGES)),
    "a.csv": 'a,b\n1,"x ""y"" é"\n2.5,z\n'.encode(),
    "a.npz": archive({"X.npy": npy(claims("(3, 2)"), np.arange(6.0).tobytes())}),
}


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", WHOLE)
def test_every_byte_cut_and_turned(file, name):
    whole = WHOLE[name]
    rng = np.random.default_rng(0)
    outcomes = set()
    for at in range(len(whole)):
        turned = bytearray(whole)
        turned[at] ^= int(rng.integers(1, 256))
        for content in (whole[:at], bytes(turned)):
            path = file(name, content)
            try:
                table = read_table(path)
            except TableError:
                outcomes.add("refused")
            else:
                assert table.n_rows >= 1
                outcomes.add("read")
    assert "refused" in outcomes


def test_every_byte_of_a_parquet_file(file):
    pa = pytest.importorskip("pyarrow", reason='the extra "data" (pyarrow) is not installed')
    pq = pytest.importorskip("pyarrow.parquet", reason='the extra "data" (pyarrow) is not installed')
    stream = io.BytesIO()
    pq.write_table(pa.table({"a": [1.0, 2.0], "s": ["x", "y"]}), stream)
    whole, refused = stream.getvalue(), 0
    for at in range(0, len(whole), 3):
        for content in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]):
            try:
                read_table(file("a.parquet", content))
            except TableError:
                refused += 1
    assert refused > len(whole) / 3
