"""Exported Python files read CSV files as ``deepnotes predict`` does: the results of both are compared."""

import ast
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import main

TWO_COLUMNS: list[dict[str, Any]] = [{"name": "x"}, {"name": "y"}]
KINDS = ["007", "1", "2.5", "red", "ÿ"]

MODELS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "plain": (TWO_COLUMNS, {}),
    "categories": ([{"name": "x"}, {"name": "kind", "categories": KINDS}], {}),
    "similar categories": ([{"name": "x"}, {"name": "kind", "categories": ["1", "True"]}], {}),
    "fill values": ([{"name": "x", "fill": 5.0}, {"name": "kind", "categories": KINDS, "fill": "red"}], {}),
    "numeric categories": ([{"name": "x"}, {"name": "n", "categories": [0.0, 1.0, 2.5]}], {}),
    "decimal comma": (TWO_COLUMNS, {"format": {"separator": ";", "decimal": ",", "thousands": "."}}),
    "thousands": (TWO_COLUMNS, {"format": {"thousands": ","}}),
    "currency": (TWO_COLUMNS, {"format": {"strip": "$%"}}),
    "missing values": (
        [{"name": "x", "fill": 5.0}, {"name": "kind", "categories": KINDS, "fill": "red"}],
        {"format": {"missing_values": ["-200", "n.v."]}},
    ),
    "missing, not filled": (TWO_COLUMNS, {"format": {"missing_values": ["-200"]}}),
    "dates": ([{"name": "x"}, {"name": "when"}], {"dates": ["when"]}),
    "date format": (
        [{"name": "x"}, {"name": "when", "fill": 0.0}],
        {"dates": ["when"], "format": {"date_format": "%d/%m/%Y"}},
    ),
    "latin-1": ([{"name": "x"}, {"name": "kind", "categories": KINDS}], {"format": {"encoding": "latin-1"}}),
    "utf-16": ([{"name": "x"}, {"name": "kind", "categories": KINDS}], {"format": {"encoding": "utf-16"}}),
    "comment": (TWO_COLUMNS, {"format": {"comment": "#"}}),
    "no header": ([{"name": "x0"}, {"name": "x1"}], {"format": {"header": False}}),
    "skipped rows": (TWO_COLUMNS, {"format": {"skip_rows": 2}}),
    "skipped rows, no header": ([{"name": "x0"}, {"name": "x1"}], {"format": {"skip_rows": 1, "header": False}}),
    "skipped rows, utf-16": (TWO_COLUMNS, {"format": {"skip_rows": 1, "encoding": "utf-16"}}),
    "skipped rows, comment": (TWO_COLUMNS, {"format": {"skip_rows": 1, "comment": "#"}}),
    "white space": (TWO_COLUMNS, {"format": {"separator": "whitespace"}}),
    "one column": ([{"name": "x", "fill": 5.0}], {}),
    "index column": ([{"name": "Unnamed: 0"}, {"name": "y"}], {}),
    "special names": ([{"name": "last, first"}, {"name": "é"}], {}),
}
"""The columns of each model, and the metadata that describe the format of the model's data files."""

CASES: list[tuple[str, str, str | bytes, str | None]] = [
    # model, subject of the case, content of the file, and part of the error message (None if no error is expected)
    ("plain", "plain", "x,y\n1,2\n3,4.5\n", None),
    ("plain", "columns in another order, and additional columns", "z,y,x\na,1,2\nb,3,4\n", None),
    ("plain", "spaces after commas", "x, y\n1, 2\n3, 4\n", None),
    ("plain", "spaces around quotes", 'x, "y"\n"1", "2"\n', None),
    ("plain", "spaces everywhere", "  x\t,\u00a0y \n 1 ,\u00a02\u2003\n", None),
    ("plain", "inf", "x,y\n1,2\n3,inf\n", ":3: column 'y' has 'inf' where a finite number was expected"),
    ("plain", "-Infinity", "x,y\n-Infinity,2\n", ":2: column 'x' has '-Infinity' where a finite number was expected"),
    ("plain", "too large", "x,y\n1e999,2\n", ":2: column 'x' has '1e999' where a finite number was expected"),
    ("plain", "underscores", "x,y\n1_000,2\n", ":2: column 'x' has '1_000' where a number was expected"),
    ("plain", "hexadecimal", "x,y\n0x10,2\n", ":2: column 'x' has '0x10' where a number was expected"),
    ("plain", "digits of other scripts", "x,y\n١,2\n", ":2: column 'x' has '١' where a number was expected"),
    ("plain", "forms of numbers", "x,y\n+1.,.5\n-1e3,1E-2\n007,-0\n1e-400,00\n", None),
    ("plain", "a decimal comma", 'x,y\n"1,5",2\n', ":2: column 'x' has '1,5' where a number was expected"),
    ("plain", "thousands", 'x,y\n"1,035",2\n', ":2: column 'x' has '1,035' where a number was expected"),
    ("plain", "currency", "x,y\n$5,2\n", ":2: column 'x' has '$5' where a number was expected"),
    ("plain", "a word", "x,y\n1,2\n3,4\nfive,6\n", ":4: column 'x' has 'five' where a number was expected"),
    (
        "plain",
        "a word after a missing value",
        "x,y\n,2\nfive,6\n",
        ":3: column 'x' has 'five' where a number was expected",
    ),
    ("plain", "true and false", "x,y\ntrue,2\nFALSE,1\n5,True\n", None),
    ("plain", "yes", "x,y\nyes,2\n", ":2: column 'x' has 'yes' where a number was expected"),
    ("plain", "an empty cell", "x,y\n1,2\n3,\n", ":3: column 'y' has an empty cell where a number was expected"),
    ("plain", "NaN", "x,y\nNaN,2\n3,4\n", ":2: column 'x' has 'NaN' where a finite number was expected"),
    ("plain", "several missing", "x,y\n1,\n2,?\n3,4\n4,-\n", "; 2 more are missing, in lines 3, 5"),
    ("plain", "all missing", "x,y\n1,\n2,\n", ":2: column 'y' has an empty cell where a number was expected"),
    ("fill values", "NaN with a minus", "x,kind\n1,1\n-NaN,1\n", None),
    (
        "fill values",
        "NaN with a plus",
        "x,kind\n1,1\n+nan,1\n",
        ":3: column 'x' has '+nan' where a number was expected",
    ),
    ("fill values", "NaN with a payload", "x,kind\n1,1\nnan(1),1\n", ":3: column 'x' has 'nan(1)' where a number was"),
    ("plain", "a byte order mark in a cell", "x,y\n\ufeff,1\n", ":2: column 'x' has '\\ufeff' where a number was"),
    ("plain", "NaN with a number", "x,y\nnan(1),2\n", ":2: column 'x' has 'nan(1)' where a number was expected"),
    ("plain", "both columns are wrong", "y,x\n1,2\n3,five\nsix,7\n", ":4: column 'y' has 'six'"),
    ("plain", "two features of the same name", "x,y,x\n1,2,3\n", ":1: two columns have the name 'x'"),
    ("plain", "two other columns of the same name", "x,y,z,z\n1,2,3,4\n", ":1: two columns have the name 'z'"),
    ("plain", "a column without a name", "x,,y\n1,2,3\n", ":1: column 2 has no name"),
    ("plain", "a missing column", "x,z\n1,2\n", ": no column 'y'"),
    ("plain", "a column name in another case", "X,y\n1,2\n", ": no column 'x' (did you mean 'X'?)"),
    (
        "plain",
        "numbers instead of names",
        "1,2\n3,4\n",
        ":1: the first row must hold the column names, but it holds numbers",
    ),
    ("plain", "a short row", "x,y,z\n1,2,3\n1,2\n", ":3: 2 cells where the header has 3"),
    ("plain", "a long row", "x,y\n1,2\n3,4,5\n", ":3: 3 cells where the header has 2"),
    ("plain", "a row of one cell", "x,y\n1,2\nfive\n", ":3: 1 cell where the header has 2"),
    ("plain", "a wide row before a wrong cell", "x,y\n1,two\n3,4,5\n", ":3: 3 cells where the header has 2"),
    ("plain", "blank lines", "\n\nx,y\n\n1,2\n   \n3,4\n\n\n", None),
    ("plain", "an error after blank lines", "\nx,y\n\n1,2\n\n3,a\n", ":6: column 'y' has 'a'"),
    ("plain", "an error after a cell of two lines", 'x,y,z\n1,2,"a\nb"\n3,a,c\n', ":4: column 'y' has 'a'"),
    ("plain", "an error in a row with a cell of two lines", 'z,x,y\n"a\nb",1,?\n', ":3: column 'y' has '?'"),
    ("plain", "no line break at the end", "x,y\n1,2", None),
    ("plain", "line breaks of Windows", "x,y\r\n1,2\r\n\r\n3,4\r\n", None),
    ("plain", "line breaks of old Macs", "x,y\r1,2\r3,4\r", None),
    ("plain", "no rows", "x,y\n", ":1: no row follows the header"),
    ("plain", "an empty file", "", ":1: the file is empty"),
    ("plain", "only blank lines", "\n \n", ":1: the file is empty"),
    ("plain", "a byte order mark", b"\xef\xbb\xbfx,y\n1,2\n", None),
    ("plain", "another encoding", b"x,y,z\n1,2,\xe9\n", ":2: byte 0xe9 is not UTF-8 text"),
    ("plain", "NUL", b"x,y\n1,\x002\n", ":2: byte 0x00 is not UTF-8 text"),
    ("plain", "UTF-16", "x,y\n1,2\n".encode("utf-16"), ":1: byte 0xff is not UTF-8 text"),
    ("plain", "an open quote", 'x,y\n1,2\n3,"4\n', ":3: the row that starts here is not CSV"),
    ("plain", "text after a quote", 'x,y\n1,"2"3\n', ":2: the row that starts here is not CSV"),
    ("plain", "quotes in quotes", 'x,y,"z ""z"""\n1,2,"a ""b"""\n', None),
    ("plain", "a quote within a cell", 'x,y,z\n1,2,5" pipe\n', None),
    ("plain", "an unnamed index", ",x,y\n0,1,2\n1,3,4\n", None),
    ("plain", "an index as pandas names it", "Unnamed: 0,x,y\n0,1,2\n", None),
    ("index column", "an index that is a feature", "Unnamed: 0,y\n3,1\n", None),
    ("plain", "two unnamed columns in front", ",,x,y\n0,a,1,2\n", None),
    ("plain", "a separator at the end of lines", "x,y,\n1,2,\n3,4, \n", None),
    ("plain", "a cell beyond the names", "x,y,\n1,2,\n3,4,5\n", ": column 3 has no name"),
    ("plain", "row names, as R writes them", '"x","y"\n"1",1,2\n"2",3,4\n', None),
    ("plain", "row names, separated by tabs", "y\tx\na\t1\t2\nb\t3\t4\n", None),
    ("plain", "row names, in a file of one row", "x,y\n1,2,3\n", None),
    ("plain", "row names in some rows only", "x,y\n1,2,3\n4,5\n", ":2: 3 cells where the header has 2"),
    ("plain", "rows that end in a separator", "x,y\n1,2,\n3,4,\n", ":2: 3 cells where the header has 2"),
    ("plain", "an error in a row with a name", "x,y\na,1,2\nb,3,c\n", ":3: column 'y' has 'c'"),
    ("plain", "a title", "Results\nx,y,z\n1,2,3\n4,5,6\n", ":2: 3 cells where the header has 1"),
    ("plain", "a title above semicolons", "Results\nx;y;z\n1;2;3\n4;5;6\n", ":2: 3 cells where the header has 1"),
    ("plain", "a title as wide as the table", "Results,,\nx,y,z\n1,2,3\n4,5,6\n", ": column 2 has no name"),
    ("one column", "a title above a header of two", "Results\nx,y\n1,2\n3,4\n", ":2: 2 cells where the header has 1"),
    (
        "plain",
        "white space",
        "x y\n1 2\n3 4\n",
        ": no separator was found, but white space splits all rows into equal numbers of cells",
    ),
    ("one column", "row names and one column", "x\na,2\nb,4\n", None),
    ("plain", "semicolons", "x;y\n1;2\n3;4\n", None),
    ("plain", "tabs", "x\ty\n1\t2\n", None),
    ("plain", "bars", "x|y|z\n1|2|a\n", None),
    ("plain", "semicolons with decimal commas", "x;y\n1,5;2\n", ":2: column 'x' has '1,5' where a number was expected"),
    ("plain", "commas within cells separated by semicolons", "x;y;z\n1;2;a, b\n3;4;c, d, e\n", None),
    ("plain", "Excel's sep line", "sep=;\r\nx;y\r\n1;2\r\n", None),
    ("plain", "Excel's sep line with an unusual separator", "SEP=^\nx^y\n1^2\n", None),
    ("plain", "an error below Excel's sep line", "sep=;\nx;y\n1;b\n", ":3: column 'y' has 'b'"),
    (
        "plain",
        "an error in the header below Excel's sep line",
        "sep=,\nx,x\n1,2\n",
        ":2: two columns have the name 'x'",
    ),
    (
        "plain",
        "two whole numbers become one",
        "x,y\n9007199254740993,1\n9007199254740992,2\n",
        ": column 'x' has 90071",
    ),
    ("plain", "large whole numbers", "x,y\n9007199254740994,1\n1e300,2\n", None),
    ("plain", "a cell that is too long", f"x,y,z\n1,2,{'a' * 131_073}\n", ":2: the row that starts here is not CSV"),
    ("plain", "many rows", "x,y\n" + "".join(f"{i},{i / 7}\n" for i in range(3000)), None),
    ("plain", "a line break in a column name", '"x","y","a\nb"\n1,2,3\n4,b,5\n', ":4: column 'y' has 'b'"),
    ("special names", "names with commas", '"last, first",é\n1,2\n', None),
    ("one column", "one column", "x\n1\n2\n", None),
    ("one column", "one column with blank lines", "x\n1\n\n2\n", None),
    ("one column", "one column with a quoted empty cell", 'x\n1\n""\n2\n', None),
    ("one column", "one column with a line of spaces", "x\n1\n  \n2\n", None),
    ("categories", "categories", "x,kind\n1,red\n2,1\n3,ÿ\n4,007\n", None),
    ("categories", "categories with the same value as a number", "x,kind\n1,1.0\n2,+1\n3,2.50\n4,25e-1\n", None),
    (
        "categories",
        "a code with leading zeros differs from its number",
        "x,kind\n1,7\n",
        "row 1: column 'kind' has the unknown category '7'",
    ),
    (
        "categories",
        "a code with other zeros",
        "x,kind\n1,red\n1,01\n",
        "row 2: column 'kind' has the unknown category '01'",
    ),
    ("categories", "true is 1", "x,kind\n1,true\n2,True\n", None),
    (
        "categories",
        "false is 0",
        "x,kind\n1,false\n",
        "row 1: column 'kind' has the unknown category 'false'",
    ),
    ("similar categories", "categories that are spelled exactly", "x,kind\n1,True\n2,1\n", None),
    (
        "similar categories",
        "a value that could be either category",
        "x,kind\n1,true\n",
        "row 1: column 'kind' has the unknown category 'true'",
    ),
    (
        "categories",
        "an unknown category",
        "x,kind\n1,red\n2,blue\n",
        "row 2: column 'kind' has the unknown category 'blue'",
    ),
    (
        "categories",
        "a category in another case",
        "x,kind\n1,Red\n",
        "row 1: column 'kind' has the unknown category 'Red'",
    ),
    ("categories", "NA as a category", "x,kind\n1,NA\n", "row 1: column 'kind' has the unknown category 'NA'"),
    (
        "categories",
        "a missing category",
        "x,kind\n1,red\n2, \n",
        ":3: column 'kind' has an empty cell where a value was expected",
    ),
    (
        "categories",
        "spaces around categories",
        "x,kind\n1, red \n2,' '\n",
        "row 2: column 'kind' has the unknown category",
    ),
    (
        "fill values",
        "missing values that are filled",
        "x,kind\n,\nNA,1\n?,red\n<NA>,1\nnull,1\n1.#IND,1\n\\N,1\n3,\n",
        None,
    ),
    ("fill values", "cells of spaces are filled", 'x,kind\n" ",  \n', None),
    ("fill values", "all cells are filled", "x,kind\n,\n,\n", None),
    (
        "fill values",
        "a word in a column of numbers with a fill value",
        "x,kind\nn.v.,red\n",
        ":2: column 'x' has 'n.v.'",
    ),
    ("numeric categories", "numbers as categories", "x,n\n1,0\n2,1.0\n3,2.50\n", None),
    (
        "numeric categories",
        "an unknown number",
        "x,n\n1,0\n2,3\n",
        "row 2: column 'n' has the unknown category 3",
    ),
    ("numeric categories", "true and false as categories", "x,n\n1,true\n2,false\n", None),
    (
        "numeric categories",
        "a word among numeric categories",
        "x,n\n1,0\n2,two\n3,1\n4,1\n",
        ":3: column 'n' has 'two'",
    ),
    (
        "numeric categories",
        "a missing number",
        "x,n\n1,0\n2,\n",
        ":3: column 'n' has an empty cell where a number was expected",
    ),
    ("decimal comma", "a decimal comma", "x;y\n1,5;1.000,25\n-,5;1.234.567\n", None),
    (
        "decimal comma",
        "an invalid group of digits",
        "x;y\n1;1.00\n",
        ":2: column 'y' has '1.00' where a number with the decimal",
    ),
    ("decimal comma", "another separator", "x,y\n1,2\n", ": no column 'x' (did you mean 'x,y'?), no"),
    ("decimal comma", "infinity", "x;y\ninf;1\n", ":2: column 'x' has 'inf' where a finite number was expected"),
    ("decimal comma", "a word", "x;y\n1;na\n", ":2: column 'y' has 'na' where"),
    ("thousands", "groups", 'x,y\n"1,035",2\n3,"-1,000,000.5"\n', None),
    ("currency", "money", "x,y\n$5,5 %\n-$1.5,+2\n", None),
    ("currency", "another currency", "x,y\n€5,5%\n", ":2: column 'x' has '€5' where a number was expected"),
    ("missing values", "spellings of missing values", "x,kind\n-200,n.v.\nn.v.,-200\n-200.0,red\n1,\n", None),
    (
        "missing values",
        "a spelling in another case",
        "x,kind\nN.V.,red\n",
        ":2: column 'x' has 'N.V.' where a number was",
    ),
    (
        "missing, not filled",
        "a missing value given as a number",
        "x,y\n1,2\n-200,3\n",
        ":3: column 'x' has '-200' where a number was expected",
    ),
    ("dates", "dates", "x,when\n1,2024-01-31\n2,1969-12-31T12:00:00\n3,2024-01-31 10:00+02:00\n", None),
    (
        "dates",
        "a date in another form",
        "x,when\n1,2024-01-31\n2,31/1/2024\n",
        ":3: column 'when' has '31/1/2024' where a",
    ),
    (
        "dates",
        "a missing date",
        "x,when\n1,2024-01-31\n2,\n",
        ":3: column 'when' has an empty cell where a number was expected",
    ),
    ("date format", "dates of a format", "x,when\n1,31/01/2024\n2,\n3,NaT\n", None),
    (
        "date format",
        "an impossible date",
        "x,when\n1,31/02/2024\n",
        ":2: column 'when' has '31/02/2024' where a date in the format",
    ),
    ("latin-1", "another encoding", "x,kind\n1,ÿ\n2,red\n".encode("latin-1"), None),
    ("utf-16", "UTF-16", "x,kind\n1,ÿ\n2,red\n".encode("utf-16"), None),
    ("utf-16", "invalid UTF-16", b"\xff\xfex\0\n\0\x00\xd8", ":2: byte 0x00 is not text in the encoding utf-16"),
    ("latin-1", "NUL", b"x,kind\n1,\x00\n", ":2: NUL is not text in the encoding latin-1"),
    ("comment", "comments", "# of 2024\nx,y # names\n1,2#3\n\n# 5,6\n7,8\n", None),
    ("comment", "quotes protect the comment character", 'x,y,"#z"\n1,2,"#3"\n', None),
    ("comment", "an error after comments", "# of 2024\nx,y\n# two\n1,b\n", ":4: column 'y' has 'b'"),
    ("no header", "no header", "1,2\n3,4\n", None),
    ("no header", "an unexpected header", "x0,x1\n3,4\n", ":1: column 'x0' has 'x0' where a number was expected"),
    ("no header", "too few columns", "1\n3\n", ": no column 'x1'"),
    ("skipped rows", "lines above the header", "Results of 2024\n\nx,y\n1,2\n3,4\n", None),
    ("skipped rows", "skipped lines that are not CSV", 'say "hi", "\n;;;,"\nx,y\n1,2\n', None),
    ("skipped rows", "skipped lines that are not text", b"caf\xe9 \x00\n\xff\xfe\nx,y\n1,2\n", None),
    ("skipped rows", "lines of Windows", "a\r\nb\r\nx;y\r\n1;2\r\n", None),
    ("skipped rows", "lines of old Macs", "a\rb\rx,y\r1,2\r", None),
    ("skipped rows", "a byte order mark above", b"\xef\xbb\xbftitle\n\nx,y\n1,2\n", None),
    ("skipped rows", "an error keeps its line", "a\nb\nx,y\n1,2\n3,b\n", ":5: column 'y' has 'b'"),
    ("skipped rows", "an error of the header keeps its line", "a\nb\nx,x\n1,2\n", ":3: two columns have the name 'x'"),
    ("skipped rows", "a short row keeps its line", "a\nb\nx,y\n1,2\n\n1\n", ":6: 1 cell where the header has 2"),
    (
        "skipped rows",
        "an error of the encoding keeps its line",
        b"a\nb\nx,y\n1,\xe9\n",
        ":4: byte 0xe9 is not UTF-8 text",
    ),
    ("skipped rows", "Excel's sep line is skipped too", "sep=^\ntitle\nx^y\n1^2\n", None),
    ("skipped rows", "nothing after the skipped lines", "a\nb\n", ":1: nothing follows the 2 skipped lines"),
    ("skipped rows", "fewer lines than are skipped", "a", ":1: nothing follows the 2 skipped lines"),
    ("skipped rows", "no rows", "a\nb\nx,y\n", ":3: no row follows the header"),
    ("skipped rows", "no title, though lines are skipped", "x,y\n1,2\nz,y\n3,4\n", ": no column 'x'"),
    ("skipped rows, no header", "no header", "a,b,c\n1,2\n3,4\n", None),
    ("skipped rows, no header", "an error keeps its line", "a\n1,2\n3,b\n", ":3: column 'x1' has 'b'"),
    ("skipped rows, utf-16", "UTF-16", "title\nx,y\n1,2\n".encode("utf-16"), None),
    ("skipped rows, comment", "comments above the header", "a\n# b\nx,y\n1,2#3\n", None),
    ("skipped rows, comment", "an error keeps its line", "a\n# b\nx,y\n1,b\n", ":4: column 'y' has 'b'"),
    ("white space", "runs of spaces", "  x   y\n 1\t 2 \n3 4\n", None),
    ("white space", "quoted spaces", 'x y "a b"\n1 2 "c d"\n', None),
    ("white space", "row names, as R writes them", '"x" "y"\n"1" 1 2\n"b c" 3 4\n', None),
    ("white space", "a short row", "x y\n1 2\n3\n", ":3: 1 cell where the header has 2"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("alike")
    with chdir(path):
        yield path


@pytest.fixture(scope="module")
def exported(folder: Path) -> Callable[[str], ModuleType]:
    """Return a function that exports a model and returns the file as a module; each model is exported once."""
    modules: dict[str, ModuleType] = {}

    def module_of(name: str) -> ModuleType:
        if name not in modules:
            columns, metadata = MODELS[name]
            save(f"{name}.safetensors", columns, metadata)
            assert main(["export", f"{name}.safetensors", "--python", f"{name}.py"]) == 0
            modules[name] = load_module(Path(f"{name}.py"))
        return modules[name]

    return module_of


def save(path: str, columns: list[dict[str, Any]], metadata: dict[str, Any], classes: tuple[str, ...] = ()) -> None:
    """Write a model file with the given columns and metadata; with `classes`, the model is a classifier."""
    features = [
        f"{column['name']}={category}".removesuffix(".0") if "categories" in column else column["name"]
        for column in columns
        for category in column.get("categories", [None])
    ]
    layer = dn.Dense(len(classes), "softmax") if classes else dn.Dense(1, "identity")
    net = dn.Network([layer], inputs=len(features), dtype="float64", seed=0, backend="numpy")
    W = np.asarray(net.parameters["W1"])
    net.parameters["W1"] = 2.0 ** np.arange(W.size).reshape(W.shape) / 8
    task: dict[str, Any] = {"task": "regression", "loss": "mean_squared_error", "target_mean": 0.5, "target_scale": 2.0}
    if classes:
        task = {"task": "classification", "loss": "categorical_cross_entropy", "classes": list(classes)}
    net.metadata = {"features": features, "target": "t", "columns": columns} | task | metadata
    net.save(path)


def load_module(path: Path) -> ModuleType:
    """Execute a Python file, and return it as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_both(
    name: str, data: str, module: ModuleType, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[tuple[int, str, str], tuple[int, str, str]]:
    """Run ``deepnotes predict`` and the exported file on `data`; return (exit status, stdout, stderr) of each."""
    capsys.readouterr()
    model = f"{name}.safetensors"
    ours = main(["predict", model, data, "--backend", "numpy", *options]), *capsys.readouterr()
    theirs = module.main([data, *options]), *capsys.readouterr()
    return ours, theirs


@pytest.mark.thinned(5)
@pytest.mark.parametrize(
    ("name", "content", "error"),
    [(name, content, error) for name, _, content, error in CASES],
    ids=[f"{name}: {subject}" for name, subject, _, _ in CASES],
)
def test_the_command_and_the_exported_file_give_the_same_result(
    name: str,
    content: str | bytes,
    error: str | None,
    exported: Callable[[str], ModuleType],
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = exported(name)
    Path("data.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    ours, theirs = run_both(name, "data.csv", module, capsys)
    if error is None:
        assert ours[0] == 0, ours[2]
        assert theirs == (0, ours[1], "")
        assert ours[1].count("\n") > 1
        return
    assert (ours[0], theirs[0], ours[1], theirs[1]) == (1, 1, "", "")
    assert error in ours[2]
    assert error in theirs[2]
    message = theirs[2].strip().removeprefix("error: ")
    problems = [line.removeprefix("deepnotes: error: ").strip() for line in ours[2].splitlines()]
    assert any(problem.startswith(message) for problem in problems)  # the command reports all, with hints about options


def test_cases_are_unique_and_cover_all_models() -> None:
    assert len({(name, subject) for name, subject, _, _ in CASES}) == len(CASES) >= 60
    assert {name for name, *_ in CASES} == set(MODELS)


@pytest.mark.parametrize("options", [[], ["--spreadsheet"]])
def test_class_names_that_need_quotes_are_written_identically(
    options: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save("classes.safetensors", TWO_COLUMNS, {}, ("a\rb", "=1+1", 'c "d", e;|'))
    assert main(["export", "classes.safetensors", "--python", "classes.py"]) == 0
    Path("data.csv").write_text("x,y\n1,2\n-3,4\n-5,-6\n")
    ours, theirs = run_both("classes", "data.csv", load_module(Path("classes.py")), capsys, *options)
    assert ours[:2] == theirs[:2]
    assert ours[0] == 0


@pytest.mark.parametrize("path", ["none.csv", "."])
def test_files_that_cannot_be_read_are_errors(path: str, exported: Callable[[str], ModuleType], capsys: Any) -> None:
    capsys.readouterr()
    assert exported("plain").main([path]) == 1
    assert capsys.readouterr().err.startswith(f"error: {path}: cannot be read: ")


@pytest.mark.thinned(4)
@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": {"decimal": "x"}}, "decimal='x', wanted one ASCII character"),
        ({"format": {"encoding": "none"}}, "encoding='none'"),
        ({"format": {"page": 3}}, "page"),
        ({"format": {"skip_rows": -1}}, "skip_rows=-1, wanted a number of lines"),
        ({"format": {"skip_rows": 1.5}}, "skip_rows=1.5, wanted a number of lines"),
        ({"format": {"skip_rows": True}}, "skip_rows=True, wanted a number of lines"),
        ({"format": [1]}, "must be a mapping"),
        ({"dates": "when"}, "dates 'when'"),
    ],
)
def test_invalid_data_formats_in_a_model_are_refused(
    metadata: dict[str, Any], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save("odd.safetensors", TWO_COLUMNS, metadata)
    capsys.readouterr()
    assert main(["export", "odd.safetensors", "--python", "odd.py"]) == 1
    assert message in capsys.readouterr().err
    assert not Path("odd.py").exists()


def test_an_exported_file_defines_each_name_once_and_imports_no_library(exported: Callable[[str], ModuleType]) -> None:
    exported("plain")
    tree = ast.parse(Path("plain.py").read_text(encoding="utf-8"))
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert len(names) == len(set(names))
    assert not {"pyarrow", "deepnotes"} & {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
