"""The CUDA kernels on the CPU: the same sources, compiled by g++ with tests/cuda/host.hpp before them.

:class:`Host` launches kernels on NumPy arrays, fast enough for complete training runs. With ``checked=True``, every
memory access of a kernel is checked for bounds, alignment, races, and reads of shared memory that was not written. In
every build, a barrier or a shuffle that not all threads reach raises a :class:`KernelFault`.

Launches run one at a time; other Python threads wait for their turn. Compiled libraries are cached in a temporary
directory, under a digest of everything that they depend on.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from deepnotes_cupy.sources import REAL, Kernel, Parameter, kernels, parse, program

HERE = Path(__file__).parent / "cuda"
COMMON = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-g0", "-w"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FLAGS = {  # for each build: the flags for the kernels, and those for the shim's own code
    "fast": (["-O2"], ["-O2"]),
    "fused": (["-O2", "-mfma", "-ffp-contract=fast"], ["-O2"]),
    "checked": (["-O1", "-fno-tree-vectorize", "-fsanitize=thread"], ["-O1"]),
    "sanitized": (["-O1", *SANITIZERS], ["-O1", *SANITIZERS]),
}
ORDERS = ("forward", "backward", "random")
_LOCK = Lock()


class KernelFault(Exception):
    """A kernel did something that a device does not allow; the message names kernel, block and thread."""


def compiler() -> str:
    """Return the path of g++, or skip the current test."""
    path = shutil.which("g++")
    if path is None:
        import pytest  # not at the top, since imports are slow under the address sanitizer

        pytest.skip("needs g++, to compile the CUDA kernels for the CPU")
    return path


class Host:
    """The kernels of one dtype, compiled for the CPU.

    Parameters
    ----------
    dtype : {"float32", "float64"}
    checked : bool, default False
        Whether every memory access is checked.
    build : {"fast", "fused", "checked", "sanitized"}, optional
        The build, which overrides `checked`. "fused" computes a product and the sum that it is added to with a single
        rounding, as NVRTC does, and needs an x86 processor with fused multiply-add. "sanitized" works only in a process
        that has loaded the address sanitizer.
    source : str, optional
        CUDA code to compile instead of the package's kernels.
    fault : (str, str), optional
        A text, and what replaces it in every source that contains it.

    Attributes
    ----------
    order : {"forward", "backward", "random"}
        The order in which threads and blocks take turns; no result may depend on it.
    orders : tuple of str
        The orders in which checks run each kernel.
    flush : bool
        Whether subnormal numbers are flushed to 0, as on a device with ``-ftz=true``; only on x86.
    """

    order = "forward"

    def __init__(
        self, dtype: str, checked: bool = False, *, build: str = "", source: str = "", fault: tuple[str, str] = ("", "")
    ) -> None:  # fmt: skip
        self.dtype, self.fault = dtype, fault
        self.seed, self.flush = 0, False
        self.orders = ORDERS[:1] if build == "sanitized" else ORDERS
        self._build = build or ("checked" if checked else "fast")
        self.kernels = parse(source) if source else kernels()
        self._source = source or program()
        self._source = self._source.replace(*fault) if fault[0] else self._source
        self._programs: dict[str, Host] = {self._source: self}
        self._index = {name: i for i, name in enumerate(self.kernels)}
        self._types = {name: [_ctype(p, dtype) for p in k.parameters] for name, k in self.kernels.items()}

    @cached_property
    def _library(self) -> Any:
        library = ctypes.CDLL(str(build_library(self.dtype, self._build, self._source)))
        library.host_allocate.restype = ctypes.c_void_p
        return library

    def compile(self) -> None:
        """Compile the kernels, unless they are compiled already."""
        build_library(self.dtype, self._build, self._source)

    def of(self, kernel: Kernel) -> "Host":
        """Return the host for the program of a kernel, with the same build and fault."""
        if kernel.source == program():
            return self
        if kernel.source not in self._programs:
            self._programs[kernel.source] = Host(self.dtype, build=self._build, source=kernel.source, fault=self.fault)
        host = self._programs[kernel.source]
        host.order, host.seed, host.flush = self.order, self.seed, self.flush
        return host

    def launch(
        self, kernel: str, grid: int | Sequence[int], block: int | Sequence[int], *arguments: Any,
        shared: int = 0, reachable: Sequence[np.ndarray] = (),
    ) -> None:  # fmt: skip
        """Run a kernel.

        Parameters
        ----------
        kernel : str
        grid, block : int or tuple of up to three int
        *arguments
            One for each parameter: an ndarray (the kernel gets its address), a number, or None for a null pointer.
        shared : int, default 0
            The size of the dynamic shared memory in bytes.
        reachable : sequence of ndarray
            More arrays that the kernel may access, since their addresses are in one of its arguments.

        Raises
        ------
        KernelFault
            If the kernel did something that a device does not allow.
        TypeError
            If an argument does not match its parameter.
        """
        declaration = self.kernels[kernel]
        if len(arguments) != len(declaration.parameters):
            raise TypeError(f"{kernel} takes {len(declaration.parameters)} arguments, got {len(arguments)}")
        arrays = [a for a in arguments if isinstance(a, np.ndarray)]
        copies = self._copy_to_heap_ends(arrays) if self._build == "sanitized" else {}
        packed = []
        for parameter, ctype, value in zip(declaration.parameters, self._types[kernel], arguments, strict=True):
            if parameter.pointer:
                address = _address(kernel, parameter, value, self.dtype)
                packed.append(ctypes.c_void_p(copies.get((address, 0 if value is None else value.nbytes), address)))
            else:
                packed.append(ctype(value if ctype in (ctypes.c_float, ctypes.c_double) else int(value)))
        pointers = (ctypes.c_void_p * len(packed))(*[ctypes.addressof(p) for p in packed])
        message = ctypes.create_string_buffer(512)
        with _LOCK:
            if self._build == "checked":
                regions = [*arrays, *reachable]
                starts = (ctypes.c_void_p * len(regions))(*[a.ctypes.data for a in regions])
                sizes = (ctypes.c_size_t * len(regions))(*[a.nbytes for a in regions])
                self._library.host_regions(len(regions), starts, sizes)
            failed = self._library.host_launch(
                self._index[kernel], _three_sizes(grid), _three_sizes(block), pointers, ORDERS.index(self.order),
                ctypes.c_ulonglong(self.seed), int(self.flush), ctypes.c_uint(shared), declaration.cluster, message,
            )  # fmt: skip
        self._copy_back(arrays, copies)
        if failed:
            raise KernelFault(message.value.decode())

    def _copy_to_heap_ends(self, arrays: list[np.ndarray]) -> dict[tuple[int, int], int]:
        """Copy each array to the end of a heap block, so that the sanitizer detects accesses beyond it.

        Returns
        -------
        dict
            The address of each copy, by address and size of the array.
        """
        copies = {}
        for a in arrays:
            key = a.ctypes.data, a.nbytes
            if key not in copies:
                offset = a.ctypes.data % 16  # so that the copy has the alignment of the array
                copies[key] = self._library.host_allocate(ctypes.c_size_t(a.nbytes + offset)) + offset
                ctypes.memmove(copies[key], a.ctypes.data, a.nbytes)
        return copies

    def _copy_back(self, arrays: list[np.ndarray], copies: Mapping[tuple[int, int], int]) -> None:
        for (address, size), copy in copies.items():
            ctypes.memmove(address, copy, size)
            self._library.host_release(ctypes.c_void_p(copy - address % 16))


def build_library(dtype: str, build: str, source: str) -> Path:
    """Return the library compiled from a source, from the cache if possible."""
    names = list(parse(source))
    table = ", ".join(f'{{"{name}", host_run<{name}>}}' for name in names)
    text = (
        f'{_read("host.hpp")}\n#define REAL {REAL[dtype]}\n{source}\n#line 1 "table"\n'
        f'extern "C" {{ extern const HostKernel host_kernels[]; const HostKernel host_kernels[] = {{{table}}}; }}\n'
    )
    kernel_flags, other_flags = FLAGS[build]
    checks = "checks.cpp" if build == "checked" else "unchecked.cpp"
    parts = [
        (text, kernel_flags),
        *((_read("runtime.hpp") + _read(name), other_flags) for name in ("fibers.cpp", checks)),
    ]
    link = [flag for flag in other_flags if "sanitize" in flag and build == "sanitized"]

    def compile_and_link(out: str) -> None:
        with ThreadPoolExecutor() as pool:
            objects = list(pool.map(lambda part: str(_object(*part)), parts))
        _run([compiler(), "-shared", *link, "-o", out, *objects, "-lm"])

    return _cached(repr((parts, link)), ".so", compile_and_link)


def prepare(*libraries: tuple[str, str, str]) -> None:
    """Compile libraries in parallel, each given by (dtype, build, source); "" stands for the package's source."""
    compiler()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda library: build_library(library[0], library[1], library[2] or program()), libraries))


def _object(text: str, flags: list[str]) -> Path:
    command = [compiler(), *COMMON, *flags, "-x", "c++", "-c", "-"]
    return _cached(repr((text, command)), ".o", lambda out: _run([*command, "-o", out], text))


def _run(command: list[str], text: str = "") -> None:
    process = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert process.returncode == 0, f"{' '.join(command)}\n{process.stderr}"


def _cached(key: str, suffix: str, make: Callable[[str], None]) -> Path:
    """Return the cached file for a key, after making it if it is missing."""
    digest = hashlib.sha256((_version(compiler()) + key).encode()).hexdigest()
    target = _cache_folder() / (digest[:32] + suffix)
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            make(f"{scratch}/out")
            os.replace(f"{scratch}/out", target)
    return target


@cache
def _read(name: str) -> str:
    text = (HERE / name).read_text(encoding="utf-8").replace('#include "runtime.hpp"', "")
    return f'#line 1 "{name}"\n{text}\n'


@cache
def _version(gxx: str) -> str:
    return subprocess.run([gxx, "--version"], capture_output=True, text=True, check=True).stdout


@cache
def _cache_folder() -> Path:
    """Return a directory for compiled libraries that belongs to this user."""
    folder = Path(tempfile.gettempdir()) / f"deepnotes-cuda-host-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():  # another user made it, so it cannot be trusted
        return Path(tempfile.mkdtemp(prefix="deepnotes-cuda-host-"))
    return folder


def _ctype(parameter: Parameter, dtype: str) -> Any:
    return None if parameter.pointer else np.ctypeslib.as_ctypes_type(parameter.scalar(dtype))


def _address(kernel: str, parameter: Parameter, value: Any, dtype: str) -> int:
    if value is None:
        return 0
    if not isinstance(value, np.ndarray) or not (value.flags.c_contiguous or value.flags.f_contiguous):
        raise TypeError(f"{kernel}: {parameter.name} is {type(value).__name__}, wanted a contiguous array")
    if parameter.kind not in ("Control", "Source") and value.dtype != parameter.scalar(dtype):
        raise TypeError(f"{kernel}: {parameter.name} has dtype {value.dtype}, wanted {parameter.scalar(dtype)}")
    if not parameter.const and not value.flags.writeable:
        raise TypeError(f"{kernel}: {parameter.name} is a read-only array, wanted one that the kernel can write to")
    return int(value.ctypes.data)


def _three_sizes(sizes: int | Sequence[int]) -> Any:
    dimensions = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    return (ctypes.c_uint * 3)(*dimensions, *[1] * (3 - len(dimensions)))
