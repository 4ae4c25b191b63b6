"""CSV files whose header cannot be used as it is: the error says how to read them, and whoever does it can train."""

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
ADVICE = re.compile(r"((?:--[a-z-]+(?: [^\s(-][^\s(]*)? )+)\(([^()]*)\)")
"""Options of the command line, and in parentheses those of the library."""


@dataclass
class Case:
    """A file, what its error says, and what is read by the advice in it."""

    text: str
    told: str
    names: str
    """Of all columns, the last of which is the target."""
    which: int = 0
    """Which advice is followed where there are several."""
    given: dict[str, str] = field(default_factory=dict)
    """What is known about the file."""


def rows(form, count=12, end="\n"):
    """Return rows in which {i} is a number, {w} a word and {c} a class."""
    return "".join(form.format(i=i, h=i / 2, w="uv"[i % 3 % 2], c="ab"[i % 2]) + end for i in range(count))


COMMA = {"decimal": ","}

CASES = {
    "two columns of one name": Case("x,y,x\n" + rows("{i},{h},{c}"), ":1: two columns have the name 'x'", "x0 x1 x2"),
    "two columns of one name, text alone": Case(
        "x,x,y\n" + rows("red,{w},{c}"), ":1: two columns have the name 'x'", "x0 x1 x2"
    ),
    "two columns of one name, below a blank line": Case(
        "\nx;x;y\r\n" + rows("{i};{h};{c}", end="\r\n"), ":2: two columns have the name 'x'", "x0 x1 x2"
    ),
    "two columns of one name, on two lines": Case(
        '"x\nz","x\nz",y\n' + rows("{i},{h},{c}"), ":1: two columns have the name", "x0 x1 x2"
    ),
    "two columns of one name beside an index": Case(
        ",x,x,y\n" + rows("{i},{i},{h},{c}"), ":1: two columns have the name 'x'", "x1 x2 x3"
    ),
    "two columns of one name, as R writes them": Case(
        "x,x,y\n" + rows("{i},{i},{h},{c}"), ":1: two columns have the name 'x'", "x1 x2 x3"
    ),
    "a column without a name": Case("x,,y\n" + rows("{i},{h},{c}"), ":1: column 2 has no name", "x0 x1 x2"),
    "a column without a name, text alone": Case("x,,y\n" + rows("{w},{w},{c}"), ":1: column 2 has no name", "x0 x1 x2"),
    "a last column without a name": Case("x,y,\n" + rows("{i},{h},{c}"), ": column 3 has no name", "x0 x1 x2"),
    "no header, with a number that is there twice": Case(
        rows("{i},1.5,{h},1.5,{c}"), ":1: two columns have the name '1.5'", "x0 x1 x2 x3 x4"
    ),
    "no header, with a gap": Case("1,,2,a\n" + rows("{i},5,{h},{c}"), ":1: column 2 has no name", "x0 x1 x2 x3"),
    "numbers alone": Case(rows("{i},{h},1", 6) + rows("{i},{h},0", 6), ":1: the first row must hold", "x0 x1 x2"),
    "a title": Case("Results of 2024\nx,z,y\n" + rows("{i},{h},{c}"), ":2: 3 cells where the header has 1", "x z y"),
    "a title with commas": Case(
        "Results, by me\nx,z,w,y\n" + rows("{i},{h},{w},{c}"), ":2: 4 cells where the header has 2", "x z w y"
    ),
    "a title with as many commas as the table": Case(
        "Results, by me, 2024\nx,z,y\n" + rows("{i},{h},{c}"), ": no column 'y'", "x z y"
    ),
    "a title of words, by spaces": Case(
        "My results of\nx z y\n" + rows("{i} {h} {c}"), ": no separator was found", "x z y"
    ),
    "a title above names of rows": Case(
        "Results\nx,z,y\n" + rows("r{i},{i},{h},{c}"), ":2: 3 cells where the header has 1", "x z y"
    ),
    "a title with a comma above names of rows": Case(
        "Results, by me, 2024\nx;z;y\n" + rows("{i};{h};{h};{c}"), ":2: 3 cells where the header has 1", "x z y"
    ),
    "a title as wide as the rows, above names of rows": Case(
        "Results,,\nx,y\n" + rows("{i},{h},{c}"), ":2: 2 cells where the header has 3", "x y"
    ),
    "a title of two cells above names of rows": Case(
        "By me, 2024\nx,y\n" + rows("{i},{h},{c}"), ":3: 3 cells where the header has 2", "x y"
    ),
    "a year above the header": Case(
        "2024\nx,z,y\n" + rows("{i},{h},{c}"), ":1: the first row must hold the column names", "x z y"
    ),
    "a year as wide as the table": Case("2024,,\nx,z,y\n" + rows("{i},{h},{c}"), ": column 2 has no name", "x z y"),
    "a title above two columns": Case("Results\nx,y\n" + rows("{i},{c}"), ":2: 2 cells where the header has 1", "x y"),
    "a title above semicolons": Case(
        "Results\nx;z;y\n" + rows("{i},5;{i};{c}"), ":2: 3 cells where the header has 1", "x z y", given=COMMA
    ),
    "a title with a comma, above semicolons": Case(
        "Results, mine\nx;y\n" + rows("{i},5;{c}"), ":2: 2 cells where the header has 1", "x y", given=COMMA
    ),
    "a title above tabs, with a blank line": Case(
        "Results, mine\n\nx\tz\ty\n" + rows("{i}\t{h}\t{c}"), ":3: 3 cells where the header has 1", "x z y"
    ),
    "three lines of a title": Case(
        "Results\nby me\nof 2024, all\nx,z,w,y\n" + rows("{i},{h},{w},{c}"),
        ":3: 2 cells where the header has 1",
        "x z w y",
    ),
    "a title as wide as the table": Case(
        "Results,,\nx,z,y\n" + rows("{i},{h},{c}"), ": column 2 has no name", "x z y"
    ),
    "several titles as wide as the table": Case(
        "Results;;\n2024;;\n;;\nx;z;y\n" + rows("{i};{h};{c}"), ": column 2 has no name", "x z y"
    ),
    "two rows of names, as pandas writes them": Case(
        ",a,a,b\n,x,z,y\n" + rows("{i},{i},{h},{c}"), ":1: two columns have the name 'a'", "x z y"
    ),
    "two rows of names, text alone": Case(
        "a,a,b\nx,z,y\n" + rows("red,{w},{c}"), ":1: two columns have the name 'a'", "x z y", 1
    ),
    "a title with a gap": Case(
        "Results,,by me,\nx,z,w,y\n" + rows("{i},{h},{w},{c}"), ":1: column 2 has no name", "x z w y", 1
    ),
    "a title that is no CSV": Case(
        '"Results" of 2024\nx,y\n' + rows("{i},{c}"), ":1: the row that starts here is not CSV", "x y"
    ),
    "a title that opens a quote": Case(
        '"Results\nx,y\n' + rows("{i},{c}"), ":1: the row that starts here is not CSV", "x y"
    ),
    "rows that end in a separator": Case(
        "x,z,y\n" + rows("{i},{h},{c},"), ":2: 4 cells where the header has 3; rows end in a separator", "x0 x1 x2"
    ),
    "spaces": Case("x z y\n" + rows("{i} {h} {c}"), ": no separator was found", "x z y"),
    "runs of spaces": Case("  x   z   y\n" + rows(" {i}  {h} {c}"), ": no separator was found", "x z y"),
    "two columns by spaces": Case("x y\n" + rows("{i} {c}"), ": no separator was found", "x y"),
    "words by spaces": Case("x z y\n" + rows("red {w} {c}"), ": no separator was found", "x z y"),
    "spaces, as R writes them": Case('"x" "y"\n' + rows('"{i}" {h} "{c}"'), ": no separator was found", "x y"),
    "spaces with decimal commas": Case(
        "x z y\n" + rows("{i},5 {i} {c}"), ": no separator was found", "x z y", given=COMMA
    ),
    "spaces below a title": Case("My results\nx z y\n" + rows("{i} {h} {c}"), ": no separator was found", "x z y"),
    "spaces, and numbers alone": Case(rows("{i}.5 {h} 1", 6) + rows("{i} {h} 0", 6), ": no separator", "x0 x1 x2"),
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("folder")


def advice(message, which):
    """Return the options that a message names, for the command line and for the library."""
    found = ADVICE.findall(message)
    words, arguments = found[min(which, len(found) - 1)]
    return words.split(), eval(f"dict({arguments})")


def as_options(arguments):
    """Return the options of the command line that stand for arguments of read_table."""
    words = []
    for name, value in arguments.items():
        words += ["--no-header"] if name == "header" else [f"--{name.replace('_', '-')}", *np.atleast_1d(value)]
    return list(map(str, words))


@pytest.mark.thinned(3)
@pytest.mark.parametrize("about", CASES)
def test_the_advice_reads_and_trains(about, capsys):
    case = CASES[about]
    path = Path("data.csv")
    path.write_text(case.text, newline="")
    *features, target = case.names.split()
    given, told = dict(case.given), list[str]()
    while (status := main(["train", "data.csv", "--target", target, *as_options(given), *QUICK])) and len(told) < 3:
        told.append(capsys.readouterr().err)
        with pytest.raises(TableError) as caught:
            read_table(path, spelled=[target], **given)
        words, arguments = advice(told[-1], case.which)
        assert words == as_options(arguments)
        assert str(caught.value) in told[-1]
        given |= arguments
    assert status == 0, capsys.readouterr().err
    assert case.told in told[0]
    metadata = dn.load("data.safetensors").metadata
    assert [entry["name"] for entry in metadata["columns"]] == features
    table = read_table(path, missing="keep", **given)
    assert table.names == [*features, target]
    assert table.column(target)[-1] in ("b", 0)
    for command in ("predict", "evaluate"):
        assert main([command, "data.safetensors", "data.csv", "--backend", "numpy"]) == 0, capsys.readouterr().err


R = [
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


@pytest.mark.parametrize(("text", "options"), R)
def test_row_names_of_r_are_an_index(text, options, csv_file):
    table = read_table(csv_file(text), missing="keep", **options)
    assert table.names == ["x", "y"]
    assert table.column("x")[-12:].tolist() == (np.arange(12) / 2).tolist()
    assert table.notes == ["the first column, which has no name, is an index, and was left out"]


def test_row_names_are_reported_by_train_and_predict(capsys):
    Path("a.csv").write_text("x,y\n" + rows("{i},{h},{c}"))
    Path("b.csv").write_text("x\n" + rows("{h}"))
    assert main(["train", "a.csv", "--target", "y", *QUICK[:-3], "--backend", "numpy"]) == 0
    assert "the first column, which has no name," in capsys.readouterr().err
    found = []
    for name in ("a.csv", "b.csv"):
        assert main(["predict", "a.safetensors", name, "--backend", "numpy"]) == 0
        out, err = capsys.readouterr()
        found.append(out)
        assert ("the first column, which has no name," in err) == (name == "a.csv")
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x,y\n1,2,3\n4,5\n", ":2: 3 cells where the header has 2"),
        ("x,y\n1,2\n3,4,5\n", ":3: 3 cells where the header has 2"),
        ("x,y\n1,2,3\n4,5,6,7\n", ":2: 3 cells where the header has 2"),
        ("x,y\n1,2,3,4\n", ":2: 4 cells where the header has 2"),
        ("x,y\n1,2,\n3,4,\n", ":2: 3 cells where the header has 2"),
        ("Title\nx,y\n1,2\n", ":2: 2 cells where the header has 1"),
    ],
)
def test_rows_that_are_wider_by_chance_have_no_names(csv_file, text, told):
    with pytest.raises(TableError, match=f"data.csv{told}"):
        read_table(csv_file(text))


@pytest.mark.parametrize(
    "text",
    [
        "full name\nAnna Lee\nBob Ray\n", "note\nhe said so\nit is fine\n", "weight\n5 kg\n7 kg\n",
        "start time\n2024-01-01 10:00\n2024-01-02 11:00\n", '"a b c"\n"1 2 3"\n', "one two three\na b\n",
        "x\na;b\nc\n",
    ],
)  # fmt: skip
def test_one_column_of_phrases_stays_one(csv_file, text):
    assert len(read_table(csv_file(text)).names) == 1


@pytest.mark.parametrize("name", ["a b", "a;b", "x", "a b c"])
@pytest.mark.parametrize(
    "cells", [["1 2", "3 4"], ["1;2", "3;4"], ["red one", "2"], ["a\tb", "c\td"], ["1 2 3", "4 5 6"]]
)
def test_one_column_that_we_wrote_is_read_as_one(tmp_path, name, cells):
    dn.write_table(tmp_path / "a.csv", [name], [np.array(cells)])
    table = read_table(tmp_path / "a.csv", text=[name])
    assert table.column(name).tolist() == cells


def test_a_separator_that_is_given_is_not_doubted(csv_file):
    path = csv_file("x z y\n1 2 3\n4 5 6\n")
    assert read_table(path, separator=",").names == ["x z y"]
    assert read_table(csv_file("price eur\n1 000\n2 500\n"), thousands=" ").column("price eur").tolist() == [1000, 2500]


def test_skipped_lines_are_remembered_by_the_model_and_said_anew(run, capsys):
    table = "x,z,y\n" + rows("{i},{h},{c}")
    Path("a.csv").write_text(f'made by "us\n\n{table}')
    Path("b.csv").write_text(table)
    run("train", "a.csv", "--target", "y", "--skip-rows", "2", *QUICK)
    assert dn.load("a.safetensors").metadata["format"] == {"skip_rows": 2}
    found = [run("predict", "a.safetensors", *words)[0] for words in (["a.csv"], ["b.csv", "--skip-rows", "0"])]
    assert found[0] == found[1]
    assert run("evaluate", "a.safetensors", "b.csv", "--skip-rows", "0", "--json")[0]
    assert main(["predict", "a.safetensors", "b.csv"]) == 1
    assert "columns: 1, 0.5, b" in capsys.readouterr().err
    assert main(["train", "a.csv", "--target", "y", "--skip-rows", "-1"]) == 2
    assert "argument --skip-rows: " in capsys.readouterr().err
