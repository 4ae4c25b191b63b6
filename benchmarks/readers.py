"""Measure how the time of each reader and writer grows with the number of columns and with the number of rows.

    python -m benchmarks.readers                 # measure all, and write the table into docs/data.md
    python -m benchmarks.readers --only csv --no-write

Each time is the CPU time of all threads, in seconds, in the fastest of the rounds: other programs affect this time
least. The column ``again`` is the time for the largest size divided by the time for half that size.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import deepnotes as dn
from deepnotes.datasets.encoding import Encoder
from deepnotes.datasets.tables import Table, read_table, write_table

PAGE = Path(__file__).parents[1] / "docs" / "data.md"

COLUMNS, FEW_ROWS = (12_500, 25_000, 50_000, 100_000), 20
ROWS, FEW_COLUMNS = (125_000, 250_000, 500_000, 1_000_000), 10

Case = Callable[[Path, int, int], Callable[[], object]]
"""Takes a folder and the numbers of rows and columns, prepares the data, and returns the function to measure."""


def numbers(rows: int, columns: int) -> np.ndarray:
    """Return a matrix of numbers with a few digits."""
    return np.round(np.random.default_rng(0).normal(size=(rows, columns)), 4)


def names(columns: int) -> list[str]:
    """Return a name for each column."""
    return [f"x{j}" for j in range(columns)]


def csv_file(path: Path, rows: int, columns: int, gaps: bool = False, quoted: bool = False) -> Path:
    """Write a CSV file of numbers, optionally with missing values in every row and column, or with quoted cells."""
    cells = np.random.default_rng(0).choice(numbers(1000, 1)[:, 0].astype("U8"), (rows, columns))
    if gaps:
        cells[np.arange(columns) % rows, np.arange(columns)] = "NA"
        cells[np.arange(rows), np.arange(rows) % columns] = ""
    mark = '"' if quoted else ""
    with path.open("w") as file:
        file.write(",".join(names(columns)) + "\n")
        for row in cells.tolist():
            file.write(mark + f"{mark},{mark}".join(row) + mark + "\n")
    return path


def csv_case(**options: bool) -> Case:
    """Return a case that reads a CSV file; the `options` are those of :func:`csv_file`, which writes the file."""

    def prepare(folder: Path, rows: int, columns: int) -> Callable[[], object]:
        path = csv_file(folder / "a.csv", rows, columns, **options)
        return lambda: read_table(path, missing="keep")

    return prepare


def text_case(folder: Path, rows: int, columns: int) -> Callable[[], object]:
    """Prepare a CSV file of words."""
    cells = np.array(["red", "green", "blue"])[np.random.default_rng(0).integers(0, 3, (rows, columns))]
    with (folder / "a.csv").open("w") as file:
        file.write(",".join(names(columns)) + "\n")
        file.writelines(",".join(row) + "\n" for row in cells.tolist())
    return lambda: read_table(folder / "a.csv")


def parquet_case(folder: Path, rows: int, columns: int) -> Callable[[], object]:
    """Prepare a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    X = numbers(rows, columns)
    pq.write_table(pa.table({name: X[:, j] for j, name in enumerate(names(columns))}), folder / "a.parquet")
    return lambda: read_table(folder / "a.parquet")


def parquet_on_disk_case(folder: Path, rows: int, columns: int) -> Callable[[], object]:
    """Prepare a Parquet file whose samples stay on disk."""
    parquet_case(folder, rows, columns)
    return lambda: dn.open_table(folder / "a.parquet").features()


def npz_case(folder: Path, rows: int, columns: int) -> Callable[[], object]:
    """Prepare an .npz archive with one array for each column."""
    X = numbers(rows, columns)
    arrays: dict[str, Any] = {name + "_": X[:, j] for j, name in enumerate(names(columns))}
    np.savez(folder / "a.npz", **arrays)
    return lambda: read_table(folder / "a.npz")


def npy_case(folder: Path, rows: int, columns: int) -> Callable[[], object]:
    """Prepare a matrix in a .npy file."""
    np.save(folder / "X.npy", numbers(rows, columns))
    return lambda: read_table(folder / "X.npy").features()


def idx_case(folder: Path, rows: int, columns: int) -> Callable[[], object]:
    """Prepare an IDX file of images, each with one row of pixels."""
    head = bytes([0, 0, 8, 3]) + np.array([rows, 1, columns], ">u4").tobytes()
    (folder / "a.idx").write_bytes(head + np.random.default_rng(0).integers(0, 256, rows * columns, np.uint8).tobytes())
    return lambda: read_table(folder / "a.idx")


def writing_case(folder: Path, rows: int, columns: int) -> Callable[[], object]:
    """Prepare columns to write to a CSV file."""
    table = dict(zip(names(columns), numbers(rows, columns).T, strict=True))
    return lambda: write_table(folder / "a.csv", list(table), table)


def encoder_case(folder: Path, rows: int, columns: int) -> Callable[[], object]:
    """Prepare columns of numbers and text with missing values."""
    data: dict[str, Any] = dict(zip(names(columns), numbers(rows, columns).T.copy(), strict=True))
    for j, name in enumerate(data):
        data[name][j % rows] = np.nan
        if j % 10 == 0:
            data[name] = np.array(["u", "v"])[np.arange(rows) % 2]
    table = Table(list(data), data)

    def run() -> object:
        encoder = Encoder.fit(table, categorical=names(columns)[::10], impute="mean")
        return encoder(table), Encoder.from_metadata(encoder.as_metadata()).inputs

    return run


def model_case(folder: Path, rows: int, columns: int) -> Callable[[], object]:
    """Prepare a network with named inputs, to be written to a file and read again."""
    net = dn.Network([dn.Dense(1)], inputs=columns, seed=0)
    net.metadata = {"features": names(columns)}

    def run() -> object:
        net.save(folder / "a.safetensors")
        return dn.load(folder / "a.safetensors")

    return run


CASES: dict[str, Case] = {
    "csv": csv_case(),
    "csv, a gap in each column": csv_case(gaps=True),
    "csv, all in quotes": csv_case(quoted=True),
    "csv of words": text_case,
    "parquet": parquet_case,
    "parquet on disk": parquet_on_disk_case,
    "npz": npz_case,
    "npy": npy_case,
    "IDX": idx_case,
    "write_table": writing_case,
    "encoder": encoder_case,
    "model file": model_case,
}

WITHOUT_ROWS = {"model file"}
"""Cases that do not depend on the number of rows."""


def seconds(case: Case, rows: int, columns: int, rounds: int) -> float:
    """Return the shortest CPU time of some rounds, in seconds."""
    with TemporaryDirectory() as name:
        run = case(Path(name), rows, columns)
        times = []
        for _ in range(rounds):
            began = time.process_time()
            run()
            times.append(time.process_time() - began)
    return min(times)


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Return the results, seconds by case and axis ("columns" or "rows"), as a table in Markdown."""
    lines = [
        f"| CPU seconds | {' | '.join(f'{n:,} columns' for n in COLUMNS)} | again "
        f"| {' | '.join(f'{n:,} rows' for n in ROWS)} | again |",
        "|---|" + "--:|" * (len(COLUMNS) + len(ROWS) + 2),
    ]
    for name, times in results.items():
        cells = []
        for axis in ("columns", "rows"):
            values = times[axis]
            cells += [f"{value:.2g}" if value < 10 else f"{value:.0f}" for value in values] or ["", "", "", ""]
            cells.append(f"{values[-1] / values[-2]:.1f}" if values else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure the cases, print a table, and write the table into the page unless ``--no-write`` is given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--no-write", action="store_true", help="only print the table")
    options = parser.parse_args()
    results: dict[str, dict[str, list[float]]] = {}
    for name in options.only:
        case = CASES[name]
        results[name] = {
            "columns": [seconds(case, FEW_ROWS, columns, options.rounds) for columns in COLUMNS],
            "rows": [] if name in WITHOUT_ROWS else [seconds(case, rows, FEW_COLUMNS, options.rounds) for rows in ROWS],
        }
        sys.stderr.write(f"{name}: {results[name]}\n")
    text = table(results)
    sys.stdout.write(text + "\n")
    if not options.no_write:
        page = PAGE.read_text("utf-8")
        PAGE.write_text(
            re.sub(r"(<!-- growth -->\n).*?(<!-- /growth -->)", lambda m: f"{m[1]}{text}\n{m[2]}", page, flags=re.S),
            "utf-8",
        )


if __name__ == "__main__":
    main()
