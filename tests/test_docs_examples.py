"""The examples in docs/ run and give the results stated in their comments."""

import ast
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
REQUIRED_MODULES = {
    "arrays.md": ("torch",),
    "backends.md": (),
    "defaults.md": (),
    "many.md": (),
    "plots.md": ("matplotlib", "tensorboardX"),
    "search.md": ("sklearn",),
}


@pytest.mark.filterwarnings("ignore:training did not converge")  # the examples are short
@pytest.mark.parametrize("page", REQUIRED_MODULES)
def test_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in REQUIRED_MODULES[page]:
        pytest.importorskip(module, reason=f"the examples of docs/{page} need {module}")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
        for line in block.splitlines():
            if claim := re.fullmatch(r"([\w.\[\], ]+?) +# (\(.*\)|'.*')", line):
                assert eval(claim[1], names) == ast.literal_eval(claim[2]), line


@pytest.mark.parametrize("page", REQUIRED_MODULES)
def test_linked_files_exist(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (DOCS / page).read_text(encoding="utf-8")):
        assert (DOCS / target).exists(), target
