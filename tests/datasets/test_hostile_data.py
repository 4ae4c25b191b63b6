"""Malicious data files: nothing is unpickled, imported or written, and the file size limits memory use."""

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
    """Lower the limit on the unpacked size of files, and return a function that writes a file."""
    monkeypatch.setattr(reading, "FREE", 1 << 20)

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def npy(header, data=b"", version=b"\1\0"):
    """Return the content of an .npy file with this header and data."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\1\0" else "<I", len(text)) + text + data


def header_of(shape, descr="'<f8'"):
    """Return the header of an .npy file that declares this shape and dtype."""
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


def archive(members, method=zipfile.ZIP_DEFLATED):
    """Return the content of a zip archive; `members` maps file names to contents."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as zip_file:
        for name, content in members.items():
            zip_file.writestr(name, content)
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
def test_headers_that_declare_impossibly_large_arrays_are_refused(file, shape):
    content = npy(header_of(shape), bytes(64))
    for path in (file("a.npy", content), file("a.npz", archive({"X.npy": content}))):
        for read in (read_table, open_table):
            with bounded(path.stat().st_size), pytest.raises(TableError):
                read(path)


@pytest.mark.parametrize("shape", ["(-1, 4)", "(True, 2)", "(1.0, 2)", "((4,), 1)", "[2, 2]", "(2, 2", "(" * 5000])
def test_invalid_shapes_are_refused(file, shape):
    assert "cannot be read" in error_of(file("a.npy", npy(header_of(shape), bytes(64))))


@pytest.mark.parametrize(
    "descr",
    ["'|O'", "'<c16'", "'|V8'", "'<M8[s]'", "[('a', '|O')]", "('<f8', (1000000, 1000000))", "'<U0'", "'os.system'",
     "__import__('os').system('touch here')", "'<U2000000000'", "'|S4'", "{'names': ['a'], 'formats': ['O']}"],
)  # fmt: skip
def test_dtypes_other_than_numbers_and_text_are_refused(file, tmp_path, monkeypatch, descr):
    monkeypatch.chdir(tmp_path)
    content = npy(header_of("(2, 2)", descr), bytes(64))
    for path in (file("a.npy", content), file("a.npz", archive({"X.npy": content}))):
        with bounded(path.stat().st_size), pytest.raises(TableError):
            read_table(path)
    assert sorted(os.listdir()) == ["a.npy", "a.npz"]


def test_idx_headers_that_declare_too_many_values_are_refused(file):
    head = bytes([0, 0, 8, 3]) + struct.pack(">3I", *[2**32 - 1] * 3)
    for content in (head, gzip.compress(head + bytes(100))):
        path = file("a.idx", content)
        with bounded(len(content)):
            assert "too many for a file of" in error_of(path)
    head = bytes([0, 0, 8, 2]) + struct.pack(">2I", 1000, 100)
    assert "but 50 bytes follow" in error_of(file("a.idx", head + bytes(50)))


def test_a_header_that_claims_hundreds_of_megabytes_is_refused(file):
    """Found by fuzzing: NumPy allocates memory for the declared length of the header before it checks the length."""
    content = b"\x93NUMPY\2\0v\0{'" + header_of("(4, 2)").encode()[2:] + bytes(64)
    for path in (file("a.npy", content), file("a.npz", archive({"X.npy": content}))):
        with bounded(len(content)):
            assert "its header claims 662,372,470 bytes" in error_of(path)


# --- decompression bombs ----------------------------------------------------------------------------------------------


def test_an_array_that_unpacks_to_a_large_size_is_refused(file):
    stream = io.BytesIO()
    np.save(stream, np.zeros((1_000_000, 4)))
    path = file("a.npz", archive({"X.npy": stream.getvalue()}))
    with bounded(path.stat().st_size):
        assert "too many for a file of" in error_of(path)
    assert "save it with numpy.savez, without compression" in error_of(path)


def test_arrays_that_together_unpack_to_a_large_size_are_refused(file):
    """Each array is within the limit, but all of them together are not."""
    stream = io.BytesIO()
    np.save(stream, np.zeros(100_000))
    path = file("a.npz", archive({f"a{i}.npy": stream.getvalue() for i in range(20)}))
    with bounded(path.stat().st_size):
        assert "too many for a file of" in error_of(path)


def test_overlapping_members_of_an_archive_are_refused(file):
    content = archive({"a.npy": npy(header_of("(2,)"), bytes(16)), "b.npy": npy(header_of("(2,)"), bytes(16))})
    position = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    overlapping = bytearray(content)
    overlapping[position + 42 : position + 46] = bytes(4)  # the second entry now points to the first member
    assert "cannot be read" in error_of(file("a.npz", bytes(overlapping)))
    overlapping[position + 42 : position + 46] = struct.pack("<I", 2**32 - 2)
    assert "data.npz" in error_of(file("data.npz", bytes(overlapping)))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_methods_that_numpy_does_not_use_are_refused(file, method):
    path = file("a.npz", archive({"X.npy": npy(header_of("(10000000, 4)"), bytes(10**7))}, method))
    with bounded(path.stat().st_size):
        assert "is compressed by a method that NumPy does not use" in error_of(path)


def test_a_gzip_bomb_is_refused(file):
    for name, content in {
        "declared": bytes([0, 0, 8, 2]) + struct.pack(">2I", 25_000_000, 4) + bytes(10**8),
        "hidden": idx(IMAGES) + bytes(10**8),
    }.items():
        path = file(f"{name}.idx", gzip.compress(content, 9))
        with bounded(path.stat().st_size):
            assert ("too many" if name == "declared" else "but more bytes follow") in error_of(path)


def test_a_long_cell_among_many_short_ones_is_refused(file):
    """In a string array, every element takes the memory of the longest one, so one long cell could exhaust memory."""
    path = file("a.csv", ("a,b\n" + "x" * 100_000 + ",1\n" + "y,2\n" * 100_000).encode())
    with bounded(path.stat().st_size):
        assert "too many for a file of" in error_of(path)
    assert read_table(path, exclude=["a"]).n_rows == 100_001


def test_a_cell_of_more_than_131_072_characters_is_refused(file):
    assert "is not CSV: field larger than field limit" in error_of(file("a.csv", b"a,b\n" + b"0" * 140_000 + b",1\n"))


@pytest.mark.parametrize("cell", ["=cmd|' /C calc'!A0", "@SUM(A1)", "+1+1", "-2+3"])
def test_spreadsheet_formulas_are_read_as_text(file, cell):
    assert read_table(file("a.csv", f'a,b\n"{cell}",1\n'.encode())).column("a").tolist() == [cell]


# --- text and names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code_point", [0x110000, 0xFFFFFFFF, 0xD800])
def test_text_with_invalid_code_points_is_refused(file, code_point):
    text = npy(header_of("(1,)", "'<U1'"), struct.pack("<I", code_point))
    assert error_of(file("a.npz", archive({"a.npy": text}))) == (
        "a.npz: array 'a' is not valid text: it contains invalid code points"
    )


def test_member_names_are_never_used_as_paths(file, tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    names = ["../out.npy", "/etc/passwd.npy", "..\\x.npy", "a\x1b[2Jb.npy"]
    path = file("a.npz", archive(dict.fromkeys(names, npy(header_of("(2,)"), bytes(16)))))
    assert read_table(path).n_rows == 2
    assert sorted(os.listdir(tmp_path)) == ["a.npz", "inner"]
    assert os.listdir() == []


def test_two_arrays_with_the_same_name_are_refused(file):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as zip_file:
        zip_file.writestr("X.npy", npy(header_of("(1, 1)"), bytes(8)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            zip_file.writestr("X.npy", npy(header_of("(1, 1)"), bytes(8)))
    assert error_of(file("a.npz", stream.getvalue())) == "a.npz: the archive has two arrays with the name 'X'"


# --- damage at every byte ---------------------------------------------------------------------------------------------

VALID = {
    "a.npy": npy(header_of("(3, 2)"), np.arange(6.0).tobytes()),
    "a.idx": idx(IMAGES),
    "b.idx": gzip.compress(idx(IMAGES)),
    "a.csv": 'a,b\n1,"x ""y"" é"\n2.5,z\n'.encode(),
    "a.npz": archive({"X.npy": npy(header_of("(3, 2)"), np.arange(6.0).tobytes())}),
}


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", VALID)
def test_files_cut_or_altered_at_any_byte_are_read_or_refused(file, name):
    valid = VALID[name]
    rng = np.random.default_rng(0)
    outcomes = set()
    for position in range(len(valid)):
        altered = bytearray(valid)
        altered[position] ^= int(rng.integers(1, 256))
        for content in (valid[:position], bytes(altered)):
            path = file(name, content)
            try:
                table = read_table(path)
            except TableError:
                outcomes.add("refused")
            else:
                assert table.n_rows >= 1
                outcomes.add("read")
    assert "refused" in outcomes


def test_parquet_files_cut_or_altered_at_a_byte_are_read_or_refused(file):
    pa = pytest.importorskip("pyarrow", reason='the extra "data" (pyarrow) is not installed')
    pq = pytest.importorskip("pyarrow.parquet", reason='the extra "data" (pyarrow) is not installed')
    stream = io.BytesIO()
    pq.write_table(pa.table({"a": [1.0, 2.0], "s": ["x", "y"]}), stream)
    valid, refused = stream.getvalue(), 0
    for position in range(0, len(valid), 3):
        for content in (valid[:position], valid[:position] + bytes([valid[position] ^ 0x55]) + valid[position + 1 :]):
            try:
                read_table(file("a.parquet", content))
            except TableError:
                refused += 1
    assert refused > len(valid) / 3
