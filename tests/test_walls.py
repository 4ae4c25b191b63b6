"""Architecture: backends are not identified by name, and imports load no more than they need."""

import ast
import subprocess
import sys
from pathlib import Path

import deepnotes

CORE = Path(deepnotes.__file__).parent
ARRAY_LIBRARIES = {"cupy", "numba", "torch", "jax", "scipy", "sklearn", "array_api_strict"}


def test_no_code_compares_the_name_of_a_backend() -> None:
    for path in CORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                assert "backend.name" not in ast.unparse(node), f"{path}:{node.lineno}"


def test_importing_deepnotes_loads_no_backend_and_no_array_library_but_numpy() -> None:
    code = "import sys, deepnotes; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    top_level = {name.partition(".")[0] for name in loaded}
    assert "numpy" in top_level
    assert not top_level & (ARRAY_LIBRARIES | {"rich", "safetensors", "matplotlib", "deepnotes_numpy"})


def test_importing_deepnotes_costs_little_more_than_numpy() -> None:
    """Besides NumPy, deepnotes imports only these modules of the standard library (which have imports of their own)."""
    code = (
        "import sys, numpy, contextvars, copy, dataclasses, json, pathlib, signal, threading; "
        "before = set(sys.modules); "
        "import deepnotes; print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "deepnotes.network.network" in loaded
    assert {name for name in loaded if name.partition(".")[0] != "deepnotes"} == set()


def test_using_a_backend_loads_only_that_backend() -> None:
    code = "import sys, deepnotes; deepnotes.get_backend('numpy'); print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in loaded if name.startswith("deepnotes_") and "." not in name} == {"deepnotes_numpy"}
