"""The CUDA sources, shipped as package data, and the declarations parsed from them.

The kernels are one program: :func:`program` joins the files, so one compilation per dtype is enough. The other files
are templates: each becomes a program with code from :mod:`deepnotes_cupy.generated`. :func:`kernels` returns the
kernels' declarations, :func:`codes` the enumerators, and :func:`control` the structure ``Control``, all parsed from the
source, so that Python cannot disagree with it.
"""

import re
from dataclasses import dataclass, field
from functools import cache, cached_property
from hashlib import sha256
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

FILES = (
    "dense.cu",
    "steps.cu",
    "dropout.cu",
    "rounding.cu",
    "comparisons.cu",
    "inference.cu",
    "embedding.cu",
    "batch_norm.cu",
    "stages.cu",
)
"""The files in the order in which they are joined; headers are inserted where they are first included."""
REAL = {"float32": "float", "float64": "double"}
"""The C type that ``real`` stands for, by dtype."""

_KERNEL = re.compile(
    r'extern "C" __global__ void\s+(?:IN_CLUSTERS_OF\((\d+)\)\s+)?(?:__launch_bounds__\((\w+)(?:, \d+)?\)\s+)?'
    r"(\w+)\s*\(([^)]*)\)\s*\{"
)
_SCALARS: dict[str, Any] = {
    "int": np.int32, "unsigned": np.uint32, "long long": np.int64, "unsigned long long": np.uint64,
    "float": np.float32, "double": np.float64, "unsigned short": np.uint16,
}  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel.

    Attributes
    ----------
    name : str
    kind : str
        The C type of a scalar, or of the elements of a pointer, without ``const`` and ``__restrict__``.
    pointer : bool
    const : bool
        Whether the parameter points to data that the kernel does not change.
    """

    name: str
    kind: str
    pointer: bool
    const: bool

    def scalar(self, dtype: str) -> np.dtype[Any]:
        """Return the NumPy dtype of a scalar parameter, or of the elements of a pointer parameter.

        `dtype` is substituted for ``real``.

        Raises
        ------
        KeyError
            If the type is the structure ``Control``.
        """
        kind: np.dtype[Any] = np.dtype(_SCALARS[REAL[dtype] if self.kind == "real" else self.kind])
        return kind


@dataclass(frozen=True)
class Kernel:
    """The declaration of a kernel.

    Attributes
    ----------
    name : str
    parameters : tuple of Parameter
    threads : int
        The number of threads in a block: the largest that the kernel allows, which is also the fastest.
    source : str
        The source of the program that it is part of.
    cluster : int
        The number of blocks in a cluster: 1, unless the source defines CLUSTERED.
    """

    name: str
    parameters: tuple[Parameter, ...]
    threads: int
    source: str = field(repr=False)
    cluster: int = 1

    @cached_property
    def digest(self) -> str:
        """A short text that differs for other sources."""
        return sha256(self.source.encode()).hexdigest()[:16]


class Launch(NamedTuple):
    """A kernel, and its last arguments, which are the same at every launch."""

    kernel: Kernel
    arguments: tuple[float, ...] = ()

    @classmethod
    def of(cls, name: str, *arguments: float) -> "Launch":
        """Return a kernel of the package, with its last arguments."""
        return cls(kernels()[name], arguments)


def read(name: str) -> str:
    """Return the text of one file."""
    return files(__package__).joinpath("kernels", name).read_text(encoding="utf-8")


@cache
def program(*names: str) -> str:
    """Return the kernels as one source. It needs no headers; the macro ``REAL`` must be ``float`` or ``double``.

    Parameters
    ----------
    *names : str
        Some of the files; by default, :data:`FILES`.

    Examples
    --------
    >>> program().count('extern "C" __global__') == len(kernels())
    True
    """
    parts: list[str] = []
    seen: set[str] = set()

    def add(name: str) -> None:
        if name in seen:
            return
        seen.add(name)
        parts.append(f'#line 1 "{name}"')
        for number, line in enumerate(read(name).splitlines(), 1):
            if line.startswith('#include "'):
                add(line.split('"')[1])
                parts.append(f'#line {number + 1} "{name}"')
            else:
                parts.append(line)

    for name in names or FILES:
        add(name)
    return "\n".join(parts) + "\n"


@cache
def kernels() -> dict[str, Kernel]:
    """Return every kernel by name.

    Examples
    --------
    >>> [p.name for p in kernels()["sum_partials"].parameters]
    ['partial', 'out', 'n', 'chunks']
    """
    return parse(program())


def parse(source: str) -> dict[str, Kernel]:
    """Return the kernels of a source by name, in the order of the source.

    Parameters
    ----------
    source : str
        Constants used in ``__launch_bounds__`` must be defined in it as ``constexpr int``.

    Examples
    --------
    >>> parse('extern "C" __global__ void __launch_bounds__(64) fill(real* x, long long n) {}')["fill"].threads
    64
    """
    text = re.sub(r"//[^\n]*", "", source)
    constants = {name: int(value) for name, value in re.findall(r"constexpr int (\w+) = (\d+);", text)}
    result = {}
    for cluster, bound, name, declarations in _KERNEL.findall(text):
        parameters = tuple(_parse_parameter(declaration) for declaration in declarations.split(","))
        threads = 1024 if not bound else int(bound) if bound.isdigit() else constants[bound]
        cluster_size = int(cluster or 1) if "#define CLUSTERED" in source else 1
        result[name] = Kernel(name, parameters, threads, source, cluster_size)
    return result


@cache
def codes(enumeration: str, *names: str) -> dict[str, int]:
    """Return the values of the enumerators of an enumeration in the source, by their names in lower case.

    Parameters
    ----------
    enumeration : str
    *names : str
        The files; by default, :data:`FILES`.

    Examples
    --------
    >>> codes("Half")["float16"]
    1
    """
    match = re.search(rf"enum {enumeration} \{{([^}}]*)\}}", program(*names))
    if match is None:
        raise KeyError(enumeration)
    return {name.strip().lower(): code for code, name in enumerate(match[1].split(","))}


@cache
def constant(name: str, *names: str) -> int:
    """Return the value of a ``constexpr int`` in the source of some files; by default, :data:`FILES`.

    Examples
    --------
    >>> constant("BLOCK")
    256
    """
    match = re.search(rf"constexpr int {name} = (\d+);", program(*names))
    if match is None:
        raise KeyError(name)
    return int(match[1])


@cache
def control() -> np.dtype[Any]:
    """Return the structure ``Control`` as a NumPy dtype.

    Examples
    --------
    >>> control().names[:2], control().itemsize
    (('loss_sum', 'weight_sum'), 72)
    """
    match = re.search(r"struct Control \{(.*?)\n\};", re.sub(r"//[^\n]*", "", program()), re.DOTALL)
    assert match is not None
    fields: list[tuple[str, Any]] = []
    for declaration in match[1].split(";"):
        if declaration.strip():
            kind, names = re.fullmatch(r"\s*(long long|\w+)\s+(.*?)\s*", declaration, re.DOTALL).groups()  # type: ignore[union-attr]
            fields += [(name.strip(), _SCALARS[kind]) for name in names.split(",")]
    return np.dtype(fields, align=True)


def _parse_parameter(declaration: str) -> Parameter:
    tokens = declaration.replace("__restrict__", " ").replace("*", " * ").split()
    kind = " ".join(token for token in tokens[:-1] if token not in ("const", "*"))
    return Parameter(tokens[-1], kind, "*" in tokens, "const" in tokens)
