"""NVRTC without a GPU, by CuPy's own binding: the kernels compiled as CuPy compiles them, and what the compiler says.

``python tests/cuda_nvrtc.py`` prints the table of registers per kernel.
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
"""Ampere, Hopper, Blackwell; and PTX for whatever is older than the first and newer than the last."""
OPTIONS = ("-ftz=true", "--std=c++17", "--ptxas-options=-v")
_FUNCTION = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Usage:
    """What a kernel takes: registers of a thread; bytes of its stack frame, spilled, and of a block's shared memory."""

    registers: int
    stack: int
    spilled: int
    shared: int


@dataclass(frozen=True)
class Compiled:
    """What came of a compilation: nothing but words where it failed."""

    log: str
    code: bytes = b""

    @property
    def usage(self) -> dict[str, Usage]:
        """What each kernel takes, by name; of machine code only."""
        found = {}
        for match in _FUNCTION.finditer(self.log):
            shared = re.search(r"(\d+) bytes smem", match["rest"])
            found[match["name"]] = Usage(
                int(match["registers"]), int(match["stack"]), int(match["stores"]) + int(match["loads"]),
                int(shared[1]) if shared else 0,
            )  # fmt: skip
        return found


def nvrtc() -> Any:
    """Return CuPy's binding of NVRTC, the library found in its wheel wherever that is installed.

    Raises
    ------
    ImportError
        If CuPy or NVRTC is missing.
    """
    try:
        places = find_spec("nvidia.cuda_nvrtc")
    except ModuleNotFoundError:
        places = None
    for place in (places.submodule_search_locations or []) if places else []:
        for library in sorted(Path(place, "lib").glob("libnvrtc.so.*")):
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)  # CuPy takes the one that is loaded already
    binding = import_module("cupy.cuda").nvrtc
    try:
        binding.getVersion()
    except Exception as error:  # what CuPy raises depends on its version
        raise ImportError(f"NVRTC: {error}") from error
    return binding


def compiled(source: str, dtype: str, architecture: str) -> Compiled:
    """Compile a source, to machine code for ``sm_``, to PTX for ``compute_``."""
    binding = nvrtc()
    handle = binding.createProgram(source, "deepnotes.cu", (), ())
    try:
        options = (f"-arch={architecture}", f"-DREAL={REAL[dtype]}", *OPTIONS)
        try:
            binding.compileProgram(handle, options)
        except binding.NVRTCError as error:
            return Compiled(f"{error}\n{binding.getProgramLog(handle)}")
        code = binding.getCUBIN(handle) if architecture.startswith("sm_") else binding.getPTX(handle)
        return Compiled(binding.getProgramLog(handle), code if isinstance(code, bytes) else code.encode())
    finally:
        binding.destroyProgram(handle)


@cache
def all_of_them() -> dict[tuple[str, str], "Future[Compiled]"]:
    """Return the package's kernels, being compiled for each dtype and architecture, a few at a time."""
    nvrtc()
    pool = ThreadPoolExecutor()
    pairs = product(REAL, ARCHITECTURES)
    return {pair: pool.submit(compiled, program(), *pair) for pair in pairs}


def table() -> Iterator[str]:
    """Yield the lines of a Markdown table: registers of a thread, by kernel, dtype and architecture."""
    pairs = [pair for pair in all_of_them() if pair[1].startswith("sm_")]
    usages = [all_of_them()[pair].result().usage for pair in pairs]
    yield f"| kernel | {' | '.join(f'{dtype} {architecture}' for dtype, architecture in pairs)} | shared |"
    yield f"|---|{'---|' * len(pairs)}---|"
    for name in sorted(usages[0]):
        shared = sorted({usage[name].shared for usage in usages})
        yield f"| `{name}` | {' | '.join(str(u[name].registers) for u in usages)} | {' to '.join(map(str, shared))} |"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in table())
