"""The conformance suite: correct backends pass, each fault fails its check, and a known gap must really fail."""

import json
from functools import wraps
from pathlib import Path
from typing import Any

import array_api_strict
import numpy as np
import pytest
from mutants import MUTANTS, Mutant

import deepnotes as dn
from deepnotes.backends.base import Backend
from deepnotes.backends.eager import EagerInference, EagerProgram
from deepnotes.cli import main
from deepnotes.equations import EQUATIONS
from deepnotes.testing import BackendConformance, all_checks, run_check
from deepnotes.testing import run as run_suite
from deepnotes.testing.calls import CALLS
from deepnotes.utils.errors import ArgumentError, UnknownNameError

DOCS = Path(__file__).parents[2] / "docs" / "conformance.md"


class Loopback(Backend):
    """A backend whose kernels are NumPy's equations, with a Program and an Inference of its own."""

    def __init__(self) -> None:
        super().__init__("loopback", np, {name: _kernel(name) for name in EQUATIONS})

    def compile(self, plan: Any) -> EagerProgram:
        return EagerProgram(self, plan)

    def compile_inference(self, layers: Any, layout: Any, dtype: str) -> EagerInference:
        return EagerInference(self, layers, layout, dtype)


def _kernel(name: str) -> Any:
    equation = EQUATIONS[name]

    @wraps(equation)
    def kernel(xp: Any, *arguments: Any, **options: Any) -> Any:
        return equation(np, *arguments, **options)

    return kernel


@pytest.mark.slow
class TestLoopback(BackendConformance):
    backend = Loopback()
    quick = True


@pytest.mark.slow
class TestStrict(BackendConformance):
    """An array library that has only the functions of the array API standard."""

    backend = Backend("strict", array_api_strict)
    quick = True


def test_every_equation_is_checked() -> None:
    assert set(CALLS) == set(EQUATIONS)
    assert {f"equations.{name}" for name in EQUATIONS} <= set(all_checks())


@pytest.mark.thinned(3)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_each_fault_is_detected_by_its_check(mutant: Mutant) -> None:
    result = run_check(mutant.make(), mutant.check, quick=True)
    assert result.verdict == "failed", (
        f"{mutant.check} does not detect the fault: worst {result.worst} at {result.where}"
    )
    assert not result.message.partition(": ")[0].endswith("Error"), result.message
    assert run_check("numpy", mutant.check, quick=True).verdict == "passed"


def test_the_table_of_faults_matches_the_mutants() -> None:
    text = DOCS.read_text(encoding="utf-8")
    rows = [f"| {mutant.fault} | `{mutant.check}` |" for mutant in MUTANTS]
    table = "\n".join(["| fault | check |", "|---|---|", *rows])
    assert text.partition("<!-- mutants -->\n")[2].partition("\n<!-- /mutants -->")[0] == table


@pytest.mark.slow
def test_repeated_runs_give_identical_results() -> None:
    reports = [run_suite("numpy", checks=["equations.s*", "programs.optimizer.adam"], quick=True) for _ in range(3)]
    first, *others = [
        [(r.check, r.verdict, r.worst, r.where, r.compared) for r in report.results] for report in reports
    ]
    assert others == [first, first]


# --- known gaps -------------------------------------------------------------------------------------------------------


def _make_broken_backend() -> Backend:
    return next(mutant for mutant in MUTANTS if mutant.check == "semantics.nan.relu").make()


def test_a_known_gap_is_reported_but_is_not_a_failure() -> None:
    report = run_suite(
        _make_broken_backend(),
        checks=["semantics.nan.relu"],
        known_gaps={"semantics.nan.relu": "a comparison drops NaN"},
    )
    assert report.passed
    assert report.results[0].verdict == "known gap"
    assert report.results[0].message.startswith("a comparison drops NaN (")


def test_a_known_gap_whose_check_passes_is_a_failure() -> None:
    report = run_suite("numpy", checks=["semantics.nan.relu"], known_gaps={"semantics.nan.relu": "none"})
    assert not report.passed
    assert "remove it from known_gaps" in report.results[0].message


def test_a_known_gap_for_an_unknown_check_is_refused() -> None:
    wanted = (
        r"^backend 'numpy': known_gaps: unknown check 'semantics\.nan\.rleu'; did you mean 'semantics\.nan\.relu'\? "
    )
    with pytest.raises(ArgumentError, match=wanted + r"known: .{500,2000} and \d+ more$"):
        run_suite("numpy", checks=["semantics.nan.relu"], known_gaps={"semantics.nan.rleu": "typing"})


@pytest.mark.parametrize("reason", ["", " ", None])
def test_a_known_gap_without_a_reason_is_refused(reason: Any) -> None:
    with pytest.raises(ArgumentError, match="wanted the reason"):
        run_suite("numpy", checks=["semantics.nan.relu"], known_gaps={"semantics.nan.relu": reason})


def test_a_backend_declares_its_known_gaps() -> None:
    backend = _make_broken_backend()
    backend.known_gaps = {"semantics.nan.relu": "a comparison drops NaN"}
    assert run_check(backend, "semantics.nan.relu").verdict == "known gap"


def test_checks_that_match_nothing_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown check"):
        run_suite("numpy", checks=["equation.relu"])


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_report_is_a_table_and_json(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    out, _ = run("conformance", "--backend", "numpy", "--check", "equations.*elu*", "--quick", "--json", path)
    report = json.loads(path.read_text())
    assert report["passed"]
    assert {r["check"] for r in report["results"]} == {
        id for id in all_checks() if id.startswith("equations.") and "elu" in id
    }
    assert all(0 <= r["worst"] <= 1 and r["compared"] for r in report["results"])
    for result in report["results"]:
        assert result["check"] in out
    for word in (
        "pass",
        "worst / bound",
        "subnormals",
        "threads",
        f"deepnotes {dn.__version__}",
        f"numpy {np.__version__}",
    ):
        assert word in out


def test_json_without_a_path_is_the_only_output_to_stdout(run: Any) -> None:
    out, err = run("conformance", "--backend", "numpy", "--check", "semantics.ties", "--json")
    assert json.loads(out)["passed"]
    assert "semantics.ties" in err


def test_a_failed_check_gives_exit_status_1(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("deepnotes.cli.conformance.chosen_backend", lambda args: _make_broken_backend())
    assert main(["conformance", "--check", "semantics.nan.*"]) == 1
    out, err = capsys.readouterr()
    assert "FAIL  semantics.nan.relu" in out
    assert "fails 1 of" in err


def test_an_unknown_check_is_a_usage_error(capsys: Any) -> None:
    assert main(["conformance", "--backend", "numpy", "--check", "equations.rleu"]) == 2
    assert "did you mean 'equations.relu'" in capsys.readouterr().err
