"""A helper for the table tests that returns error messages."""

import os

import pytest

from deepnotes.datasets.tables import read_table
from deepnotes.utils.errors import TableError


def error_of(path):
    """Read `path`, and return the message of its TableError without the directory; the message must be one line."""
    with pytest.raises(TableError) as caught:
        read_table(path)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{os.path.dirname(path)}{os.sep}", "")
