"""How the tests of tables read an error."""

import os

import pytest

from deepnotes.datasets.tables import read_table
from deepnotes.utils.errors import TableError


def error_of(path):
    """Return the message that reading `path` raises, less its folder: one line, always."""
    with pytest.raises(TableError) as caught:
        read_table(path)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{os.path.dirname(path)}{os.sep}", "")
