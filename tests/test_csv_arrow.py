"""The fast reader of CSV: it reads what the other one reads, to the bit, and leaves the rest to it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepnotes import csv_arrow, csv_files, tables
from deepnotes.errors import TableError
from deepnotes.readings import EVERYTHING, Request

pytest.importorskip("pyarrow", reason='the extra "data" (pyarrow) is not installed')


def outcome(read, data, request):
    """Return all that a reader says of some bytes, in a form that can be compared."""
    try:
        csv_files.require_text(data, "x.csv")
        content = read(data, "x.csv", request)
    except TableError as error:
        return str(error)
    if content is None:
        return None
    columns = {name: (column.dtype.kind, column.tobytes(), column.tolist()) for name, column in content.columns.items()}
    for name, (kind, raw, values) in columns.items():  # NaN differs from itself, and widths of text may differ
        columns[name] = (kind, raw) if kind == "f" else (kind, values)
    return columns, content.lines, content.gaps, content.names


def assert_same(data, request=EVERYTHING):
    """Hold the fast reader to the other one; return whether it read the data at all."""
    fast = outcome(csv_arrow.read, data, request)
    if fast is not None:
        assert fast == outcome(csv_files.read, data, request)
    return fast is not None


NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(10**20), 10**20).map(str),
    st.sampled_from(
        ["0", "-0", "+1.5", "1.", ".5", "1e-320", "1E5", "007", "9007199254740993", "2.2250738585072011e-308"]
    ),
)
ODD = st.sampled_from(
    ["", " ", "NA", "nan", "NaN", "null", "N/A", "na", "inf", "-Infinity", "1e999", "1_000", "１", "0x10", "1e", "true",
     '"a"', '"a,b"', '"x""y"', '"', 'a"b', ' "a"', '"a" ', '"l\nm"', '""', "\t3 ", "\u00a04", "=1+1", "@x", "é",
     "\x1c5", "5\x1f", "\x0b6", "a\u2028b", "x" * 300, "2020-01-01", "12:30", "1;2", "#", "\\N", "-", "."]
)  # fmt: skip
WORDS = st.sampled_from(["rose", "tulip", "red rose", "x", "NA", "Z"])


@st.composite
def files(draw):
    """Return a CSV file: columns of a kind, with something odd here and there."""
    width, rows = draw(st.integers(1, 4)), draw(st.integers(0, 6))
    kinds = draw(st.lists(st.sampled_from([NUMBERS, NUMBERS, WORDS]), min_size=width, max_size=width))
    cells = [[draw(kind) for kind in kinds] for _ in range(rows)]
    for _ in range(draw(st.integers(0, 2)) if rows else 0):
        i, j = draw(st.integers(0, rows - 1)), draw(st.integers(0, width - 1))
        cells[i][j] = draw(ODD)
    header = [draw(st.sampled_from([f"c{j}", f'"c{j}"', f" c{j} "])) for j in range(width)]
    end = draw(st.sampled_from(["\n", "\n", "\r\n", "\r"]))
    lines = [",".join(row) for row in [header, *cells]]
    for _ in range(draw(st.integers(0, 1))):
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(["", " ", ",", "1", '"'])))
    text = end.join(lines) + draw(st.sampled_from(["", end, end + end]))
    return (draw(st.sampled_from(["", "", "\ufeff"])) + text).encode()


@settings(max_examples=4 * settings().max_examples)
@given(files(), st.sampled_from([EVERYTHING, Request(exclude=["c0"]), Request(columns=["c1"]), Request(text=["c1"])]))
def test_the_same_result_or_none(data, request_):
    assert_same(data, request_)


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("a,b\n1,x\n2,y\n", True),
        ("\ufeffa,b\r\n1,x\r\n2,y", True),
        ('a,"b c"\n1,"x, ""y"""\n2,"l\nm"\n', True),
        ("a,b\n\n1,x\n,y\n", True),
        ("a,b\n1,x\n\n,y\n", False),  # a missing value, and rows are not simply lines
        ("a,b\n1,x\nNA,\n", True),
        ("a,b\n1,x\n2,y,z\n", False),
        ("a\n1\n2\n", False),
        ("a,b\n1,x\r2,y\n", False),
        ("a,b\n1,x\n+2,y\n", True),
        ("a,b\n1,x\n1_0,y\n", False),
        ("a,b\n1,x\n2,a\"b\n", False),
        ("a,b\n1, \"x\"\n", False),
        ("a,b\n1," + "x" * 200_000 + "\n", False),
        ("a,b\n", False),
        ("1,2\n3,4\n", False),
        ("a,a\n3,4\n", False),
    ],
)  # fmt: skip
def test_what_it_reads_and_what_it_leaves(text, reads):
    assert assert_same(text.encode()) is reads


def test_many_rows_and_blocks():
    rng = np.random.default_rng(0)
    numbers, kinds = rng.normal(size=60_000), rng.integers(0, 5, 60_000)
    lines = [f"{x!r},kind {k},{i}" for i, (x, k) in enumerate(zip(numbers.tolist(), kinds.tolist(), strict=True))]
    lines[40_000], lines[50_001] = "NaN,,7", ",kind 1,8"
    data = ("x,kind,n\n" + "\n".join(lines)).encode()
    assert len(data) > 1 << 20
    assert assert_same(data)
    content = csv_arrow.read(data, "x.csv")
    assert content.gaps["x"].words("x.csv", "x") == (
        "x.csv:40002: column 'x' has 'NaN' where a finite number was expected; one more is missing, in line 50003"
    )
    lines[59_999] = "oops,kind 1,9"
    assert csv_arrow.read(("x,kind,n\n" + "\n".join(lines)).encode(), "x.csv") is None


@pytest.mark.parametrize("fast", [True, False])
def test_the_table_and_the_error_are_the_same_with_and_without_pyarrow(csv_file, monkeypatch, fast):
    def gone(*_):
        raise ImportError

    used = []
    if fast:
        read = csv_arrow.read
        monkeypatch.setattr(csv_arrow, "read", lambda *asked: used.append(read(*asked)) or used[-1])
    else:
        monkeypatch.setattr(csv_arrow, "read", gone)
    monkeypatch.setattr(tables, "FAST_FROM", 0)
    table = tables.read_table(csv_file("a,b\n1,x\n2.5,y\n"))
    assert table.column("a").tolist() == [1, 2.5]
    assert table.column("b").tolist() == ["x", "y"]
    assert bool(used) == fast
    with pytest.raises(TableError, match=r"data\.csv:3: column 'a' has 'oops' where a number was expected"):
        tables.read_table(csv_file("a,b\n1,x\noops,y\n"))
    with pytest.raises(TableError, match=r"data\.csv:2: byte 0x00 is not UTF-8 text"):
        tables.read_table(csv_file("a,b\n1,\0\n"))
