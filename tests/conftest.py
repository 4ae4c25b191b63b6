"""What several tests need: files, and the command line."""

import signal

import numpy as np
import pytest

from deepnotes.cli import main


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c():
    """Have Ctrl-C do what it does in a terminal: a job in the background was started to ignore it."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.fixture
def csv_file(tmp_path):
    """Write text or bytes to a CSV file and return its path."""

    def make(content):
        path = tmp_path / "data.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


@pytest.fixture
def npz_file(tmp_path):
    """Save arrays to an .npz file and return its path."""

    def make(**arrays):
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return path

    return make


@pytest.fixture
def run(capsys):
    """Return a function that runs a command that must succeed, and returns stdout and stderr."""

    def call(*argv):
        status = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        assert status == 0, err
        return out, err

    return call
