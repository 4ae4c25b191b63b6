"""Conformance: whether a backend computes what the equations say, and a report of how closely.

    deepnotes conformance --backend NAME
    pytest --pyargs deepnotes.testing --deepnotes-backend NAME

or, in the tests of a backend, ``class TestMine(BackendConformance): backend = "mine"``. Each check compares results
with the equations, on arrays that carry a bound of their error, see :mod:`deepnotes.backends.bounds`, or bit by bit.
"""

from deepnotes.testing.checks import Check, Failure, NotApplicable, Trial
from deepnotes.testing.conformance import BackendConformance
from deepnotes.testing.runner import Report, Result, all_checks, run, run_check

__all__ = [
    "BackendConformance",
    "Check",
    "Failure",
    "NotApplicable",
    "Report",
    "Result",
    "Trial",
    "all_checks",
    "run",
    "run_check",
]
