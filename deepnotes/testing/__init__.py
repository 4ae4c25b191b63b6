"""Conformance: checks that a backend computes the equations correctly, and a report of its accuracy.

To run the checks, use one of these commands::

    deepnotes conformance --backend NAME
    pytest --pyargs deepnotes.testing --deepnotes-backend NAME

or add ``class TestMine(BackendConformance): backend = "mine"`` to the tests of the backend. A check compares two
results bit for bit, or compares a result with the one that the equations give on arrays that carry error bounds, see
:mod:`deepnotes.backends.bounds`.
"""

from deepnotes.testing.checks import Check, Failure, NotApplicable, Trial
from deepnotes.testing.conformance import BackendConformance
from deepnotes.testing.parts import PartReport, check_part
from deepnotes.testing.runner import Report, Result, all_checks, run, run_check

__all__ = [
    "BackendConformance",
    "Check",
    "Failure",
    "NotApplicable",
    "PartReport",
    "Report",
    "Result",
    "Trial",
    "all_checks",
    "check_part",
    "run",
    "run_check",
]
