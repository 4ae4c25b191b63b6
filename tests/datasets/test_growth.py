"""Doubling the rows or the columns multiplies the time of each reader and writer by at most 2.5."""

import gc
import math

import pytest

pytest.importorskip("pyarrow", reason='the extra "data" (pyarrow) is not installed')

from benchmarks import readers

resource = pytest.importorskip("resource", reason="only on POSIX")

COLUMNS, ROWS = 2_000, 20_000
MIN_SECONDS = 0.03
"""The minimum time to measure, since shorter times are mostly noise; a case is enlarged until it takes this long."""


def cpu_time():
    """Return the CPU time of this process in user mode, in seconds."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def time_case(case, folder, rows, columns):
    """Return the user-mode CPU time of `case` for a table of this size: the smaller of two measurements.

    This time depends little on other processes.
    """
    folder.mkdir()
    run = case(folder, rows, columns)
    times = []
    for _ in range(2):
        gc.collect()
        start = cpu_time()
        run()
        times.append(cpu_time() - start)
    return min(times)


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["columns", "rows"])
@pytest.mark.parametrize("name", readers.CASES)
def test_doubling_the_size_takes_at_most_two_and_a_half_times_as_long(tmp_path, name, axis):
    if axis == "rows" and name in readers.WITHOUT_ROWS:
        pytest.skip("a model file has no rows")
    case = readers.CASES[name]
    rows, columns = (10, COLUMNS) if axis == "columns" else (ROWS, 4)
    folders = (tmp_path / str(i) for i in range(99))

    def measure(factor):
        size = (rows, factor * columns) if axis == "columns" else (factor * rows, columns)
        return time_case(case, next(folders), *size)

    factor = 1
    while (time_of_size := measure(factor)) < MIN_SECONDS:
        factor = math.ceil(min(8, 1.5 * MIN_SECONDS / max(time_of_size, 1e-3)) * factor)
    for _ in range(4):
        if (time_of_double_size := measure(2 * factor)) <= 2.5 * time_of_size:
            return
        time_of_size = max(time_of_size, measure(factor))  # the first measurement may have been unusually fast
    assert time_of_double_size <= 2.5 * time_of_size, (time_of_size, time_of_double_size)


def test_looking_up_all_columns_takes_at_most_linearly_many_name_comparisons():
    """Looking up 20,000 columns once took 82 s, since each look-up made a list of all names."""
    import numpy as np

    from deepnotes.datasets.encoding import Encoder
    from deepnotes.datasets.tables import Table

    class Name(str):
        __slots__ = ()
        comparisons = 0

        def __eq__(self, other):
            Name.comparisons += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    def count_comparisons(n):
        names = [Name(f"x{j}") for j in range(n)]
        table = Table(names, {name: np.ones(2) for name in names})
        requested = [Name(name) for name in names]
        Name.comparisons = 0
        for name in requested:
            table.require([name])
            table.column(name)
        table.require_complete(requested)
        table.features(exclude=requested[: n // 2])
        Encoder.fit(table, requested, categorical=requested[: n // 10])(table)
        return Name.comparisons

    comparisons_500, comparisons_1000 = count_comparisons(500), count_comparisons(1000)
    assert comparisons_500 > 500
    assert comparisons_1000 <= 2.5 * comparisons_500
