"""The drawing and the module names in docs/architecture.md agree with the code."""

import re
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

spec = spec_from_file_location("architecture", ROOT / ".ci" / "architecture.py")
assert spec is not None
assert spec.loader is not None
architecture = module_from_spec(spec)
spec.loader.exec_module(architecture)


def test_the_drawing_shows_the_imports_of_the_code() -> None:
    drawing = (ROOT / "docs" / "images" / "architecture.svg").read_text(encoding="utf-8")
    assert drawing == architecture.draw(), "run: python .ci/architecture.py > docs/images/architecture.svg"


def test_every_package_is_described() -> None:
    assert set(architecture.read_descriptions()) == set(architecture.find_packages())


def test_imports_in_functions_and_for_type_checking_are_found(tmp_path: Path) -> None:
    for name in ("upper", "middle", "lower"):
        (tmp_path / name).mkdir()
    (tmp_path / "upper" / "a.py").write_text("if TYPE_CHECKING:\n    from deepnotes.middle.b import B\n")
    (tmp_path / "middle" / "b.py").write_text("def f():\n    from deepnotes import lower\n    import deepnotes.lower\n")
    (tmp_path / "lower" / "c.py").write_text("import numpy\n")
    packages = {path.name: path for path in tmp_path.iterdir()}
    imports = architecture.find_imports(packages)
    assert imports == {"upper": {"middle"}, "middle": {"lower"}, "lower": set()}
    assert architecture.find_levels(imports) == [["lower"], ["middle"], ["upper"]]


def test_an_import_implied_by_others_is_not_drawn() -> None:
    imports = {"a": frozenset("bc"), "b": frozenset("c"), "c": frozenset()}
    assert architecture.find_direct_imports(imports) == {"a": {"b"}, "b": {"c"}, "c": set()}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(deepnotes(?:\.\w+)+)`", PAGE))))
def test_modules_named_on_the_page_exist(name: str) -> None:
    assert import_module(name) is sys.modules[name]
