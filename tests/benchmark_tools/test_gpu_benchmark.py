"""The GPU benchmark, with a simulated device and with libraries that fail in every way."""

import json
import logging
import os
import subprocess
import sys
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_device import HostDevice, backend

import deepnotes as dn
from benchmarks import redraw, report
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import cases, checkout, device, measure, record, rivals
from benchmarks.gpu.cases import MATMUL, Case
from benchmarks.gpu.measure import OURS, Deadline
from benchmarks.gpu.rivals import Library, Prediction, Training
from benchmarks.gpu.worker import Worker, WorkerError
from deepnotes_cupy.device import TIMED


class Tiny(Case):
    """A case with short epochs."""

    batches = 2


TINY = Tiny((6, 8, 5), 4)


class OnHost(rivals.Deepnotes):
    """Deepnotes on a simulated device."""

    def backend(self, precision: str = "float32", **options: Any) -> Any:
        """Return the CuPy backend on a new simulated device."""
        return backend(MATMUL[precision], **options)

    def host_backend(self) -> Any:
        """Return the NumPy backend, which compiles nothing."""
        return dn.get_backend("numpy")

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def imported(self) -> set[str]:
        """Return the names of the modules that are imported in this process."""
        return set(sys.modules)


class Timing(OnHost):
    """Deepnotes, as if it had timed something."""

    def training(self, *arguments: Any) -> Training:
        """Train, and report two times."""
        logging.getLogger("deepnotes").debug(TIMED, "a product", [0.25, 0.5])
        return super().training(*arguments)


class OnNumPy(Library):
    """Another library that computes the same."""

    def training(self, case: Case, precision: str, X: np.ndarray, y: np.ndarray, start: dn.Network) -> Training:
        """Train for one epoch on the NumPy backend."""
        return rivals.ours(dn.get_backend("numpy"), case, X, y, start)

    def prediction(self, X: np.ndarray, start: dn.Network) -> Prediction:
        """Prepare predictions on the NumPy backend."""
        return Prediction(lambda: start.predict(X.T), lambda: None, start.predict(X.T)[:, : rivals.SHOWN].T)


class Lazy(Library):
    """A library that does nothing, and so has another loss."""

    def training(self, *arguments: Any) -> Training:
        """Do nothing."""
        return Training(1.0, lambda epochs: None)


class Crashing(Library):
    """A library whose process ends."""

    def training(self, *arguments: Any) -> Training:
        """End the process."""
        os.write(2, b"device-side assert triggered\n\n")
        os._exit(7)


class Hanging(Library):
    """A library that compiles for too long."""

    def training(self, *arguments: Any) -> Training:
        """Wait."""
        time.sleep(600)
        raise AssertionError


class Absent(Library):
    """A library that cannot be imported."""

    def __init__(self) -> None:
        raise ImportError("no such library")


class WithoutGPU(rivals.Deepnotes):
    """Deepnotes on a machine without a GPU."""

    def backend(self, precision: str = "float32", **options: Any) -> Any:
        """Raise the error of the CuPy backend."""
        raise dn.BackendUnavailable("cupy", "there is no GPU", "use another machine")


@pytest.fixture(autouse=True)
def small_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the cases by tiny ones, and measure for a short time."""
    monkeypatch.setattr(cases, "STEPS", [(TINY, "float32"), (TINY, "bfloat16")])
    monkeypatch.setattr(cases, "MORE_STEPS", [])
    monkeypatch.setattr(cases, "PREDICTIONS", [(TINY.sizes, 70)])
    monkeypatch.setattr(cases, "WIDE", Tiny((8, 8, 8), 4))
    monkeypatch.setattr(cases, "STREAMING", TINY)
    monkeypatch.setattr(cases, "STREAMED_SAMPLES", 50)
    monkeypatch.setattr(command, "UPDATE_PARAMETERS", 1000)
    monkeypatch.setattr(measure, "FIT_SECONDS", 0.05)
    monkeypatch.setattr(measure, "CALLS_SECONDS", 0.005)
    monkeypatch.setattr(device, "SECONDS", 0.0)


def part_names() -> list[str]:
    """Return the names of the parts that ``--minutes`` limits."""
    return [part.name for part in command.parts(1, [])]


@pytest.mark.slow
def test_a_run_measures_every_part_and_names_what_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "gpu.json"
    libraries = {OURS: Timing, "pytorch graph": Absent, "jax": Crashing, "pytorch": OnNumPy, "lazy": Lazy}
    assert command.main(["--rounds", "2", "--out", str(target)], libraries) == 0
    content = json.loads(target.read_text(encoding="utf-8"))
    results = content["results"]
    assert list(results) == part_names()
    assert content["left_out"] == {"pytorch graph": "ImportError: no such library"}
    assert content["machine"]["device"] == "the CPU instead of a GPU"

    first = results[f"steps, {TINY.name}, float32"]
    assert set(first["microseconds"]) == {OURS, "pytorch", "products"}
    assert set(first["ratios"]) == {"deepnotes to pytorch", "deepnotes to products"}
    assert {"rest_of_fit", "rest_on_other_data"} <= set(first)
    assert first["ways, ms"] == {"a product": [0.25, 0.5]}
    assert first["missing"]["jax"] == "its process ended with exit code 7: device-side assert triggered"
    assert first["missing"]["lazy"].startswith("its loss in the first epoch differs from that of deepnotes by ")
    assert results["predict, 6-8-5, 70"]["in_a_row"]["microseconds"].keys() == {OURS, "pytorch"}
    assert set(results["streaming"]["GB/s"]) == {"streamed", "resident", "pinned copy"}
    assert results["limits"]["copy, GB/s"] > 0

    output = capsys.readouterr()
    assert output.err.count("without pytorch graph: ImportError: no such library") == 1
    table = output.out.split("\n\n")[0].splitlines()
    assert table[0] == "a training step, µs"
    assert len({len(line) for line in table[1:]}) == 1, "the columns are aligned"
    assert f"steps, {TINY.name}, bfloat16: no jax: its process ended with exit code 7" in output.out


def test_without_minutes_every_part_is_named_as_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "gpu.json"
    assert command.main(["--minutes", "0", "--out", str(target)], {OURS: WithoutGPU}) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("without ")[2] for line in lines] == [f"{n}: the 0 minutes were over" for n in part_names()]
    assert not target.exists()


@pytest.mark.slow
def test_an_interrupted_run_keeps_the_parts_that_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    target = tmp_path / "gpu.json"
    target.write_text(json.dumps({"results": {"earlier": {"error": "it failed"}}}))
    monkeypatch.setattr(measure, "predictions", interrupt)
    with pytest.raises(KeyboardInterrupt):
        command.main(["--only", "[lp]*", "--add", "--out", str(target)], {OURS: OnHost})
    assert json.loads(target.read_text())["results"].keys() == {"earlier"}, "no part was done"
    monkeypatch.setattr(measure, "streaming", interrupt)
    with pytest.raises(KeyboardInterrupt):
        command.main(["--only", "st*", "--rounds", "1", "--add", "--out", str(target)], {OURS: OnHost})
    content = json.loads(target.read_text(encoding="utf-8"))
    assert list(content["results"]) == ["earlier", *[name for name in part_names() if name.startswith("steps")]]
    assert content["left_out"] == {"streaming": "the benchmark was interrupted"}


@pytest.mark.slow
def test_a_library_that_takes_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "LIBRARY_SECONDS", 5.0)
    workers = {OURS: Worker(OnNumPy), "hanging": Worker(Hanging)}
    try:
        began = time.monotonic()
        result = measure.steps(TINY, "float32", 1, workers, Deadline(60))
        assert time.monotonic() - began < 50
        assert set(result["microseconds"]) == {OURS}
        assert result["missing"]["hanging"].startswith("took longer than")
        assert "prepare_products" in result["missing"]["products"]
        late = measure.steps(TINY, "float32", 1, workers, Deadline(0))
        assert set(late["missing"].values()) == {"no time was left"}
    finally:
        for worker in workers.values():
            worker.stop()


@pytest.mark.slow
def test_a_worker_reports_errors_and_is_replaced_when_it_has_ended() -> None:
    worker = Worker(OnHost)
    try:
        with pytest.raises(WorkerError, match="AttributeError: 'OnHost' object has no attribute 'nothing'"):
            worker.call("nothing", seconds=60)
        with pytest.raises(WorkerError, match="took longer than 1 s"):
            worker.call("sleep", 60, seconds=1)
        assert worker.call("describe", seconds=60) == "the CPU instead of a GPU"
        assert not {"torch", "jax"} & worker.call("imported", seconds=60)
    finally:
        worker.stop()
    with pytest.raises(WorkerError, match="ImportError: no such library"):
        Worker(Absent).call("describe", seconds=60)


def test_a_count_that_would_take_too_long_is_refused() -> None:
    turns = measure.Turns({}, Deadline(60))
    assert turns.count(lambda n: 0.01 * n, 0.15, 12) in range(10, 31)
    with pytest.raises(measure.LeftOut, match="would take about 36 s, and the limit is 25 s"):
        turns.count(lambda n: 3.0 * n, 0.15, 12)


@pytest.mark.parametrize("precision", cases.PRECISIONS)
def test_products_are_measured_at_each_precision(precision: str) -> None:
    assert device.products(TINY, precision, HostDevice())() > 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_pytorch_trains_and_predicts_as_deepnotes(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    case, captured = Case((6, 8, 5), 4), []  # 64 batches, 16 in a graph

    def capture(self: Any, run: Any, *state: Any) -> Any:
        captured.append(run)
        return run

    monkeypatch.setattr(rivals.PyTorch, "_capture", capture)
    ours, theirs = OnNumPy(), rivals.PyTorch(mode, "cpu")
    loss = theirs.prepare_training(case, "float32")
    np.testing.assert_allclose(loss, ours.prepare_training(case, "float32"), rtol=1e-5)
    assert theirs.fit(1) > 0
    assert len(captured) == (mode == "graph")
    outputs = theirs.prepare_prediction(case.sizes, 9)
    np.testing.assert_allclose(outputs, ours.prepare_prediction(case.sizes, 9), rtol=1e-5)
    assert theirs.predict(2, True) > 0


@pytest.mark.slow
def test_jax_trains_as_deepnotes_and_compiles_an_epoch_once(caplog: pytest.LogCaptureFixture) -> None:
    jax = pytest.importorskip("jax")
    ours, theirs = OnNumPy(), rivals.JAX()
    with jax.log_compiles():
        loss = theirs.prepare_training(TINY, "float32")
        theirs.fit(1)
        theirs.fit(3)
    np.testing.assert_allclose(loss, ours.prepare_training(TINY, "float32"), rtol=1e-5)
    assert sum("Finished XLA compilation of jit(epoch)" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.slow
def test_the_crossover_names_the_faster_backend() -> None:
    workers = {OURS: Worker(OnHost)}
    try:
        result = measure.crossover([4], [2], workers, Deadline(60))
    finally:
        workers[OURS].stop()
    assert [(point["width"], point["batch"]) for point in result["points"]] == [(4, 2)]
    assert record.tables({"crossover": result}).splitlines()[2].split()[-1] in {"cupy", "numpy"}


def test_cases_count_operations_and_have_whole_graphs_of_steps() -> None:
    case = Case((6, 8, 5), 4)
    assert case.flops == 2 * 4 * (2 * 6 * 8 + 3 * 8 * 5)
    assert case.parameters == case.start().layout.size
    assert case.batches == 64
    assert Case(cases.MIDDLE, 4096).batches == 32
    assert Case(cases.MIDDLE, 65_536).batches == 2
    assert case.data(7)[0].shape == (7, 6)


def test_numbers_have_three_digits_and_columns_are_aligned() -> None:
    times = {OURS: 7.126, "jax": 104_712.5}
    facts = {"network": "4-2", "batch": 65_536, "precision": "float32", "rest_of_fit": 1.5}
    result = {"microseconds": times, "ratios": {"deepnotes to jax": [0.1, 0.123, 0.2]}, "missing": {"pytorch": "slow"}}
    assert record.tables({"steps, a": facts | result, "streaming": {"error": "no memory"}}) == (
        """\
a training step, µs
network   batch  precision  deepnotes      jax  rest of a fit, ms  to jax
4-2      65,536    float32       7.13  104,712               1.50    0.12

steps, a: no pytorch: slow
streaming: no memory"""
    )


def test_the_documents_quote_the_results() -> None:
    documents = "".join(path.read_text(encoding="utf-8") for path in redraw.documents())
    for name in report.GPU_TABLES:
        content = redraw.results(name)
        assert content is not None
        assert f"<!-- {name} -->\n{report.markdown(name, content)}\n<!-- /{name} -->" in documents


def test_without_a_gpu_the_error_is_one_line_and_no_file_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "gpu.json"
    assert command.main(["--only", "limits", "--out", str(target)], {OURS: WithoutGPU}) == 2
    assert not target.exists()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("nothing measured: BackendUnavailable: ")
    assert "there is no GPU" in line


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--minutes", "-1"], ["--only", "nothing of the kind"]])
def test_a_wrong_option_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(arguments, {OURS: WithoutGPU})


def test_packages_that_are_not_installed_are_named_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert command.main(["--minutes", "0"]) == 0
    error = capsys.readouterr().err
    assert error.count("without torch: it is not installed") == error.count("without jax: it is not installed") == 1


def test_the_command_imports_no_rival() -> None:
    code = "import sys, benchmarks.gpu.__main__; print({'torch', 'jax', 'cupy'} & set(sys.modules))"
    process = subprocess.run([sys.executable, "-c", code], cwd=checkout.ROOT, capture_output=True, text=True)
    assert process.stdout == "set()\n", process.stderr


def test_an_uninstalled_checkout_still_registers_its_backends() -> None:
    (distribution,) = distributions(path=[checkout._write_metadata()])
    assert {e.name for e in distribution.entry_points if e.group == "deepnotes.backends"} >= {"numpy", "numba", "cupy"}
    assert distribution.version == dn.__version__
