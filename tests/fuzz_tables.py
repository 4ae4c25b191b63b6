"""Fuzzing targets: data files, read into memory or from disk, and model files that encode columns."""

import gzip
import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hostile
import numpy as np
from fuzzing import NUMBERS, altered, damaged, target
from hypothesis import strategies as st

from deepnotes.backends.registry import get_backend
from deepnotes.cli.models import Model
from deepnotes.datasets import reading
from deepnotes.datasets.disk_tables import open_table
from deepnotes.datasets.tables import Table, read_table
from deepnotes.utils.errors import TableError

compress = partial(gzip.compress, mtime=0)  # without a timestamp, to get the same bytes in every run

FREE = 1 << 20
"""The value that replaces reading.FREE (a gigabyte), so that unpacked small files stay within the fuzzer's limits."""


@contextmanager
def low_memory_limit() -> Iterator[None]:
    """Lower the limit on the unpacked size of files."""
    before = reading.FREE
    reading.FREE = FREE
    try:
        yield
    finally:
        reading.FREE = before


def check(table: Table) -> None:
    """Check that columns have equal lengths, numbers are finite or missing, and error messages have one line."""
    for name, column in table.columns.items():
        assert column.shape == (table.n_rows,)
        if column.dtype.kind == "f":
            assert not np.isinf(column).any()
        else:
            column[:5].tolist()
        gap = table.gaps.get(name)
        assert (gap.count if gap else 0) == int(reading.missing_in(column).sum())
        if gap:
            assert "\n" not in gap.message("a path", name)
    for names in (table.names[:2], [name for name in table.names if table.columns[name].dtype.kind == "f"][:50]):
        message = ""
        try:
            table.require_complete(names)
            table.features(names=names)
        except TableError as error:
            message = str(error)
        assert "\n" not in message


# --- CSV --------------------------------------------------------------------------------------------------------------

CSV = b'a,"b, c",kind\n1,2.5,rose\n-3e5,NA,"red ""tulip"""\n.5,7,\n,1,"a\nb"\n'
CELLS = [
    "", " ", "1", "-1.5", "nan", "NA", "inf", "1e999", "1_0", "=1+2", "@SUM(A1)", "+x", "-", "\0", "\x1b[2J", '"', '""',
    '"x', 'x"', "'", "\\", ",", "\r", "\n", "\r\n", "\ufeff", "\u2028", "\x85", "é", "１", "\ud800", "x" * 300,
    "9" * 400,
]  # fmt: skip


@st.composite
def tables_of_cells(draw: st.DrawFn) -> bytes:
    """Return a CSV file with unusual and malicious cells, which may be invalid."""
    rows = draw(st.lists(st.lists(st.sampled_from(CELLS) | st.text(max_size=5), max_size=4), max_size=5))
    text = draw(st.sampled_from(["", "a,b\n", "\ufeffa,b\n", "a\n"])) + "\n".join(",".join(row) for row in rows)
    return text.encode("utf-8", "surrogatepass")


def csv_files() -> st.SearchStrategy[bytes]:
    """Return a strategy of valid, damaged and malicious CSV files, plain and compressed."""
    compressed = tables_of_cells().map(compress) | damaged(compress(CSV))
    return st.one_of(st.just(CSV), damaged(CSV), tables_of_cells(), compressed, st.binary(max_size=100))


if find_spec("pyarrow"):
    import pyarrow as pa
    import pyarrow.parquet as pq

    @target("csv", csv_files(), ".csv")
    def read_csv(path: Path) -> None:
        """Read a table."""
        with low_memory_limit():
            check(read_table(path, missing="keep"))

    @target("csv with options", csv_files(), ".csv")
    def read_csv_with_options(path: Path) -> None:
        """Read a table with several sets of options; the file counts as refused if it is refused with all of them."""
        option_sets: list[dict[str, Any]] = [
            {"separator": "whitespace", "header": False},
            {"separator": ";", "decimal": ",", "thousands": ".", "strip": "$%"},
            {"comment": "#", "encoding": "latin-1", "missing_values": ["1"]},
            {"encoding": "utf-16"},
            {"skip_rows": 2},
        ]
        refused: list[TableError] = []
        for options in option_sets:
            with low_memory_limit():
                try:
                    check(read_table(path, missing="keep", **options))
                except TableError as error:
                    refused.append(error)
        if len(refused) == len(option_sets):
            raise refused[-1]

    def parquet() -> bytes:
        """Return a Parquet file with two row groups."""
        columns = {"a": [1.5, 2.5, None, 4.0] * 9, "s": ["x", "y", None, "x"] * 9, "i": list(range(36))}
        stream = io.BytesIO()
        pq.write_table(pa.table(columns), stream, row_group_size=20)
        return stream.getvalue()

    PARQUET = parquet()
    FOOTER = int.from_bytes(PARQUET[-8:-4], "little")

    @st.composite
    def parquet_files(draw: st.DrawFn) -> bytes:
        """Return a Parquet file whose footer, which describes the file, is damaged but has the declared length."""
        body, footer = PARQUET[: -8 - FOOTER], draw(damaged(PARQUET[-8 - FOOTER : -8]))
        return body + footer + struct.pack("<I", len(footer)) + b"PAR1"

    @target("parquet", st.one_of(st.just(PARQUET), damaged(PARQUET), parquet_files()), ".parquet")
    def read_parquet(path: Path) -> None:
        """Read a table into memory, and open it from disk."""
        with low_memory_limit():
            table = read_table(path, missing="keep")
            check(table)
            disk_table = open_table(path)
            assert disk_table.n_rows == table.n_rows

    def arrow() -> bytes:
        """Return an Arrow file with two batches."""
        table = pa.table({"a": [1.5, 2.5, None, 4.0] * 9, "s": ["x", "y", None, "x"] * 9, "i": list(range(36))})
        stream = io.BytesIO()
        with pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table, max_chunksize=20)
        return stream.getvalue()

    @target("arrow", st.one_of(st.just(arrow()), damaged(arrow())), ".feather")
    def read_arrow(path: Path) -> None:
        """Read a table."""
        with low_memory_limit():
            check(read_table(path, missing="keep"))

    JSON = b'{"a": 1, "s": "x"}\n{"a": null, "s": "y", "b": true}\n{"a": -2.5e3, "s": "\\u00e9"}\n'
    VALUES = [
        "1",
        "null",
        "NaN",
        "-Infinity",
        '"x"',
        '"\\ud800"',
        '"\\u0000"',
        "[]",
        "{}",
        "true",
        "1e999",
        "9" * 400,
        "",
    ]

    @st.composite
    def json_lines(draw: st.DrawFn) -> bytes:
        """Return JSON Lines with unusual and malicious values, which may be invalid."""
        row = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(VALUES)), max_size=3)
        rows = draw(st.lists(row, max_size=5))
        return "\n".join("{" + ", ".join(f'"{key}": {value}' for key, value in pairs) + "}" for pairs in rows).encode()

    @target("json lines", st.one_of(st.just(JSON), damaged(JSON), json_lines(), st.binary(max_size=100)), ".jsonl")
    def read_json_lines(path: Path) -> None:
        """Read a table."""
        with low_memory_limit():
            check(read_table(path, missing="keep"))


# --- NumPy files ------------------------------------------------------------------------------------------------------


def npy(array: np.ndarray) -> bytes:
    """Return the content of an .npy file with this array."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(arrays: dict[str, np.ndarray], compressed: bool = False) -> bytes:
    """Return the content of an .npz file with these arrays."""
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


SHAPES = ["()", "(0,)", "(4,)", "(2, 2)", "(4611686018427387904,)", "(-1, 4)", "(True, 2)", "(1.0,)", "((4,), 1)",
          "(1099511627776, 1099511627776)", "(2,) * 99", "(4,", "(" * 400, "[2, 2]", "1" + "0" * 400]  # fmt: skip
DESCRS = ["'<f8'", "'<f4'", "'>i8'", "'|b1'", "'|O'", "'<U3'", "'<U0'", "'|V8'", "'|S4'", "'<c16'", "'<M8[s]'",
          "[('a', '<f8')]", "[('a', '|O')]", "('<f8', (1000000, 1000000))", "'<U2000000000'", "'os.system'", "None",
          "'f8,' * 9", "{'names': ['a'], 'formats': ['O']}", "'<f16'"]  # fmt: skip


@st.composite
def npy_headers(draw: st.DrawFn) -> bytes:
    """Return an .npy file with a wrong header."""
    descr, shape = draw(st.sampled_from(DESCRS)), draw(st.sampled_from(SHAPES))
    order = draw(st.sampled_from(["False", "True", "2", "'x'"]))
    extra_entry = draw(st.sampled_from(["", "", "'x': 1, ", "__import__('os'), "]))
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, {extra_entry}}}\n".encode()
    version = draw(st.sampled_from([b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\0\0", b"\xff\xff"]))
    length = draw(st.just(len(text)) | st.sampled_from([n for n in NUMBERS if 0 <= n < 1 << 16]))
    size = struct.pack("<H" if version == b"\1\0" else "<I", length)
    return b"\x93NUMPY" + version + size + text + draw(st.binary(max_size=64))


MATRIX = npy(np.arange(8.0).reshape(4, 2))


@target("npy", st.one_of(st.just(MATRIX), damaged(MATRIX), npy_headers()), ".npy")
def read_npy(path: Path) -> None:
    """Open a matrix from disk, and read it into memory."""
    with low_memory_limit():
        table = open_table(path)
        assert table.features()[0].shape == (len(table.names), table.n_rows)
        check(read_table(path, missing="keep"))


BIG = npy(np.zeros((50_000, 4), np.uint8))
"""An .npy file that compresses to about 200 bytes, although its values take 1.6 MB as float64."""

ARRAYS = {"X": np.arange(8.0).reshape(4, 2), "y": np.array([0, 1, 0, 1])}
VALID_ARCHIVES = [npz(ARRAYS), npz(ARRAYS, True), npz({"a": np.arange(3), "b": np.array(["x", "y", "zz"])})]


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Return an .npz archive with names and contents that NumPy would not write."""
    stream = io.BytesIO()
    names = st.sampled_from(
        ["X.npy", "y.npy", "x.npy", "a.npy", "../../x.npy", "/etc/passwd", "", "a\0b.npy", "X", "é.npy"]
    )
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name in draw(st.lists(names, max_size=3, unique=True)):
            content = draw(st.one_of(st.just(MATRIX), npy_headers(), damaged(MATRIX), st.just(b"big")))
            content = BIG if content == b"big" else content
            archive.writestr(zipfile.ZipInfo(name or "_"), content, method)
    return stream.getvalue()


def archive_files() -> st.SearchStrategy[bytes]:
    """Return a strategy of valid, damaged and malicious archives."""
    valid = st.sampled_from(VALID_ARCHIVES)
    return st.one_of(valid, valid.flatmap(damaged), archives(), archives().flatmap(damaged))


@target("npz", archive_files(), ".npz")
def read_npz(path: Path) -> None:
    """Read a table."""
    with low_memory_limit():
        check(read_table(path, missing="keep"))


@target("npz on disk", archive_files(), ".npz")
def open_npz(path: Path) -> None:
    """Open a table whose samples stay on disk."""
    with low_memory_limit():
        table = open_table(path)
        X, _ = table.features(exclude=[name for name in table.names if name.startswith("y")])
        assert X.rows.nbytes <= path.stat().st_size
        for block in X.blocks():
            assert block.shape[0] == X.shape[0]


# --- IDX --------------------------------------------------------------------------------------------------------------

IMAGES = bytes([0, 0, 8, 3]) + struct.pack(">3I", 3, 2, 2) + bytes(range(12))


@st.composite
def idx_files(draw: st.DrawFn) -> bytes:
    """Return an IDX file with a wrong header."""
    magic = bytes([draw(st.sampled_from([0, 0, 0, 1])), 0, draw(st.sampled_from([8, 9, 11, 13, 14, 7, 255]))])
    dimensions = draw(st.integers(0, 5))
    sizes = [draw(st.sampled_from([0, 1, 2, 3, 255, 65536, 2**31, 2**32 - 1])) for _ in range(dimensions)]
    return magic + bytes([dimensions]) + struct.pack(f">{dimensions}I", *sizes) + draw(st.binary(max_size=64))


def bomb(zeros: int) -> bytes:
    """Return a compressed IDX file with this number of zeros."""
    return compress(bytes([0, 0, 8, 2]) + struct.pack(">2I", zeros // 4, 4) + bytes(zeros))


BOMBS = [bomb(400_000), compress(bytes([0, 0, 8, 2]) + struct.pack(">2I", 2**31, 2**31) + bytes(10**5))]


def all_idx_files() -> st.SearchStrategy[bytes]:
    """Return a strategy of valid, damaged and malicious IDX files, plain and compressed."""
    plain = st.one_of(st.just(IMAGES), damaged(IMAGES), idx_files())
    compressed = plain.map(compress)
    return st.one_of(plain, compressed, compressed.flatmap(damaged), st.integers(0, 1).map(BOMBS.__getitem__))


@target("idx", all_idx_files(), ".idx")
def read_idx(path: Path) -> None:
    """Read a table into memory, and open it from disk if it is not compressed."""
    with low_memory_limit():
        table = read_table(path, missing="keep")
        check(table)
        if path.read_bytes()[:2] == b"\0\0" and table.names != ["label"]:
            assert open_table(path).names == table.names


# --- models that encode columns --------------------------------------------------------------------------------------


def with_columns() -> dict[str, Any]:
    """Return the header of a model file whose three inputs are computed from two columns."""
    header = hostile.header_of(model_file())
    columns = [{"name": "size", "fill": 1.5}, {"name": "kind", "categories": ["a", "b"], "fill": "a"}]
    header["metadata"] |= {"features": ["size", "kind=a", "kind=b"], "columns": columns}
    return header


def model_file() -> bytes:
    """Return a valid model file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        hostile.network().save(path)
        return path.read_bytes()


HEADER, TENSORS = with_columns(), hostile.tensors(model_file())


@st.composite
def models(draw: st.DrawFn) -> bytes:
    """Return a model file whose metadata about columns is invalid, but whose digests are correct."""
    metadata = draw(st.just(HEADER["metadata"]) | altered(HEADER["metadata"]) | altered(HEADER["metadata"]["columns"]))
    if isinstance(metadata, list):
        metadata = HEADER["metadata"] | {"columns": metadata}
    return hostile.sealed(HEADER | {"metadata": metadata}, TENSORS)


@target("model with columns", models(), ".safetensors")
def load_model(path: Path) -> None:
    """Load a model, and make predictions for a table with the columns that it expects."""
    model = Model.load(str(path), get_backend("numpy"))
    json.dumps(model.encoder.as_metadata())
    text = model.encoder.text
    columns = {name: np.array(["a", ""]) if name in text else np.array([1.0, np.nan]) for name in model.encoder.names}
    X = model.inputs(Table(list(columns), columns), "zeros")
    assert model.network.predict(X).shape == (2, 2)
