"""The pytest plugin of deepnotes, with the options of ``pytest --pyargs deepnotes.testing``."""

from typing import Any


def pytest_addoption(parser: Any) -> None:
    """Add the options of the conformance suite."""
    group = parser.getgroup("deepnotes")
    group.addoption(
        "--deepnotes-backend",
        default="all",
        metavar="NAME",
        help="backends to check, separated by commas; default: all that are available",
    )
    group.addoption("--deepnotes-quick", action="store_true", help="fewer and smaller inputs")
