"""The GPU benchmarks, run on a simulated device, and their error message without a GPU."""

import json
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_device import HostDevice, backend

import deepnotes as dn
from benchmarks.gpu import checkout, device, measure, record, rivals
from benchmarks.gpu.__main__ import main, parts
from benchmarks.gpu.cases import CASES, Case

pytestmark = pytest.mark.slow

SMALL = Case((6, 8, 5), 4)


@pytest.fixture(autouse=True)
def no_minimum_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure every turn and every bandwidth for as short a time as possible."""
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    monkeypatch.setattr(device, "SECONDS", 0.0)


def ours(target: Any, case: Case, precision: str, X: np.ndarray, y: np.ndarray, start: dn.Network) -> rivals.Rival:
    """Adapt `rivals.ours` to the parameters of the other rivals; `target` is the backend."""
    return rivals.ours(target, case, X, y, start)


def test_steps_with_different_losses_are_not_timed() -> None:
    def lazy(case: Case, precision: str, X: np.ndarray, y: np.ndarray, start: dn.Network) -> rivals.Rival:
        return rivals.Rival(1.0, lambda epochs: None)

    makers = {"ours": partial(ours, backend()), "numpy": partial(ours, dn.get_backend("numpy")), "lazy": lazy}
    messages: list[str] = []
    products = partial(device.products, device=HostDevice())
    result = measure.steps(SMALL, "float32", makers, products, 3, messages.append)
    assert set(result["microseconds"]) == {"ours", "numpy", "products"}
    assert result["missing"]["lazy"].startswith("ArithmeticError: its first loss 1 is not")
    assert set(result["ratios"]) == {"numpy", "products"}
    assert messages == [f"{SMALL.name}, float32: {name}" for name in makers]
    text = record.tables({"steps, x": result})
    assert "6-8-5, batch 4" in text
    assert "lazy, µs" in text


def test_the_limits_of_the_device_are_measured() -> None:
    assert all(value > 0 for value in device.node(HostDevice()).values())
    result = device.bandwidths(HostDevice(), 1000)
    assert set(result) == {"copy, GB/s", "update, GB/s", "share"}
    for precision in ("float32", "tf32", "bfloat16"):
        assert device.products(SMALL, precision, HostDevice())() > 0


def test_the_crossover_names_the_faster_backend() -> None:
    result = measure.crossover(backend(), dn.get_backend("numpy"), [4], [2], lambda text: None)
    assert [(point["width"], point["batch"]) for point in result["points"]] == [(4, 2)]
    assert record.tables({"crossover": result}).splitlines()[1].split()[-1] in {"cupy", "numpy"}


def test_cases_count_operations_and_fit_into_memory() -> None:
    assert SMALL.flops == 2 * 4 * (2 * 6 * 8 + 3 * 8 * 5)
    assert SMALL.parameters == SMALL.start().layout.size
    assert all(case.batches * case.batch * case.sizes[0] * 4 <= 1 << 30 for case in CASES)


def test_an_uninstalled_checkout_still_registers_its_backends() -> None:
    (distribution,) = distributions(path=[checkout._write_metadata()])
    assert {e.name for e in distribution.entry_points if e.group == "deepnotes.backends"} >= {"numpy", "numba", "cupy"}
    assert distribution.version == dn.__version__


def test_without_a_gpu_the_error_is_one_line_and_no_file_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(*args: Any, **options: Any) -> Any:
        raise dn.BackendUnavailable("cupy", "there is no GPU", "use another machine")

    monkeypatch.setattr("benchmarks.gpu.__main__.get_backend", unavailable)
    target = tmp_path / "gpu.json"
    assert main(["--json", str(target)]) == 2
    assert not target.exists()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("nothing measured: ")
    assert "there is no GPU" in line
    with pytest.raises(SystemExit):
        main(["--rounds", "0"])


def test_each_part_is_written_when_it_ends_and_earlier_parts_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.gpu.__main__.get_backend", lambda *args, **options: backend())
    target = tmp_path / "gpu.json"
    assert main(["--only", "node", "--json", str(target)]) == 0
    monkeypatch.setattr(device, "bandwidths", lambda *args: 1 / 0)
    assert main(["--only", "bandwidth", "--add", "--json", str(target)]) == 1
    results = json.loads(target.read_text(encoding="utf-8"))["results"]
    assert set(results) == {"node", "bandwidth"}
    assert results["bandwidth"] == {"error": "ZeroDivisionError: division by zero"}
    assert "bandwidth: ZeroDivisionError" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--only", "nothing of the kind", "--json", str(target)])


def test_there_is_a_part_for_each_case_and_precision() -> None:
    names = list(parts(main_options(), lambda text: None))
    assert sum(name.startswith("steps") for name in names) == 3 * len(CASES)
    assert sum(name.startswith("conformance") for name in names) == 3


def main_options() -> Any:
    from argparse import Namespace

    return Namespace(device=0, rounds=1)
