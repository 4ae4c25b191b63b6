"""``deepnotes warmup``, and the option ``--threads`` of other commands."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import EntryPoint

import array_api_strict
import pytest

import deepnotes as dn
from deepnotes.backends import registry
from deepnotes.cli import main


class Compiling(dn.Backend):
    """A backend that has two items to prepare."""

    def warmup(self, dtypes=("float32", "float64")):
        """Prepare two items; the second takes 0.05 seconds."""
        for dtype, seconds in zip(dtypes, (0.0, 0.05), strict=True):
            time.sleep(seconds)
            yield f"training, {dtype}"


class Broken(dn.Backend):
    """A backend whose preparation fails."""

    def warmup(self, dtypes=("float32", "float64")):
        """Fail after the first item."""
        yield "training, float32"
        raise dn.BackendUnavailable("broken", "the disk is full", "make room")


def compiling(threads=None):
    """Create a `Compiling` backend; an entry point names this function."""
    if threads == 99:
        raise dn.ArgumentError("threads=99, wanted at most 8")
    return Compiling("compiling", array_api_strict)


def broken():
    """Create a `Broken` backend; an entry point names this function."""
    return Broken("broken", array_api_strict)


@pytest.fixture(autouse=True)
def register_backends(monkeypatch, tmp_path):
    """Register the backends above, and work in a temporary folder."""
    added = {name: EntryPoint(name, f"{__name__}:{name}", registry.GROUP) for name in ("compiling", "broken")}
    entries = added | registry._entry_points()
    monkeypatch.setattr(registry, "_entry_points", lambda: entries)
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.delenv("DEEPNOTES_BACKEND", raising=False)
    monkeypatch.chdir(tmp_path)


# --- warmup -----------------------------------------------------------------------------------------------------------


def test_each_prepared_item_is_reported_with_its_time(run):
    out, err = run("warmup", "--backend", "compiling")
    heading, *lines = out.splitlines()
    assert heading == f"backend   compiling: array_api_strict {array_api_strict.__version__}"
    seconds, items = zip(*(re.findall(r"^ +([0-9.]+) s  (.+)$", line)[0] for line in lines), strict=True)
    assert items == ("training, float32", "training, float64", "in total")
    assert float(seconds[1]) >= 0.05
    assert float(seconds[2]) >= 0.05
    assert len({line.index(" s  ") for line in lines}) == 1
    assert err == ""


def test_json_output_of_warmup(run):
    out, err = run("warmup", "--backend", "compiling", "--json")
    result = json.loads(out)
    assert (result["command"], result["backend"]) == ("warmup", "compiling")
    first, second = result["prepared"]
    assert (first["what"], second["what"]) == ("training, float32", "training, float64")
    assert second["seconds"] >= 0.05
    assert result["seconds"] >= first["seconds"] + second["seconds"]
    assert "training, float64" in err


def test_warmup_of_a_backend_without_compilation_prepares_nothing(run):
    assert run("warmup", "--backend", "numpy")[0].splitlines()[1:] == ["nothing to prepare"]
    result = json.loads(run("warmup", "--json")[0])
    assert (result["backend"], result["prepared"]) == ("numpy", [])


def test_items_prepared_before_a_failure_are_reported(capsys):
    assert main(["warmup", "--backend", "broken"]) == 1
    out, err = capsys.readouterr()
    assert out.endswith(" s  training, float32\n")
    assert err == "deepnotes: error: backend 'broken' is unavailable: the disk is full; to fix it: make room\n"


def test_activity_is_shown_on_stderr_if_it_is_a_terminal(run, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    out, _ = run("warmup", "--backend", "compiling")
    assert "preparing compiling" in terminal.getvalue()
    assert "training" not in terminal.getvalue()
    assert len(out.splitlines()) == 4
    assert "preparing" not in out


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_an_interrupt_ends_warmup_with_status_130():
    program = (
        "import signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler); import deepnotes as dn\n"
        "class Slow(dn.Backend):\n"
        "    def warmup(self, dtypes=()):\n"
        "        yield 'one'\n"
        "        time.sleep(60)\n"
        "import numpy\n"
        "from deepnotes.backends import registry\n"
        "from deepnotes.cli import main\n"
        "registry._loaded['slow',] = Slow('slow', numpy)\n"
        "sys.exit(main(['warmup', '--backend', 'slow']))"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.endswith(" s  one\n") for line in process.stdout)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "deepnotes: interrupted\n")


# --- threads ----------------------------------------------------------------------------------------------------------


def test_commands_pass_the_number_of_threads_to_the_backend(run):
    quick = ("--epochs", "1", "--layers", "none", "-o", "model", "--quiet")
    for command in (("train", "digits", *quick), ("evaluate", "model", "digits"), ("predict", "model", "digits")):
        registry._loaded.clear()
        result = json.loads(run(*command, "--json", "--backend", "compiling", "--threads", "3")[0])
        assert result["backend"] == "compiling"
        assert [backend.options for backend in registry._loaded.values()] == [{"threads": 3}]
        registry._loaded.clear()
        run(*command, "--json", "--backend", "compiling")
        assert [backend.options for backend in registry._loaded.values()] == [{}]


def test_threads_apply_to_the_backend_that_the_environment_variable_selects(run, monkeypatch):
    monkeypatch.setenv("DEEPNOTES_BACKEND", "compiling")
    run("train", "digits", "--epochs", "1", "--layers", "none", "--threads", "3", "--quiet")
    assert [backend.options for backend in registry._loaded.values()] == [{"threads": 3}]


def test_a_number_of_threads_that_the_backend_refuses_exits_with_status_2(capsys):
    assert main(["train", "digits", "--backend", "compiling", "--threads", "99"]) == 2
    assert capsys.readouterr().err == "deepnotes: error: argument --threads: threads=99, wanted at most 8\n"
