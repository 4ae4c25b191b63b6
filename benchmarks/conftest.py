"""``pytest benchmarks/ --backend numpy,numba``: fixtures and options of the pytest-benchmark files.

Each result includes the operations and bytes of its case, the share of the machine's limit that it reached, and whether
its rounds scatter too much to be reliable (``extra_info`` in the JSON of ``--benchmark-json``).
"""

from collections.abc import Callable
from typing import Any

import pytest

from deepnotes.backends.base import Backend
from deepnotes.backends.registry import available_backends, get_backend
from deepnotes.testing.bench.limits import Ceilings, Work, ceilings, location
from deepnotes.testing.bench.timing import is_unreliable, scatter, seconds
from deepnotes.utils.errors import BackendUnavailable, UnknownNameError

collect_ignore = ["gpu"]
"""This folder is a command, ``python -m benchmarks.gpu``, without tests for pytest."""

ROUNDS = 7
Timed = Callable[..., Any]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("deepnotes benchmarks")
    group.addoption("--backend", default="all", help="names with commas between; default: all that work here")
    group.addoption("--round-seconds", type=float, default=0.02, help="about how long a round lasts; default: 0.02")
    group.addoption("--largest-seconds", type=float, default=0.5, help="longest call that is timed; default: 0.5")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize tests over the requested backends, absent ones included, which are skipped by name."""
    if "backend" in metafunc.fixturenames:
        asked = metafunc.config.getoption("--backend")
        names = available_backends() if asked == "all" else asked.split(",")
        metafunc.parametrize("backend", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    """Return a backend, or skip the test if it is absent."""
    try:
        return get_backend(request.param)
    except (BackendUnavailable, UnknownNameError) as error:
        pytest.skip(f"{request.param}: {error}")


@pytest.fixture(scope="session")
def limits() -> Callable[[Backend], Ceilings]:
    """Return a function that returns the ceilings of the place where a backend computes; each is measured once."""
    known: dict[str, Ceilings] = {}

    def of(backend: Backend) -> Ceilings:
        if location(backend) not in known:
            known[location(backend)] = ceilings(backend)
        return known[location(backend)]

    return of


@pytest.fixture
def timed(benchmark: Any, request: pytest.FixtureRequest, limits: Callable[[Backend], Ceilings]) -> Timed:
    """Return a function that times a call for some rounds of about equal length, and compares it with its limit."""
    config = request.config

    def run(
        function: Callable[[], object], backend: Backend, work: Work | None, dtype: str, units: int = 1, calls: int = 1
    ) -> None:
        """Time `function`, which does `units` times the `work`."""
        function()
        once = min(seconds(function) for _ in range(2))
        if once > config.getoption("--largest-seconds"):
            pytest.skip(
                f"one call takes {once:.2f} s, and --largest-seconds is {config.getoption('--largest-seconds')}"
            )
        times = max(1, round(config.getoption("--round-seconds") / once))
        benchmark.pedantic(function, rounds=ROUNDS, iterations=times)
        stats = benchmark.stats.stats if benchmark.stats else None  # None if benchmarks are disabled
        if stats is None:
            return
        share = scatter(stats.data)
        benchmark.extra_info |= {"backend": backend.name, "dtype": dtype, "units": units, "scatter": share}
        benchmark.extra_info["unreliable"] = is_unreliable(share)
        if work is not None:
            least = units * limits(backend).seconds(work, dtype) + calls * limits(backend).call
            benchmark.extra_info |= {"flops": work.flops, "bytes": work.bytes, "share": least / stats.median}

    return run
