"""Files that several tests write."""

import numpy as np
import pytest


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
