"""Public names: every name in an ``__all__`` exists, and deepnotes has few top-level entries."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import deepnotes

PUBLIC = ["backends", "datasets", "network", "nn", "plots", "testing"]


@pytest.mark.parametrize("package", PUBLIC)
def test_every_name_in_all_exists(package: str) -> None:
    module = import_module(f"deepnotes.{package}")
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


@pytest.mark.parametrize("package", ["", ".backends", ".datasets"])
def test_dir_lists_the_public_names_and_no_others(package: str) -> None:
    module = import_module(f"deepnotes{package}")
    assert sorted(name for name in dir(module) if not name.startswith("__")) == sorted(module.__all__)
    assert set(module.__getattr__.__globals__.get("_LAZY", ())) <= set(dir(module))


EXTRAS = {
    "numba": {"numba"},
    "sklearn": {"sklearn", "scipy"},
    "onnx": {"onnx", "onnxruntime", "skl2onnx"},
    "plot": {"matplotlib"},
    "tensorboard": {"tensorboardX"},
    "data": {"pyarrow", "pandas", "polars"},
}
WITHOUT = [*[[extra] for extra in EXTRAS], ["sklearn", "onnx"], list(EXTRAS)]


@pytest.mark.parametrize("missing", WITHOUT, ids="+".join)
def test_the_public_names_agree_without_extras(missing: list[str]) -> None:
    code = f"""
import sys
for module in {sorted(set().union(*(EXTRAS[extra] for extra in missing)))!r}:
    sys.modules[module] = None
import deepnotes as dn
from deepnotes import *
public = {{name for name in dir(dn) if not name.startswith("__")}}
assert public == set(dn.__all__), public ^ set(dn.__all__)
assert all(hasattr(dn, name) and name in globals() for name in public)
estimators = {{"DenseClassifier", "DenseRegressor", "register_skl2onnx"}}
if sys.modules.get("sklearn", ...) is not None:
    assert estimators <= public
else:
    assert not any(hasattr(dn, name) for name in estimators) and not estimators & public
    try:
        dn.DenseClassifier
    except AttributeError as error:
        assert 'pip install "deepnotes[sklearn]"' in str(error), error
"""
    if "sklearn" not in missing:
        pytest.importorskip("sklearn")
    process = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def test_the_package_has_at_most_twelve_top_level_entries() -> None:
    top = {path.name for path in Path(deepnotes.__file__).parent.iterdir()} - {"__init__.py", "__pycache__"}
    assert len(top) <= 12, sorted(top)
