"""Read columns of Arrow IPC files, such as Feather files, with pyarrow."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepnotes.datasets.parquet_files import read_columns, require_pyarrow
from deepnotes.datasets.reading import EVERYTHING, Content, Request
from deepnotes.utils.errors import TableError
from deepnotes.utils.wording import brief, reason

SUFFIXES = (".feather", ".arrow")
"""The suffixes of Arrow IPC files."""

FEATHER_1, ARROW_FILE = b"FEA1", b"ARROW1"
"""The first bytes of a file in version 1 of Feather, another format, and of an Arrow file; a stream has none."""


class ArrowFile:
    """An Arrow file or stream, with the methods of a pyarrow.parquet.ParquetFile that the reader of columns needs.

    Parameters
    ----------
    batches : list of pyarrow.RecordBatch
    schema : pyarrow.Schema
    """

    def __init__(self, batches: list[Any], schema: Any) -> None:
        self._batches, self.schema_arrow = batches, schema
        self.n_rows = sum(map(len, batches))

    def iter_batches(self, rows: int, columns: list[str], use_threads: bool = False) -> Iterator[Any]:
        """Yield some of the columns, at most `rows` rows at a time."""
        for batch in self._batches:
            chosen = batch.select(columns)
            for start in range(0, len(batch), rows):
                yield chosen.slice(start, rows)

    def read(self, columns: list[str]) -> Any:
        """Return some of the columns as an Arrow table."""
        import pyarrow as pa

        return pa.Table.from_batches(self._batches, self.schema_arrow).select(columns)


def read(path: Path, source: str, request: Request = EVERYTHING) -> Content:
    """Read the requested columns of a file.

    Raises
    ------
    TableError
    """
    with _open(path, source) as file:
        return read_columns(file, source, request, file.n_rows, path.stat().st_size)


@contextmanager
def _open(path: Path, source: str) -> Iterator[ArrowFile]:
    """Open a file, and convert pyarrow's errors in the block to TableError.

    Raises
    ------
    TableError
        If the file is not an Arrow file, or pyarrow is not installed.
    """
    require_pyarrow(source, path.suffix)
    import pyarrow as pa

    with path.open("rb") as file:
        start = file.read(len(ARROW_FILE))
    if start.startswith(FEATHER_1):
        raise TableError(f"{source}: it is in version 1 of Feather, which is not supported; write it in version 2")
    try:
        with pa.memory_map(str(path)) as mapped:
            reader = pa.ipc.open_file(mapped) if start == ARROW_FILE else pa.ipc.open_stream(mapped)
            if start == ARROW_FILE:
                batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            else:
                batches = list(reader)
            for batch in batches:
                batch.validate(full=True)  # offsets and lengths in a file may point beyond its end
            yield ArrowFile(batches, reader.schema)
    except MemoryError:  # Arrow's own MemoryError is an ArrowException as well
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError, IndexError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"{source}: the Arrow file cannot be read: {brief(reason(error))}") from error
