"""The benchmark tools: comparisons, instruction counts, plots, the run of all parts, and the pytest suite."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # the benchmarks are not in the package

from benchmarks import compare, instructions, options, paired, redraw, report, run
from deepnotes.equations import EQUATIONS
from deepnotes.testing.bench.cases import Case
from deepnotes.testing.bench.limits import PerformanceLimits

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MACHINE = {
    "processor": "P", "cores": 2, "python": "3.11", "versions": {"numpy": "2"}, "blas": "B", "date": "2020-01-01",
    "commit": "abc", "system": "S", "threads": {},
}  # fmt: skip


def make_results(scatter: float | None = 0.02, **microseconds: float) -> dict[str, Any]:
    """Return the content of a results file with one case, given its times and their relative scatter."""
    scatters = dict.fromkeys(microseconds, scatter)
    case: dict[str, Any] = {"microseconds": microseconds, "scatter": scatters, "unreliable": []}
    return {"machine": MACHINE, "results": {"tiny": {"network": "4-1", "batch": 8, "ratios": {}, **case}}}


def verdicts(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
    """Return the verdict on each case: "slower", "faster" or "" (no significant change)."""
    return {change.case: change.verdict for change in compare.changes(old, new)}


def test_only_changes_beyond_the_noise_are_reported() -> None:
    assert verdicts(make_results(a=10, b=10, c=10), make_results(a=10.4, b=12, c=8)) == {
        "tiny: a": "", "tiny: b": "slower", "tiny: c": "faster",
    }  # fmt: skip
    assert verdicts(make_results(0.5, a=10), make_results(0.5, a=12)) == {"tiny: a": ""}, "the scatter is larger"
    assert verdicts(make_results(None, a=10), make_results(None, a=11)) == {"tiny: a": ""}, "the scatter is unknown"


def test_changes_are_relative_to_the_speed_of_matrix_products() -> None:
    old = make_results(a=10, products=10)
    assert verdicts(old, make_results(a=15, products=15)) == {"tiny: a": "", "tiny: products": "slower"}
    assert verdicts(old, make_results(a=10, products=5))["tiny: a"] == "slower"


@pytest.mark.parametrize(
    ("old", "new", "case"),
    [
        (
            {"numpy": {"first": [1, 1, 1], "warm": [1, 1, 1]}},
            {"numpy": {"first": [2, 2, 2], "warm": [1, 1, 1]}},
            "first",
        ),
        ({"numpy": {"growth": {"by row": 5.0}}}, {"numpy": {"growth": {"by row": 50.0}}}, "by row"),
        ({"numpy": {"per_step": 1000.0}}, {"numpy": {"per_step": 1003.0}}, "instructions"),
    ],
)
def test_results_of_every_kind_are_compared(old: Any, new: Any, case: str) -> None:
    result = verdicts({"machine": MACHINE, "results": old}, {"machine": MACHINE, "results": new})
    assert [name for name, verdict in result.items() if verdict == "slower"] == [f"numpy: {case}"]


def test_points_that_only_one_file_has_are_named() -> None:
    measured = {"network": "8-8-8", "batch": 1, "microseconds": {"a": 1.0}, "scatter": {"a": 0.0}}
    skipped = {"network": "8-8-8", "batch": 9, "skipped": "the time is up"}
    old, new = (
        {"machine": MACHINE, "results": {"points": points}}
        for points in ([measured], [measured, measured | {"batch": 9}])
    )
    assert compare.only_in_one(old, new) == ["only the new file has 8-8-8, batch 9: a"]
    assert compare.only_in_one(old, {"machine": MACHINE, "results": {"points": [measured, skipped]}}) == []


def test_the_compare_command_compares_two_files(tmp_path: Path) -> None:
    for name, us in (("old", 10.0), ("new", 20.0)):
        (tmp_path / f"{name}.json").write_text(json.dumps(make_results(a=us)))
    command = [sys.executable, "-m", "benchmarks.compare", str(tmp_path / "old.json")]
    process = subprocess.run(
        [*command, str(tmp_path / "new.json"), "--strict"], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 1
    assert re.search(r"tiny: a +10\.0 +20 +\+100\.0% +±5\.0% +slower", process.stdout)
    assert "1 cases: 1 slower, 0 faster" in process.stdout
    process = subprocess.run([*command, str(ROOT / "README.md")], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2
    assert "wanted two checkouts or two files of results" in process.stderr


SLOWER = """
import time
from deepnotes.network import network

fit = network.Network.fit


def slow_fit(self, X, y, **options):
    time.sleep(0.0005 * options["epochs"] * 16)
    return fit(self, X, y, **options)


network.Network.fit = slow_fit
"""


def checkout(folder: Path, appended: str = "") -> Path:
    """Copy the packages of this checkout to a folder, with code appended to ``deepnotes``; return the folder."""
    ignore = shutil.ignore_patterns("__pycache__")
    for package in ("deepnotes", "backends"):
        shutil.copytree(ROOT / package, folder / package, ignore=ignore)
    with (folder / "deepnotes" / "__init__.py").open("a") as file:
        file.write(appended)
    return folder


def test_checkouts_take_turns_and_a_slower_one_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new checkout is a copy of the old one that sleeps for half a millisecond in each step."""
    monkeypatch.setattr(paired, "ROUND_SECONDS", 0.02)
    old, new = checkout(tmp_path / "old"), checkout(tmp_path / "new", SLOWER)
    case = Case((4, 6, 1), 8)
    pairs, failures = paired.compare_checkouts(old, new, {"tiny": case}, ["numpy", "absent"], 3)
    assert list(pairs) == ["tiny: numpy"]
    assert list(failures) == ["tiny: absent"]
    assert "unknown backend 'absent'" in failures["tiny: absent"]
    times = pairs["tiny: numpy"]
    assert len(times.old) == len(times.new) == 3
    assert np.median(times.new) - np.median(times.old) > 0.0004
    assert [change.verdict for change in compare.paired_changes(pairs)] == ["slower"]


def test_the_change_between_checkouts_is_the_median_of_paired_ratios() -> None:
    """If the machine becomes ten times slower for a round, the ratios do not change."""
    pairs = {
        "a": paired.Pairs([1.0, 10.0, 2.0], [1.0, 10.0, 2.0]),
        "b": paired.Pairs([1.0, 10.0, 2.0], [1.5, 15.0, 3.0]),
    }
    same, slower = compare.paired_changes(pairs)
    assert (same.factor, same.verdict) == (1.0, "")
    assert (slower.factor, slower.verdict) == (1.5, "slower")
    scattered = {"a": paired.Pairs([1.0, 1.0, 1.0], [0.5, 1.2, 2.0])}
    assert [change.verdict for change in compare.paired_changes(scattered)] == [""]
    assert paired.Pairs([1.0], [2.0]).noise is None


def test_the_compare_command_compares_two_checkouts(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "benchmarks.compare", str(checkout(tmp_path / "old"))]
    options = ["--networks", "tiny", "--backends", "numpy", "--rounds", "1", "--all"]
    process = subprocess.run([*command, str(ROOT), *options], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert re.search(r"tiny: numpy +[0-9.]+ +[0-9.]+ +[+-][0-9.]+% +±10.0%", process.stdout)
    process = subprocess.run([*command, str(tmp_path / "empty"), *options], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2
    assert "no case could be timed" in process.stderr
    assert "wanted the checkout" in process.stderr


def test_stored_results_are_unchanged_relative_to_themselves() -> None:
    paths = sorted(report.RESULTS.glob("*.json"))
    assert paths
    for path in paths:
        content = json.loads(path.read_text())
        if path.stem != "threads" or compare.values(content):
            assert not [change for change in compare.changes(content, content) if change.verdict], path


def test_instructions_per_step_are_the_difference_between_two_training_runs() -> None:
    codes = []

    def count(code: str) -> int:
        codes.append(code)
        return 10**9 + 1000 * int(re.search(r"epochs=(\d+)", code)[1]) * instructions.BATCHES  # type: ignore[index]

    assert instructions.per_step("numpy", count)["per_step"] == 1000
    assert [code.replace("epochs=3", "epochs=1") for code in codes] == [codes[0]] * 2
    assert all('backend="numpy"' in code for code in codes)


def test_valgrind_counts_the_same_instructions_in_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    monkeypatch.setattr(sys, "executable", shutil.which("true"))
    count = instructions.count_instructions("")
    assert count == pytest.approx(instructions.count_instructions(""), rel=0.01)
    assert 10_000 < count < 10**8


def test_parts_that_fail_or_time_out_do_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parts are real processes: one succeeds, one fails, one takes too long, and one writes no results."""
    package = tmp_path / "benchmarks"
    package.mkdir()
    (package / "__init__.py").touch()
    write = "import sys, pathlib; pathlib.Path(sys.argv[-1]).write_text('{}')"
    for name, code in {"good": write, "bad": "raise SystemExit(3)", "slow": "input()", "silent": "pass"}.items():
        (package / f"{name}.py").write_text(code.replace("input()", "import time; time.sleep(60)"))
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "TIMEOUT_FACTOR", 2)
    monkeypatch.setattr(run, "MIN_TIMEOUT", 1)
    expected_seconds = {"bad": 5, "silent": 5, "slow": 1, "good": 5}
    parts = [run.Part(name, name, (), seconds) for name, seconds in expected_seconds.items()]
    monkeypatch.setattr(run, "PARTS", [*parts, run.Part("tool", "good", (), 1, "no-such-tool")])
    monkeypatch.setattr(sys, "argv", ["run", "--results", str(tmp_path / "results")])
    with pytest.raises(SystemExit) as end:
        run.main()
    assert end.value.code == 1
    err = capsys.readouterr().err
    failures = re.findall(r"^failed: (.*)$", err, flags=re.MULTILINE)
    assert failures == [
        "bad: exit code 3", "silent: wrote no results", "slow: killed after 2 s", "tool: no-such-tool is not installed",
    ]  # fmt: skip
    assert (tmp_path / "results" / "good.json").exists()
    assert "== 4 of 5: good;" in err


def test_all_parts_have_tables_and_take_less_than_20_minutes() -> None:
    assert sum(part.seconds for part in run.PARTS) < 20 * 60
    assert {part.name for part in run.PARTS} <= set(report.TABLES)
    assert set(run.QUICK) <= {part.name for part in run.PARTS}


def test_invalid_options_are_refused_and_unavailable_backends_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = options.parser("A benchmark.\n\nMore.")
    for arguments, message in (
        (["--rounds", "0"], "--rounds 0: wanted at least 1"),
        (["--backends", "nump"], "did you mean"),
    ):
        monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
        with pytest.raises(SystemExit) as end:
            options.Options(parser)
        assert end.value.code == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(options, "select_backends", lambda names: ([], {"cupy": "no device"}))
    monkeypatch.setattr(sys, "argv", ["benchmark", "--backends", "cupy"])
    with pytest.raises(SystemExit):
        options.Options(parser)
    err = capsys.readouterr().err
    assert "without cupy: no device" in err
    assert "none of these is available" in err


def test_a_missing_peer_is_reported_with_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import peers

    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert peers.installed() == []
    assert peers.absent("jax steps") == 'jax is not installed; to get it: pip install "deepnotes[peers]"'
    monkeypatch.setattr(peers, "find_spec", lambda name: object())
    monkeypatch.setattr(peers, "which", lambda name: None)
    assert "needs a C++ compiler" in (peers.absent("pytorch compiled") or "")
    assert set(peers.PEERS) - set(peers.installed()) == {"pytorch compiled"}


@pytest.mark.slow
def test_a_plot_is_reproducible_and_contains_the_digest_of_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="comes with the extra plot")
    monkeypatch.setattr(redraw, "RESULTS", tmp_path)
    limits = {"host": PerformanceLimits({"float32": 1e11}, [[1e9, 1e10]], 1e-7).as_dict()}
    points: list[dict[str, Any]] = [
        {"line": f"batch {batch}", "x": x, "network": f"{x}-{x}-{x}", "batch": batch, "dtype": "float32",
         "microseconds": {"a": 1.0 * x, "b": 40.0 + x / 2}, "scatter": {"a": 0.0, "b": 0.0}, "unreliable": []}
        for batch in (1, 16) for x in (8, 32, 128)
    ]  # fmt: skip
    skipped = {"line": "batch 1", "x": 512, "network": "512-512-512", "batch": 1, "skipped": "the time is up"}
    content = {"what": "w", "machine": MACHINE, "ceilings": limits, "results": {"points": [*points, skipped]}}
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    image = redraw.crossover(content)
    assert image == redraw.crossover(content), "the same results give the same bytes"
    text = image.decode()
    assert text.endswith(f"<!-- sweep.json {redraw.digest('crossover')} -->\n</svg>\n")
    assert len(re.findall(r"fastest: a; from about \d+, b", text)) == 2, "where b overtakes, for each batch"
    assert len(image) < 200_000
    assert "left out" in redraw.report()
    assert "<td>512-512-512</td>" in redraw.report()
    readme = "<!-- crossover -->\n<!-- /crossover -->"
    assert f"]({redraw.IMAGE.as_posix()})" in redraw.fill(readme)


@pytest.mark.slow
def test_the_suite_names_skipped_backends_and_stores_performance_limits(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "-p", "no:cacheprovider"]
    command += ["--backend", "numpy,absent"]
    command += ["-k", "(test_equation and relu and not leaky and float32) or (test_adam_steps and tiny and float32)"]
    command += ["--round-seconds", "0.001", f"--benchmark-json={path}"]
    # pytest-benchmark disables itself if the environment variables of pytest-xdist are set.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "absent: unknown backend 'absent'" in process.stdout
    infos = {b["name"]: b["extra_info"] for b in json.loads(path.read_text())["benchmarks"]}
    assert {name.partition("[")[0] for name in infos} == {"test_equation", "test_adam_steps"}
    for info in infos.values():
        assert info["backend"] == "numpy"
        assert info["flops"] > 0
        assert info["bytes"] > 0
        assert 0 < info["share"] < 10
        assert isinstance(info["unreliable"], bool)


@pytest.mark.slow
def test_the_benchmark_of_every_equation_runs() -> None:
    """Each benchmark runs once without timing; warnings are errors, except for overflow in intermediate results."""
    command = [sys.executable, "-m", "pytest", "benchmarks/test_equations.py", "-q", "-p", "no:cacheprovider"]
    command += ["--backend", "numpy", "--benchmark-disable"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    assert f"{2 * len(EQUATIONS)} passed" in process.stdout
