"""The table in docs/faults.md is complete, and every test that it names exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
TEST = re.compile(r"`(test_\w+)::(test_\w+)`")
BACKENDS = {"N", "J", "C", "host"}
ROWS = [
    [cell.strip() for cell in line.strip().strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and TEST.search(line)
]
TABLE = [row for row in ROWS if len(row) == 4]


@cache
def functions_of(module: str) -> frozenset[str]:
    """Return the names of the functions in a test module."""
    [path] = (ROOT / "tests").rglob(f"{module}.py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_the_table_lists_at_least_forty_faults() -> None:
    """No fault is listed twice, and no cell is empty."""
    assert len(TABLE) >= 40
    assert len({row[0] for row in TABLE}) == len(TABLE)
    assert all(all(row) for row in TABLE)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].replace(" ", "_")[:40])
def test_every_fault_names_existing_tests(row: list[str]) -> None:
    tests = TEST.findall(row[-1])
    assert tests, f"{row[0]!r} names no test"
    for module, name in tests:
        assert name in functions_of(module), f"tests/{module}.py has no {name}"


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0].replace(" ", "_")[:40])
def test_every_fault_lists_its_backends(row: list[str]) -> None:
    assert {name.strip() for name in row[2].split(",")} <= BACKENDS


def test_every_row_of_the_tables_has_a_test() -> None:
    """A row without a test or with a wrong number of cells would be missing from ``TABLE``."""
    sections = re.split(r"^## ", TEXT, flags=re.M)
    tables = sections[2:-1]  # without the preface and the sections on determinism and fuzzing
    lines = [line for table in tables for line in table.splitlines() if line.startswith("| ")]
    assert len(lines) == len(TABLE) + len(tables)  # each table has a heading row
