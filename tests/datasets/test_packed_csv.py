"""Gzip-compressed CSV files; for unsupported files, errors that say how to convert them."""

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
from fuzzing import bounded
from table_errors import error_of
from test_csv_alike import load_module

import deepnotes as dn
from deepnotes.cli import main
from deepnotes.datasets import reading
from deepnotes.datasets.tables import conversion_hint, read_table

pytest.importorskip("pyarrow", reason='the extra "data" (pyarrow) is not installed')

TEXT = "x,kind,y\n" + "".join(f"{i % 7}.5,{'uv'[i % 3 % 2]},{'ab'[i % 2]}\n" for i in range(60))


pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize("name", ["a.csv.gz", "A.CSV.GZ", "a.csv", "a.b.tsv.gz"])
@pytest.mark.parametrize("compressed", [True, False])
def test_a_compressed_file_is_read_like_a_plain_one(name, compressed):
    text = TEXT.replace(",", "\t") if "tsv" in name else TEXT
    Path(name).write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    Path("plain.csv").write_text(TEXT)
    plain, table = read_table("plain.csv"), read_table(name)
    assert table.names == plain.names
    assert all(table.column(column).tolist() == plain.column(column).tolist() for column in plain.names)
    assert table.lines == plain.lines


def test_a_compressed_file_written_by_pandas_is_read():
    pd = pytest.importorskip("pandas", reason='the extra "test" (pandas) is not installed')
    frame = pd.DataFrame({"x": np.arange(5) / 3, "y": list("ababa")})
    frame.to_csv("a.csv.gz")
    table = read_table("a.csv.gz")
    assert table.column("x").tolist() == frame["x"].tolist()
    assert table.names == ["x", "y"]


def test_a_compressed_file_works_in_training_prediction_and_exported_code(capsys):
    Path("a.csv.gz").write_bytes(gzip.compress(f"a title\n{TEXT}".encode("utf-16")))
    options = ("--skip-rows", "1", "--encoding", "utf-16")
    quick = ("--epochs", "1", "--layers", "4", "--backend", "numpy", "--json")
    assert main(["train", "a.csv.gz", "--target", "y", *options, *quick]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "a.safetensors"
    assert main(["evaluate", "a.safetensors", "a.csv.gz", "--json", "--backend", "numpy"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 60
    assert main(["export", "a.safetensors", "--python", "a.py"]) == 0
    capsys.readouterr()
    assert main(["predict", "a.safetensors", "a.csv.gz", "--backend", "numpy"]) == 0
    predictions = capsys.readouterr().out
    assert load_module(Path("a.py")).main(["a.csv.gz"]) == 0
    assert capsys.readouterr().out == predictions
    assert predictions.count("\n") == 61
    assert main(["train", "a.csv.gz", "--target", "y", "--from-disk"]) == 1
    assert "convert the file to one of these formats" in capsys.readouterr().err


def test_a_damaged_gzip_file_is_refused_with_a_one_line_error(capsys):
    valid = gzip.compress(TEXT.encode())
    Path("a.csv").write_text(TEXT)
    assert main(["train", "a.csv", "--target", "y", "--epochs", "1", "--layers", "4", "--backend", "numpy"]) == 0
    assert main(["export", "a.safetensors", "--python", "a.py"]) == 0
    module, path = load_module(Path("a.py")), Path("b.csv.gz")
    damaged = [valid[:n] for n in (2, 3, 9, 10, 11, len(valid) // 2, len(valid) - 8, len(valid) - 1)]
    damaged += [valid[:-6] + b"\xff" + valid[-5:], valid[:30] + b"\0\0\0" + valid[33:], valid + b"more"]
    for content in damaged:
        path.write_bytes(content)
        message = error_of(path)
        assert message.startswith("b.csv.gz: the gzip file is damaged: ")
        capsys.readouterr()
        assert module.main(["b.csv.gz"]) == 1
        assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize(
    "part", [b"\0" * 1000, b"1,2,3\n" * 200, b"x" * 1200, b"1 1 1 1 1\n" * 100, b"\n" * 1000], ids=repr
)
def test_a_gzip_bomb_is_refused_before_it_is_unpacked(part, monkeypatch):
    monkeypatch.setattr(reading, "FREE", 1 << 20)
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb") as file:
        file.write(b"a,b,c\n")
        for _ in range(30):
            file.write(part * 1000)
    path = Path("a.csv.gz")
    path.write_bytes(stream.getvalue())
    assert path.stat().st_size < 500_000
    with bounded(path.stat().st_size):
        message = error_of(path)
    assert "a.csv.gz: its text would take " in message
    assert message.endswith("; unpack it with gunzip")


def test_highly_compressible_text_is_accepted():
    text = "a,b\n" + "100000,some words\n" * 60_000
    Path("a.csv.gz").write_bytes(gzip.compress(text.encode()))
    assert Path("a.csv.gz").stat().st_size < 10_000
    assert read_table("a.csv.gz").n_rows == 60_000


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a.csv.zip", "; decompress it first"),
        ("a.csv.bz2", "; decompress it first"),
        ("a.json.gz", "; decompress it first"),
        ("a.tar.gz", "; decompress it first"),
        ("a.gz", "; decompress it first"),
        ("a.xlsx", "; convert it with pandas.read_excel('a.xlsx').to_csv('a.csv', index=False)"),
        ("A.XLS", "; convert it with pandas.read_excel('A.XLS').to_csv('A.csv', index=False)"),
        ("a.json", "; convert it with pandas.read_json('a.json').to_csv('a.csv', index=False)"),
        ("a.orc", "; convert it with pandas.read_orc('a.orc').to_csv('a.csv', index=False)"),
        ("a.dta", "; convert it with pandas.read_stata('a.dta').to_csv('a.csv', index=False)"),
        ("a.txt", "; if it contains a table as text, rename it to end in .csv"),
        ("a.pkl", ""),
        ("a.docx", ""),
    ],
)
def test_the_error_for_an_unsupported_file_says_how_to_convert_it(name, advice, capsys):
    Path(name).write_bytes(b"PK\3\4")
    supported = (
        ".csv, .tsv, .jsonl, .ndjson (also with .gz), .parquet, .feather, .arrow, .npz, .npy or the name of an IDX file"
    )
    assert error_of(Path(name)) == f"{name}: the suffix is {Path(name).suffix!r}, wanted {supported}{advice}"
    assert main(["train", name, "--target", "y"]) == 1
    assert capsys.readouterr().err == f"deepnotes: error: {error_of(Path(name))}\n"


def test_the_advised_conversion_with_pandas_works():
    pd = pytest.importorskip("pandas", reason='the extra "test" (pandas) is not installed')
    name = "a.json"
    pd.DataFrame({"x": [1.5, 2.5], "y": ["a", "b"]}).to_json(name, orient="records")
    exec(conversion_hint(Path(name)).removeprefix("; convert it with "), {"pandas": pd})
    assert dn.read_table("a.csv").column("y").tolist() == ["a", "b"]
