"""Compare the readers of tables with pandas, and an epoch of training from disk with one from memory.

    python -m benchmarks.reading --rows 200000

All readers read the same table: columns of numbers and a column of text. They take turns, and the median seconds of
each are printed as JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import deepnotes as dn

FEATURES = 20


def write(folder: Path, rows: int) -> None:
    """Write a table as CSV, Parquet, .npz and .npy."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, FEATURES))
    columns: dict[str, Any] = {f"x{j}": X[:, j] for j in range(FEATURES)}
    columns["kind"] = np.array(["rose", "tulip", "daisy"])[rng.integers(0, 3, rows)]
    dn.write_table(folder / "a.csv", list(columns), columns)
    pq.write_table(pa.table(columns), folder / "a.parquet")
    np.savez(folder / "a.npz", **columns)
    np.save(folder / "X.npy", X)
    np.save(folder / "y.npy", rng.integers(0, 3, rows))


def pandas_read(path: Path) -> object:
    """Read a CSV file with pandas."""
    import pandas

    return pandas.read_csv(path)


def epoch(X: Any, y: np.ndarray, standardizer: dn.Standardizer) -> None:
    """Train a new network for one epoch."""
    net = dn.Network([dn.Dense(32, "relu"), dn.Dense(3, "softmax")], FEATURES, standardizer=standardizer, seed=0)
    net.fit(X, y, epochs=1, batch_size=128)


def contenders(folder: Path) -> dict[str, Callable[[], object]]:
    """Return the function to time for each contender, by name."""
    csv, rows, y = folder / "a.csv", np.load(folder / "X.npy"), np.load(folder / "y.npy")
    on_disk, _ = dn.open_table(folder / "X.npy").features(exclude=["y"])
    standardizer = dn.Standardizer.fit(rows.T)
    return {
        "csv": lambda: dn.read_table(csv),
        "csv, pandas": lambda: pandas_read(csv),
        "parquet": lambda: dn.read_table(folder / "a.parquet"),
        "npz": lambda: dn.read_table(folder / "a.npz"),
        "an epoch from memory": lambda: epoch(rows.T, y, standardizer),
        "an epoch from disk": lambda: epoch(on_disk, y, standardizer),
    }


def main() -> None:
    """Time all contenders and print the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with TemporaryDirectory() as directory:
        folder = Path(directory)
        write(folder, options.rows)
        runs = contenders(folder)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(options.rounds + 1):  # the first turn, with imports and cold caches, does not count
            for name, run in runs.items():
                began = time.perf_counter()
                run()
                if turn:
                    times[name].append(time.perf_counter() - began)
        size = (folder / "a.csv").stat().st_size
    seconds = {name: round(median(values), 4) for name, values in times.items()}
    outcome = {"rows": options.rows, "features": FEATURES, "csv_bytes": size, "seconds": seconds}
    sys.stdout.write(json.dumps(outcome, indent=2) + "\n")


if __name__ == "__main__":
    main()
