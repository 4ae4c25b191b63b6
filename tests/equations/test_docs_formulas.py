"""docs/equations.md has the formula of every activation and loss, as ``deepnotes explain`` prints it."""

import re
from pathlib import Path

import pytest

from deepnotes.network.inspection import formulas
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.losses import LIBRARY as LOSSES

PAGE = (Path(__file__).parents[2] / "docs" / "equations.md").read_text(encoding="utf-8")


def row(name, *texts):
    """Return the row of a table: formulas of arrays without numbers, with options by their names."""
    cells = []
    for text in texts:
        options = {each: each for each in re.findall(r"{(\w+):g}", text)}
        formula = text.replace(":g}", "}").format(A="A", Z="Z", dA="dA", Y="Y", power="^gamma", **options)
        cells.append(f"`{formula}`".replace("|", r"\|"))
    return f"| `{name}` | {' | '.join(cells)} |"


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if not formulas.ACTIVATIONS[name][2]])
def test_every_activation_that_is_not_in_the_notes_has_a_row(name) -> None:
    assert row(name, *formulas.ACTIVATIONS[name][:2]) in PAGE


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_a_row(name) -> None:
    assert row(name, formulas.LOSSES[name].loss, formulas.LOSSES[name].derivative) in PAGE


def test_the_symbols_are_explained() -> None:
    for meaning in formulas.SYMBOLS.values():
        for number in re.findall(r"\d\.\d+", meaning):
            assert number[:6] in PAGE
