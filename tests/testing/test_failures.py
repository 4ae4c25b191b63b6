"""The report of conformance leads from failures to their causes, and errors name the backend that raised them."""

from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import array_api_strict
import numpy as np
import pytest

import deepnotes as dn
from deepnotes import equations as eq
from deepnotes.backends import registry
from deepnotes.cli import main
from deepnotes.testing import run

CHECKS = ["equations.relu", "equations.weight_gradient", "programs.activation.relu", "programs.optimizer.sgd"]


def doubled(xp: Any, dZ: Any, A_prev: Any) -> Any:
    """Return twice the weight gradient."""
    return 2 * eq.weight_gradient(xp, dZ, A_prev)


def failing(xp: Any, dZ: Any, A_prev: Any) -> Any:
    """Raise an error."""
    raise RuntimeError("no memory for a tile")


def create_failing() -> dn.Backend:
    """Return a backend whose weight gradient raises an error."""
    return dn.Backend("failing", np, {"weight_gradient": failing})


def create_empty() -> dn.Backend:
    """Return a backend whose ReLU forgets to return its result."""
    return dn.Backend("empty", np, {"relu": lambda xp, Z: None})


def create_misnamed() -> dn.Backend:
    """Return a backend with a kernel for no equation."""
    return dn.Backend("misnamed", np, {"weight_gradeint": doubled})


def create_other() -> dn.Backend:
    """Return a backend whose name differs from that of its entry point."""
    return dn.Backend("different", np)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Register these backends, as a package of a third party does."""
    entries = {
        name: EntryPoint(name, f"{__name__}:create_{name}", registry.GROUP)
        for name in ("failing", "empty", "misnamed", "other")
    }
    entries |= registry._entry_points()
    monkeypatch.setattr(registry, "_entry_points", lambda: entries)
    monkeypatch.setattr(registry, "_loaded", {})


def test_failures_are_grouped_by_the_equation_that_fails_first() -> None:
    report = run(dn.Backend("doubled", np, {"weight_gradient": doubled}), checks=CHECKS, quick=True)
    assert {result.check for result in report.results if result.verdict == "failed"} == set(CHECKS[1:])
    assert report.causes() == {"equations.weight_gradient": CHECKS[2:]}


def test_a_failure_without_a_failing_equation_is_its_own_cause() -> None:
    report = run(dn.Backend("doubled", np, {"weight_gradient": doubled}), checks=CHECKS[2:3], quick=True)
    assert report.causes() == {CHECKS[2]: []}


class Unreadable(dn.Backend):
    """A backend whose arrays cannot be moved to the host."""

    def to_numpy(self, x: Any) -> Any:
        raise OSError("the bus is off")


def test_checks_that_raise_the_same_error_are_grouped_under_the_first() -> None:
    checks = ["namespace.exp", "namespace.sqrt", *CHECKS]
    report = run(Unreadable("unreadable", np), checks=checks, quick=True)
    assert {result.verdict for result in report.results} == {"failed"}
    assert report.causes() == {"namespace.exp": checks[1:]}


def test_every_failure_is_a_cause_or_explained_by_one() -> None:
    kernels = {"weight_gradient": doubled, "relu": lambda xp, Z: None, "tanh": lambda xp, Z: 1 / 0}
    report = run(dn.Backend("three", np, kernels), checks=["equations.*", "programs.activation.*"], quick=True)
    failed = {result.check for result in report.results if result.verdict == "failed"}
    causes = report.causes()
    assert set(causes).union(*causes.values()) == failed
    assert set(causes) == {"equations.weight_gradient", "equations.relu", "equations.tanh"}


def test_the_table_has_no_ratio_for_a_result_of_another_kind(capsys) -> None:
    assert main(["conformance", "--backend", "empty", "--quick", "--check", "equations.relu"]) == 1
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL"))
    assert "exact" not in row
    assert row.endswith("got NoneType, wanted an array of the backend")


def test_many_effects_are_counted_and_the_first_ones_named(capsys) -> None:
    patterns = ("--check", "equations.weight_gradient", "--check", "programs.activation.*")
    assert main(["conformance", "--backend", "failing", "--quick", *patterns]) == 1
    end = capsys.readouterr().out.splitlines()[-2]
    assert end.startswith("    may explain 19 other failures: programs.activation.identity, ")
    assert end.endswith(", programs.activation.silu and 9 more")
    assert end.count("programs.") == 10


def test_the_command_ends_with_the_causes(capsys) -> None:
    arguments = [word for check in CHECKS for word in ("--check", check)]
    assert main(["conformance", "--backend", "failing", "--quick", *arguments]) == 1
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("FAIL  equations.weight_gradient"))
    assert "raised" in row
    assert "exact" not in row
    end = out.partition("failed checks, causes first:\n")[2].splitlines()
    assert end[0] == "  equations.weight_gradient: raised RuntimeError: no memory for a tile"
    assert end[1] == f"    may explain 2 other failures: {', '.join(CHECKS[2:])}"
    assert "Traceback" not in out


def test_debug_shows_the_traceback_of_a_kernel(capsys) -> None:
    assert main(["conformance", "--backend", "failing", "--quick", "--check", CHECKS[1], "--debug"]) == 1
    out = capsys.readouterr().out
    assert "Traceback" in out
    assert 'raise RuntimeError("no memory for a tile")' in out


def test_an_error_of_a_backend_is_not_called_a_bug_of_deepnotes(fails, folder) -> None:
    message = fails(1, "train", "iris", "--backend", "failing", "--epochs", "1", "--quiet")
    assert message.startswith("the backend 'failing' of test_failures failed (RuntimeError: no memory for a tile)")


def test_a_result_of_a_backend_that_deepnotes_cannot_use_may_be_a_bug_of_either(fails, folder) -> None:
    message = fails(1, "train", "iris", "--backend", "empty", "--epochs", "1", "--quiet")
    assert message.startswith("this is a bug in deepnotes or in the backend 'empty' of test_failures (")
    assert "'deepnotes conformance --backend empty' checks the backend; --debug shows the traceback" in message


def test_an_error_of_deepnotes_is_not_blamed_on_a_backend(fails, folder, monkeypatch) -> None:
    dn.get_backend("failing")
    monkeypatch.setattr("deepnotes.cli.train.chosen_backend", int)  # which takes no Namespace
    assert fails(1, "train", "iris").startswith("this is a bug in deepnotes (TypeError")


def test_a_misnamed_kernel_is_reported_to_its_authors() -> None:
    with pytest.raises(dn.BackendUnavailable, match=r"name; did you mean 'weight_gradient'\?; to fix it") as caught:
        dn.get_backend("misnamed")
    assert "reinstall" not in str(caught.value)


def test_an_entry_point_with_another_name_than_its_backend_is_refused() -> None:
    with pytest.raises(dn.BackendUnavailable, match="returned a backend of the name 'different'; to fix it: give both"):
        dn.get_backend("other")


def test_the_report_has_the_version_of_the_array_library() -> None:
    report = run(dn.Backend("strict", array_api_strict), checks=["equations.relu"], quick=True)
    assert report.environment["backend"] == f"strict: array_api_strict {array_api_strict.__version__}"


def test_the_version_of_a_submodule_is_that_of_its_library() -> None:
    submodule = ModuleType("array_api_strict.part")
    vars(submodule).update(zeros=np.zeros, float32=np.float32)
    assert dn.Backend("part", submodule).describe() == f"array_api_strict.part {array_api_strict.__version__}"
