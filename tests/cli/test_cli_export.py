"""``deepnotes export``: models as ONNX and Python files, and its messages."""

import csv
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

import literature
import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import main
from deepnotes.datasets.tables import read_table, write_table
from deepnotes.network.formats import check_vectors, onnx_writing


@pytest.fixture(autouse=True)
def folder(folder):
    """Run each test in a temporary folder with data.csv, a classifier (kind) and a regressor (price)."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 40))
    write_table("data.csv", ["x", "y", "kind", "price"], [x, y, np.where(x > 0, "up", "down"), 1e5 * (x + y)])
    for target, other in (("kind", "price"), ("price", "kind")):
        options = ["--target", target, "--exclude", other, "--epochs", "2", "--layers", "8", "--quiet"]
        assert main(["train", "data.csv", *options, "-o", f"{target}.safetensors"]) == 0
    return folder


def predict(run, model):
    """Return the rows of the predictions for data.csv, without the header."""
    out, _ = run("predict", model, "data.csv")
    return list(csv.reader(io.StringIO(out)))[1:]


@pytest.mark.parametrize("target", ["kind", "price"])
def test_the_python_file_predicts_as_the_model_does(target, run):
    run("export", f"{target}.safetensors", "--python", "model.py")
    process = subprocess.run([sys.executable, "model.py", "data.csv"], capture_output=True, text=True, check=True)
    actual, expected = list(csv.reader(io.StringIO(process.stdout)))[1:], predict(run, f"{target}.safetensors")
    assert [row[0] for row in actual] == [row[0] for row in expected] or target == "price"
    numbers = np.s_[1:] if target == "kind" else np.s_[:]
    for row, expected_row in zip(actual, expected, strict=True):  # a BLAS may round batches differently
        np.testing.assert_allclose(np.array(row[numbers], float), np.array(expected_row[numbers], float), rtol=1e-4)
    module = runpy.run_path("model.py")
    assert module["FEATURES"] == ["x", "y"]
    assert module["CLASSES"] == (["down", "up"] if target == "kind" else None)
    assert module["check"]()[0]


@pytest.mark.parametrize("target", ["kind", "price"])
def test_the_onnx_file_predicts_as_the_model_does(target, run):
    pytest.importorskip("onnx", reason='the extra "onnx" is not installed')
    pytest.importorskip("onnxruntime", reason='the extra "onnx" is not installed')
    out, _ = run("export", f"{target}.safetensors", "--onnx", "model.onnx")
    assert "model     " in out
    assert "by onnx.checker, opset 13, and run by onnxruntime" in out
    X = read_table("data.csv").features(names=["x", "y"])[0].astype("float32")
    outputs, _ = onnx_writing.run(Path("model.onnx").read_bytes(), check_vectors.Vectors(X, X, X))
    model = dn.from_onnx("model.onnx")
    model.save("again.safetensors")
    if target == "price":
        expected = np.array(predict(run, "price.safetensors"), float)
        assert outputs.dtype == "float64"
        np.testing.assert_allclose(outputs, expected, rtol=1e-4)
        reloaded = np.array(predict(run, "again.safetensors"), float)  # no target_scale in this model
        np.testing.assert_allclose(reloaded, expected, rtol=1e-4)
    else:
        assert model.metadata["classes"] == ["down", "up"]
        assert predict(run, "again.safetensors") == predict(run, "kind.safetensors")


def test_a_model_with_a_user_defined_activation_is_exported_without_its_class(run):
    pytest.importorskip("onnxruntime", reason='the extra "onnx" is not installed')
    model = dn.load("kind.safetensors").network
    *_, last = model.layers
    net = dn.Network([dn.Dense(8, literature.Mish()), last], inputs=2, seed=0, standardizer=model.standardizer)
    net.metadata = model.metadata
    net.save("own.safetensors")
    code = "import sys; sys.modules['literature'] = None; from deepnotes.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["export", "own.safetensors", "--onnx", "own.onnx", "--python", "own.py"]
    process = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "run by onnxruntime" in process.stdout
    process = subprocess.run([sys.executable, "own.py", "data.csv"], capture_output=True, text=True, check=True)
    actual, expected = list(csv.reader(io.StringIO(process.stdout)))[1:], predict(run, "own.safetensors")
    for row, expected_row in zip(actual, expected, strict=True):
        np.testing.assert_allclose(np.array(row[1:], float), np.array(expected_row[1:], float), rtol=1e-4)


def test_json_output_of_export_with_both_formats(run):
    pytest.importorskip("onnxruntime", reason='the extra "onnx" is not installed')
    out, err = run("export", "kind.safetensors", "--onnx", "a.onnx", "--python", "a.py", "--json")
    result = json.loads(out)
    assert result.pop("onnx") | {"worst": 0} == {
        "path": "a.onnx",
        "bytes": Path("a.onnx").stat().st_size,
        "opset": 13,
        "checked_with": f"onnxruntime {sys.modules['onnxruntime'].__version__}",
        "worst": 0,
    }
    assert result.pop("python")["bytes"] == Path("a.py").stat().st_size
    assert result.pop("c") is None
    assert result == {"command": "export", "model": "kind.safetensors", "features": 2, "outputs": 2, "dtype": "float32"}
    assert "16 outputs for 8 test vectors are correct" in err
    assert json.loads(run("export", "kind.safetensors", "--python", "a.py", "--json")[0])["onnx"] is None


def test_a_model_without_metadata_can_be_exported(run):
    """:meth:`Network.save` writes such a file; ``deepnotes train`` adds metadata."""
    dn.Network([dn.Dense(3, "gelu"), dn.Dense(2)], inputs=3, seed=0, dtype="float64").save("plain.safetensors")
    out, _ = run("export", "plain.safetensors", "--python", "plain.py")
    assert "3 features, dense 3 gelu, 2 identity, float64" in out
    assert runpy.run_path("plain.py")["FEATURES"] is None


def test_nothing_is_written_if_the_check_fails(monkeypatch, capsys):
    pytest.importorskip("onnxruntime", reason='the extra "onnx" is not installed')
    monkeypatch.setattr(check_vectors, "worst", lambda outputs, tests: 3.5)
    assert main(["export", "kind.safetensors", "--python", "a.py", "--onnx", "a.onnx"]) == 1
    error = capsys.readouterr().err
    assert "the largest error is 3.5 times the bound on rounding errors; no file was written" in error
    assert not list(Path().glob("a.*"))


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_export_without_onnx_or_onnxruntime_names_the_extra(missing, monkeypatch, capsys):
    if missing == "onnxruntime":
        pytest.importorskip("onnx", reason='the extra "onnx" is not installed')
    monkeypatch.setitem(sys.modules, missing, None)
    status = main(["export", "kind.safetensors", "--onnx", "a.onnx"])
    message = capsys.readouterr().err
    assert 'to fix it: pip install "deepnotes[onnx]"' in message
    assert missing in message
    assert status == (1 if missing == "onnx" else 0)
    assert Path("a.onnx").exists() == (missing == "onnxruntime")


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ([], 2, "no output: give --onnx FILE, --python FILE or --c FILE\ntry: deepnotes export --help"),
        (["--python", "kind.safetensors"], 2, "--python kind.safetensors would overwrite kind.safetensors, which"),
        (["--python", "a", "--onnx", "./a"], 2, "--python a and --onnx a are the same file"),
        (["--python", "no/a"], 1, "cannot write no/a: No such file or directory"),
        (["--python", "."], 1, "cannot write .: it is a directory"),
        (["--pyhton", "a"], 2, "unrecognized arguments: --pyhton"),
    ],
)
def test_invalid_options_and_output_paths_of_export_are_refused(options, status, message, capsys):
    assert main(["export", "kind.safetensors", *options]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"deepnotes: error: {message}")
    assert "Traceback" not in err
    assert dn.load("kind.safetensors").network.inputs == 2


def test_invalid_and_missing_models_are_refused(capsys):
    net = dn.load("price.safetensors").network
    net.metadata["target_scale"] = "large"
    net.save("odd.safetensors")
    assert main(["export", "odd.safetensors", "--python", "a.py"]) == 1
    assert "odd.safetensors has no valid description of its outputs (ValueError" in capsys.readouterr().err
    assert main(["export", "none.safetensors", "--python", "a.py"]) == 1
    assert "cannot read none.safetensors" in capsys.readouterr().err


@pytest.fixture
def encoded():
    """Train on a table with categories and missing values; return the file names of the model and the data."""
    rng = np.random.default_rng(3)
    kinds = np.array(["red", "ürün, two", "green"])[np.arange(60) % 3]
    sizes = rng.normal(5, 2, 60)
    level = np.arange(60) % 4 + 0.5
    price = sizes * 3 + (kinds == "red") * 10 + level
    cells = ["" if i % 7 == 0 else str(size) for i, size in enumerate(sizes)]
    rows = [[cells[i], kinds[i] if i % 11 else "", level[i], price[i]] for i in range(60)]
    with open("goods.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["size", "kind", "level", "price"], *rows])
    options = ["--categorical", "level", "--impute", "mean", "--epochs", "2", "--layers", "8", "--quiet"]
    assert main(["train", "goods.csv", "--target", "price", *options]) == 0
    return "goods.safetensors", "goods.csv"


def test_the_python_file_encodes_and_imputes(encoded, run):
    model, data = encoded
    run("export", model, "--python", "goods.py")
    process = subprocess.run([sys.executable, "goods.py", data], capture_output=True, text=True, check=True)
    out, _ = run("predict", model, data)
    actual, expected = (np.array(list(csv.reader(io.StringIO(text)))[1:], float) for text in (process.stdout, out))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    module = runpy.run_path("goods.py")
    Path("some.csv").write_text('size,kind,level\n1,"ürün, two",2.5\n', encoding="utf-8")
    assert module["read"]("some.csv").tolist() == [[1, 0, 0, 1, 0, 0, 1, 0]]
    Path("some.csv").write_text("size,kind,level\n1,blue,2.5\n", encoding="utf-8")
    with pytest.raises(ValueError, match="column 'kind' has the unknown category 'blue'"):
        module["read"]("some.csv")


def test_c_export_of_a_model_with_an_encoder_is_refused(encoded, capsys):
    assert main(["export", encoded[0], "--c", "a.c", "--python", "a.py"]) == 2
    message = capsys.readouterr().err
    assert "--c: goods.safetensors encodes or imputes columns (size, kind, level)" in message
    assert len(message.splitlines()) == 2
    assert not list(Path().glob("a.*"))


def onnx_session(path):
    runtime = pytest.importorskip("onnxruntime", reason='the extra "onnx" is not installed')
    return runtime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_the_onnx_file_encodes_and_imputes(encoded, run):
    session = onnx_session_of(encoded[0], run)
    assert {x.name: (x.type, x.shape[1]) for x in session.get_inputs()} == {
        "size": ("tensor(double)", 1), "kind": ("tensor(string)", 1), "level": ("tensor(string)", 1),
    }  # fmt: skip
    table = read_table(encoded[1], missing="keep", text=["level"])
    feeds = {
        name: table.column(name).reshape(-1, 1).astype(float if name == "size" else object)
        for name in ("size", "kind", "level")
    }
    (actual,) = session.run(None, feeds)
    np.testing.assert_allclose(actual[:, 0], dn.load(encoded[0]).predict(encoded[1]), rtol=1e-5)
    unknown = [np.array([[x]], object if isinstance(x, str) else float) for x in (5.0, "blue", "0.75")]
    (actual,) = session.run(None, dict(zip(feeds, unknown, strict=True)))
    model = dn.load(encoded[0])
    expected = model.network.predict(np.array([[5.0, 0, 0, 0, 0, 0, 0, 0]]).T) * model.metadata["target_scale"]
    np.testing.assert_allclose(actual[0], expected[0] + model.metadata["target_mean"], rtol=1e-5)
    with pytest.raises(dn.ModelFileError):
        dn.from_onnx("goods.onnx")


def onnx_session_of(model, run):
    """Export a model, and return a session of ONNX Runtime."""
    pytest.importorskip("onnxruntime", reason='the extra "onnx" is not installed')
    out, _ = run("export", model, "--onnx", "goods.onnx", "--json")
    assert json.loads(out)["onnx"]["worst"] <= 1
    return onnx_session("goods.onnx")


@pytest.mark.parametrize("options", [[], ["--members", "2", "--dtype", "float64"]], ids=["network", "ensemble"])
def test_columns_may_have_the_names_of_values_in_the_onnx_file(options, run):
    rng = np.random.default_rng(0)
    names = ["A", "A_", "X", "W1", "input_mean", "encode/Concat_1", "1.0:float32", "kind"]
    kind = np.array(["u", "v"])[(rng.normal(size=80) > 0).astype(int)]
    columns = dict(zip(names, [*rng.normal(size=(7, 80)), kind], strict=True))
    answer = np.where((kind == "u") == (columns["A"] > 0), "yes", "no")
    dn.write_table("names.csv", [*names, "answer"], [*columns.values(), answer])
    run("train", "names.csv", "--target", "answer", "--epochs", "3", "--layers", "8", "--quiet", "--force",
        *options, "-o", "names")  # fmt: skip
    session = onnx_session_of("names", run)
    assert [x.name for x in session.get_outputs()] == ["A__"]
    feeds = {name: x.reshape(-1, 1).astype(object if x.dtype.kind == "U" else float) for name, x in columns.items()}
    (actual,) = session.run(None, feeds)
    np.testing.assert_allclose(actual, dn.load("names").predict_proba("names.csv"), atol=1e-5)
