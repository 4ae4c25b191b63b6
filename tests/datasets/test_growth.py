"""The time of each reader and writer grows at most by a factor of 2.5 if the columns or rows are doubled."""

import gc
import math

import pytest

pytest.importorskip("pyarrow", reason='the extra "data" (pyarrow) is not installed')

from benchmarks import readers

resource = pytest.importorskip("resource", reason="only on POSIX")

COLUMNS, ROWS = 2_000, 20_000
MIN_SECONDS = 0.03
"""The time that the smaller size must take, since shorter times are mostly noise; it is enlarged until it does."""


def cpu_time():
    """Return the CPU time of this process in user mode, in seconds."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def time_case(case, folder, rows, columns):
    """Return the CPU time of a call in user mode, the best of two, which depends little on other processes."""
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
def test_twice_the_size_takes_at_most_two_and_a_half_times_as_long(tmp_path, name, axis):
    if axis == "rows" and name in readers.WITHOUT_ROWS:
        pytest.skip("a model file has no rows")
    case = readers.CASES[name]
    rows, columns = (10, COLUMNS) if axis == "columns" else (ROWS, 4)
    folders = (tmp_path / str(i) for i in range(99))

    def measure(factor):
        size = (rows, factor * columns) if axis == "columns" else (factor * rows, columns)
        return time_case(case, next(folders), *size)

    factor = 1
    while (single := measure(factor)) < MIN_SECONDS:
        factor = math.ceil(min(8, 1.5 * MIN_SECONDS / max(single, 1e-3)) * factor)
    for _ in range(4):
        if (double := measure(2 * factor)) <= 2.5 * single:
            return
        single = max(single, measure(factor))  # the caches may have been in another state for the first measurement
    assert double <= 2.5 * single, (single, double)


def test_the_time_to_look_up_a_column_does_not_grow_with_their_number():
    """20,000 columns once took 82 s, since each look-up made a list of all names; count the comparisons of names."""
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
        requested = [Name(name) for name in names]
        Name.compared = 0
        for name in requested:
            table.require([name])
            table.column(name)
        table.require_complete(requested)
        table.features(exclude=requested[: n // 2])
        Encoder.fit(table, requested, categorical=requested[: n // 10])(table)
        return Name.compared

    few, many = comparisons(500), comparisons(1000)
    assert few > 500
    assert many <= 2.5 * few
