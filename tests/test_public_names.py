"""What is public: every name that a package lists is there, and the top of deepnotes stays small enough to read."""

from importlib import import_module
from pathlib import Path

import pytest

import deepnotes

PUBLIC = ["backends", "datasets", "network", "nn", "plots", "testing"]


@pytest.mark.parametrize("package", PUBLIC)
def test_a_package_has_what_it_lists(package: str) -> None:
    module = import_module(f"deepnotes.{package}")
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


def test_a_dozen_entries_show_the_architecture() -> None:
    top = {path.name for path in Path(deepnotes.__file__).parent.iterdir()} - {"__init__.py", "__pycache__"}
    assert len(top) <= 12, sorted(top)
