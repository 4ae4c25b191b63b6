"""Run checks on a backend, and report the results."""

import importlib
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, TypeAlias

import numpy as np

from deepnotes.backends.base import PROMISES, Backend
from deepnotes.backends.registry import get_backend
from deepnotes.equations.ops import Ops
from deepnotes.testing.checks import REGISTERED, Check, CheckFunction, Failure, NotApplicable, Trial
from deepnotes.utils.errors import ArgumentError, unknown_name

SUITE = (
    "namespace",
    "equations",
    "programs",
    "inference",
    "layers",
    "semantics",
    "tails",
    "unknown",
    "own_parts",
    "transfers",
    "errors",
    "determinism",
    "selection",
)
"""The modules of :mod:`deepnotes.testing.suite`, in the order of the report."""

Verdict: TypeAlias = Literal["passed", "failed", "known gap", "not applicable"]


@dataclass(frozen=True)
class Result:
    """The result of one check.

    Attributes
    ----------
    check : str
        The id of the check.
    verdict : {"passed", "failed", "known gap", "not applicable"}
    worst : float
        The largest error found, as a multiple of its bound: at most 1 if the check passed, 0 if everything was exact.
    where : str
        A description of the comparison in which that error was found.
    message : str
        The error, or the reason why the check does not apply; empty if the check passed.
    compared : int
        The number of values that were compared.
    seconds : float
    traceback : str
        The traceback, if the backend raised an error that the check did not expect.
    causes : tuple of str
        If the check failed, the ids of other checks that failed before: those of equations that this check computes
        with or, if there are none, the first check in which the backend raised the same error. A check that other
        failures explain is replaced by those.
    """

    check: str
    verdict: Verdict
    worst: float
    where: str
    message: str
    compared: int
    seconds: float
    traceback: str = ""
    causes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """The results of all checks on a backend.

    Attributes
    ----------
    backend : str
    environment : dict of str to str
        The machine, the versions and the settings of the run.
    quick : bool
    results : list of Result
    """

    backend: str
    environment: dict[str, str]
    quick: bool
    results: list[Result]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.count("failed")

    def count(self, verdict: Verdict) -> int:
        """Return the number of checks with this verdict."""
        return sum(result.verdict == verdict for result in self.results)

    def causes(self) -> dict[str, list[str]]:
        """Return the failed checks that no other failure explains, each with the failed checks that it may explain.

        A check may occur several times, if it computes with several equations whose checks fail.
        """
        failed = [result for result in self.results if result.verdict == "failed"]
        return {
            first.check: [result.check for result in failed if first.check in result.causes]
            for first in failed
            if not first.causes
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a dict that can be written as JSON."""
        return asdict(self) | {"passed": self.passed}


def all_checks() -> dict[str, Check]:
    """Return all checks by their ids, in the order of the report."""
    for name in SUITE:
        importlib.import_module(f"deepnotes.testing.suite.{name}")
    position = {name: number for number, name in enumerate(SUITE)}
    return dict(sorted(REGISTERED.items(), key=lambda item: position[item[0].partition(".")[0]]))


def select_checks(patterns: Iterable[str] | None) -> list[str]:
    """Return the ids of the checks that match any of the patterns, such as ``"equations.*"``; None selects all.

    Raises
    ------
    UnknownNameError
        If a pattern matches no id.
    """
    known = list(all_checks())
    if patterns is None:
        return known
    chosen = set()
    for pattern in patterns:
        found = [id for id in known if fnmatchcase(id, pattern)]
        if not found:
            raise unknown_name("check", pattern, known)
        chosen |= set(found)
    return [id for id in known if id in chosen]


def check_gaps(backend: Backend, gaps: Mapping[str, str]) -> None:
    """Raise ArgumentError unless all known gaps of a backend are ids of checks, each with a reason."""
    for id, reason in gaps.items():
        if id not in all_checks():
            raise ArgumentError(f"backend {backend.name!r}: known_gaps: {unknown_name('check', id, all_checks())}")
        if not isinstance(reason, str) or not reason.strip():
            raise ArgumentError.of(f"backend {backend.name!r}: known_gaps[{id!r}]", reason, "the reason as text")


def run_check(
    backend: Backend | str, check: str, *, quick: bool = False, known_gaps: Mapping[str, str] | None = None
) -> Result:
    """Run one check and return its result.

    Parameters
    ----------
    backend : Backend or str
    check : str
        The id of the check.
    quick : bool, default False
        Whether to use fewer and smaller inputs.
    known_gaps : mapping of str to str, optional
        Checks that are known to fail, with the reasons; by default those that the backend declares. If such a check
        passes, the result is a failure.
    """
    return _run_check(get_backend(backend), check, quick, known_gaps)[0]


def _run_check(
    backend: Backend, check: str, quick: bool, known_gaps: Mapping[str, str] | None
) -> tuple[Result, set[str]]:
    """Return the result of a check, and the names of the equations that it computed with on the backend."""
    gaps = backend.known_gaps if known_gaps is None else known_gaps
    with _recorded_equations(backend) as equations:
        result = attempt(Trial(backend, check, quick), check, all_checks()[check].function)
    return _consider_gaps(result, gaps), equations


def _consider_gaps(result: Result, gaps: Mapping[str, str]) -> Result:
    check = result.check
    if check in gaps and result.verdict == "failed":
        return replace(result, verdict="known gap", message=f"{gaps[check]} ({result.message})")
    if check in gaps and result.verdict == "passed":
        message = f"declared as a known gap ({gaps[check]}), but the check passes: remove it from known_gaps"
        return replace(result, verdict="failed", message=message)
    return result


@contextmanager
def _recorded_equations(backend: Backend) -> Iterator[set[str]]:
    """Yield a set, to which the names of the equations are added that the backend computes in the ``with`` block."""
    names: set[str] = set()

    class RecordingOps(Ops):
        def __getattr__(self, name: str) -> Callable[..., Any]:
            names.add(name)
            return super().__getattr__(name)

    before = backend.ops
    backend.ops = RecordingOps(before.xp, backend.kernels)
    try:
        yield names
    finally:
        backend.ops = before


def attempt(trial: Trial, name: str, function: CheckFunction) -> Result:
    """Return the result of a function that compares a backend with the reference; errors count as failures."""
    verdict: Verdict = "passed"
    message = trace = ""
    start = time.perf_counter()
    try:
        with np.errstate(all="ignore"):
            function(trial)
    except NotApplicable as reason:
        verdict, message = "not applicable", str(reason)
    except Failure as failure:
        verdict, message = "failed", str(failure)
    except Exception as error:
        verdict, message = "failed", f"raised {type(error).__name__}: {error}"
        trace = traceback.format_exc()
    seconds = time.perf_counter() - start
    return Result(name, verdict, trial.worst, trial.where, message, trial.compared, seconds, trace)


def run(
    backend: Backend | str,
    *,
    checks: Iterable[str] | None = None,
    quick: bool = False,
    known_gaps: Mapping[str, str] | None = None,
    on_result: Callable[[Result, int, int], None] | None = None,
) -> Report:
    """Run all checks, or those whose ids match a pattern, and return the report.

    Parameters
    ----------
    backend : Backend or str
    checks : iterable of str, optional
        Patterns of ids, such as ``"equations.*"``.
    quick : bool, default False
        Whether to use fewer and smaller inputs, with which a run takes less than a minute, compilation aside.
    known_gaps : mapping of str to str, optional
        As for :func:`run_check`.
    on_result : callable, optional
        Called after each check with the result, the number of the check and the number of all checks.

    Raises
    ------
    UnknownNameError
        If a pattern matches no check.
    ArgumentError
        If a known gap is not the id of a check, or has no reason.

    Examples
    --------
    >>> report = run("numpy", checks=["equations.relu"], quick=True)
    >>> report.passed, [result.check for result in report.results]
    (True, ['equations.relu'])
    """
    backend = get_backend(backend)
    check_gaps(backend, backend.known_gaps if known_gaps is None else known_gaps)
    ids, results = select_checks(checks), list[Result]()
    causes_of: dict[str, tuple[str, ...]] = {}  # for each failed check, itself if it has no causes
    first_with_error: dict[str, str] = {}
    for number, id in enumerate(ids, 1):
        result, equations = _run_check(backend, id, quick, known_gaps)
        if result.verdict == "failed":
            explained_by = {f"equations.{name}" for name in equations} & set(causes_of)
            if result.traceback:
                explained_by = explained_by or {first_with_error.setdefault(result.message, id)} - {id}
            causes = tuple(sorted({cause for check in explained_by for cause in causes_of[check]}))
            causes_of[id] = causes or (id,)
            result = replace(result, causes=causes)
        results.append(result)
        if on_result is not None:
            on_result(results[-1], number, len(ids))
    return Report(backend.name, environment(backend, results), quick, results)


def environment(backend: Backend, results: Iterable[Result] = ()) -> dict[str, str]:
    """Return the machine and the versions that a backend runs on, and its settings that affect results."""
    subnormals = next((r.verdict for r in results if r.check == "semantics.subnormals"), None)
    treatments = {"passed": "kept", "known gap": "flushed to 0", "failed": "not kept"}
    options = ", ".join(f"{name}={value!r}" for name, value in backend.options.items())
    threads = {name: value for name in _THREADS if (value := os.environ.get(name))}
    return {
        "backend": f"{backend.name}: {backend.describe()}",
        "options": options or "none",
        "dtypes": ", ".join(backend.dtypes),
        "products": f"{backend.matmul_precision} precision",
        "determinism": PROMISES[backend.determinism],
        "subnormals": treatments.get(subnormals or "", "not checked"),
        "threads": ", ".join(f"{k}={v}" for k, v in threads.items()) or f"the backend's default, {_cores()} cores",
        "versions": ", ".join(f"{name} {number}" for name in ("deepnotes", "numpy") if (number := _version(name))),
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
    }


_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
