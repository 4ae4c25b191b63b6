"""A third-party backend in its own package is found and selected by name, trains, and passes conformance."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "stranger"

pytest.importorskip("torch")
pytest.importorskip("array_api_compat")


@pytest.fixture(scope="module")
def deepnotes(tmp_path_factory: pytest.TempPathFactory):
    """Install the backend's package into a folder, and return a function that runs the command line with it."""
    folder = tmp_path_factory.mktemp("stranger")
    source = folder / "source"
    source.mkdir()
    for path in PACKAGE.glob("*.*"):
        (source / path.name).write_text(path.read_text())
    options = ["--no-build-isolation"] if find_spec("setuptools") else []
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *options]
    subprocess.run([*pip, "--target", str(folder / "site"), str(source)], check=True, timeout=300)
    paths = [str(folder / "site"), *([os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else [])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}

    def run(*arguments: str) -> str:
        process = subprocess.run(
            [sys.executable, "-m", "deepnotes", *arguments],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    return run


def test_the_backend_is_short_and_imports_public_names_only() -> None:
    text = (PACKAGE / "deepnotes_torch.py").read_text()
    assert len(text.splitlines()) <= 60
    assert "from deepnotes import Backend, BackendUnavailable" in text
    assert text.count("from deepnotes") == 1


def test_the_backend_is_listed_and_works(deepnotes) -> None:
    backends = {backend["name"]: backend for backend in json.loads(deepnotes("backends", "--json"))["backends"]}
    assert backends["torch"]["works"]
    assert "torch" in backends["torch"]["description"]


def test_the_backend_trains_on_digits_as_numpy_does(deepnotes) -> None:
    torch, numpy = (
        json.loads(deepnotes("train", "digits", "--backend", name, "--epochs", "5", "--seed", "1", "--json"))
        for name in ("torch", "numpy")
    )
    assert torch["backend"] == "torch"
    assert torch["history"]["loss"] == pytest.approx(numpy["history"]["loss"], rel=1e-2)
    assert torch["metrics"]["accuracy"] > 0.9


def test_the_backend_passes_conformance(deepnotes) -> None:
    report = json.loads(deepnotes("conformance", "--backend", "torch", "--quick", "--json"))
    assert report["passed"]
    verdicts = {result["check"]: result["verdict"] for result in report["results"]}
    assert verdicts.pop("namespace.divide") == "known gap"
    assert set(verdicts.values()) == {"passed"}
