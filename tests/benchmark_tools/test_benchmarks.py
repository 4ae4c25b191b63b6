"""The benchmarks: all contenders train in the same way, ratios are computed per round, and tables match the results."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn

sys.path.insert(0, str(Path(__file__).parents[2]))  # the benchmarks are not in the package

from benchmarks import cold_start, memory, redraw, report
from deepnotes.testing.bench import timing
from deepnotes.testing.bench.cases import LEARNING_RATE, Case
from deepnotes.testing.bench.limits import PerformanceLimits

pytestmark = pytest.mark.slow

CASES = {"binary": Case((4, 6, 1), 8), "classes": Case((4, 6, 5, 3), 8)}
MODULES = {"scikit-learn": "sklearn", "pytorch": "torch", "jax": "jax", "jax steps": "jax"}
LIMITS = {"host": PerformanceLimits({"float32": 1e11, "float64": 5e10}, [[1e9, 1e10]], 1e-7)}
MACHINE = {
    "processor": "P", "cores": 2, "python": "3.11", "versions": {"numpy": "2", "jax": "1", "onnxruntime": None},
    "blas": "B", "date": "2020-01-01", "commit": "abc",
}  # fmt: skip


@pytest.mark.parametrize("peer", MODULES)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")  # warnings at the import of other libraries
def test_peers_train_as_deepnotes_does_and_restart_at_each_call(peer: str, name: str) -> None:
    pytest.importorskip(MODULES[peer])
    from benchmarks.peers import PEERS

    case = CASES[name]
    X, y = case.data(5 * case.batch)
    start = dn.Network(case.layers, case.sizes[0], backend="numpy", seed=0)
    train = PEERS[peer](case, X, y, start)
    expected = dn.Network(case.layers, case.sizes[0], backend="numpy", theta=start.flat()).fit(
        X.T, y, optimizer=dn.Adam(LEARNING_RATE), epochs=3, batch_size=case.batch, shuffle=False
    )
    for _ in range(2):
        np.testing.assert_allclose(train(3, False), expected.loss, rtol=1e-5)
    np.testing.assert_allclose(train(3, True)[0], expected.loss[0], rtol=1e-2)


@pytest.mark.filterwarnings("ignore")
def test_the_compiled_peer_trains_as_deepnotes_does_or_its_failure_is_explained() -> None:
    from benchmarks.peers import PEERS, absent

    peer = "pytorch compiled"
    reason = absent(peer)
    if reason:
        pytest.skip(reason)
    from benchmarks.steps import set_up_contenders

    case = CASES["classes"]
    contenders, failures = set_up_contenders(case, ["numpy"], [peer], *case.data(3 * case.batch))
    assert set(contenders) | set(failures) == {"numpy", peer}
    assert peer in PEERS
    assert peer in contenders or len(failures[peer]) > 10


def test_steps_and_predictions_are_compared_with_matrix_products(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("threadpoolctl", reason="comes with the extra numba")
    from benchmarks import steps

    monkeypatch.setattr(steps, "ROUND_SECONDS", 0.001)
    result = steps.measure(Case((4, 16, 16, 1), 32), ["numpy"], [], 3, LIMITS)
    assert set(result["microseconds"]) == set(result["scatter"]) == {"numpy", "products"}
    assert result["network"] == "4-16-16-1"
    lowest, median, highest = result["ratios"]["numpy to products"]
    assert 0 < lowest <= median <= highest
    limit = result["limits"]["host"]
    assert limit["share"]["numpy"] == pytest.approx(limit["microseconds"] / result["microseconds"]["numpy"], rel=0.1)

    from benchmarks import predictions

    monkeypatch.setattr(predictions, "ROUND_SECONDS", 0.001)
    result = predictions.measure(CASES["classes"], ["numpy"], 1, LIMITS, with_onnx=False)
    assert set(result["ratios"]) == {"numpy to products"}
    assert result["unreliable"] == ["numpy", "products"], "the noise of one round is unknown"


@pytest.mark.parametrize("name", CASES)
def test_onnx_runtime_predicts_as_deepnotes_does(name: str) -> None:
    for module in ("onnx", "onnxruntime"):
        pytest.importorskip(module, reason="comes with the extra peers")
    from benchmarks.predictions import onnx_runtime

    case = CASES[name]
    net = dn.Network(case.layers, case.sizes[0], backend="numpy", seed=0)
    rows, _ = case.data(5)
    np.testing.assert_allclose(onnx_runtime(net, rows, 1)().T, net.predict(rows.T), rtol=1e-5)


def test_peers_that_fail_or_train_differently_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import steps

    def wrong(case: Case, X: np.ndarray, y: np.ndarray, start: dn.Network) -> Any:
        return lambda epochs, shuffle: [1.0] * epochs

    def broken(case: Case, X: np.ndarray, y: np.ndarray, start: dn.Network) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(steps, "PEERS", {"wrong": wrong, "broken": broken})
    case = CASES["binary"]
    contenders, failures = steps.set_up_contenders(case, ["numpy"], ["wrong", "broken"], *case.data(2 * case.batch))
    assert list(contenders) == ["numpy"]
    assert failures["broken"] == "RuntimeError: no compiler"
    assert failures["wrong"].startswith("DeepnotesError: wrong trains differently from numpy: losses [1.0, 1.0]")


def test_ratios_compare_times_of_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PAUSE_SECONDS", 0)
    a, b = iter([2e-6, 6e-6, 9e-6]), iter([1e-6, 2e-6, 9e-6])
    times = timing.turns({"a": lambda: next(a), "b": lambda: next(b)}, 3)
    assert timing.summarize_ratios(times, ["a"]) == {
        "microseconds": {"a": 6.0, "b": 2.0},
        "scatter": {"a": 0.583, "b": 2.0},
        "unreliable": ["a", "b"],
        "ratios": {"a to b": [1.0, 2.0, 3.0]},
    }


def test_the_fastest_choice_has_the_shortest_trial_not_counting_first_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PAUSE_SECONDS", 0)
    trials = {1: iter([0.0, 5, 5, 5]), 2: iter([9.0, 9, 4, 9])}
    assert timing.fastest([1, 2, 1], lambda n: next(trials[n])) == 2


def test_products_computes_the_matrix_products_of_a_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.steps import products

    shapes = []
    monkeypatch.setattr(np, "matmul", lambda a, b, out: shapes.append((*a.shape, b.shape[1], *out.shape)))
    products(Case((4, 6, 3), 8))()
    assert shapes == [(6, 4, 8, 6, 8), (6, 8, 4, 6, 4), (3, 6, 8, 3, 8), (3, 8, 6, 3, 6), (6, 3, 8, 6, 8)]


def test_cold_starts_report_minimum_median_and_maximum() -> None:
    times = cold_start.measure({"numpy": cold_start.TRAIN.format(backend="numpy")}, rounds=1, repeats=2)
    assert all(0 < lowest <= median <= highest for lowest, median, highest in times["numpy"].values())


COPYING = """
import deepnotes as dn
fit = dn.Network.fit
dn.Network.fit = lambda net, X, y, **options: fit(net, X.copy(), y, **options)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset the peak of the memory")
@pytest.mark.parametrize("layout", memory.LAYOUTS)
def test_the_memory_benchmark_detects_a_copy_of_the_samples(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    rows, _ = memory.CASE.data(12_000)  # more than 32 MB, so that no copy fits into freed memory
    np.save(path, rows)
    # In a new process: in this one, memory freed by earlier tests could hide the copy.
    code = memory.GROWTH.format(backend="numpy", layout=layout, path=str(path))
    assert memory.run_and_parse(COPYING + code) > 0.9 * rows.nbytes
    assert memory.run_and_parse(code) < 0.5 * rows.nbytes


def test_tables_are_filled_in_between_markers_if_there_are_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redraw, "RESULTS", tmp_path)
    times = {"network": "1-2", "batch": 1000, "microseconds": {"numba": 1.234, "jax": 56.7}, "unreliable": ["jax"]}
    results = {
        "steps": {"small": {**times, "ratios": {"numba to jax": [0.5, 0.6, 0.7], "numba to other": [1, 2, 3]}}},
        "predictions": {"one": {**times, "ratios": {"numba to jax": [0.5, 0.6, 0.7]}}},
        "cold-start": {"numpy": {"first": [1.0, 2.0, 3.0], "warm": [0.1, 0.2, 0.3]}},
    }
    for name, result in results.items():
        content = {"what": "", "machine": MACHINE, "results": result}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    names = ("steps", "cold-start", "memory", "another")
    readme = "\n".join(f"<!-- {name} -->\nold\n<!-- /{name} -->" for name in names)
    assert redraw.fill(readme) == (
        """\
<!-- steps -->
| network | batch | numba µs | jax µs | numba to jax |
|---|--:|--:|--:|--:|
| small, 1-2 | 1,000 | 1.2 | ~57 | 0.60 (0.50 to 0.70) |

~ unreliable: the middle half of the measured times spans more than 20% of their median.

P, 2 cores, Python 3.11, numpy 2, jax 1, BLAS B; 2020-01-01, commit abc.
<!-- /steps -->
<!-- cold-start -->
| backend | first ever, s | after that, s |
|---|--:|--:|
| numpy | 2.00 (1.00 to 3.00) | 0.20 (0.10 to 0.30) |

P, 2 cores, Python 3.11, numpy 2, BLAS B; 2020-01-01, commit abc.
<!-- /cold-start -->
<!-- memory -->
old
<!-- /memory -->
<!-- another -->
old
<!-- /another -->"""
    )


def test_results_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = {"numpy": {"growth": {"by row": 4.8}, "allowed": 64.2, "samples": 188.0}}
    report.publish("memory", "what it is", results, tmp_path / "memory.json")
    content = json.loads((tmp_path / "memory.json").read_text())
    assert content["what"] == "what it is"
    assert content["results"] == results
    assert {"processor", "cores", "versions", "commit", "date"} <= set(content["machine"])
    printed = capsys.readouterr().out
    assert "by row, MB" in printed
    assert "4.8" in printed


def test_embeddings_are_compared_with_one_hot_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    from benchmarks import embeddings

    commands = []

    def record(arguments: list[str]) -> Any:
        commands.append(arguments)
        return {"metrics": {"r2": 0.5}}

    monkeypatch.setattr(embeddings, "run", record)
    monkeypatch.setattr(embeddings, "ROUND_SECONDS", 0.0)
    case = embeddings.Case("skewed", 200, (12, 30))
    measured = {case.name: embeddings.measure(case, ["numpy"], 2)}
    trained = [" ".join(command[2:-1]) for command in commands if command[0] == "train"]
    assert len(trained) == 2 * len(embeddings.CONTENDERS) == 8
    assert ["--embed-above none" in command for command in trained[:4]] == [True, False, True, False]
    assert ["--norm layer" in command for command in trained[:4]] == [False, False, True, True]
    head, row = report.embeddings_rows(measured, False)
    assert row[:3] == ["skewed, 12 and 30", "200", "R²"]
    assert len(head) == len(row) == 9
    head, row = report.embeddings_steps_rows(measured, False)
    assert row[0] == "numpy: skewed, 12 and 30"
    assert head[3:] == ["embedding to one-hot", "both with LayerNorm"]


@pytest.mark.parametrize("kind", ["sum", "skewed", "network", "classes"])
def test_the_tables_for_embeddings_have_the_categories_that_they_name(kind: str) -> None:
    pytest.importorskip("sklearn")
    from benchmarks import embeddings

    case = embeddings.Case(kind, 1_000, (12, 30))
    columns = case.columns(3)
    assert [len(column) for column in columns.values()] == [1_000 + embeddings.HELD_OUT] * 6
    assert [len(set(columns[name])) for name in ("x3", "x4")] == [12, 30]
    assert (columns["y"].dtype.kind == "U") == (case.task == "classification")
    counts = np.unique(columns["x3"], return_counts=True)[1]
    assert (counts.max() > 3 * counts.mean()) == (kind == "skewed")


def test_the_documents_quote_the_comparison_of_embeddings() -> None:
    text = (report.ROOT / "docs" / "layers.md").read_text(encoding="utf-8")
    for name in ("embeddings", "embeddings-steps"):
        content = json.loads((report.RESULTS / "embeddings.json").read_text(encoding="utf-8"))
        assert f"<!-- {name} -->\n{report.markdown(name, content)}\n<!-- /{name} -->" in text


@pytest.mark.filterwarnings("ignore")
def test_tables_are_compared_on_the_same_rows_and_their_means_are_shown() -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("pandas")
    from benchmarks import tables

    known = tables.tables()
    assert len(known) == 14
    train, test = tables.split(known["flats"], seed=0)
    assert len(np.union1d(train, test)) == len(train) + len(test) == 400
    table = known["linnerud, waist"]
    results = {"linnerud": tables.measure(table, "numpy", seeds=2)}
    assert all(len(scores) == 2 for scores in results["linnerud"]["scores"].values())
    scores = tables.by_sklearn(table, *tables.split(table, seed=1), seed=1)
    assert scores["linear"] == pytest.approx(results["linnerud"]["scores"]["linear"][1])
    head, row, mean = report.tables_rows(results, in_full=False)
    assert head[3:7] == ["linear", "MLP", "deepnotes", "early stopping"]
    assert row[:2] == ["linnerud", "20, 3"]
    assert mean[0] == "mean"
    assert min(map(float, mean[3:7])) >= 0
