"""The formulas of the pages are set as MathML, and a formula that cannot be set fails the build of the site."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("latex2mathml")
ROOT = Path(__file__).parent.parent
HOOK = runpy.run_path(str(ROOT / ".ci" / "mathematics.py"))


def build(markdown, name="page.md"):
    """Return a page after both functions of the hook, without Markdown in between."""
    page = SimpleNamespace(file=SimpleNamespace(src_uri=name))
    return HOOK["on_page_content"](HOOK["on_page_markdown"](markdown, page), page)


def test_formulas_in_lines_and_blocks_become_mathml() -> None:
    html = build("Here $`W^{[l]}`$, and\n\n```math\na = \\frac{1}{m}\n```\n\nend, costs $5 and `$`.\n")
    assert html.count("<math") == 2
    assert html.count('display="block"') == 1
    assert "<mfrac>" in html
    assert "costs $5 and `$`." in html
    assert build("no formula, $5") == "no formula, $5"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_every_formula_of_the_pages_is_known(page) -> None:
    text = page.read_text(encoding="utf-8")
    count = len(re.findall(r"^```math$|\$`[^`\n]+`\$", text, re.MULTILINE))
    html = build(text, page.name)
    assert html.count("</math>") == count
    assert (count > 30) == (page.stem == "equations")


@pytest.mark.parametrize("formula", [r"\nosuchcommand{x}", r"a & b"])
def test_a_formula_that_cannot_be_set_is_an_error(formula) -> None:
    with pytest.raises(Exception, match=re.escape(f"page.md: {formula}")):
        build(f"$`{formula}`$")
