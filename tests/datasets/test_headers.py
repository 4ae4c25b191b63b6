"""CSV files with an unusable header: the error suggests options, and the file can be read with these options."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import main
from deepnotes.datasets.tables import read_table
from deepnotes.utils.errors import TableError

pytest.importorskip("pyarrow", reason='the extra "data" (pyarrow) is not installed')

QUICK = ("--impute", "mean", "--epochs", "1", "--layers", "4", "--quiet", "--backend", "numpy")
SUGGESTION = re.compile(r"((?:--[a-z-]+(?: [^\s(-][^\s(]*)? )+)\(([^()]*)\)")
"""Matches command-line options, followed by the equivalent arguments of read_table in parentheses."""


@dataclass
class Case:
    """A file with an unusable header, the error, and the columns that are read with the suggested options.

    Attributes
    ----------
    text : str
        The content of the file.
    message : str
        A part of the error message.
    names : str
        The column names, separated by spaces; the last one is the target.
    suggestion : int
        The index of the suggestion to follow, if the message makes several.
    options : dict
        Arguments of read_table that are needed in addition to the suggested ones.
    """

    text: str
    message: str
    names: str
    suggestion: int = 0
    options: dict[str, str] = field(default_factory=dict)


def rows(template, count=12, end="\n"):
    """Return rows in which {i} is the row number, {h} half of the row number, {w} a word and {c} a class."""
    return "".join(template.format(i=i, h=i / 2, w="uv"[i % 3 % 2], c="ab"[i % 2]) + end for i in range(count))


COMMA = {"decimal": ","}

CASES = {
    "repeated name": Case("x,y,x\n" + rows("{i},{h},{c}"), ":1: two columns have the name 'x'", "x0 x1 x2"),
    "repeated name, only text": Case(
        "x,x,y\n" + rows("red,{w},{c}"), ":1: two columns have the name 'x'", "x0 x1 x2"
    ),
    "repeated name, below a blank line": Case(
        "\nx;x;y\r\n" + rows("{i};{h};{c}", end="\r\n"), ":2: two columns have the name 'x'", "x0 x1 x2"
    ),
    "repeated name, on two lines": Case(
        '"x\nz","x\nz",y\n' + rows("{i},{h},{c}"), ":1: two columns have the name", "x0 x1 x2"
    ),
    "repeated name, and an index": Case(
        ",x,x,y\n" + rows("{i},{i},{h},{c}"), ":1: two columns have the name 'x'", "x1 x2 x3"
    ),
    "repeated name, and row names of R": Case(
        "x,x,y\n" + rows("{i},{i},{h},{c}"), ":1: two columns have the name 'x'", "x1 x2 x3"
    ),
    "a column without a name": Case("x,,y\n" + rows("{i},{h},{c}"), ":1: column 2 has no name", "x0 x1 x2"),
    "a column without a name, only text": Case("x,,y\n" + rows("{w},{w},{c}"), ":1: column 2 has no name", "x0 x1 x2"),
    "a last column without a name": Case("x,y,\n" + rows("{i},{h},{c}"), ": column 3 has no name", "x0 x1 x2"),
    "no header, with a repeated number": Case(
        rows("{i},1.5,{h},1.5,{c}"), ":1: two columns have the name '1.5'", "x0 x1 x2 x3 x4"
    ),
    "no header, with a gap": Case("1,,2,a\n" + rows("{i},5,{h},{c}"), ":1: column 2 has no name", "x0 x1 x2 x3"),
    "no header, only numbers": Case(
        rows("{i},{h},1", 6) + rows("{i},{h},0", 6), ":1: the first row must hold", "x0 x1 x2"
    ),
    "a title": Case("Results of 2024\nx,z,y\n" + rows("{i},{h},{c}"), ":2: 3 cells where the header has 1", "x z y"),
    "a title with commas": Case(
        "Results, by me\nx,z,w,y\n" + rows("{i},{h},{w},{c}"), ":2: 4 cells where the header has 2", "x z w y"
    ),
    "a title with as many commas as the table": Case(
        "Results, by me, 2024\nx,z,y\n" + rows("{i},{h},{c}"), ": no column 'y'", "x z y"
    ),
    "a title above columns separated by spaces": Case(
        "My results of\nx z y\n" + rows("{i} {h} {c}"), ": no separator was found", "x z y"
    ),
    "a title above row names": Case(
        "Results\nx,z,y\n" + rows("r{i},{i},{h},{c}"), ":2: 3 cells where the header has 1", "x z y"
    ),
    "a title with a comma above row names": Case(
        "Results, by me, 2024\nx;z;y\n" + rows("{i};{h};{h};{c}"), ":2: 3 cells where the header has 1", "x z y"
    ),
    "a title as wide as the rows, above row names": Case(
        "Results,,\nx,y\n" + rows("{i},{h},{c}"), ":2: 2 cells where the header has 3", "x y"
    ),
    "a title of two cells above row names": Case(
        "By me, 2024\nx,y\n" + rows("{i},{h},{c}"), ":3: 3 cells where the header has 2", "x y"
    ),
    "a year above the header": Case(
        "2024\nx,z,y\n" + rows("{i},{h},{c}"), ":1: the first row must hold the column names", "x z y"
    ),
    "a year as wide as the table": Case("2024,,\nx,z,y\n" + rows("{i},{h},{c}"), ": column 2 has no name", "x z y"),
    "a title above two columns": Case("Results\nx,y\n" + rows("{i},{c}"), ":2: 2 cells where the header has 1", "x y"),
    "a title above semicolons": Case(
        "Results\nx;z;y\n" + rows("{i},5;{i};{c}"), ":2: 3 cells where the header has 1", "x z y", options=COMMA
    ),
    "a title with a comma, above semicolons": Case(
        "Results, mine\nx;y\n" + rows("{i},5;{c}"), ":2: 2 cells where the header has 1", "x y", options=COMMA
    ),
    "a title above tabs, with a blank line": Case(
        "Results, mine\n\nx\tz\ty\n" + rows("{i}\t{h}\t{c}"), ":3: 3 cells where the header has 1", "x z y"
    ),
    "a title of three lines": Case(
        "Results\nby me\nof 2024, all\nx,z,w,y\n" + rows("{i},{h},{w},{c}"),
        ":3: 2 cells where the header has 1",
        "x z w y",
    ),
    "a title as wide as the table": Case(
        "Results,,\nx,z,y\n" + rows("{i},{h},{c}"), ": column 2 has no name", "x z y"
    ),
    "a title of three lines as wide as the table": Case(
        "Results;;\n2024;;\n;;\nx;z;y\n" + rows("{i};{h};{c}"), ": column 2 has no name", "x z y"
    ),
    "two rows of names, as pandas writes them": Case(
        ",a,a,b\n,x,z,y\n" + rows("{i},{i},{h},{c}"), ":1: two columns have the name 'a'", "x z y"
    ),
    "two rows of names, only text": Case(
        "a,a,b\nx,z,y\n" + rows("red,{w},{c}"), ":1: two columns have the name 'a'", "x z y", 1
    ),
    "a title with a gap": Case(
        "Results,,by me,\nx,z,w,y\n" + rows("{i},{h},{w},{c}"), ":1: column 2 has no name", "x z w y", 1
    ),
    "a title that is not CSV": Case(
        '"Results" of 2024\nx,y\n' + rows("{i},{c}"), ":1: the row that starts here is not CSV", "x y"
    ),
    "a title that opens a quote": Case(
        '"Results\nx,y\n' + rows("{i},{c}"), ":1: the row that starts here is not CSV", "x y"
    ),
    "rows that end in a separator": Case(
        "x,z,y\n" + rows("{i},{h},{c},"), ":2: 4 cells where the header has 3; the rows end in a separator", "x0 x1 x2"
    ),
    "spaces": Case("x z y\n" + rows("{i} {h} {c}"), ": no separator was found", "x z y"),
    "runs of spaces": Case("  x   z   y\n" + rows(" {i}  {h} {c}"), ": no separator was found", "x z y"),
    "two columns separated by spaces": Case("x y\n" + rows("{i} {c}"), ": no separator was found", "x y"),
    "words separated by spaces": Case("x z y\n" + rows("red {w} {c}"), ": no separator was found", "x z y"),
    "spaces, as R writes them": Case('"x" "y"\n' + rows('"{i}" {h} "{c}"'), ": no separator was found", "x y"),
    "spaces with decimal commas": Case(
        "x z y\n" + rows("{i},5 {i} {c}"), ": no separator was found", "x z y", options=COMMA
    ),
    "spaces below a title": Case("My results\nx z y\n" + rows("{i} {h} {c}"), ": no separator was found", "x z y"),
    "spaces, and only numbers": Case(rows("{i}.5 {h} 1", 6) + rows("{i} {h} 0", 6), ": no separator", "x0 x1 x2"),
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("folder")


def suggested_options(message, index):
    """Return the options that a message suggests, for the command line and as arguments of read_table."""
    matches = SUGGESTION.findall(message)
    options, arguments = matches[min(index, len(matches) - 1)]
    return options.split(), eval(f"dict({arguments})")


def as_options(arguments):
    """Return the command-line options that correspond to arguments of read_table."""
    options = []
    for name, value in arguments.items():
        options += ["--no-header"] if name == "header" else [f"--{name.replace('_', '-')}", *np.atleast_1d(value)]
    return list(map(str, options))


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", CASES)
def test_the_suggested_options_make_the_file_readable(name, capsys):
    case = CASES[name]
    path = Path("data.csv")
    path.write_text(case.text, newline="")
    *features, target = case.names.split()
    options, errors = dict(case.options), list[str]()
    while (status := main(["train", "data.csv", "--target", target, *as_options(options), *QUICK])) and len(errors) < 3:
        errors.append(capsys.readouterr().err)
        with pytest.raises(TableError) as caught:
            read_table(path, spelled=[target], **options)
        command_line, arguments = suggested_options(errors[-1], case.suggestion)
        assert command_line == as_options(arguments)
        assert str(caught.value) in errors[-1]
        options |= arguments
    assert status == 0, capsys.readouterr().err
    assert case.message in errors[0]
    metadata = dn.load("data.safetensors").metadata
    assert [entry["name"] for entry in metadata["columns"]] == features
    table = read_table(path, missing="keep", **options)
    assert table.names == [*features, target]
    assert table.column(target)[-1] in ("b", 0)
    for command in ("predict", "evaluate"):
        assert main([command, "data.safetensors", "data.csv", "--backend", "numpy"]) == 0, capsys.readouterr().err


ROW_NAMES = [
    ("x,y\n" + rows("{i},{h},{c}"), {}),
    ('"x","y"\n' + rows('"{i}",{h},"{c}"'), {}),
    ("x;y\n" + rows("{i};{h};{c}"), {}),
    ("x\ty\n" + rows("car {i}\t{h}\t{c}"), {}),
    ('"x" "y"\n' + rows('"{i}" {h} "{c}"'), {"separator": "whitespace"}),
    ("x y\n" + rows("r{i} {h} {c}"), {"separator": " "}),
    ("title\nx,y\n" + rows("{i},{h},{c}"), {"skip_rows": 1}),
    ("# R\nx,y\n" + rows("{i},{h},{c}"), {"comment": "#"}),
    ("x,y\n1,NA,a\n" + rows("{i},{h},{c}"), {}),
    ("x,y\n1,2,\n" + rows("{i},{h},{c}"), {}),
]


@pytest.mark.parametrize(("text", "options"), ROW_NAMES)
def test_row_names_written_by_r_are_an_index(text, options, csv_file):
    table = read_table(csv_file(text), missing="keep", **options)
    assert table.names == ["x", "y"]
    assert table.column("x")[-12:].tolist() == (np.arange(12) / 2).tolist()
    assert table.notes == ["the first column, which has no name, is an index and was left out"]


def test_row_names_are_reported_by_train_and_predict(capsys):
    Path("a.csv").write_text("x,y\n" + rows("{i},{h},{c}"))
    Path("b.csv").write_text("x\n" + rows("{h}"))
    assert main(["train", "a.csv", "--target", "y", *QUICK[:-3], "--backend", "numpy"]) == 0
    assert "the first column, which has no name," in capsys.readouterr().err
    predictions = []
    for name in ("a.csv", "b.csv"):
        assert main(["predict", "a.safetensors", name, "--backend", "numpy"]) == 0
        out, err = capsys.readouterr()
        predictions.append(out)
        assert ("the first column, which has no name," in err) == (name == "a.csv")
    assert predictions[0] == predictions[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2,3\n4,5\n", ":2: 3 cells where the header has 2"),
        ("x,y\n1,2\n3,4,5\n", ":3: 3 cells where the header has 2"),
        ("x,y\n1,2,3\n4,5,6,7\n", ":2: 3 cells where the header has 2"),
        ("x,y\n1,2,3,4\n", ":2: 4 cells where the header has 2"),
        ("x,y\n1,2,\n3,4,\n", ":2: 3 cells where the header has 2"),
        ("Title\nx,y\n1,2\n", ":2: 2 cells where the header has 1"),
    ],
)
def test_rows_of_different_widths_are_not_mistaken_for_row_names(csv_file, text, message):
    with pytest.raises(TableError, match=f"data.csv{message}"):
        read_table(csv_file(text))


@pytest.mark.parametrize(
    "text",
    [
        "full name\nAnna Lee\nBob Ray\n", "note\nhe said so\nit is fine\n", "weight\n5 kg\n7 kg\n",
        "start time\n2024-01-01 10:00\n2024-01-02 11:00\n", '"a b c"\n"1 2 3"\n', "one two three\na b\n",
        "x\na;b\nc\n",
    ],
)  # fmt: skip
def test_a_column_of_phrases_is_not_split(csv_file, text):
    assert len(read_table(csv_file(text)).names) == 1


@pytest.mark.parametrize("name", ["a b", "a;b", "x", "a b c"])
@pytest.mark.parametrize(
    "cells", [["1 2", "3 4"], ["1;2", "3;4"], ["red one", "2"], ["a\tb", "c\td"], ["1 2 3", "4 5 6"]]
)
def test_a_single_column_written_by_write_table_is_not_split(tmp_path, name, cells):
    dn.write_table(tmp_path / "a.csv", [name], [np.array(cells)])
    table = read_table(tmp_path / "a.csv", text=[name])
    assert table.column(name).tolist() == cells


def test_an_explicit_separator_is_used_without_detection(csv_file):
    path = csv_file("x z y\n1 2 3\n4 5 6\n")
    assert read_table(path, separator=",").names == ["x z y"]
    assert read_table(csv_file("price eur\n1 000\n2 500\n"), thousands=" ").column("price eur").tolist() == [1000, 2500]


def test_skip_rows_is_kept_in_the_model_and_can_be_overridden(run, capsys):
    table = "x,z,y\n" + rows("{i},{h},{c}")
    Path("a.csv").write_text(f'made by "us\n\n{table}')
    Path("b.csv").write_text(table)
    run("train", "a.csv", "--target", "y", "--skip-rows", "2", *QUICK)
    assert dn.load("a.safetensors").metadata["format"] == {"skip_rows": 2}
    predictions = [run("predict", "a.safetensors", *args)[0] for args in (["a.csv"], ["b.csv", "--skip-rows", "0"])]
    assert predictions[0] == predictions[1]
    assert run("evaluate", "a.safetensors", "b.csv", "--skip-rows", "0", "--json")[0]
    assert main(["predict", "a.safetensors", "b.csv"]) == 1
    assert "columns: 1, 0.5, b" in capsys.readouterr().err
    assert main(["train", "a.csv", "--target", "y", "--skip-rows", "-1"]) == 2
    assert "argument --skip-rows: " in capsys.readouterr().err
