"""CSV files: how cells and headers are read, and the errors for files that cannot be read."""

import numpy as np
import pytest
from table_errors import error_of

from deepnotes.datasets import csv_files
from deepnotes.datasets.tables import read_table

# --- files that are read ----------------------------------------------------------------------------------------------


OTHER_ENCODINGS = "for another encoding, such as latin-1 or utf-16, use --encoding (encoding=)"


def test_columns_become_numbers_or_strings(csv_file):
    table = read_table(csv_file("length,kind,n\n1.5,rose,1\n-2e3,tulip,2\n.5,red rose,3\n"))
    assert table.names == ["length", "kind", "n"]
    assert table.n_rows == 3
    assert table.columns["length"].dtype == np.float64
    assert table.columns["length"].tolist() == [1.5, -2000.0, 0.5]
    assert table.columns["kind"].dtype.kind == "U"
    assert table.columns["kind"].tolist() == ["rose", "tulip", "red rose"]
    assert table.columns["n"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "content",
    [
        "a,b\n1,x\n2,y\n",
        "a,b\n1,x\n2,y",
        "a,b\r\n1,x\r\n2,y\r\n",
        "a,b\r1,x\r2,y\r",
        "\ufeffa,b\n1,x\n2,y\n",
        '\ufeff"a","b"\n"1","x"\n"2","y"\n',
        " a ,\tb\n 1\t, x \n2 ,  y\n",
        'a, "b"\n1, "x"\n2, "y"\n',
        "a\u00a0,b\n\u00a01,x\u00a0\n2,y\n",
        "\n\na,b\n\n1,x\n   \n2,y\n\n\n",
    ],
)
def test_line_ends_quotes_and_white_space_do_not_matter(csv_file, content):
    table = read_table(csv_file(content))
    assert {name: table.column(name).tolist() for name in table.names} == {"a": [1.0, 2.0], "b": ["x", "y"]}


def test_quoted_cells_may_have_commas_quotes_and_line_breaks(csv_file):
    table = read_table(csv_file('a,"b, c"\n"x, ""y""\nz",1\n'))
    assert table.names == ["a", "b, c"]
    assert table.column("a").tolist() == ['x, "y"\nz']


def test_numbers_in_a_text_column_stay_strings(csv_file):
    assert read_table(csv_file("a\nx\n1\nnan\n")).column("a").tolist() == ["x", "1", "nan"]


@pytest.mark.parametrize("cell", ["1_000", "１", "0x10", "1,5", "1e", "--1", "NA", "٣"])
def test_unsupported_notations_of_numbers_make_a_text_column(csv_file, cell):
    assert read_table(csv_file(f'a\n"{cell}"\n')).column("a").tolist() == [cell]


@pytest.mark.parametrize("cell", ["0", "-0", "+1.5", "1.", ".5", "1e-320", "1E5", "007", "9007199254740993"])
def test_supported_notations_of_numbers_are_parsed_as_by_float(csv_file, cell):
    column = read_table(csv_file(f"a\n{cell}\n")).column("a")
    assert column.tobytes() == np.float64(float(cell)).tobytes()


def test_columns_longer_than_a_block_are_read_completely(csv_file, monkeypatch):
    monkeypatch.setattr(csv_files, "MIN_BLOCK", 20)
    monkeypatch.setattr(csv_files, "MAX_BLOCKS", 1000)
    cells = ["a", "long one", "b", "c", "the longest of them", "d", "e"]
    table = read_table(csv_file("n,w\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells))))
    assert table.column("n").tolist() == list(range(7))
    assert table.column("w").tolist() == cells


def test_the_suffix_is_case_insensitive(tmp_path):
    path = tmp_path / "DATA.CSV"
    path.write_text("a\n1\n")
    assert read_table(str(path)).names == ["a"]


# --- files that are refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n3,abc\n", "data.csv:3: column 'b' has 'abc' where a number was expected"),
        ("a,b\n1,2\n\n\n3,abc\n", "data.csv:5: column 'b' has 'abc' where a number was expected"),
        ("a,b\n1,2\n3, \n", "data.csv:3: column 'b' has an empty cell where a number was expected"),
        ("a,b\n1,\n3,4\n", "data.csv:2: column 'b' has an empty cell where a number was expected"),
        ("a,b\n1,\n3,x\n", "data.csv:2: column 'b' has an empty cell where a value was expected"),
        ("a,b\n1,NA\n3,4\n", "data.csv:2: column 'b' has 'NA' where a number was expected"),
        (
            "a,b\n1,2\n3,\n\n4,null\n5,",
            "data.csv:3: column 'b' has an empty cell where a number was expected; 2 more are missing, in lines 5, 6",
        ),
        (
            "a,b\n" + "1,\n" * 7 + "2,3",
            "data.csv:2: column 'b' has an empty cell where a number was expected; 6 more are missing, in lines 3, 4, "
            "5, 6, ...",
        ),
        ("a,b\n1,x\n3,\n", "data.csv:3: column 'b' has an empty cell where a value was expected"),
        ("a,b\n1,2\n,\n", "data.csv:3: column 'a' has an empty cell where a number was expected"),
        ('a\n1\n""\n', "data.csv:3: column 'a' has an empty cell where a number was expected"),
        ("a\n1\n2\nnan\n", "data.csv:4: column 'a' has 'nan' where a finite number was expected"),
        ("a\nnan\n2\n", "data.csv:2: column 'a' has 'nan' where a finite number was expected"),
        ("a\n1\n-Infinity\n", "data.csv:3: column 'a' has '-Infinity' where a finite number was expected"),
        ("a\n1\n1e999\n", "data.csv:3: column 'a' has '1e999' where a finite number was expected"),
        ("a\n1\n1_000\n", "data.csv:3: column 'a' has '1_000' where a number was expected"),
        ("a\n1\n１２\n", "data.csv:3: column 'a' has '１２' where a number was expected"),
        ("a\n1\n" + "x" * 99, "data.csv:3: column 'a' has '" + "x" * 56 + "... where a number was expected"),
    ],
)
def test_invalid_cells_are_refused_with_line_and_column(csv_file, content, message):
    assert error_of(csv_file(content)) == message


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_line_numbers_match_a_text_editor(csv_file, newline):
    lines = ["", 'note,"x', 'y",z', '"two', 'lines",1,2', '"three', "long", 'lines",3,bad']
    message = error_of(csv_file(newline.join(lines)))
    assert message == "data.csv:8: column 'z' has 'bad' where a number was expected"
    lines[-1] = 'lines",bad,4'
    message = error_of(csv_file(newline.join(lines)))
    assert message == "data.csv:8: column 'x\\ny' has 'bad' where a number was expected".replace(
        "\\n", repr(newline)[1:-1]
    )


def test_line_numbers_are_correct_in_later_blocks(csv_file, monkeypatch):
    monkeypatch.setattr(csv_files, "MIN_BLOCK", 20)
    monkeypatch.setattr(csv_files, "MAX_BLOCKS", 1000)
    rows = [str(i) for i in range(20)]
    rows[13] = "oops"
    assert error_of(csv_file("a\n" + "\n".join(rows))).startswith("data.csv:15: column 'a' has 'oops'")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b,c,d\n1,2,3,4\n1,2,3\n", "data.csv:3: 3 cells where the header has 4"),
        ("a,b\n1,2\n\n1,2,\n", "data.csv:4: 3 cells where the header has 2"),
        ("a,b\n1\n", "data.csv:2: 1 cell where the header has 2"),
        ('a,b\n"x\n\ny",1\n1,2,3\n', "data.csv:5: 3 cells where the header has 2"),
    ],
)
def test_rows_with_a_different_number_of_cells_are_refused(csv_file, content, message):
    assert error_of(csv_file(content)) == message


def advice(line, index=None):
    """Return the advice for a header that ends on line `line`; `index` is the index of a column to exclude, if any."""
    option, argument = ("", "") if index is None else (f" --exclude x{index}", f", exclude=['x{index}']")
    options = f"--skip-rows {line} --no-header{option} (skip_rows={line}, header=False{argument})"
    return f"; use {options} to name the columns x0, x1, ..."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "data.csv:1: the file is empty, wanted a header row and rows below it"),
        ("\ufeff", "data.csv:1: the file is empty, wanted a header row and rows below it"),
        ("\n \n\n", "data.csv:1: the file is empty, wanted a header row and rows below it"),
        ("a,b\n", "data.csv:1: no row follows the header"),
        ("\na,b\n\n \n", "data.csv:2: no row follows the header"),
        ("a,b,a\n1,2,3\n", f"data.csv:1: two columns have the name 'a'{advice(1)}"),
        ("a,b, a \n1,2,3\n", f"data.csv:1: two columns have the name 'a'{advice(1)}"),
        ("a,,c\n1,2,3\n", f"data.csv:1: column 2 has no name{advice(1)}"),
        ("\n\n,\n1,2\n", f"data.csv:3: column 1 has no name{advice(3, 0)}"),
        (
            "1,2.5\n3,4\n",
            "data.csv:1: the first row must hold the column names, but it holds numbers: 1, 2.5; "
            "if there is no header, use --no-header (header=False) to name the columns x0, x1, ...",
        ),
        (
            "0,0\n3,4\n",
            "data.csv:1: the first row must hold the column names, but it holds numbers: 0, 0; "
            "if there is no header, use --no-header (header=False) to name the columns x0, x1, ...",
        ),
    ],
)
def test_unusable_headers_are_refused_with_advice(csv_file, content, message):
    assert error_of(csv_file(content)) == message


def test_some_column_names_may_be_numbers(csv_file):
    assert read_table(csv_file("1,b\n3,4\n")).names == ["1", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,caf\xe9\n", f"data.csv:2: byte 0xe9 is not UTF-8 text, which a .csv file must be; {OTHER_ENCODINGS}"),
        (b"a,b\r\n1,x\r\n2,\0\r\n", "data.csv:3: byte 0x00 is not UTF-8 text, which a .csv file must be"),
        (b"a\r1\r\xff\0", f"data.csv:3: byte 0xff is not UTF-8 text, which a .csv file must be; {OTHER_ENCODINGS}"),
        (
            "a,b\n1,2\n".encode("utf-16"),
            f"data.csv:1: byte 0xff is not UTF-8 text, which a .csv file must be; {OTHER_ENCODINGS}",
        ),
    ],
)
def test_bytes_that_are_not_utf_8_are_refused(csv_file, content, message):
    assert error_of(csv_file(content)) == message


@pytest.mark.parametrize(
    ("content", "line"),
    [('a,b\n1,2\n3,"4\n5,6\n7,8\n', 3), ('a,b\n\n1,"2"x\n', 3), ("a\nx\n" + "y" * 200_000, 3)],
)
def test_text_that_is_not_csv_is_refused(csv_file, content, line):
    assert error_of(csv_file(content)).startswith(f"data.csv:{line}: the row that starts here is not CSV: ")
