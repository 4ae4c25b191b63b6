"""Names from data files, models and paths are escaped on a terminal and, with an option, for spreadsheets."""

import csv
import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import main
from deepnotes.datasets.tables import read_table, write_table
from deepnotes.network.training.progress import format_figures
from deepnotes.utils.safe_text import escaped, inert

HOSTILE = {
    "title": "\x1b]0;owned\x07x",
    "colour": "\x1b[31mred",
    "C1": "\x9b2Jx",
    "bidi": "\u202egnp.exe\u2066x",
    "line": "x\naccuracy  101%",
    "return": "x\rdeepnotes: all is well",
    "backspace": "x\b\b\by",
    "delete": "x\x7f\x7fy",
    "separator": "x\u2028y",
    "invisible": "x\u200b\u00ady",
}
X = np.random.default_rng(1).normal(size=(2, 40))
QUICK = ["--epochs", "1", "--layers", "4", "--backend", "numpy"]


def check_plain(*texts: str) -> None:
    """Check that texts have no control characters except line breaks, and no line that only a name could have added."""
    for text in texts:
        assert all(line.isprintable() for line in text.split("\n")), repr(text)
        assert "\naccuracy  101%" not in text


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run each test in a temporary folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_data(name: str) -> list[str]:
    """Write a data file with `name` in its path, columns and classes; return its path, and a model path with `name`."""
    data, model = f"d{name}.csv", f"m{name}.safetensors"
    kinds = np.where(X[0] > 0, f"up{name}", f"down{name}")
    write_table(data, ["x", f"y{name}", f"kind{name}"], [*X, kinds])
    return [data, model]


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_every_command_escapes_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    data, model = write_data(name)
    commands = [
        (0, ["train", data, "--target", f"kind{name}", *QUICK, "-o", model, "--checkpoint", f"run{name}"]),
        (0, ["train", data, "--target", f"kind{name}", *QUICK, "-o", model, "--json"]),
        (0, ["evaluate", model, data]),
        (0, ["predict", model, data, "-o", f"out{name}"]),
        (0, ["export", model, "--python", f"py{name}"]),
        (1, ["train", f"no{name}.csv", "--target", "y"]),
        (1, ["train", data, "--target", f"kin{name}"]),
        (1, ["train", data, "--target", f"kind{name}", *QUICK, "--checkpoint", f"run{name}"]),
        (1, ["evaluate", f"no{name}", data]),
        (1, ["evaluate", data, data, "--debug"]),
        (1, ["predict", model, data, "-o", f"no{name}/out"]),
        (2, ["predict", model, data, "-o", model]),
        (2, ["train", data, f"--{name}"]),
        (2, ["train", data, "--epochs", name]),
        (2, ["train", data, "--layers", name]),
        (2, ["train", data, "--every", name]),
        (2, ["train", data, "--loss", name]),
        (2, [name]),
    ]
    for status, arguments in commands:
        assert main(arguments) == status, capsys.readouterr().err
        out, err = capsys.readouterr()
        # A traceback may contain the line breaks of a name.
        check_plain(out, err.replace("\n", "") if "--debug" in arguments else err)
        if status:
            assert len(err.splitlines()) <= 3 or "--debug" in arguments
        elif "--json" in arguments:
            assert json.loads(out)["classes"] == sorted([f"up{name}", f"down{name}"])


@pytest.mark.slow
def test_logs_and_warnings_are_escaped() -> None:
    name = HOSTILE["line"] + HOSTILE["title"]
    data, model = write_data(name)
    arguments = ["train", data, "--target", f"kind{name}", *QUICK, "-o", model, "--checkpoint", f"run{name}"]
    assert main(arguments) == 0
    for path in Path(f"run{name}").glob("step-*"):
        path.write_bytes(b"damaged")
    program = f"import sys; from deepnotes.cli import main; sys.exit(main({[*arguments, '--resume']!r}))"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "checkpoint skipped: " in process.stderr  # a log message of the library
    check_plain(process.stdout, process.stderr)
    program = (
        f"import warnings; from deepnotes.cli import evaluate, main; evaluate.run = lambda *_: warnings.warn({name!r})"
    )
    process = subprocess.run(
        [sys.executable, "-c", f"{program}; main({['evaluate', model, data]!r})"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (process.stdout, process.stderr) == ("", f"UserWarning: {escaped(name)}\n")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX terminals")
@pytest.mark.parametrize("exported", [False, True])
def test_predictions_are_unchanged_in_a_pipe_and_escaped_on_a_terminal(exported: bool) -> None:
    import pty

    name = "".join(HOSTILE.values())
    data, model = write_data(name)
    assert main(["train", data, "--target", f"kind{name}", *QUICK, "-o", model, "--quiet"]) == 0
    dn.load(model).network.to_python("exported.py")
    arguments = ["exported.py", data] if exported else ["-m", "deepnotes", "predict", model, data]
    piped = subprocess.run([sys.executable, *arguments], capture_output=True, check=True).stdout.decode()
    names, *rows = csv.reader(io.StringIO(piped, newline=""))
    assert names[1:] == [f"p_down{name}", f"p_up{name}"]
    assert {row[0] for row in rows} <= {f"down{name}", f"up{name}"}
    leader, follower = pty.openpty()
    with subprocess.Popen([sys.executable, *arguments], stdout=follower, stderr=subprocess.PIPE) as process:
        os.close(follower)
        output = b""
        while True:
            try:
                chunk = os.read(leader, 1 << 16)
            except OSError:  # on Linux, the process has ended
                break
            if not chunk:
                break
            output += chunk
        assert process.wait() == 0
    os.close(leader)
    lines = output.decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
    assert len(lines) == 41
    check_plain(*lines)
    assert r"\x1b]0;owned\x07x" in lines[0]


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_an_exported_file_escapes_its_messages(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = export_module({"features": ["x", f"y{name}"], "classes": ["no", "yes"]})
    write_table("rows.csv", ["x", f"z{name}"], list(X))
    write_table("bad.csv", ["x", f"y{name}"], [["a"], [name]])
    Path("invalid.csv").write_bytes(b"x\xff")
    for arguments in (["rows.csv"], ["bad.csv"], [f"no{name}"], [f"--{name}"], ["invalid.csv"]):
        assert module.main(arguments) > 0
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        check_plain(err)


def export_module(metadata: dict[str, Any]) -> ModuleType:
    """Export a network with two inputs and two classes to a Python file, and import that file as a module."""
    net = dn.Network([dn.Dense(2, "softmax")], inputs=2, seed=0)
    net.metadata = metadata
    net.to_python("exported.py")
    spec = importlib.util.spec_from_file_location("exported", "exported.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class NamedActivation(dn.ActivationFunction):
    """A user-defined activation with the given name."""

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_summaries_and_progress_escape_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    net = dn.Network([dn.Dense(2, NamedActivation(name))], inputs=2, seed=0)
    check_plain(net.summary())

    def metric(A: Any, Y: Any) -> float:
        return 0.5

    metric.__name__ = name
    net = dn.Network([dn.Dense(1)], inputs=2, seed=0)
    lines: list[str] = []

    class RecordLines(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            lines.append(format_figures(training))

    net.fit(X, X[:1], epochs=2, metrics=[metric], progress=True, callbacks=[RecordLines()])
    assert len(lines) == 2
    check_plain(*lines, *capsys.readouterr())


def test_printable_text_is_not_escaped() -> None:
    for text in ("", "plain", "Größe 数 ✓ ½", "back\\slash", "[red]bold[/red]"):
        assert escaped(text) == text
    assert escaped("a\tb\nc", keep="\n") == "a\\tb\nc"
    assert escaped("\udcff") == "\\udcff"  # a byte of a path that is not valid UTF-8


# --- spreadsheets -----------------------------------------------------------------------------------------------------

FORMULAS = [
    "=1+1", "+1+1", "-1+1", "@SUM(A1)", "\uff1d1+1", "\uff0b1+1", "\uff0d1+1", "\uff20SUM(A1)", "\ufe661+1",
    "\u22121+1", " =1", "\t=1", "\r=1", "\n=1", "\xa0=1", "\u3000\uff1d1", "\ufeff=1", "\u200b=1", '"=1', '" =1',
    "\x00=1", "\t", "\rx", "=cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "+33 6 12", "-\uff15", "+\u0661", "-1_0",
]  # fmt: skip
INNER_FORMULAS = [
    "a;=1+1",
    "a\t=1+1",
    "a|=1+1",
    "a\n=1+1",
    "a\r\n@x",
    'a;"=1',
    "a; \uff1d1",
    "a;b;-1+1",
    ";=1",
    "a;\t=1",
]
HARMLESS = ["", "plain", "a=b", "a - b", "-5", "+3.25", "-1e-7", " -5 ", "a;-5", "a;b", "a,b", "1;2", "x@y.org", "'=1"]


@pytest.mark.parametrize("text", FORMULAS, ids=ascii)
def test_text_that_could_be_a_formula_is_prefixed_with_an_apostrophe(text: str) -> None:
    assert inert(text).startswith("'")
    assert inert(text).endswith(text[1:])


@pytest.mark.parametrize("text", INNER_FORMULAS, ids=ascii)
def test_formulas_after_possible_separators_are_prefixed_with_an_apostrophe(text: str) -> None:
    safe = inert(text)
    assert safe.replace("'", "") == text
    for separator in ";\t|\n\r":
        for cell in safe.split(separator):
            assert cell.strip('" \t\r\n')[:1] not in tuple("=+-@\uff1d") or cell.strip() in ("-1", "-5"), safe


@pytest.mark.parametrize("text", HARMLESS, ids=ascii)
def test_text_that_is_not_a_formula_is_unchanged(text: str) -> None:
    assert inert(text) == text


def test_predict_and_the_exported_file_escape_formulas_in_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["\uff1dup;=1+1", "-down"]
    write_table("d.csv", ["x", "y", "kind"], [*X, np.where(X[0] > 0, *names)])
    assert main(["train", "d.csv", "--target", "kind", *QUICK, "-o", "m.safetensors", "--quiet"]) == 0
    assert main(["export", "m.safetensors", "--python", "exported.py"]) == 0
    capsys.readouterr()
    assert main(["predict", "m.safetensors", "d.csv"]) == 0
    plain, note = capsys.readouterr()
    assert "note: spreadsheets would read" in note
    assert main(["predict", "m.safetensors", "d.csv", "--spreadsheet"]) == 0
    safe, note = capsys.readouterr()
    assert note == ""
    safe_kinds = {f"'{names[0].replace('=', chr(39) + '=')}", "'-down"}
    tables = [list(csv.reader(io.StringIO(text))) for text in (plain, safe)]
    assert {row[0] for row in tables[0][1:]} == set(names)
    assert {row[0] for row in tables[1][1:]} == safe_kinds
    assert tables[1][0] == ["prediction", "p_-down", "p_\uff1dup;'=1+1"]
    for arguments, expected in ((["d.csv"], tables[0]), (["--spreadsheet", "d.csv"], tables[1])):
        process = subprocess.run([sys.executable, "exported.py", *arguments], capture_output=True, check=True)
        actual = list(csv.reader(io.StringIO(process.stdout.decode())))
        assert [row[0] for row in actual] == [row[0] for row in expected]
        assert actual[0] == expected[0]
    write_table("t.csv", ["kind"], [names], spreadsheet=True)
    assert set(read_table("t.csv").column("kind")) == safe_kinds


# --- numbers ----------------------------------------------------------------------------------------------------------

UNACCEPTED_NUMBERS = [
    "\u0661",
    "1_0",
    "\uff11",
    "\u0967",
    "\xb2",
    "0x10",
    "1\u0660",
    "1e\u0661",
    "\u0661s",
    "\u0661\u0660m",
    "1_0s",
]
OPTIONS = [
    "--epochs", "--batch-size", "--layers", "--dropout", "--validation", "--learning-rate", "--momentum", "--l2",
    "--clip-norm", "--early-stopping", "--seed", "--threads", "--every",
]  # fmt: skip


@pytest.mark.parametrize("text", UNACCEPTED_NUMBERS, ids=ascii)
def test_numbers_with_non_ascii_digits_or_underscores_are_refused(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [["train", "digits", option, text] for option in OPTIONS]
    commands += [["train", "digits", "--layers", f"8,{text}"]]
    commands += [["bench", option, text] for option in ("--layers", "--batch", "--threads", "--rounds", "--seconds")]
    commands += [["bench", "--layers", f"8,{text}"], ["predict", "m", "d", "--threads", text]]
    for arguments in commands:
        assert main(arguments) == 2, arguments
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"deepnotes: error: argument {arguments[-2]}: "), err
    with pytest.raises(dn.ArgumentError, match="wanted a number of epochs, or a time"):
        dn.Checkpoints("run", every=text)


def test_common_notations_of_numbers_are_accepted() -> None:
    from deepnotes.cli.arguments import parser

    for option, text, expected in [
        ("--epochs", "10", 10), ("--epochs", "+3", 3), ("--seed", "007", 7), ("--l2", "1e-3", 1e-3),
        ("--l2", ".5", 0.5),
        ("--l2", "5.", 5.0), ("--l2", "+1E+2", 100.0), ("--layers", "8, 4", (8, 4)), ("--every", "5", 5),
        ("--every", "1.5m", "1.5m"),
    ]:  # fmt: skip
        assert vars(parser().parse_args(["train", "digits", option, text]))[option[2:]] == expected


def test_an_exported_file_refuses_numbers_that_deepnotes_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    module = export_module({"features": ["x", "y"]})
    for cell in ("1_0", "\u0661", "inf", "1e999", "0x1"):
        Path("rows.csv").write_text(f"x,y\n1,{cell}\n", encoding="utf-8")
        assert module.main(["rows.csv"]) == 1
        assert "number was expected" in capsys.readouterr().err
