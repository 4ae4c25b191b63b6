"""What a result was measured on."""

import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("deepnotes", "numpy", "numba", "scikit-learn", "torch", "jax", "onnxruntime")


def machine() -> dict[str, object]:
    """Return the processor, cores, versions, commit and date, as JSON values."""
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
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _blas() -> str:
    """Return NumPy's BLAS, and for which processors its kernels are, which may be older than this one."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "unknown"
    found = [library for library in threadpool_info() if library["user_api"] == "blas"]
    return ", ".join(sorted({f"{b['internal_api']} {b['version']} ({b.get('architecture')} kernels)" for b in found}))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        return subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
