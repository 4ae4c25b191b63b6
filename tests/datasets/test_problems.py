"""All problems of a data file are reported by one error, each with its place and the option that mends it."""

from pathlib import Path

import pandas as pd
import pytest

from deepnotes.cli import main
from deepnotes.datasets.encoding import Encoder
from deepnotes.datasets.tables import read_table
from deepnotes.utils.errors import TableError

ROWS = [
    "1,50,Ulm,bright,1,2024-01-01,9.5",
    "2,,Aub,b,2,2024-01-02,11.5",
    "3,7o,Ulm,c,2,2024-01-03,13.5",
    "4,120,,d,2,2024-01-04,16.5",
    "5,95,Aub,e,1,2024-01-05,",
    "6,,Hof,f,1,2024-01-06,17.5",
    "7,60,Ulm,g,1,2024-01-07,10.5",
    "8,180,Hof,h,1,2024-01-08,26.5",
    "9,1I0,Aub,i,x,2024-01-09,16.5",
    "10,75,Ulm,j,1,2024-01-10",
    "11,75,Ulm,k,1,2024-01-11,",
    "12,76,Ulm,l,1,2024-01-12,4.5",
]
QUICK = ("--epochs", "1", "--layers", "2", "--backend", "numpy")


@pytest.fixture
def flats(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("flats.csv").write_text("\n".join(["id,area,town,note,rooms,when,price", *ROWS, ""]))
    return "flats.csv"


def problems_of(capsys, *arguments):
    """Run a command that fails, and return the problems that it reports."""
    assert main(list(arguments)) == 1
    headline, *problems = capsys.readouterr().err.splitlines()
    if not problems:
        return [headline.removeprefix("deepnotes: error: ")]
    assert headline == f"deepnotes: error: {len(problems)} problems in the data:"
    return [problem.removeprefix("  ") for problem in problems]


def test_train_reports_all_problems_and_their_options_at_once(flats, capsys):
    found = problems_of(capsys, "train", flats, "--target", "price")
    expected = [
        ("flats.csv:11: 6 cells where the header has 7", "correct or remove this row"),
        ("flats.csv:4: column 'area' has '7o' where a number was expected; one more is unreadable, in line 10",
         "--missing-value"),
        ("flats.csv:10: column 'rooms' has 'x' where a number was expected", "--missing-value"),
        ("flats.csv:6: column 'price' has an empty cell where a number was expected; one more is missing, in line 12",
         "--drop-missing-target"),
        ("flats.csv:3: column 'area' has an empty cell where a number was expected; one more is missing, in line 7",
         "--impute mean"),
        ("flats.csv:5: column 'town' has an empty cell where a value was expected", "--impute mean"),
        ("flats.csv:2: column 'note' is text with 11 distinct values", "exclude the column"),
        ("flats.csv:2: column 'when' is text with 11 distinct values", "--dates"),
    ]  # fmt: skip
    assert len(found) == len(expected)
    for problem, (start, remedy) in zip(found, expected, strict=True):
        assert problem.startswith(start)
        assert remedy in problem


def test_the_options_of_the_report_mend_the_file(flats, capsys):
    path = Path(flats)
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("10,")))
    options = [f"--missing-value={text}" for text in ("7o", "1I0", "x")]
    options += ["--impute", "mean", "--drop-missing-target"]
    options += ["--exclude", "note", "--dates", "when"]
    assert main(["train", flats, "--target", "price", *options, *QUICK]) == 0, capsys.readouterr().err


def test_repeated_names_are_reported_with_the_problems_below_the_header(flats, capsys):
    path = Path(flats)
    path.write_text(path.read_text().replace("note,rooms", "town,area", 1))
    found = problems_of(capsys, "train", flats, "--target", "price")
    assert found[0].startswith("flats.csv:1: two columns have the name 'town'; use --skip-rows 1 --no-header")
    assert found[1].startswith("flats.csv:1: two columns have the name 'area'")
    assert any(problem.startswith("flats.csv:10: column 'area (column 5)' has 'x'") for problem in found)


def test_an_unknown_target_is_reported_with_the_problem_of_the_header(flats, capsys):
    path = Path(flats)
    path.write_text(path.read_text().replace("note", "town", 1))
    found = problems_of(capsys, "train", flats, "--target", "prize")
    assert ["two columns have the name 'town'" in found[0], "did you mean 'price'?" in found[1]] == [True, True]


def test_rows_of_another_width_are_counted(flats):
    path = Path(flats)
    path.write_text(path.read_text() + "1\n2\n13,77,Ulm,m,1,2024-01-13,4,5\n3\n4\n5\n")
    with pytest.raises(TableError, match=r":11: 6 cells where the header has 7; 6 more rows do not fit, in lines ") as (
        caught
    ):
        read_table(flats, missing="keep", text=["area", "rooms"])
    assert "in lines 14, 15, 16, 17, ...; correct or remove these rows" in str(caught.value)
    path.write_text("a,b\n1\n2\n3,4\n5\n")  # most rows do not fit: the header is at fault
    with pytest.raises(TableError, match=r":2: 1 cell where the header has 2$"):
        read_table(flats)


def test_the_first_row_may_be_the_one_that_does_not_fit(flats):
    Path(flats).write_text("a,b,c\n1\n1,x,1\n1,1,1\n,1,1\n1,1,1\n")
    with pytest.raises(TableError, match=r":2: 1 cell where the header has 3.*; correct or remove this row") as caught:
        read_table(flats, numeric=["b"])
    assert [str(problem).split(": ")[0] for problem in caught.value.problems[1:]] == ["flats.csv:3", "flats.csv:5"]


def test_the_message_describes_the_first_problem_and_the_notes_the_others(flats):
    with pytest.raises(TableError, match="11: 6 cells where the header has 7; correct") as caught:
        read_table(flats)
    assert [str(problem) for problem in caught.value.problems][1:] == [note[2:] for note in caught.value.__notes__]
    assert "\n" not in str(caught.value)
    assert len(caught.value.problems) == 6


def test_many_problems_are_counted_and_only_some_described(flats):
    Path(flats).write_text(",".join(f"c{j}" for j in range(300)) + "\n" + "," * 299 + "\n" + "1," * 299 + "1\n")
    with pytest.raises(TableError, match="column 'c0' has an empty cell") as caught:
        read_table(flats)
    assert (len(caught.value.__notes__), caught.value.__notes__[-1]) == (20, "  and 280 more")


def test_cells_and_gaps_of_quoted_lines_and_bad_rows_have_their_lines(flats, capsys):
    Path(flats).write_text('a,b,c\n1,"x\ny",1\n1,x\n2,"x\ny",oops\n2,z,\n' + "3,x,2\n" * 9)
    found = problems_of(capsys, "train", flats, "--target", "c")
    assert [problem.split(": ")[0] for problem in found] == ["flats.csv:4", "flats.csv:6", "flats.csv:7"]


def test_predict_and_evaluate_report_all_problems_at_once(flats, capsys):
    rows = "".join(f"{i},{i % 3},{'uvw'[i % 3]},{i % 5}\n" for i in range(30))
    Path("train.csv").write_text("a,b,kind,y\n" + rows)
    assert main(["train", "train.csv", "--target", "y", "--task", "regression", *QUICK]) == 0
    Path(flats).write_text("a,b,kind,y\n1,2,u,1\n,2,u,2\n2,oops,t,\nx,3,,4\n2,3,t,4\n")
    capsys.readouterr()
    features = [
        "flats.csv:5: column 'a' has 'x'",
        "flats.csv:4: column 'b' has 'oops'",
        "flats.csv:3: column 'a' has an empty cell",
        "flats.csv:5: column 'kind' has an empty cell",
        "flats.csv: row 3: column 'kind' has the unknown category 't'; one more is unknown, in row 5",
    ]
    found = problems_of(capsys, "predict", "train.safetensors", flats)
    assert len(found) == len(features)
    assert all(any(problem.startswith(start) for problem in found) for start in features)
    assert all("--missing-value" in problem for problem in found[:2])
    found = problems_of(capsys, "evaluate", "train.safetensors", flats)
    assert len(found) == len(features) + 1
    assert sum("--drop-missing-target" in problem for problem in found) == 1


def test_all_columns_of_a_parquet_file_that_cannot_be_read_are_reported(tmp_path):
    days = pd.to_datetime(["2024-01-01", "2024-01-02"])
    pd.DataFrame({"a": [1, 2], "day": days, "list": [[1], [2]]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(TableError, match=r"column 'day' has type .*use --dates") as caught:
        read_table(tmp_path / "a.parquet")
    assert ["column 'list' has type list" in note for note in caught.value.__notes__] == [True]


def test_the_encoder_reports_all_columns(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,c\n" + "".join(f"n{i},{'' if i == 3 else i},m{i}\n" for i in range(30)))
    table = read_table(tmp_path / "a.csv", missing="keep")
    with pytest.raises(TableError, match="column 'b' has an empty cell") as caught:
        Encoder.fit(table)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("options", [(), ("--numeric", "a")])
def test_infinite_numbers_are_reported_together_with_words(tmp_path, monkeypatch, capsys, options):
    monkeypatch.chdir(tmp_path)
    cells = ["1", "inf", "3", "0x10", "5", "1e400", "7", "-Infinity", "9", "10", "11", "12"]
    Path("t.csv").write_text("\n".join(["a,y", *(f"{cell},{i}.5" for i, cell in enumerate(cells)), ""]))
    (found,) = problems_of(capsys, "train", "t.csv", "--target", "y", *options)
    assert found.startswith(
        "t.csv:3: column 'a' has 'inf' where a finite number was expected; 3 more are unreadable, in lines 5, 7, 9; "
    )


def test_infinity_among_numbers_in_another_notation_does_not_hide_its_option(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = ["1", "inf", "3", "1,035", "5", "6"]
    Path("t.csv").write_text("\n".join(["a;y", *(f"{cell};{i}.5" for i, cell in enumerate(cells)), ""]))
    (found,) = problems_of(capsys, "train", "t.csv", "--target", "y")
    assert "column 'a' has 'inf' where a finite number was expected; one more is unreadable, in line 5" in found
    assert "--thousands ','" in found
