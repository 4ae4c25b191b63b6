"""Exported Python files run without deepnotes, make the same predictions, and detect changes to themselves."""

import ast
import csv
import importlib.util
import io
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import literature
import numpy as np
import pytest

import deepnotes as dn
from deepnotes.equations import activations
from deepnotes.network.formats import python_writing
from deepnotes.network.formats.chain import Chain, Target
from deepnotes.network.formats.python_writing import check, equations_of, to_python
from deepnotes.network.loading.conversion import network_of
from deepnotes.nn.activations import LIBRARY

RUN = "import sys; sys.modules['deepnotes'] = None; import runpy; sys.argv = sys.argv[1:]; "
RUN += "runpy.run_path(sys.argv[0], run_name='__main__')"
"""A program that makes ``import deepnotes`` fail, and then runs the Python file named by its first argument."""

USER_DEFINED = [*literature.ACTIVATIONS, *literature.COUPLED]


def network(activation: Any = "relu", dtype: str = "float32", outputs: int = 3, last: str = "softmax") -> dn.Network:
    standardizer = dn.Standardizer.fit(np.random.default_rng(0).normal(5, 3, size=(4, 20)))
    if isinstance(activation, str):
        activation = dn.Activation(activation, **dict.fromkeys(LIBRARY[activation].options, 0.3))
    layers = [dn.Dense(6, activation), dn.Dropout(0.5), dn.Dense(outputs, last)]
    return dn.Network(layers, inputs=4, dtype=dtype, seed=3, standardizer=standardizer)


def load_module(path: Path) -> ModuleType:
    """Import a Python file and return the module."""
    spec = importlib.util.spec_from_file_location("exported", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_without_deepnotes(*arguments: Any, status: int = 0) -> tuple[str, str]:
    """Run a Python file in a process that cannot import deepnotes, and return its stdout and stderr."""
    command = [sys.executable, "-W", "error", "-c", RUN, *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == status, process.stderr
    return process.stdout, process.stderr


@pytest.mark.thinned(3)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", [*LIBRARY, *USER_DEFINED], ids=str)
def test_predictions_are_bit_identical_to_the_eager_equations(activation: Any, dtype: str, tmp_path: Path) -> None:
    from deepnotes.backends.base import Backend

    net = network(activation, dtype)
    net.to_python(tmp_path / "model.py")
    module = load_module(tmp_path / "model.py")
    rows = np.random.default_rng(1).normal(5, 3, size=(9, 4))
    rows[0, 0] = np.nan
    eager = network_of(Chain.of(net), Backend("plain", np))
    with np.errstate(all="ignore"):
        actual, expected = module.predict(rows), eager.predict(rows.T).T
    assert actual.dtype == dtype
    np.testing.assert_array_equal(actual, expected)
    passed, message = module.check()
    assert passed, message


def test_the_file_needs_only_numpy_and_contains_only_the_equations_of_its_layers(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    network("gelu").to_python(path)
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {(getattr(node, "module", None) or node.names[0].name).partition(".")[0] for node in nodes}
    assert modules - sys.stdlib_module_names == {"numpy"}
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {"gelu", "normal_cdf", "softmax", "linear", "standardize"} <= functions
    assert not functions & {"relu", "gelu_backward", "elu", "weight_gradient"}  # not used by this network
    assert max(map(len, text.splitlines())) <= 120
    assert text.isascii() or "Φ" in text
    for name in ("gelu", "normal_cdf"):  # copied verbatim
        source = ast.get_source_segment(text, next(n for n in tree.body if getattr(n, "name", "") == name))
        assert source is not None
        assert source in Path(activations.__file__).read_text(encoding="utf-8")
    out, _ = run_without_deepnotes(path, "--check")
    assert out.startswith("passed: 24 outputs for 8 test vectors are correct; the largest error is 0.")


def test_the_file_predicts_the_rows_of_a_csv_file(tmp_path: Path) -> None:
    path, data = tmp_path / "model.py", tmp_path / "data.csv"
    net = network()
    net.metadata = {"features": ["a", "b b", "c", "ç"], "classes": ["no", "yes, but", "ÿ"]}
    net.to_python(path)
    rows = np.random.default_rng(1).normal(5, 3, size=(5, 4)).astype("float32")
    with data.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["ç", "other", "b b", "a", "c"])
        table.writerows([[x[3], "text", x[1], x[0], x[2]] for x in rows.tolist()])
    out, _ = run_without_deepnotes(path, data)
    names, *actual = csv.reader(io.StringIO(out))
    assert names == ["prediction", "p_no", "p_yes, but", "p_ÿ"]
    A = load_module(path).predict(rows)
    np.testing.assert_array_equal(np.array([row[1:] for row in actual], np.float32), A)
    assert [row[0] for row in actual] == [net.metadata["classes"][i] for i in A.argmax(axis=1)]


@pytest.mark.parametrize(
    ("outputs", "last", "expected"),
    [
        (1, "identity", ["prediction"]),
        (2, "identity", ["prediction_1", "prediction_2"]),
        (1, "sigmoid", ["prediction", "p_yes"]),
        (3, "sigmoid", ["prediction_1", "prediction_2", "prediction_3"]),
    ],
)
def test_column_names_of_predictions(outputs: int, last: str, expected: list[str], tmp_path: Path) -> None:
    net = network(outputs=outputs, last=last)
    net.metadata = {"classes": ["no", "yes"] if outputs == 1 else ["x", "y", "z"][:outputs]}
    net.to_python(tmp_path / "model.py")
    module = load_module(tmp_path / "model.py")
    rows = np.random.default_rng(1).normal(5, 3, size=(20, 4))
    names, cells = module.columns(module.predict(rows))
    table = list(zip(*cells, strict=True))
    assert names == expected
    assert len(table) == 20
    if expected == ["prediction", "p_yes"]:
        assert [row[0] for row in table] == ["yes" if row[1] > 0.5 else "no" for row in table]


def test_outputs_are_converted_to_the_units_of_the_target() -> None:
    net = network(outputs=1, last="identity")
    module = ModuleType("exported")
    text = to_python(Chain.of(net, Target(250_000.0, 80_000.0)))
    exec(compile(text, "exported.py", "exec"), module.__dict__)
    rows = np.random.default_rng(1).normal(5, 3, size=(9, 4))
    A = network_outputs(net, rows)
    np.testing.assert_array_equal(module.predict(rows), A.astype(np.float64) * 80_000.0 + 250_000.0)
    assert module.check()[0]


def network_outputs(net: dn.Network, rows: np.ndarray) -> np.ndarray:
    from deepnotes.backends.base import Backend

    actual: np.ndarray = network_of(Chain.of(net), Backend("plain", np)).predict(rows.T).T
    return actual


@pytest.mark.parametrize("name", ["W1", "b2", "MEAN", "test inputs", "test bounds"])
def test_changed_numbers_are_detected(name: str) -> None:
    text = to_python(Chain.of(network()))
    start = text.index(f'"{name}": (')
    position = start + text[start:].index('"""') + 8
    replacement = "B" if text[position] == "A" else "A"
    with pytest.raises(dn.ModelFileError, match="the numbers in this file have been changed since it was written"):
        check(text[:position] + replacement + text[position + 1 :])


@pytest.mark.parametrize(
    ("formula", "replacement"),
    [
        ("xp.maximum(Z, _scalar(xp, 0, Z))", "xp.where(Z > 0, Z, 0 * Z)"),  # correct: NaN stays NaN, and -0 equals 0
        ("xp.maximum(Z, _scalar(xp, 0, Z))", "xp.maximum(Z, -0.1 * Z)"),
        ("W @ A_prev + b", "W @ A_prev"),
        ("return (X - mean) / scale", "return X / scale"),
        ("E / xp.sum(E, axis=0, keepdims=True)", "E"),
        ("xp.maximum(Z, _scalar(xp, 0, Z))", "xp.where(Z > 0, Z, 0)"),  # NaN becomes 0
    ],
)
def test_changed_formulas_are_detected(formula: str, replacement: str) -> None:
    net = network()
    net.parameters["b1"] = np.linspace(-1, 1, 6).reshape(-1, 1)
    net.parameters["b2"] = [[0.5], [-0.5], [0.1]]
    text = to_python(Chain.of(net))
    assert text.count(formula) == 1
    altered = text.replace(formula, replacement)
    if replacement == "xp.where(Z > 0, Z, 0 * Z)":
        check(altered)
        return
    with pytest.raises(dn.ModelFileError, match=r"of 24 outputs for 8 test vectors are wrong"):
        check(altered)


def test_a_failed_check_has_exit_status_1(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text(to_python(Chain.of(network())).replace("W @ A_prev + b", "W @ A_prev - 1"), encoding="utf-8")
    out, _ = run_without_deepnotes(path, "--check", status=1)
    assert out.startswith("FAILED: ")
    assert "of 24 outputs for 8 test vectors are wrong" in out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b,c\n1,2,3\n", "no column 'd'; columns: a, b, c"),
        ("a,b,c,d\n1,2,3,x\n", "data.csv:2: column 'd' has 'x' where a number was expected"),
        ("a,b,c,d\n1,2,3\n", "data.csv:2: 3 cells where the header has 4"),
        ("", "data.csv:1: the file is empty"),
    ],
)
def test_invalid_csv_files_are_errors(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = network()
    net.metadata = {"features": list("abcd")}
    net.to_python(tmp_path / "model.py")
    (tmp_path / "data.csv").write_text(content)
    assert load_module(tmp_path / "model.py").main([str(tmp_path / "data.csv")]) == 1
    assert message in capsys.readouterr().err


def test_wrong_arguments_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network().to_python(tmp_path / "model.py")
    module = load_module(tmp_path / "model.py")
    for arguments in ([], ["--help"], ["a", "b"]):
        assert module.main(arguments) == 2
        assert "usage: python" in capsys.readouterr().err
    assert module.main(["none.csv"]) == 1
    assert "No such file" in capsys.readouterr().err
    for X in (np.zeros(4), np.zeros((2, 3)), [["a"] * 4]):
        with pytest.raises(ValueError, match=r"wanted real numbers of shape \(rows, 4\)"):
            module.predict(X)


def test_names_are_never_executed_as_code(tmp_path: Path) -> None:
    net = network()
    names = ['"""', "'''\n import os", "\\", "\ud800"]
    net.metadata = {"features": names, "classes": [*names[:2], '""" + open("x") #']}
    net.to_python(tmp_path / "model.py")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names == load_module(tmp_path / "model.py").FEATURES


def test_export_needs_the_source_of_deepnotes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(python_writing, "find_spec", lambda name: None)
    with pytest.raises(dn.ModelFileError, match="installed without its source"):
        network().to_python(tmp_path / "model.py")
    assert not list(tmp_path.iterdir())


def test_exported_equations_include_everything_that_they_refer_to() -> None:
    functions, imports = equations_of(["relu", "linear", "gelu_tanh"])
    names = [text.partition("(")[0].removeprefix("def ") for text in functions]
    assert names == ["relu", "gelu_tanh", "_scalar", "linear"]
    assert imports == ["from math import pi", "from math import sqrt"]
