"""The plugin that pytest finds by its entry point: the options of ``pytest --pyargs deepnotes.testing``."""

from typing import Any


def pytest_addoption(parser: Any) -> None:
    """Add the options."""
    group = parser.getgroup("deepnotes")
    group.addoption(
        "--deepnotes-backend",
        default="all",
        metavar="NAME",
        help="backends to try for conformance, with commas between; default: all that work here",
    )
    group.addoption("--deepnotes-quick", action="store_true", help="fewer and smaller inputs")
