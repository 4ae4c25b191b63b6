"""Backend: an array namespace, the transfers to and from NumPy, and two optional rungs of speed.

Rung 1, the namespace, is enough. Rung 2 is a table of kernels, each replacing an equation of the same name and
signature. Rung 3 is :meth:`Backend.compile`. Each rung falls back to the one before it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from deepnotes.backends.dlpack import device_of
from deepnotes.equations import EQUATIONS
from deepnotes.equations.array import Array, DType, Namespace
from deepnotes.equations.ops import Ops

if TYPE_CHECKING:
    from deepnotes.backends.inference import Inference
    from deepnotes.backends.program import Program
    from deepnotes.nn.layers import Layer
    from deepnotes.nn.plan import Layout, Plan


PROMISES = {
    "any threads": "the same bits again, with any number of threads",
    "same threads": "the same bits again, with the same number of threads",
    "none": "nothing is promised of the last bits",
}
"""What :attr:`Backend.determinism` says, in words."""


class Backend:
    """An array library for deepnotes to run on.

    Parameters
    ----------
    name : str
        What users pass as ``backend=``.
    namespace : Namespace
        A module that follows the Python array API standard, or at least :class:`deepnotes.equations.array.Namespace`.
    kernels : mapping of str to callable, optional
        Rung 2: functions that replace equations; checked here to have the equation's signature.

    Attributes
    ----------
    options : dict of str to object
        What it was made with, as by ``get_backend("numba", threads=2)``; a pickle remembers it.
    dlpack_device : (int, int) or None
        Where its arrays lie, as DLPack tells it; other libraries' arrays that lie there, too, are used without a copy.
    on_host : bool
        Whether its arrays are NumPy's, in the memory of the host. Then estimators train on sparse samples a few batches
        at a time, and ceilings measured for one such backend are those of all.
    matmul_precision : {"highest", "high", "bfloat16", "float16"}
        How float32 products are computed: in float32, or by rounding their factors on purpose, to TF32 ("high") or to
        the 16 bits of that name. Conformance takes its bounds from it.
    determinism : {"any threads", "same threads", "none"}
        What is promised of a training or prediction that is made again, in another process too, on the same processor,
        with the same versions and the same seed: the same bits whatever the number of threads, or with the same number
        of threads, or nothing.
    known_gaps : mapping of str to str
        Checks of :mod:`deepnotes.testing` that this backend is known to fail, by their ids, and why.

    Raises
    ------
    TypeError
        If a kernel's name is no equation's, or its signature is not the equation's.

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
    _load: ClassVar[Callable[..., "Backend"]]  # by name and options: the registry's, which is above this

    def __init__(self, name: str, namespace: object, kernels: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self.name = name
        self.options: dict[str, Any] = {}
        self.xp = cast(Namespace, namespace)
        self.kernels = dict(kernels or {})
        _check_signatures(name, self.kernels)
        self.ops = Ops(self.xp, self.kernels)
        sample = self.xp.zeros((1,))
        self._array_type, self.dlpack_device = type(sample), device_of(sample)

    def compile(self, plan: "Plan") -> "Program | None":
        """Return a Program for `plan` (rung 3), or None: the eager Program is used then."""
        return None

    def compile_inference(self, layers: "Sequence[Layer]", layout: "Layout", dtype: str) -> "Inference | None":
        """Return an Inference for these layers, or None: the eager one is used then.

        Parameters
        ----------
        layers : sequence of Layer
        layout : Layout
            Of the flat buffer of their parameters.
        dtype : {"float32", "float64"}
        """
        return None

    def warmup(self, dtypes: Sequence[str] = ("float32", "float64")) -> Iterator[str]:
        """Make ready what would otherwise be waited for at its first use, for ``deepnotes warmup``; here nothing.

        A backend that compiles overrides it, so that a machine is prepared once, such as by filling a cache on disk.

        Parameters
        ----------
        dtypes : sequence of str
            For which dtypes.

        Yields
        ------
        str
            What is ready now, in a few words, such as ``"training, float32"``: one after the other, as they are done.

        Examples
        --------
        >>> list(Backend("mine", np).warmup())
        []
        """
        yield from ()

    def running(self) -> AbstractContextManager[None]:
        """Return what arithmetic on this backend's arrays happens within, such as a library's current device."""
        return nullcontext()

    def from_numpy(self, x: np.ndarray, dtype: DType | None = None) -> Array:
        """Return the host array `x` as an array of this backend, without a copy where the library can."""
        return self.xp.asarray(x, dtype=dtype)

    def from_samples(self, x: np.ndarray) -> Array:
        """Return samples, targets or weights, one in each column of `x`, as what Programs and Inferences read.

        By default :meth:`from_numpy`. A backend may lay them out as its Programs like them, and leave on the host, in
        an array of a class of its own, what its memory could not hold.
        """
        return self.from_numpy(x)

    def take_samples(self, x: Array, order: np.ndarray) -> Array:
        """Return the columns of `x` at `order`, as an ordinary array; `x` is what :meth:`from_samples` returned."""
        columns: Array = self.ops.gather(x, self.from_numpy(order))
        return columns

    def to_numpy(self, x: Array) -> np.ndarray:
        """Return an array of this backend as a NumPy array, without a copy where the library can."""
        return x if isinstance(x, np.ndarray) else np.from_dlpack(cast(Any, x))

    def is_array(self, x: object) -> bool:
        """Return whether `x` is an array of this backend."""
        return isinstance(x, self._array_type)

    def write(self, flat: Array, start: int, values: Array) -> Array:
        """Return `flat`, shape (p,), with `values` from `start` on: a new array, or the same one where it can change.

        Parameters
        ----------
        flat : Array, shape (p,)
        start : int
        values : Array, shape (k,)
        """
        if values.shape == flat.shape:
            return values
        return self.xp.concat([flat[:start], values, flat[start + values.shape[0] :]])

    def describe(self) -> str:
        """Return one line for ``deepnotes backends``: the library, its version, its device."""
        version = getattr(self.xp, "__version__", "")
        return f"{getattr(self.xp, '__name__', type(self.xp).__name__)} {version}".strip()

    def __deepcopy__(self, memo: object) -> "Backend":
        return self

    def __reduce__(self) -> tuple[Callable[..., "Backend"], tuple[str, dict[str, Any]]]:
        return Backend._load, (self.name, self.options)

    def __repr__(self) -> str:
        return f"<deepnotes backend {self.name!r}: {self.describe()}>"


def _check_signatures(backend: str, kernels: Mapping[str, Callable[..., Any]]) -> None:
    if not kernels:
        return
    from inspect import signature  # slow to import, and most backends come without kernels

    for name, kernel in kernels.items():
        if name not in EQUATIONS:
            raise TypeError(f"backend {backend!r} has a kernel {name!r}, and there is no such equation")
        wanted, found = (
            [(p.name, p.kind, p.default) for p in signature(f).parameters.values()] for f in (EQUATIONS[name], kernel)
        )
        if wanted != found:
            raise TypeError(
                f"backend {backend!r}: kernel {name}{signature(kernel)} must have the parameters of the equation, "
                f"{name}{signature(EQUATIONS[name])}"
            )
