"""A CSV file that is read in parts has the same rows, lines and problems as one that is read as a whole."""

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepnotes.cli import main
from deepnotes.datasets import csv_parts
from deepnotes.datasets.csv_parts import end_of_rows
from deepnotes.datasets.problems import Problems
from deepnotes.datasets.reading import Format, Request
from deepnotes.datasets.tables import read, read_parts
from deepnotes.utils.errors import TableError

QUICK = ("--epochs", "1", "--layers", "2", "--backend", "numpy")


@pytest.fixture
def small_parts(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(csv_parts, "PART", 64)


def parts_of(path, **options):
    problems = Problems(str(path))
    parts = list(read_parts(path, Request(**options), problems))
    problems.check()
    return parts


ROWS = "".join(f'{i},{i / 7},"a, ""b"" {i % 3}"\n' for i in range(100))
TEXTS = {
    "plain": "".join(f"{i},{i / 7},w{i % 3}\n" for i in range(100)),
    "quotes": ROWS,
    "line breaks in cells": ROWS.replace("a, ", "a,\n\n"),
    "line ends of Windows": ROWS.replace("\n", "\r\n"),
    "line ends of old computers": ROWS.replace("\n", "\r"),
    "quotes within cells": ROWS.replace('"a, ""b"" ', '5" ').replace('"\n', "\n"),
    "blank lines": ROWS.replace("\n", "\n\n"),
    "many blank lines below the header": "\n" * 100 + ROWS,
    "no line end": ROWS.removesuffix("\n"),
    "characters of several bytes": ROWS.replace("b", "größe\U0001f33b"),
    "a long row": ROWS + '1,2,"' + "x" * 2000 + '"\n' + ROWS,
}


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", TEXTS)
def test_the_parts_have_the_rows_of_the_whole_file(name, packed):
    text = f"id,size,kind\n{TEXTS[name]}"
    path = Path("a.csv.gz" if packed else "a.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    whole = read(path, Request(text=["kind"]))
    parts = parts_of(path, text=["kind"])
    assert len(parts) > 10
    for column in whole.names:
        joined = np.concatenate([part.column(column) for part in parts])
        np.testing.assert_array_equal(joined, whole.column(column))


@pytest.mark.usefixtures("small_parts")
def test_lines_and_counts_are_those_of_the_file():
    rows = [f'{i},"x\n{i}",{i}\n' for i in range(60)]
    rows[10], rows[30], rows[31], rows[50] = "10,x,oops\n", "30,x,\n", "31,x,oops\n", "50,x\n"
    Path("a.csv").write_text("a,b,c\n" + "".join(rows))
    messages = []
    for reading in (lambda request, problems: read("a.csv", request, problems=problems),
                    lambda request, problems: list(read_parts("a.csv", request, problems))):  # fmt: skip
        problems = Problems("a.csv")
        reading(Request(numeric=["c"]), problems)
        with pytest.raises(TableError) as caught:
            problems.check()
        messages.append(sorted(map(str, caught.value.problems)))
    assert messages[0] == messages[1]
    assert any("a.csv:22: column 'c' has 'oops'" in text and "in line 62" in text for text in messages[0])


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'a,b\n1,"2\n' + b"3,4\n" * 100, r":2: the row that starts here is not CSV"),
        ('a,b\n"1"x,2\n' + "€" * 100, r":2: the row that starts here is not CSV"),
        (b"a,b\n" + b"1,2\n" * 50 + b"3,\xff\n", r":52: byte 0xff is not UTF-8 text"),
        (b"a,b\n" + b"1,2\n" * 50 + b"3,\0\n", r":52: byte 0x00 is not UTF-8 text"),
        (b"a,b\n" + b"1,2\n" * 50 + b"3," + b"x" * 200_000 + b"\n", r":52: .*field larger than field limit"),
        (b"a,b\n" + b"1,2\n" * 50 + b"3,4,5\n", r":52: 3 cells where the header has 2; correct or remove this row$"),
        (b"a,b\n", r":1: no row follows the header"),
        (b"", r"the file is empty"),
        (gzip.compress(b"a,b\n" + b"1,2\n" * 500, mtime=0)[:-20], "the gzip file is damaged"),
    ],
)
def test_hostile_files_are_refused_as_when_they_are_read_as_a_whole(content, message):
    Path("a.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(TableError, match=message):
        parts_of("a.csv", numeric=["a"], text=["b"])


@pytest.mark.usefixtures("small_parts")
def test_a_gzip_bomb_is_refused_in_parts(monkeypatch):
    monkeypatch.setattr("deepnotes.datasets.reading.FREE", 1 << 16)
    monkeypatch.setattr("deepnotes.datasets.csv_parts.PART", 1 << 16)
    Path("a.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * (1 << 20)))
    with pytest.raises(TableError, match=r"its text would take .* bytes of memory"):
        parts_of("a.csv.gz", numeric=["a", "b"])


@pytest.mark.usefixtures("small_parts")
def test_a_missing_file_and_a_wrong_name_are_reported():
    with pytest.raises(TableError, match=r"b\.csv: cannot be read: No such file"):
        parts_of("b.csv")
    Path("a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TableError, match=r"no column 'c'"):
        parts_of("a.csv", columns=["c"])


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("form", [{"comment": "#"}, {"encoding": "utf-16"}, {"separator": "whitespace"}])
def test_a_format_that_cannot_be_split_is_read_as_a_whole(form):
    text = "a b\n" + "1 2\n" * 100 if form.get("separator") else "a,b\n" + "1,2\n" * 100
    Path("a.csv").write_text(text, encoding=form.get("encoding", "utf-8"))
    (part,) = parts_of("a.csv", format=Format(**form))
    assert part.n_rows == 100


@given(st.text('a",\n\r ', max_size=60), st.sampled_from(",;"))
def test_a_text_is_split_only_between_rows(text, separator):
    data = text.encode()
    end = end_of_rows(data, separator)

    def cells(text):
        reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True, delimiter=separator)
        return [row for row in reader if row]

    try:
        whole = cells(text)
    except csv.Error:
        return
    assert cells(data[:end].decode()) + cells(data[end:].decode()) == whole


# --- predict ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(small_parts, capsys):
    rows = "".join(f"{i},{'uvw'[i % 3]},{'yes' if i % 2 else 'no'}\n" for i in range(60))
    Path("train.csv").write_text("a,kind,y\n" + rows)
    assert main(["train", "train.csv", "--target", "y", *QUICK, "-o", "m"]) == 0
    capsys.readouterr()
    return "m"


def test_predict_in_parts_writes_what_predict_writes_as_a_whole(model, capsys, monkeypatch):
    assert main(["predict", model, "train.csv", "-o", "parts.csv"]) == 0
    assert "60 predictions written" in capsys.readouterr().err
    assert main(["predict", model, "train.csv"]) == 0
    assert capsys.readouterr().out == Path("parts.csv").read_text()
    assert main(["predict", model, "train.csv", "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["rows"] == len(outcome["predictions"]["prediction"]) == 60
    monkeypatch.setattr(csv_parts, "PART", 1 << 23)
    assert main(["predict", model, "train.csv"]) == 0
    whole, parts = (list(csv.DictReader(text.splitlines())) for text in
                    (capsys.readouterr().out, Path("parts.csv").read_text()))  # fmt: skip
    assert [row["prediction"] for row in whole] == [row["prediction"] for row in parts]
    for name in ("p_no", "p_yes"):  # the number of samples in a product may change the last bit
        np.testing.assert_allclose([float(row[name]) for row in parts], [float(row[name]) for row in whole], rtol=1e-5)


def test_predict_writes_nothing_if_a_later_part_has_a_problem(model, capsys):
    rows = [f"{i},u\n" for i in range(100)]
    rows[70], rows[80], rows[90] = "70,t\n", "oops,u\n", "90,s\n"
    Path("new.csv").write_text("a,kind\n" + "".join(rows))
    Path("p.csv").write_text("kept")
    for options in (["-o", "p.csv"], []):
        assert main(["predict", model, "new.csv", *options]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert "new.csv:82: column 'a' has 'oops'" in err
        assert "row 71: column 'kind' has the unknown category 't'; one more is unknown, in row 91" in err
    assert Path("p.csv").read_text() == "kept"
