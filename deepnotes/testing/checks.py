"""Checks, and the trials that run them: comparisons of a backend with the reference that record the largest error."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.bounds import BoundedArray, Bounds, excess

DTYPES = ("float32", "float64")


class Failure(AssertionError):
    """A backend fails a check; the message gives the place, the result and the expected result."""


class NotApplicable(Exception):
    """A check requires a feature that this backend, as configured, lacks; the message names it."""


class Derived(NamedTuple):
    """An argument that an equation computes from another one; an implementation may skip its rounding.

    Attributes
    ----------
    equation : str
    source : int
        The argument from which it is computed.
    options : mapping
        Of the equation.
    """

    equation: str
    source: int
    options: Mapping[str, float] = MappingProxyType({})


DTYPE = object()
"""An argument that stands for the dtype of the trial."""


class Trial:
    """A run of one check on one backend: its random inputs and its findings.

    Parameters
    ----------
    backend : Backend
    check : str
        The check's id. It seeds the generator of the inputs, which are therefore the same in every run.
    quick : bool, default False
        Fewer and smaller inputs.

    Attributes
    ----------
    rng : numpy.random.Generator
    worst : float
        The largest error found, as a multiple of its bound; 0 if everything was exact.
    where : str
        The place of that error.
    compared : int
        The number of values that were compared.
    """

    def __init__(self, backend: Backend, check: str, quick: bool = False) -> None:
        self.backend, self.quick = backend, quick
        self.rng = np.random.default_rng(zlib.crc32(check.encode()))
        self.worst, self.where, self.compared = 0.0, "", 0

    def bounds(self, dtype: str, random: bool = True) -> Bounds:
        """Return the reference for computations of this backend in `dtype`."""
        return Bounds(dtype, self.products(dtype), random)

    def products(self, dtype: str) -> str | None:
        """Return the precision of matrix products if the backend states one below that of the dtype, else None."""
        stated = self.backend.matmul_precision
        return {"high": "tf32"}.get(stated, stated) if dtype == "float32" and stated != "highest" else None

    def host(self, x: Any) -> np.ndarray:
        """Copy an array of the backend to the host.

        Raises
        ------
        Failure
            If it is not an array of the backend.
        """
        if isinstance(x, np.generic):  # what NumPy returns for an array without dimensions
            return np.asarray(x)
        if not self.backend.is_array(x):
            raise Failure(f"got {type(x).__name__}, wanted an array of the backend")
        return np.asarray(self.backend.to_numpy(x))

    def compare(self, found: Any, expected: BoundedArray, where: str) -> None:
        """Check a result of the backend against the reference: dtype, shape, and each number within its bound.

        Raises
        ------
        Failure
        """
        host = self.host(found)
        self._check_kind(host, expected.dtype, expected.shape, where)
        if expected.value.dtype.kind != "f":
            self.same(host, expected.value, where)
            return
        times = excess(host, expected)
        self.compared += times.size
        if not times.size:
            return
        at = np.unravel_index(int(np.argmax(times)), times.shape)
        if times[at] > self.worst:
            self.worst, self.where = float(times[at]), where
        if times[at] > 1:
            place = f"[{', '.join(map(str, at))}]" if at else ""
            raise Failure(
                f"{where}: element {place} is {host[at]!s}, wanted {float(expected.value[at])!r} "
                f"to within {expected.rules.slack * float(expected.error[at]):.3g}; {int((times > 1).sum())} of "
                f"{times.size} are out of bounds"
            )

    def check(
        self,
        function: Callable[..., Any],
        arguments: Sequence[Any],
        dtype: str,
        where: str,
        layout: Callable[[np.ndarray], np.ndarray] = np.copy,
        random: bool = True,
    ) -> None:
        """Check a function of the protocol against the reference, and that it leaves its arguments unchanged.

        Parameters
        ----------
        function : callable
            Takes an :class:`~deepnotes.equations.ops.Ops` and the arguments, and returns arrays by the protocol alone.
        arguments : sequence
            Host arrays, with floats in any precision; :class:`Derived` arguments; anything else is passed on unchanged.
        dtype : {"float32", "float64"}
            The dtype that floats are rounded to.
        where : str
        layout : callable, optional
            The layout of the host arrays in memory.
        random : bool, default True
            Whether the arguments are random, see :func:`~deepnotes.backends.bounds.sum_factor`.

        Raises
        ------
        Failure
        """
        reference = self.bounds(dtype, random)
        ours: list[Any] = []
        theirs: list[Any] = []
        hosts: list[tuple[Any, np.ndarray]] = []
        for x in arguments:
            if isinstance(x, Derived):
                ours.append(getattr(reference.ops, x.equation)(ours[x.source], **x.options))
                with np.errstate(over="ignore"):  # the backend gets infinity for a value beyond the dtype
                    x = np.asarray(ours[-1].value, dtype)
            elif isinstance(x, np.ndarray | np.generic):
                x = np.asarray(x)
                x = layout(x.astype(dtype) if x.dtype.kind == "f" else x)
                ours.append(reference.from_numpy(x))
            else:
                ours.append(getattr(reference.xp, dtype) if x is DTYPE else x)
                theirs.append(getattr(self.backend.xp, dtype) if x is DTYPE else x)
                continue
            theirs.append(self.backend.from_numpy(x))
            hosts.append((theirs[-1], x.copy()))
        with np.errstate(all="ignore"):  # a backend may overflow like the equations
            found = function(self.backend.ops, *theirs)
        expected = function(reference.ops, *ours)
        several = isinstance(expected, tuple)
        self.that(isinstance(found, tuple) == several, f"{where}: {'a tuple' if several else 'one array'}")
        pairs = list(zip(found, expected, strict=True)) if several else [(found, expected)]
        for number, (result, wanted) in enumerate(pairs):
            self.compare(result, wanted, f"{where}, result {number}" if several else where)
        for x, before in hosts:
            self.same(x, before, f"{where}: the argument afterwards")

    def same(self, found: Any, expected: Any, where: str) -> None:
        """Check that a result is equal bit by bit; NaN equals NaN, and 0 equals -0.

        Raises
        ------
        Failure
        """
        host = self.host(found) if self.backend.is_array(found) else np.asarray(found)
        expected = np.asarray(expected)
        self._check_kind(host, expected.dtype, expected.shape, where)
        self.compared += host.size
        with np.errstate(invalid="ignore"):
            wrong = ~((host == expected) | ((host != host) & (expected != expected)))
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            self.worst, self.where = float("inf"), where
            raise Failure(
                f"{where}: element {list(at)} is {host[at]!s}, wanted {expected[at]!s} exactly; {int(wrong.sum())} of "
                f"{host.size} differ"
            )

    def that(self, condition: Any, wanted: str) -> None:
        """Check a condition.

        Raises
        ------
        Failure
        """
        self.compared += 1
        if not condition:
            self.worst, self.where = float("inf"), wanted
            raise Failure(f"wanted: {wanted}")

    @contextmanager
    def raises(self, error: type[BaseException], where: str) -> Iterator[None]:
        """Check that a ``with`` block raises an error of exactly this class.

        Raises
        ------
        Failure
        """
        self.compared += 1
        try:
            yield
        except Exception as caught:
            if type(caught) is error:
                return
            raise Failure(f"{where}: {type(caught).__name__} ({caught}), wanted {error.__name__}") from caught
        raise Failure(f"{where}: no error, wanted {error.__name__}")

    @staticmethod
    def _check_kind(host: np.ndarray, dtype: Any, shape: tuple[int, ...], where: str) -> None:
        if host.dtype != dtype or host.shape != shape:
            raise Failure(f"{where}: got {host.dtype} of shape {host.shape}, wanted {dtype} of shape {shape}")


CheckFunction: TypeAlias = Callable[[Trial], None]


@dataclass(frozen=True)
class Check:
    """One requirement on every backend.

    Attributes
    ----------
    id : str
        The name that known gaps and reports use, such as "equations.relu".
    about : str
        The requirement, in a line.
    function : callable
        Runs the check in a :class:`Trial`, and raises :class:`Failure` if it fails.
    """

    id: str
    about: str
    function: CheckFunction


REGISTERED: dict[str, Check] = {}
"""The checks of the modules imported so far, by id; :func:`deepnotes.testing.all_checks` imports and returns all."""


def check(id: str, about: str = "") -> Callable[[CheckFunction], CheckFunction]:
    """Register a function as a check; the first line of its docstring states the requirement."""

    def register(function: CheckFunction) -> CheckFunction:
        if id in REGISTERED:
            raise ValueError(f"a check with the id {id!r} exists already")
        REGISTERED[id] = Check(id, about or (function.__doc__ or id).strip().splitlines()[0], function)
        return function

    return register
