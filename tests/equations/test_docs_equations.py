"""The functions and tests named in docs/equations.md exist, and their docstrings cite the number of the equation."""

import ast
import re
from functools import cache
from pathlib import Path
from pkgutil import resolve_name

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| N(\d+) \|(.*)", PAGE, re.MULTILINE)
PROOFS = re.findall(r"^- \*\*N(\d+)\*\*((?:.|\n(?!-|\n))*)", PAGE, re.MULTILINE)
FUNCTIONS = [(int(n), name) for n, row in ROWS for name in re.findall(r"`(deepnotes\.[\w.]+)`", row)]
TESTS = [(int(n), *test) for n, text in PROOFS for test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)]


def cited_numbers(text):
    """Return the numbers of the equations that a docstring cites; ``N11 to N15`` is five numbers."""
    numbers = set()
    for first, last in re.findall(r"\bN(\d+)(?: to N(\d+))?\b", text or ""):
        numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


@cache
def docstrings(path):
    """Return the docstrings of the functions of a file, by name."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name: ast.get_docstring(node) for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("entries", [ROWS, PROOFS, FUNCTIONS, TESTS], ids=["row", "proof", "function", "test"])
def test_every_equation_has_a_row_a_function_and_a_proof(entries):
    assert {int(n) for n, *_ in entries} == set(range(1, 17))


def test_every_equation_has_one_row_and_one_proof():
    assert [int(n) for n, _ in ROWS] == [int(n) for n, _ in PROOFS] == list(range(1, 17))


@pytest.mark.parametrize(("number", "name"), FUNCTIONS)
def test_functions_exist_and_cite_their_number(number, name):
    assert number in cited_numbers(resolve_name(name).__doc__)


@pytest.mark.parametrize(("number", "path", "name"), TESTS)
def test_tests_exist_and_cite_their_number(number, path, name):
    assert number in cited_numbers(docstrings(path)[name])


def test_the_page_names_no_other_functions_or_tests():
    names = re.findall(r"`(deepnotes\.[\w.]+|tests/[\w/]+\.py::\w+)`", PAGE)
    assert len(names) == len(FUNCTIONS) + len(TESTS)
