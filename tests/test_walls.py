"""Who may import whom, and what an import may cost: the promises of the architecture."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import deepnotes

CORE = Path(deepnotes.__file__).parent
ARRAY_LIBRARIES = {"cupy", "numba", "torch", "jax", "scipy", "sklearn", "array_api_strict"}


def imports(path: Path) -> set[str]:
    """Return the modules that a file names in import statements, wherever they stand in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


FACADES = {"estimators": {"sklearn", "scipy"}}
"""Packages that put the core in the place of another library's own, and import that; nothing else imports them."""


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda p: str(p.relative_to(CORE)))
def test_the_core_imports_no_backend_and_no_array_library_but_numpy(path: Path) -> None:
    tops = {name.partition(".")[0] for name in imports(path)}
    assert not {name for name in tops if name.startswith("deepnotes_")}
    assert not tops & (ARRAY_LIBRARIES - FACADES.get(path.relative_to(CORE).parts[0], set()))


@pytest.mark.parametrize("path", sorted((CORE / "equations").glob("*.py")), ids=lambda p: p.name)
def test_equations_import_nothing_but_the_protocols(path: Path) -> None:
    allowed = {"deepnotes.array", "math", "collections.abc", "typing"}
    assert {n for n in imports(path) if not n.startswith("deepnotes.equations")} <= allowed


COMPUTES = [
    *(CORE / f"{name}.py" for name in ("layers", "losses", "optimizers", "activations", "steps", "schedules")),
    *sorted((CORE / "equations").rglob("*.py")),
]


@pytest.mark.parametrize("path", COMPUTES, ids=lambda p: str(p.relative_to(CORE)))
def test_what_computes_touches_arrays_through_the_protocol_only(path: Path) -> None:
    assert "numpy" not in {name.partition(".")[0] for name in imports(path)}


def test_nobody_asks_which_backend_it_is() -> None:
    for path in CORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                assert "backend.name" not in ast.unparse(node), f"{path}:{node.lineno}"


def test_importing_deepnotes_loads_no_backend_and_no_array_library_but_numpy() -> None:
    code = "import sys, deepnotes; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    tops = {name.partition(".")[0] for name in loaded}
    assert "numpy" in tops
    assert not tops & (ARRAY_LIBRARIES | {"rich", "safetensors", "matplotlib", "deepnotes_numpy"})


def test_importing_deepnotes_costs_little_more_than_numpy() -> None:
    """Beyond these few small modules of Python and their own imports, nothing is loaded that is not deepnotes'."""
    code = (
        "import sys, numpy, contextvars, copy, dataclasses, json, pathlib, signal, threading; "
        "before = set(sys.modules); "
        "import deepnotes; print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "deepnotes.network" in loaded
    assert {name for name in loaded if name.partition(".")[0] != "deepnotes"} == set()


def test_using_a_backend_loads_that_one_only() -> None:
    code = "import sys, deepnotes; deepnotes.get_backend('numpy'); print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in loaded if name.startswith("deepnotes_") and "." not in name} == {"deepnotes_numpy"}
