"""Tests for ``pytest --pyargs deepnotes.testing``: every check on every requested backend."""

from typing import Any

import pytest

from deepnotes.backends.registry import available_backends, get_backend
from deepnotes.testing.conformance import report
from deepnotes.testing.runner import all_checks, check_gaps, run_check


def pytest_generate_tests(metafunc: Any) -> None:
    """Parametrize the tests by backends and checks."""
    option = metafunc.config.getoption("--deepnotes-backend", "all")
    backends = available_backends() if option == "all" else option.split(",")
    if "check" in metafunc.fixturenames:
        pairs = [(name, check) for name in backends for check in all_checks()]
        metafunc.parametrize(("backend", "check"), pairs, ids=["-".join(pair) for pair in pairs])
    elif "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", backends)


@pytest.fixture
def quick(pytestconfig: pytest.Config) -> bool:
    """Whether --deepnotes-quick was given."""
    return bool(pytestconfig.getoption("--deepnotes-quick", False))


def test_check(backend: str, check: str, quick: bool) -> None:
    """Run one check."""
    report(run_check(backend, check, quick=quick))


def test_known_gaps_name_checks_and_have_reasons(backend: str) -> None:
    """Each declared gap names a check and has a reason."""
    check_gaps(get_backend(backend), get_backend(backend).known_gaps)


def test_equations_on_random_inputs(backend: str, quick: bool, pytestconfig: pytest.Config) -> None:
    """Check equations on inputs that Hypothesis draws."""
    pytest.importorskip("hypothesis")
    from deepnotes.testing.properties import check_equations, wants_random_inputs

    check_equations(get_backend(backend), 30 if quick else 150, wants_random_inputs(pytestconfig))
