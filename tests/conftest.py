"""The selection of tests, Hypothesis profiles, and fixtures for files and the command line."""

import os
import signal
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import settings

import deepnotes as dn
from deepnotes.cli import main

# --- selection of tests -----------------------------------------------------------------------------------------------

DESELECTED = pytest.StashKey[int]()
"""The number of slow tests that were deselected."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option ``--slow``."""
    parser.getgroup("deepnotes").addoption("--slow", action="store_true", help="also run the tests marked slow")


@pytest.hookimpl(tryfirst=True)  # before -m is applied, so that -m sees the added marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the slow tests, unless ``--slow`` is given or the expression of ``-m`` contains "slow".

    Of the cases of a test marked ``thinned(n)``, the first and about one in n of the others are quick; the rest count
    as slow. The choice is the same in every run, and does not depend on the order of the cases, except for the first.
    """
    names = set()
    for item in items:
        if item.nodeid.startswith("deepnotes/testing/"):  # these tests run for any backend, so they have no marks
            item.add_marker(pytest.mark.thinned(5))
        if thinned := item.get_closest_marker("thinned"):
            name = item.nodeid.partition("[")[0]
            if name in names and crc32(item.nodeid.encode()) % thinned.args[0]:
                item.add_marker("slow")
            names.add(name)
    if config.getoption("--slow") or "slow" in config.getoption("-m"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
    config.stash[DESELECTED] = len(slow)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Report the number of deselected slow tests and how to run them."""
    if count := config.stash.get(DESELECTED, 0):
        terminalreporter.write_line(
            f"{count} slow tests were deselected; use pytest --slow to run all tests, or pytest -m slow for only those"
        )


# --- Hypothesis profiles ----------------------------------------------------------------------------------------------

settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.register_profile("random", derandomize=False, deadline=None, print_blob=True)
settings.register_profile("long", settings.get_profile("random"), max_examples=2000)


def pytest_configure(config: pytest.Config) -> None:
    """Set defaults: quick conformance tests, and the Hypothesis profile that draws the same examples in every run."""
    if getattr(config.option, "numprocesses", None):
        # The processes of pytest-xdist share the cores, so a second thread in each would often have to wait.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if not config.getoption("--slow"):
        config.option.deepnotes_quick = True
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("same" if config.getoption("--hypothesis-seed") is None else "random")


# --- compiled code ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _compiled(request: pytest.FixtureRequest) -> None:
    """Compile the Numba backend for one dtype in each of two pytest-xdist workers, so that they share the work."""
    worker = getattr(request.config, "workerinput", None)
    if worker is not None and "numba" in dn.available_backends() and (number := int(worker["workerid"][2:])) < 2:
        for _ in dn.get_backend("numba").warmup([("float32", "float64")[number]]):
            pass


# --- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c():
    """Let SIGINT raise KeyboardInterrupt as in a terminal, even in background jobs, for which shells ignore SIGINT."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Change to an empty directory and select NumPy, which compiles nothing; ``train`` would take "auto"."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPNOTES_BACKEND", "numpy")
    return tmp_path


@pytest.fixture
def csv_file(tmp_path):
    """Return a function that writes text or bytes to a CSV file and returns its path."""

    def make(content):
        path = tmp_path / "data.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


@pytest.fixture
def npz_file(tmp_path):
    """Return a function that saves arrays to an .npz file and returns its path."""

    def make(**arrays):
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return path

    return make


@pytest.fixture
def run(capsys):
    """Return a function that runs a command, checks that it succeeds, and returns stdout and stderr."""

    def call(*argv):
        status = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        assert status == 0, err
        return out, err

    return call


@pytest.fixture
def fails(capsys):
    """Return a function that runs a command, checks that it fails with the given status, and returns the message."""

    def call(status, *argv):
        assert main([str(word) for word in argv]) == status
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        return err.removeprefix("deepnotes: error: ")

    return call
