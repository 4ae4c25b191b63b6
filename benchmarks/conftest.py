"""Fixtures and options of the pytest-benchmark files: ``pytest benchmarks/ --backend numpy,numba``.

The ``extra_info`` of each result (``--benchmark-json``) has the operations and bytes of the case, the fraction of the
machine's performance limit that it reaches, and whether its rounds vary too much to be reliable.
"""

from collections.abc import Callable
from typing import Any

import pytest

from deepnotes.backends.base import Backend
from deepnotes.backends.registry import available_backends, get_backend
from deepnotes.testing.bench.limits import PerformanceLimits, Work, location, measure_limits
from deepnotes.testing.bench.timing import is_unreliable, scatter, seconds
from deepnotes.utils.errors import BackendUnavailable, UnknownNameError

collect_ignore = ["gpu"]
"""The folder of the command ``python -m benchmarks.gpu``, which has no tests."""

ROUNDS = 7
TimeCalls = Callable[..., Any]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the command-line options."""
    group = parser.getgroup("deepnotes benchmarks")
    group.addoption("--backend", default="all", help="names separated by commas; default: all available ones")
    group.addoption("--round-seconds", type=float, default=0.02, help="approximate length of a round; default: 0.02")
    group.addoption(
        "--largest-seconds", type=float, default=0.5, help="skip cases whose calls take longer; default: 0.5"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize tests over the requested backends; tests of unavailable backends are skipped later."""
    if "backend" in metafunc.fixturenames:
        option = metafunc.config.getoption("--backend")
        names = available_backends() if option == "all" else option.split(",")
        metafunc.parametrize("backend", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    """Return a backend, or skip the test if it is not available."""
    try:
        return get_backend(request.param)
    except (BackendUnavailable, UnknownNameError) as error:
        pytest.skip(f"{request.param}: {error}")


@pytest.fixture(scope="session")
def limits() -> Callable[[Backend], PerformanceLimits]:
    """Return a function that measures the performance limits of a backend, only once for the host and each device."""
    known: dict[str, PerformanceLimits] = {}

    def measure(backend: Backend) -> PerformanceLimits:
        if location(backend) not in known:
            known[location(backend)] = measure_limits(backend)
        return known[location(backend)]

    return measure


@pytest.fixture
def time_calls(
    benchmark: Any, request: pytest.FixtureRequest, limits: Callable[[Backend], PerformanceLimits]
) -> TimeCalls:
    """Return a function that times calls, in rounds of about equal length, and compares the time with the limit."""
    config = request.config

    def run(
        function: Callable[[], object], backend: Backend, work: Work | None, dtype: str, units: int = 1, calls: int = 1
    ) -> None:
        """Time `function`, which does `work` as many times as `units` says, in `calls` calls of the backend."""
        function()
        call_seconds = min(seconds(function) for _ in range(2))
        if call_seconds > config.getoption("--largest-seconds"):
            pytest.skip(
                f"one call takes {call_seconds:.2f} s, but --largest-seconds is {config.getoption('--largest-seconds')}"
            )
        iterations = max(1, round(config.getoption("--round-seconds") / call_seconds))
        benchmark.pedantic(function, rounds=ROUNDS, iterations=iterations)
        stats = benchmark.stats.stats if benchmark.stats else None  # None if benchmarks are disabled
        if stats is None:
            return
        spread = scatter(stats.data)
        benchmark.extra_info |= {"backend": backend.name, "dtype": dtype, "units": units, "scatter": spread}
        benchmark.extra_info["unreliable"] = is_unreliable(spread)
        if work is not None:
            limit = units * limits(backend).seconds(work, dtype) + calls * limits(backend).call
            benchmark.extra_info |= {"flops": work.flops, "bytes": work.bytes, "share": limit / stats.median}

    return run
