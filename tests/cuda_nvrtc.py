"""Compile the kernels with NVRTC, without a GPU, through CuPy's binding and with its options, and parse the log.

``python tests/cuda_nvrtc.py`` prints the table of registers per kernel for docs/cuda.md.
"""

import ctypes
import re
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from deepnotes_cupy.sources import REAL, program

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "compute_75")
"""Machine code for Ampere, Hopper and Blackwell; and PTX, which the driver compiles for other devices."""
OPTIONS = ("-ftz=true", "--std=c++17", "--ptxas-options=-v")
_FUNCTION = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Usage:
    """What a kernel uses: registers and bytes of stack and of spills per thread, bytes of shared memory per block."""

    registers: int
    stack: int
    spilled: int
    shared: int


@dataclass(frozen=True)
class Compilation:
    """The result of a compilation: the log, and the code, which is empty if the compilation failed."""

    log: str
    code: bytes = b""

    @property
    def usage(self) -> dict[str, Usage]:
        """The resources of each kernel, by name; empty for PTX."""
        result = {}
        for match in _FUNCTION.finditer(self.log):
            shared = re.search(r"(\d+) bytes smem", match["rest"])
            result[match["name"]] = Usage(
                int(match["registers"]), int(match["stack"]), int(match["stores"]) + int(match["loads"]),
                int(shared[1]) if shared else 0,
            )  # fmt: skip
        return result


def nvrtc() -> Any:
    """Return CuPy's binding of NVRTC, after loading the library from its wheel.

    Raises
    ------
    ImportError
        If CuPy or NVRTC is missing.
    """
    try:
        spec = find_spec("nvidia.cuda_nvrtc")
    except ModuleNotFoundError:
        spec = None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for library in sorted(Path(folder, "lib").glob("libnvrtc.so.*")):
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)  # CuPy uses a library that is already loaded
    binding = import_module("cupy.cuda").nvrtc
    try:
        binding.getVersion()
    except Exception as error:  # its class depends on the version of CuPy
        raise ImportError(f"NVRTC: {error}") from error
    return binding


def compile_source(source: str, dtype: str, architecture: str) -> Compilation:
    """Compile a source to machine code (for an architecture ``sm_...``) or to PTX (for ``compute_...``)."""
    binding = nvrtc()
    handle = binding.createProgram(source, "deepnotes.cu", (), ())
    try:
        options = (f"-arch={architecture}", f"-DREAL={REAL[dtype]}", *OPTIONS)
        try:
            binding.compileProgram(handle, options)
        except binding.NVRTCError as error:
            return Compilation(f"{error}\n{binding.getProgramLog(handle)}")
        code = binding.getCUBIN(handle) if architecture.startswith("sm_") else binding.getPTX(handle)
        return Compilation(binding.getProgramLog(handle), code if isinstance(code, bytes) else code.encode())
    finally:
        binding.destroyProgram(handle)


@cache
def compile_all() -> dict[tuple[str, str], "Future[Compilation]"]:
    """Compile the package's kernels for each dtype and architecture in a pool of threads; return the futures."""
    nvrtc()
    pool = ThreadPoolExecutor()
    pairs = product(REAL, ARCHITECTURES)
    return {pair: pool.submit(compile_source, program(), *pair) for pair in pairs}


def table() -> Iterator[str]:
    """Yield the lines of a Markdown table: registers per thread, by kernel, dtype and architecture."""
    pairs = [pair for pair in compile_all() if pair[1].startswith("sm_")]
    usages = [compile_all()[pair].result().usage for pair in pairs]
    yield f"| kernel | {' | '.join(f'{dtype} {architecture}' for dtype, architecture in pairs)} | shared |"
    yield f"|---|{'---|' * len(pairs)}---|"
    for name in sorted(usages[0]):
        shared = sorted({usage[name].shared for usage in usages})
        yield f"| `{name}` | {' | '.join(str(u[name].registers) for u in usages)} | {' to '.join(map(str, shared))} |"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in table())
