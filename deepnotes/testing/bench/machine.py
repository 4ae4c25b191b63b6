"""A description of the machine and of the software versions with which a result was measured."""

import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "deepnotes",
    "numpy",
    "numba",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "scikit-learn",
    "torch",
    "jax",
    "onnxruntime",
)
SOURCES = ("*.py", "*.cu", "*.h", "*.cuh")


def machine() -> dict[str, Any]:
    """Return the processor, the number of cores, versions, thread settings, commit and date, as JSON values."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "threads": {
            name: os.environ[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS") if name in os.environ
        },
        "blas": _blas(),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }


def cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def available_memory() -> int | None:
    """Return the bytes that can still be allocated without swapping, or None if they are unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    allowed = _container_memory()
    return free if allowed is None or free is None else min(free, allowed)


def _container_memory() -> int | None:
    """Return the unused part of the memory limit of this container in bytes, or None if there is no limit."""
    try:
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text(encoding="ascii") for name in ("max", "current"))
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):  # no limit, or "max"
        return None


def _processor() -> str:
    """Return the model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _blas() -> str:
    """Return the loaded BLAS libraries, their versions, and the processors for which their kernels were written."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "unknown"
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    texts = {f"{x['internal_api']} {x['version']} ({x.get('architecture')} kernels)" for x in libraries}
    return ", ".join(sorted(texts))


def _version(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the checkout that contains this file, followed by a plus if its sources have changed."""
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None  # the package is installed, perhaps inside the repository of another project
    changed = _git("diff", "--quiet", "HEAD", "--", *(f":(top){pattern}" for pattern in SOURCES)) is None
    commit = _git("rev-parse", "--short", "HEAD")
    return f"{commit}+" if commit and changed else commit


def _git(*arguments: str) -> str | None:
    """Return the output of a git command in the directory of this file, or None if it fails."""
    command, directory = ["git", *arguments], Path(__file__).parent
    try:
        result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
