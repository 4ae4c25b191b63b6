"""Backend: an array namespace, transfers to and from NumPy, and two optional levels of acceleration.

The namespace alone (level 1) is enough. Level 2 is a table of kernels, each of which replaces the equation of the same
name and signature. Level 3 is :meth:`Backend.compile`. Each level falls back to the one before it.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from deepnotes.backends.dlpack import device_of
from deepnotes.equations import EQUATIONS
from deepnotes.equations.array import Array, DType, Namespace
from deepnotes.equations.ops import Ops
from deepnotes.utils.errors import ArgumentError, nearest

if TYPE_CHECKING:
    from deepnotes.backends.inference import Inference
    from deepnotes.backends.program import Program
    from deepnotes.nn.layers import Layer
    from deepnotes.nn.plan import Layout, Plan


DTYPES = ("float32", "float64", "int64")
"""The dtypes that networks and indices use."""
PROMISES = {
    "any threads": "every run gives the same bits, with any number of threads",
    "same threads": "every run with the same number of threads gives the same bits",
    "none": "the last bits may differ between runs",
}
"""A description of each value of :attr:`Backend.determinism`."""
MATMUL_PRECISIONS = ("highest", "high", "bfloat16", "float16")
"""The values of :attr:`Backend.matmul_precision`."""


class Backend:
    """An array library that deepnotes can run on.

    Parameters
    ----------
    name : str
        The name that users pass as ``backend=``.
    namespace : Namespace
        A module that follows the Python array API standard, or at least :class:`deepnotes.equations.array.Namespace`.
    kernels : mapping of str to callable, optional
        Level 2: functions that replace equations; each must have the signature of its equation.

    Attributes
    ----------
    options : dict of str to object
        The options that the backend was created with, as in ``get_backend("numba", threads=2)``; pickles store them.
    dlpack_device : (int, int) or None
        The device of its arrays, as DLPack reports it. Other libraries' arrays on this device are used without a copy.
    on_host : bool
        Whether its arrays are NumPy's, in the memory of the host. If so, estimators convert sparse samples a few
        batches at a time. Performance limits are measured once for all backends on the host.
    matmul_precision : {"highest", "high", "bfloat16", "float16"}
        How float32 products are computed: in float32 ("highest"), or with factors that are rounded on purpose, to TF32
        ("high") or to the 16-bit format of that name. The error bounds of the conformance checks depend on it.
    dtypes : sequence of str
        Those of "float32", "float64" and "int64" that its arrays can have. By default, each is tried. Without float64,
        a network in this dtype is refused, and conformance checks the other dtypes. Without int64, indices and steps
        are int32, and dropout masks are computed in uint32.
    determinism : {"any threads", "same threads", "none"}
        What is guaranteed if training or prediction is repeated, possibly in another process, on the same processor
        with the same versions and the same seed: the same bits for any number of threads, the same bits for the same
        number of threads, or nothing.
    known_gaps : mapping of str to str
        The ids of the checks of :mod:`deepnotes.testing` that this backend is known to fail, each with the reason.

    Raises
    ------
    TypeError
        If a kernel does not have the name and the signature of an equation.
    ArgumentError
        If one of these attributes has another value than listed here.

    Examples
    --------
    >>> import numpy
    >>> Backend("mine", numpy).ops.relu(numpy.array([[-1.0, 2.0]]))
    array([[0., 2.]])
    """

    on_host = False
    matmul_precision = "highest"
    determinism = "none"
    known_gaps: Mapping[str, str] = {}
    dtypes: Sequence[str] = ()
    _load: ClassVar[Callable[..., "Backend"]]  # loads a backend by name and options; set by the registry

    def __init__(self, name: str, namespace: object, kernels: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self.name = name
        self.options: dict[str, Any] = {}
        self.xp = cast(Namespace, namespace)
        self.kernels = dict(kernels or {})
        check_declarations(self)
        _check_signatures(name, self.kernels)
        self.ops = Ops(self.xp, self.kernels)
        self.dtypes = tuple(self.dtypes) or _available_dtypes(self.xp)
        sample = self.xp.zeros((1,))
        self._array_type, self.dlpack_device = type(sample), device_of(sample)

    @property
    def integer(self) -> DType:
        """The dtype of indices and of the number of updates: int64, or int32 if the library lacks int64."""
        return getattr(self.xp, "int64" if "int64" in self.dtypes else "int32")

    def compile(self, plan: "Plan") -> "Program | None":
        """Return a Program for `plan` (level 3), or None to use the eager Program."""
        return None

    def compile_inference(self, layers: "Sequence[Layer]", layout: "Layout", dtype: str) -> "Inference | None":
        """Return an Inference for these layers, or None to use the eager one.

        Parameters
        ----------
        layers : sequence of Layer
        layout : Layout
            The layout of the flat buffer of their parameters.
        dtype : {"float32", "float64"}
        """
        return None

    def warmup(self, dtypes: Sequence[str] = ("float32", "float64")) -> Iterator[str]:
        """Compile or load ahead of time what would otherwise delay the first use; by default, do nothing.

        ``deepnotes warmup`` calls this method. A backend that compiles overrides it, for example to fill a cache on
        disk.

        Parameters
        ----------
        dtypes : sequence of str
            The dtypes to compile for.

        Yields
        ------
        str
            A short description of each item when it is ready, such as ``"training, float32"``.

        Examples
        --------
        >>> list(Backend("mine", np).warmup())
        []
        """
        yield from ()

    def run_each(self, tasks: Sequence[Callable[[], None]]) -> None:
        """Run independent tasks, each of which trains a network of this backend; they start in the given order.

        By default, they run one after the other in the calling thread. A backend may run several at a time, in threads.
        The results of a task must have the bits that a single thread computes, whatever runs beside it. If a task
        raises an error, the tasks that are running end first; no other tasks start.

        Examples
        --------
        >>> Backend("mine", np).run_each([lambda: print("first"), lambda: print("second")])
        first
        second
        """
        for task in tasks:
            task()

    def array_sum(self, ranks: Any) -> Callable[[Array], Array] | None:
        """Return a function that sums arrays over the processes that share a training run, or None.

        By default None: gradients are then summed in the memory of the host. A backend whose devices are connected may
        override this. It is called at the start of training, on all ranks, and must have the same result on all.

        Parameters
        ----------
        ranks : Ranks
            See :class:`deepnotes.network.distributed.Ranks`. Unless their `fixed_order` is true, the order of the
            additions may be any.

        Returns
        -------
        callable or None
            Given an array of shape (p,) on each rank, returns their sum on all, added in the fixed binary tree of
            :mod:`deepnotes.network.distributed.tree`: in step i, ranks whose numbers differ in bit i exchange sums.

        Examples
        --------
        >>> Backend("mine", np).array_sum(ranks=None) is None
        True
        """
        return None

    def execution_context(self) -> AbstractContextManager[None]:
        """Return the context for arithmetic on this backend's arrays, such as a library's current device."""
        return nullcontext()

    def from_numpy(self, x: np.ndarray, dtype: DType | None = None) -> Array:
        """Return the host array `x` as an array of this backend, without a copy where possible.

        Parameters
        ----------
        x : ndarray of float32, float64, int64 or bool
        dtype : dtype of the backend, optional
            By default that of `x`, but :attr:`integer` for int64 if the library lacks int64.
        """
        if dtype is None and x.dtype == np.int64:
            dtype = self.integer
        return self.xp.asarray(x, dtype=dtype)

    def from_samples(self, x: np.ndarray) -> Any:
        """Return samples, targets or weights, one in each column of `x`, as an array or as Samples.

        By default this is :meth:`from_numpy`. A backend may choose the memory layout that suits its Programs, and may
        leave data that do not fit into its memory on the host, as :class:`~deepnotes.backends.Samples`.

        Returns
        -------
        Array or Samples, of the shape of `x`
        """
        return self.from_numpy(x)

    def to_numpy(self, x: Array) -> np.ndarray:
        """Return an array of this backend as a NumPy array, without a copy where possible.

        By default, the array is exchanged by DLPack. Override this method if the library does not support DLPack.
        """
        if isinstance(x, np.ndarray):
            return x
        if not hasattr(x, "__dlpack__"):
            raise TypeError(
                f"backend {self.name!r}: cannot convert {type(x).__name__} to a NumPy array, since it has no method "
                "__dlpack__; the backend has to override to_numpy"
            )
        return np.from_dlpack(cast(Any, x))

    def is_array(self, x: object) -> bool:
        """Return whether `x` is an array of this backend."""
        return isinstance(x, self._array_type)

    def weighted_mean(self, x: Array, w: Array | None = None) -> float:
        """Return the mean of all elements of x, with the weights w if given, as computed in double precision.

        A backend may override this, so that x need not be moved to the host.

        Parameters
        ----------
        x : Array
        w : Array, optional
            The same shape as x.

        Examples
        --------
        >>> Backend("mine", np).weighted_mean(np.array([1.0, 4.0]), np.array([2.0, 1.0]))
        2.0
        """
        values = np.asarray(self.to_numpy(x), np.float64)
        weights = np.ones(values.shape) if w is None else np.asarray(self.to_numpy(w), np.float64)
        return float((values * weights).sum()) / float(weights.sum())

    def all_finite(self, x: Array) -> bool:
        """Return whether all elements of an array of real numbers are finite.

        A backend may override this with something faster, or something that needs less memory.

        Examples
        --------
        >>> Backend("mine", np).all_finite(np.array([1.0, np.inf]))
        False
        """
        with np.errstate(invalid="ignore"):
            return float(self.xp.sum(x - x)) == 0

    def write(self, flat: Array, start: int, values: Array) -> Array:
        """Return `flat` with the elements from `start` on replaced by `values`.

        Parameters
        ----------
        flat : Array, shape (p,)
        start : int
        values : Array, shape (k,)

        Returns
        -------
        Array, shape (p,)
            A new array, or `flat` itself if the arrays of the backend can be written to.
        """
        if values.shape == flat.shape:
            return values
        return self.xp.concat([flat[:start], values, flat[start + values.shape[0] :]])

    def describe(self) -> str:
        """Describe the backend in one line, for ``deepnotes backends``: the library, its version and its device."""
        version = getattr(self.xp, "__version__", "")
        if not version and "." in (name := getattr(self.xp, "__name__", "")):  # such as jax.numpy
            version = getattr(sys.modules.get(name.partition(".")[0]), "__version__", "")
        return f"{getattr(self.xp, '__name__', type(self.xp).__name__)} {version}".strip()

    def __deepcopy__(self, memo: object) -> "Backend":
        return self

    def __reduce__(self) -> tuple[Callable[..., "Backend"], tuple[str, dict[str, Any]]]:
        return Backend._load, (self.name, self.options)

    def __repr__(self) -> str:
        return f"<deepnotes backend {self.name!r}: {self.describe()}>"


def check_declarations(backend: Backend) -> None:
    """Raise ArgumentError unless the attributes in which a backend describes itself have one of their values."""
    for attribute, allowed in (("determinism", tuple(PROMISES)), ("matmul_precision", MATMUL_PRECISIONS)):
        value = getattr(backend, attribute)
        if value not in allowed:
            raise ArgumentError.of(
                f"backend {backend.name!r}: {attribute}", value, f"one of {', '.join(map(repr, allowed))}"
            )
    dtypes = backend.dtypes
    if isinstance(dtypes, str) or not set(dtypes) <= set(DTYPES) or (dtypes and set(dtypes) == {"int64"}):
        raise ArgumentError.of(
            f"backend {backend.name!r}: dtypes",
            dtypes,
            "those of 'float32', 'float64' and 'int64' that it has, as a tuple",
        )
    if not isinstance(backend.known_gaps, Mapping):
        raise ArgumentError.of(
            f"backend {backend.name!r}: known_gaps", backend.known_gaps, "a dict of ids of checks and reasons"
        )


def _available_dtypes(xp: Namespace) -> tuple[str, ...]:
    """Return those of `DTYPES` in which the library makes an array, without replacing the dtype by another one."""
    import warnings

    available = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some libraries warn, and then use another dtype
        for name in DTYPES:
            try:
                dtype = getattr(xp, name)
                if xp.zeros((1,), dtype=dtype).dtype == dtype:
                    available.append(name)
            except (AttributeError, TypeError, ValueError, RuntimeError):
                continue
    return tuple(available)


def _check_signatures(backend: str, kernels: Mapping[str, Callable[..., Any]]) -> None:
    if not kernels:
        return
    from inspect import signature  # slow to import, and most backends have no kernels

    for name, kernel in kernels.items():
        if name not in EQUATIONS:
            near = nearest(name, EQUATIONS)
            hint = f"; did you mean {near!r}?" if near else ""
            raise TypeError(f"backend {backend!r} has a kernel {name!r}, but there is no equation of that name{hint}")
        expected, actual = (
            [(p.name, p.kind, p.default) for p in signature(f).parameters.values()] for f in (EQUATIONS[name], kernel)
        )
        if expected != actual:
            raise TypeError(
                f"backend {backend!r}: kernel {name}{signature(kernel)} must have the parameters of the equation, "
                f"{name}{signature(EQUATIONS[name])}"
            )
