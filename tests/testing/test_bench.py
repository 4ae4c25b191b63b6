"""Benchmark tools: operation counts, performance limits, noise, contenders, sweeps and recommendations."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import array_api_strict
import numpy as np
import pytest

import deepnotes as dn
from deepnotes.nn.plan import Plan
from deepnotes.testing.bench import advice, cases, contenders, limits, machine, runs, sweep, timing
from deepnotes.testing.bench.cases import Case
from deepnotes.testing.bench.contenders import Contender
from deepnotes.testing.bench.limits import PerformanceLimits, Work, operations, prediction_work, step_work
from deepnotes.testing.bench.sweep import Point

LIMITS = {"host": PerformanceLimits({"float32": 1e11, "float64": 5e10}, [[1e5, 1e11], [1e9, 1e10]], 1e-7)}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the measurements short."""
    monkeypatch.setattr(timing, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(limits, "PRODUCT_SIZES", (32,))
    monkeypatch.setattr(limits, "DEVICE_PRODUCT_SIZES", (32,))
    monkeypatch.setattr(limits, "COPY_BYTES", (1 << 12, 1 << 14))


def products(sizes: tuple[int, ...], m: int) -> int:
    """Return the number of operations in the matrix products of a step (N2, N13, N15)."""
    pairs = list(pairwise(sizes))
    return sum(2 * n * k * m * (2 if first == 0 else 3) for first, (k, n) in enumerate(pairs))


@pytest.mark.parametrize("sizes", [(4, 16, 16, 1), (64, 128, 64, 10), (784, 10)])
@pytest.mark.parametrize("m", [1, 7, 512])
def test_a_step_has_few_operations_besides_its_matrix_products(sizes: Any, m: int) -> None:
    case = Case(sizes, m)
    p, units = case.plan.layout.size, sum(sizes[1:])
    rest = step_work(case.plan, m).flops - products(sizes, m)
    assert 10 * p + 3 * units * m <= rest <= 15 * p + 30 * units * m


def test_unused_work_is_not_counted_and_shared_work_is_counted_once() -> None:
    def function(xp: Any, A: Any, B: Any) -> list[Any]:
        xp.exp(B @ A)
        return [xp.sum(A * A) + xp.sum(A * A), xp.astype(A > 0, A.dtype)]

    assert operations(function, [(3, 4), (4, 3)], ["float64"] * 2) == 2 * 12 + 1


def test_the_work_for_any_batch_size_follows_from_two_small_batches() -> None:
    plan = Case((5, 8, 3), 1).plan
    for m in (2, 3, 11):
        assert step_work(plan, m).flops == limits._step_operations(plan, m)


def test_the_work_of_the_optimizer_is_counted() -> None:
    plain = Case((5, 8, 3), 4).plan
    sgd = step_work(Plan(**vars(plain) | {"optimizer": dn.SGD(0.1)}), 4)
    assert step_work(plain, 4).flops - sgd.flops >= 8 * plain.layout.size, "Adam does more than SGD"
    assert step_work(plain, 4).bytes - sgd.bytes == 2 * 2 * 4 * plain.layout.size, "two slots, read and written"


def test_the_counted_bytes_are_those_of_samples_parameters_and_slots() -> None:
    case = Case((64, 128, 10), 64)
    p = 64 * 128 + 128 + 1280 + 10
    assert step_work(case.plan, 64).bytes == 4 * (64 * 64 + 6 * p) + 8 * 64
    assert step_work(case._replace(dtype="float64").plan, 64).bytes == 8 * (64 * 64 + 6 * p) + 8 * 64
    assert prediction_work(case.plan, 64).bytes == 4 * (64 * 64 + p + 10 * 64)


def test_a_limit_is_the_slower_of_arithmetic_and_memory() -> None:
    host = LIMITS["host"]
    assert host.seconds(Work(10**11, 1000, 1000), "float32") == pytest.approx(1)
    assert host.seconds(Work(10**11, 1000, 1000), "float64") == pytest.approx(2)
    assert host.seconds(Work(1, 10**11, 10**5), "float32") == pytest.approx(1), "a small working set is cached"
    assert host.seconds(Work(1, 10**11, 10**6), "float32") == pytest.approx(10), "a large one is not"
    assert host.seconds(Work(0, 0, 0), "float32", calls=3) == pytest.approx(3e-7)
    comparison = host.compare_with_limit(Work(10**6, 10, 10), "float32", {"a": 40.0, "b": 10.0})
    assert comparison["share"] == {"a": 0.25, "b": 1.0}


@pytest.mark.parametrize("backend", ["numpy", dn.Backend("strict", array_api_strict)])
def test_limits_are_measured_on_the_device_of_the_backend(backend: Any) -> None:
    measured = limits.measure_limits(dn.get_backend(backend), ["float32"], rounds=1)
    assert 0 < measured.call < 1e-2
    assert measured.flops["float32"] > 1e6
    assert [size for size, _ in measured.copies] == list(limits.COPY_BYTES)
    assert min(rate for _, rate in measured.copies) > 1e6
    assert limits.location(dn.get_backend(backend)) == ("host" if backend == "numpy" else "strict")
    assert json.loads(json.dumps(measured.as_dict())) == measured.as_dict()


def test_the_reason_states_the_memory_available_for_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case((64, 128, 10), 1000)
    monkeypatch.setattr(cases, "available_memory", lambda: 10_000_000)
    reason = case.too_large(1_000_000)
    assert reason is not None
    assert "wanted at most 0.0 GB" in reason
    monkeypatch.setattr(cases, "available_memory", lambda: None)
    assert case.too_large(10**12) is None, "a case runs if the free memory is unknown"
    assert case.memory(2000) - case.memory(1000) == 1000 * 65 * 4


def test_available_memory_respects_the_limit_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   1000 kB\n",
        "/sys/fs/cgroup/memory.max": "700000\n",
        "/sys/fs/cgroup/memory.current": "200000\n",
    }
    monkeypatch.setattr(Path, "read_text", lambda path, encoding=None: files[str(path)])
    assert machine.available_memory() == 500_000
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert machine.available_memory() == 1_024_000


def test_only_a_source_tree_of_deepnotes_has_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = {"ls-files": None, "rev-parse": "abc1234", "diff": ""}
    monkeypatch.setattr(machine, "_git", lambda *command: outputs[command[0]])
    assert machine._commit() is None, "an installed package inside another repository"
    outputs["ls-files"] = "machine.py"
    assert machine._commit() == "abc1234"
    outputs["diff"] = None
    assert machine._commit() == "abc1234+", "changed sources"


def test_measurements_with_large_scatter_are_unreliable() -> None:
    summary = timing.summary({"stable": [1e-6] * 7, "noisy": [1e-6, 2e-6, 3e-6, 1e-6, 4e-6], "once": [1e-6]})
    assert summary["unreliable"] == ["noisy", "once"]
    assert summary["scatter"] == {"stable": 0.0, "noisy": 1.0, "once": None}


def test_a_backend_without_settable_threads_has_one_contender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    assert contenders.thread_counts() == [1, 2, 4, 6]
    strict = dn.Backend("strict", array_api_strict)
    monkeypatch.setattr(contenders, "get_backend", _refuse_options)
    group = contenders.contenders([strict])
    assert [(c.name, c.threads) for c in group] == [("strict", None)]


def _refuse_options(name: str, **options: Any) -> Any:
    raise dn.ArgumentError(f"{name} has no options")


def test_threads_are_set_by_an_option_of_the_backend_or_by_blas() -> None:
    pytest.importorskip("threadpoolctl", reason="comes with the extra numba")
    pytest.importorskip("numba", reason="comes with the extra numba")
    from threadpoolctl import threadpool_info

    by_name = {c.name: c for c in contenders.contenders([dn.get_backend("numpy"), dn.get_backend("numba")], [1])}
    assert list(by_name) == ["numpy, 1 thread", "numba, 1 thread"]
    assert by_name["numba, 1 thread"].options == "--backend numba --threads 1"
    numpy = by_name["numpy, 1 thread"]
    assert (numpy.options, numpy.environment) == ("--backend numpy", "OMP_NUM_THREADS=1")
    with numpy.execution_context():
        assert {x["num_threads"] for x in threadpool_info() if x["user_api"] == "blas"} <= {1}


def test_unavailable_backends_are_reported_and_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_backend(name: str) -> Any:
        if name == "gone":
            raise dn.BackendUnavailable("gone", "no device", "buy one")
        return dn.get_backend(name)

    monkeypatch.setattr(contenders, "get_backend", get_backend)
    available, unavailable = contenders.select_backends(["numpy", "gone", "numpy"])
    assert [backend.name for backend in available] == ["numpy"]
    assert unavailable == {"gone": "no device; to fix it: buy one"}
    with pytest.raises(dn.UnknownNameError, match="did you mean 'numpy'"):
        contenders.select_backends(["nump"])


def test_contenders_with_different_losses_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare_training(backend: Any, case: Any, X: Any, y: Any, theta: Any) -> Any:
        return lambda epochs, shuffle: [float(backend == "b")] * epochs

    monkeypatch.setattr(runs, "training", prepare_training)
    pair = [Contender("a", "a"), Contender("b", "b")]
    with pytest.raises(dn.DeepnotesError, match="b trains differently from a: losses"):
        runs.steps(Case((4, 3), 8), pair, LIMITS, 1)


def test_the_times_of_steps_and_predictions_are_compared_with_limits() -> None:
    pair = [Contender("numpy", dn.get_backend("numpy")), Contender("eager", dn.Backend("eager", np))]
    all_limits = LIMITS | {"eager": LIMITS["host"]}
    for measure in (runs.steps, runs.predictions):
        measurement = measure(Case((4, 6, 3), 8), pair, all_limits, 3, 0.001)
        assert set(measurement["microseconds"]) == {"numpy", "eager"}
        assert all(us > 0 for us in measurement["microseconds"].values())
        for name, location in (("numpy", "host"), ("eager", "eager")):
            assert runs.share(measurement, name) == measurement["limits"][location]["share"][name] > 0


def test_a_sweep_reports_why_it_skips_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    completed: list[Case] = []

    def steps(case: Case, *rest: Any) -> dict[str, Any]:
        if case.batch == 3:
            raise MemoryError("the device is full")
        completed.append(case)
        return {"network": case.network, "batch": case.batch, "microseconds": {"a": 1.0}}

    monkeypatch.setattr(sweep, "steps", steps)
    monkeypatch.setattr(cases, "available_memory", lambda: 10**9)
    shapes = [((8, 8, 8), 4), ((8, 8, 8), 3), ((64, 10**6, 8), 1), ((512, 512, 512), 10**5), ((8, 8), 2)]
    points = [Point("line", i, Case(sizes, batch)) for i, (sizes, batch) in enumerate(shapes)]
    group = [Contender("numpy", dn.get_backend("numpy"))]
    numbers: list[int] = []
    results = sweep.sweep(points, group, LIMITS, 60, on_point=lambda point, number, left: numbers.append(number))
    assert [entry["x"] for entry in results] == [0, 1, 2, 3, 4], "in the order of the points"
    assert [case.batch for case in completed] == [2, 4], "the least work first"
    assert "out of memory: the device is full" in results[1]["skipped"]
    assert "GB of memory" in results[2]["skipped"]
    assert "one step takes" in results[3]["skipped"] or "GB of memory" in results[3]["skipped"]
    assert numbers == [0, 1, 2, 3, 4]
    expired = sweep.sweep(points[:1], group, LIMITS, 0.0)
    assert expired[0]["skipped"] == "the time is up"
    assert sweep.skipped(expired + expired) == [(("8-8-8", 4), "the time is up")]


def test_a_contender_that_takes_too_long_is_left_out_of_a_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "steps", lambda case, group, *rest: {"microseconds": {c.name: 1.0 for c in group}})
    pair = [Contender("numpy", dn.get_backend("numpy")), Contender("device", dn.Backend("device", np))]
    fast = PerformanceLimits({"float32": 1e15}, [[1e9, 1e13]], 1e-7)
    point = Point("line", 8, Case((2048,) * 3, 65_536))
    (measurement,) = sweep.sweep([point], pair, LIMITS | {"device": fast}, 60)
    assert list(measurement["microseconds"]) == ["device"]


def test_sweep_lines_cover_all_widths_and_batches() -> None:
    case = Case((64, 128, 32, 10), 48)
    points = sweep.around(case)
    assert [p.x for p in points if p.line == "width"] == list(sweep.WIDTHS)
    assert [p.x for p in points if p.line == "batch"] == [1, 16, 48, 256, 4096, 65_536]
    assert sweep.WIDTHS[0] == 8
    assert sweep.WIDTHS[-1] == 8192
    assert len(sweep.grid("float64")) == len(sweep.WIDTHS) * len(sweep.BATCHES)


def test_a_small_lead_does_not_count_as_overtaking() -> None:
    line = {"a": [(1, 10.0), (10, 10.0), (100, 100.0)], "b": [(1, 20.0), (10, 9.5), (100, 20.0)], "c": [(10, 1000.0)]}
    (change,) = sweep.overtakings(line)
    assert (change.before, change.after) == ("a", "b")
    assert 10 <= change.x <= 12
    assert sweep.overtakings({"a": [(1, 1.0)]}) == []


def result(times: dict[str, float], scatter: float | None = 0.02) -> dict[str, Any]:
    """Return a measurement with these times in microseconds, all with the same scatter."""
    unreliable = [name for name in times if timing.is_unreliable(scatter)]
    return {"microseconds": times, "scatter": dict.fromkeys(times, scatter), "unreliable": unreliable}


def test_advice_prefers_the_fastest_and_among_equals_the_fewest_threads() -> None:
    numpy = dn.get_backend("numpy")
    group = [Contender("one", numpy, 1, True), Contender("two", numpy, 2, True)]
    group.append(Contender("other", dn.Backend("other", np)))
    b = advice.best(result({"one": 10.0, "two": 5.0, "other": 50.0}), group)
    assert (b.contender.name, b.equivalents, b.runner_up, b.speedup, b.is_reliable) == ("two", [], "other", 10.0, True)
    b = advice.best(result({"one": 10.1, "two": 10.0, "other": 50.0}), group)
    assert (b.contender.name, b.equivalents) == ("one", ["two"])
    text = advice.advice("training", result({"one": 10.1, "two": 10.0, "other": 50.0}), group)
    assert text.startswith("for training use one: --backend numpy, with OMP_NUM_THREADS=1 in the environment; 5.0 ")
    assert text.endswith("equally fast within the noise: two")
    assert "unreliable" in advice.advice("training", result({"one": 1.0, "two": 9.0}, None), group[:2])


def test_the_benchmark_tools_import_neither_matplotlib_nor_rich() -> None:
    code = "import sys, deepnotes.testing.bench.report; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"matplotlib", "rich"} & {name.partition(".")[0] for name in loaded}
