"""Twice the columns or rows take each reader and writer at most 2.5 times as long."""

import gc
import math

import pytest

pytest.importorskip("pyarrow", reason='the extra "data" (pyarrow) is not installed')

from benchmarks import readers

resource = pytest.importorskip("resource", reason="of POSIX alone")

COLUMNS, ROWS = 2_000, 20_000
LEAST = 0.03
"""Seconds that the smaller size must take, or it is made larger: shorter times are noise."""


def spent():
    """Return the CPU time of this process, in seconds."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def work(case, folder, rows, columns):
    """Return the CPU time of a call, the best of two, without that of the kernel: others on the machine add little."""
    folder.mkdir()
    run = case(folder, rows, columns)
    times = []
    for _ in range(2):
        gc.collect()
        began = spent()
        run()
        times.append(spent() - began)
    return min(times)


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["columns", "rows"])
@pytest.mark.parametrize("name", readers.CASES)
def test_twice_as_much_takes_at_most_two_and_a_half_times_as_long(tmp_path, name, axis):
    if axis == "rows" and name in readers.WITHOUT_ROWS:
        pytest.skip("a model file has no rows")
    case = readers.CASES[name]
    rows, columns = (10, COLUMNS) if axis == "columns" else (ROWS, 4)
    folders = (tmp_path / str(i) for i in range(99))

    def measured(times_as_much):
        size = (rows, times_as_much * columns) if axis == "columns" else (times_as_much * rows, columns)
        return work(case, next(folders), *size)

    much = 1
    while (once := measured(much)) < LEAST:
        much = math.ceil(min(8, 1.5 * LEAST / max(once, 1e-3)) * much)
    for _ in range(4):
        if (twice := measured(2 * much)) <= 2.5 * once:
            return
        once = max(once, measured(much))  # something else had the caches of the processor meanwhile, or had not
    assert twice <= 2.5 * once, (once, twice)


def test_a_table_of_very_many_columns_is_looked_up_without_going_through_all():
    """20,000 columns took 82 s, each look-up making a list of all names: now the number of comparisons is counted."""
    import numpy as np

    from deepnotes.datasets.encoding import Encoder
    from deepnotes.datasets.tables import Table

    class Name(str):
        __slots__ = ()
        compared = 0

        def __eq__(self, other):
            Name.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    def comparisons(n):
        names = [Name(f"x{j}") for j in range(n)]
        table = Table(names, {name: np.ones(2) for name in names})
        asked = [Name(name) for name in names]
        Name.compared = 0
        for name in asked:
            table.require([name])
            table.column(name)
        table.require_complete(asked)
        table.features(exclude=asked[: n // 2])
        Encoder.fit(table, asked, categorical=asked[: n // 10])(table)
        return Name.compared

    few, many = comparisons(500), comparisons(1000)
    assert few > 500
    assert many <= 2.5 * few
