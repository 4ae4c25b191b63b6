"""``train`` takes the backend with the highest priority that works, unless one is selected, and says why."""

import json

import array_api_strict
import pytest

import deepnotes as dn
from deepnotes.backends import registry

QUICK = ("train", "iris", "--epochs", "1", "--layers", "4")


@pytest.fixture(autouse=True)
def swift(folder, monkeypatch):
    """Register a backend with the highest priority, and select none."""
    monkeypatch.delenv("DEEPNOTES_BACKEND")
    backend = dn.Backend("swift", array_api_strict)
    load = registry.load
    monkeypatch.setattr(
        registry, "load", lambda name, options=None: backend if name == "swift" else load(name, options)
    )
    monkeypatch.setattr(registry, "by_priority", lambda: ["swift", "numpy"])
    monkeypatch.setattr("deepnotes.cli.train.by_priority", lambda: ["swift", "numpy"])


def chosen(run, *arguments):
    """Return the chosen backend and the printed reason."""
    out, err = run(*QUICK, *arguments, "--json")
    (line,) = [line for line in err.splitlines() if line.startswith("backend")]
    assert line.split()[1].rstrip(",") == json.loads(out)["backend"]
    return json.loads(out)["backend"], line.partition(", ")[2]


def test_the_backend_with_the_highest_priority_is_the_default(run):
    assert chosen(run) == ("swift", "the first of swift, numpy that works here; --backend NAME chooses another")
    assert chosen(run, "--backend", "auto")[0] == "swift"


def test_a_selected_backend_is_taken(run, monkeypatch):
    assert chosen(run, "--backend", "numpy") == ("numpy", "as --backend says")
    monkeypatch.setenv("DEEPNOTES_BACKEND", "numpy")
    assert chosen(run) == ("numpy", "as DEEPNOTES_BACKEND says")
    assert chosen(run, "--backend", "auto")[0] == "swift"


def test_a_backend_without_threads_is_passed_over_for_a_number_of_threads(run, monkeypatch):
    threaded = registry.get_backend("numba", threads=1).name if "numba" in dn.available_backends() else None
    if threaded is None:
        pytest.skip("needs a backend with threads")
    monkeypatch.setattr(registry, "by_priority", lambda: ["numpy", "numba"])
    assert chosen(run, "--threads", "1")[0] == "numba"


def test_predictions_are_made_by_numpy(run):
    run(*QUICK, "-o", "model")
    assert json.loads(run("predict", "model", "iris", "-o", "out.csv", "--json")[0])["backend"] == "numpy"
