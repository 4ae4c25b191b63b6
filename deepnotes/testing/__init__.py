"""Conformance: checks that a backend computes the equations, and a report of its accuracy.

    deepnotes conformance --backend NAME
    pytest --pyargs deepnotes.testing --deepnotes-backend NAME

or, in the tests of a backend, ``class TestMine(BackendConformance): backend = "mine"``. Each check compares results
either bit by bit or with the equations, run on arrays with error bounds, see :mod:`deepnotes.backends.bounds`.
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
