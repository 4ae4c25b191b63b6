"""A helper of the tests of tables: the message of an error."""

import os

import pytest

from deepnotes.datasets.tables import read_table
from deepnotes.utils.errors import TableError


def error_of(path):
    """Return the message of the TableError raised by reading `path`, which must be one line, without the directory."""
    with pytest.raises(TableError) as caught:
        read_table(path)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{os.path.dirname(path)}{os.sep}", "")
