"""``deepnotes backends``, ``--help``, ``--version``, ``python -m deepnotes``, and the formatting of output."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.backends import registry
from deepnotes.cli.output import Output


@pytest.fixture(autouse=True)
def default_backend(monkeypatch):
    """Select NumPy, the default backend."""
    monkeypatch.delenv("DEEPNOTES_BACKEND", raising=False)


def parse_json(out):
    """Return the JSON object in `out`; fail if it contains NaN or Infinity."""
    return json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} in JSON"))


class UnavailableEntry:
    """An entry point whose backend is unavailable."""

    def load(self):
        return self

    def __call__(self):
        raise dn.BackendUnavailable("sparkle", "there is no sparkle device", "pip install sparkle")


@pytest.fixture
def sparkle(monkeypatch):
    """Register "sparkle", a backend that is unavailable."""
    entries = {**registry._entry_points(), "sparkle": UnavailableEntry()}
    monkeypatch.setattr(registry, "_entry_points", lambda: entries)


@pytest.mark.usefixtures("sparkle")
def test_unavailable_backends_are_listed_with_a_fix(run):
    out, err = run("backends")
    lines = out.splitlines()
    assert err == ""
    assert any(line.startswith("*  numpy") and f"yes    numpy {np.__version__}" in line for line in lines)
    assert any(line.startswith("   sparkle") and line.endswith("no     there is no sparkle device") for line in lines)
    assert any(line.endswith("  to fix it: pip install sparkle") for line in lines)


@pytest.mark.usefixtures("sparkle")
def test_json_output_of_backends(run, monkeypatch):
    result = parse_json(run("backends", "--json")[0])
    assert result["selected"] == "numpy"
    backends = {backend["name"]: backend for backend in result["backends"]}
    assert backends["numpy"]["works"]
    assert (backends["sparkle"]["works"], backends["sparkle"]["fix"]) == (False, "pip install sparkle")
    monkeypatch.setenv("DEEPNOTES_BACKEND", "sparkle")
    assert parse_json(run("backends", "--json")[0])["selected"] == "sparkle"
    monkeypatch.setenv("DEEPNOTES_BACKEND", "nunpy")
    out, err = run("backends", "--json")
    assert parse_json(out)["selected"] is None
    assert "did you mean 'numpy'?" in err


def test_version_and_help(run):
    assert run("--version") == (f"deepnotes {dn.__version__}\n", "")
    assert all(command in run("--help")[0] for command in ("train", "predict", "evaluate", "backends", "warmup"))
    assert all(option in run("train", "--help")[0] for option in ("--target", "--schedule", "--early-stopping"))


def test_help_does_not_import_rich():
    program = "import sys; from deepnotes.cli import main; main(['train', '--help']); print('rich' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.endswith("False\n")


def test_python_m_deepnotes(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "deepnotes", "train", "digits", "--epochs", "3", "--json", "-o", tmp_path / "model"],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0
    assert parse_json(process.stdout)["epochs"] == 3
    assert "epoch 3/3" in process.stderr


def test_nan_and_infinity_become_null_in_json(capsys):
    Output(as_json=True).outcome({"a": float("nan"), "b": [1.5, float("-inf")], "c": {"d": float("inf")}})
    assert parse_json(capsys.readouterr().out) == {"a": None, "b": [1.5, None], "c": {"d": None}}


def test_characters_missing_from_the_encoding_become_question_marks(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    Output().facts([("R²", "1")])
    assert stream.buffer.getvalue() == b"R?        1\n"
