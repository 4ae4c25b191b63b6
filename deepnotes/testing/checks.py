"""Checks, and the trials that run them: a trial compares a backend with the reference and records the largest error."""

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
    """A check requires a feature that this backend, as configured, lacks; the message names the feature."""


class Derived(NamedTuple):
    """An argument that an equation computes from another argument, such as A from Z.

    A fused implementation may compute it again, without rounding it to the dtype.

    Attributes
    ----------
    equation : str
    source : int
        The position of that other argument.
    options : mapping
        The options of the equation.
    """

    equation: str
    source: int
    options: Mapping[str, float] = MappingProxyType({})


DTYPE = object()
"""A placeholder among the arguments of a check, which is replaced by the dtype."""


class Trial:
    """A run of one check on one backend: it draws the inputs and records the result.

    Parameters
    ----------
    backend : Backend
    check : str
        The check's id. It seeds the generator of the inputs, which are therefore the same in every run.
    quick : bool, default False
        Whether to use fewer and smaller inputs.

    Attributes
    ----------
    rng : numpy.random.Generator
    worst : float
        The largest error found, as a multiple of its bound; 0 if everything was exact.
    where : str
        A description of the comparison in which that error was found.
    compared : int
        The number of values that were compared.
    """

    def __init__(self, backend: Backend, check: str, quick: bool = False) -> None:
        self.backend, self.quick = backend, quick
        self.rng = np.random.default_rng(zlib.crc32(check.encode()))
        self.worst, self.where, self.compared = 0.0, "", 0

    @property
    def dtypes(self) -> list[str]:
        """Those of float32 and float64 that the backend has."""
        return [dtype for dtype in DTYPES if dtype in self.backend.dtypes]

    @property
    def has_int64(self) -> bool:
        """Whether the backend has int64; if not, its integers are int32."""
        return "int64" in self.backend.dtypes

    def bounds(self, dtype: str, random: bool = True) -> Bounds:
        """Return the reference for computations in `dtype`; its bounds are smaller if the inputs are `random`."""
        return Bounds(dtype, self.products(dtype), random)

    def products(self, dtype: str) -> str | None:
        """Return the stated precision of matrix products if it is lower than that of the dtype, else None."""
        stated = self.backend.matmul_precision
        return {"high": "tf32"}.get(stated, stated) if dtype == "float32" and stated != "highest" else None

    def host(self, x: Any) -> np.ndarray:
        """Copy an array of the backend to the host.

        Raises
        ------
        Failure
            If it is not an array of the backend.
        """
        if isinstance(x, np.generic):  # NumPy returns scalars instead of 0-d arrays
            return np.asarray(x)
        if not self.backend.is_array(x):
            raise Failure(f"got {type(x).__name__}, wanted an array of the backend")
        return np.asarray(self.backend.to_numpy(x))

    def compare(self, found: Any, expected: BoundedArray, where: str) -> None:
        """Check that a result has the expected dtype and shape, and that each number is within its bound.

        `where` describes the comparison in the error message.

        Raises
        ------
        Failure
        """
        host = self.host(found)
        self._check_dtype_and_shape(host, expected.dtype, expected.shape, where)
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
        """Check the results of a function against the reference, and that it leaves its arguments unchanged.

        Parameters
        ----------
        function : callable
            Takes an :class:`~deepnotes.equations.ops.Ops` and the arguments, and returns an array or a tuple of arrays.
            It uses only the array protocol.
        arguments : sequence
            Host arrays, whose floats may have any precision, or :class:`Derived`. Anything else is passed on unchanged.
        dtype : {"float32", "float64"}
            The dtype that floats are rounded to.
        where : str
            A description of the comparison for the error message.
        layout : callable, optional
            Copies a host array into the memory layout to check.
        random : bool, default True
            Whether the arguments are random, see :func:`~deepnotes.backends.bounds.sum_factor`.

        Raises
        ------
        Failure
        """
        reference = self.bounds(dtype, random)
        reference_arguments: list[Any] = []
        backend_arguments: list[Any] = []
        originals: list[tuple[Any, np.ndarray]] = []
        for x in arguments:
            if isinstance(x, Derived):
                source = reference_arguments[x.source]
                reference_arguments.append(getattr(reference.ops, x.equation)(source, **x.options))
                with np.errstate(over="ignore"):  # the backend gets infinity for a value beyond the dtype
                    x = np.asarray(reference_arguments[-1].value, dtype)
            elif isinstance(x, np.ndarray | np.generic):
                x = np.asarray(x)
                x = layout(x.astype(dtype) if x.dtype.kind == "f" else x)
                if x.dtype == np.int64 and not self.has_int64:
                    x = x % 2**31  # so that int32 can hold it
                reference_arguments.append(reference.from_numpy(x))
            else:
                reference_arguments.append(getattr(reference.xp, dtype) if x is DTYPE else x)
                backend_arguments.append(getattr(self.backend.xp, dtype) if x is DTYPE else x)
                continue
            backend_arguments.append(self.backend.from_numpy(x))
            originals.append((backend_arguments[-1], x.copy()))
        with np.errstate(all="ignore"):  # a backend may overflow where the equations do
            found = function(self.backend.ops, *backend_arguments)
        expected = function(reference.ops, *reference_arguments)
        is_tuple = isinstance(expected, tuple)
        self.that(isinstance(found, tuple) == is_tuple, f"{where}: {'a tuple' if is_tuple else 'one array'}")
        pairs = list(zip(found, expected, strict=True)) if is_tuple else [(found, expected)]
        for number, (result, wanted) in enumerate(pairs):
            self.compare(result, wanted, f"{where}, result {number}" if is_tuple else where)
        for x, before in originals:
            self.same(x, before, f"{where}: the argument afterwards")

    def same(self, found: Any, expected: Any, where: str) -> None:
        """Check that a result equals the expected one exactly; NaN equals NaN, and 0 equals -0.

        Raises
        ------
        Failure
        """
        host = self.host(found) if self.backend.is_array(found) else np.asarray(found)
        expected = np.asarray(expected)
        self._check_dtype_and_shape(host, expected.dtype, expected.shape, where)
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
        """Check a condition, which `wanted` describes in the error message.

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

    def _check_dtype_and_shape(self, host: np.ndarray, dtype: Any, shape: tuple[int, ...], where: str) -> None:
        if dtype == np.int64 and not self.has_int64:
            dtype = np.dtype(np.int32)
        if host.dtype != dtype or host.shape != shape:
            raise Failure(f"{where}: got {host.dtype} of shape {host.shape}, wanted {dtype} of shape {shape}")


CheckFunction: TypeAlias = Callable[[Trial], None]


@dataclass(frozen=True)
class Check:
    """A requirement that every backend has to meet.

    Attributes
    ----------
    id : str
        The name that known gaps and reports use, such as "equations.relu".
    about : str
        The requirement, in one line.
    function : callable
        Runs the check in a :class:`Trial`, and raises :class:`Failure` if it fails.
    """

    id: str
    about: str
    function: CheckFunction


REGISTERED: dict[str, Check] = {}
"""The checks of the modules imported so far, by id; :func:`deepnotes.testing.all_checks` imports all modules first."""


def check(id: str, about: str = "") -> Callable[[CheckFunction], CheckFunction]:
    """Register a function as a check; `about`, or else the first line of its docstring, states the requirement."""

    def register(function: CheckFunction) -> CheckFunction:
        if id in REGISTERED:
            raise ValueError(f"a check with the id {id!r} exists already")
        REGISTERED[id] = Check(id, about or (function.__doc__ or id).strip().splitlines()[0], function)
        return function

    return register
