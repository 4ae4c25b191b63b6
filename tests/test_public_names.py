"""Public names: every name in an ``__all__`` exists, and deepnotes has few top-level entries."""

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


def test_the_package_has_at_most_twelve_top_level_entries() -> None:
    top = {path.name for path in Path(deepnotes.__file__).parent.iterdir()} - {"__init__.py", "__pycache__"}
    assert len(top) <= 12, sorted(top)
