"""The suite as a pytest class: one test per check, and property tests if Hypothesis is installed."""

from collections.abc import Mapping
from typing import Any

from deepnotes.backends.base import Backend
from deepnotes.backends.registry import get_backend
from deepnotes.testing.runner import Result, all_checks, check_gaps, run_check


def report(result: Result) -> None:
    """Pass, fail, skip or xfail the current pytest test according to the result of a check."""
    import pytest

    if result.verdict == "not applicable":
        pytest.skip(result.message)
    if result.verdict == "known gap":
        pytest.xfail(result.message)
    assert result.verdict == "passed", result.message


class BackendConformance:
    """All checks of a backend; derive a class from this one in your tests and set `backend`.

    Attributes
    ----------
    backend : Backend or str
    known_gaps : mapping of str to str, optional
        Ids of the checks that are known to fail, with the reasons; default: those that the backend declares.
    quick : bool, default False
        Whether to use fewer and smaller inputs.

    Examples
    --------
    >>> class TestMine(BackendConformance):
    ...     backend = "numpy"
    """

    backend: Backend | str
    known_gaps: Mapping[str, str] | None = None
    quick = False

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Parametrize ``test_check`` by all checks."""
        if "deepnotes_check" in metafunc.fixturenames:
            metafunc.parametrize("deepnotes_check", all_checks())

    def test_check(self, deepnotes_check: str) -> None:
        """Run one check."""
        report(run_check(self.backend, deepnotes_check, quick=self.quick, known_gaps=self.known_gaps))

    def test_known_gaps_name_checks_and_have_reasons(self) -> None:
        """Each declared gap names a check and has a reason."""
        backend = get_backend(self.backend)
        check_gaps(backend, backend.known_gaps if self.known_gaps is None else self.known_gaps)

    def test_equations_on_random_inputs(self, pytestconfig: Any) -> None:
        """Check equations on inputs that Hypothesis draws: arrays of any size and layout, constant arrays, ties."""
        import pytest

        pytest.importorskip("hypothesis")
        from deepnotes.testing.properties import check_equations, wants_random_inputs

        check_equations(get_backend(self.backend), 30 if self.quick else 150, wants_random_inputs(pytestconfig))
