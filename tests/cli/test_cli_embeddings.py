"""Commands on tables with columns of many categories, which are embedded instead of encoded one-hot."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import main
from deepnotes.network.formats import onnx_encoding, onnx_writing
from deepnotes.network.formats.chain import Chain

QUICK = ("--layers", "8", "--epochs", "3", "--backend", "numpy", "--quiet")
SHOPS, TOWNS = 70, 4

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def sales():
    """Write sales.csv, with a shop of many and a town of few, and two missing shops; return the arguments to train."""
    rng = np.random.default_rng(3)
    m = 1200
    shop, town, size = rng.integers(0, SHOPS, m), rng.integers(0, TOWNS, m), rng.normal(5, 2, m)
    income = rng.normal(size=SHOPS)[shop] + 0.5 * town + 0.1 * size
    names = [f"shop {i}, née {i % 7}" for i in range(SHOPS)]
    rows = [[size[i], names[shop[i]] if i > 1 else "", f"t{town[i]}", income[i]] for i in range(m)]
    with open("sales.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["size", "shop", "town", "income"], *rows])
    return ("sales.csv", "--target", "income", "--categorical", "shop", "--impute", "mean", *QUICK)


def layers(path="sales.safetensors"):
    return dn.load(path, backend="numpy").network.layers


def test_a_column_of_many_categories_is_embedded(sales, run):
    arguments = [argument for argument in sales if argument != "--quiet"]
    out, err = run("train", *arguments)
    assert f"column 'shop': embedding of 17 numbers, {SHOPS} categories" in err
    assert f"column 'town': one-hot, {TOWNS} categories" in err
    assert "embedding  (22, m)" in out
    model = dn.load("sales.safetensors", backend="numpy")
    assert model.network.layers[0] == dn.Embedding({1: (SHOPS + 1, 17)}, unknown=True)
    assert model.network.metadata["features"] == ["size", "shop", "town=t0", "town=t1", "town=t2", "town=t3"]
    X = model.encode("sales.csv")
    assert X[1].min() >= 1
    assert X[1].max() == SHOPS
    assert not np.asarray(model.network.parameters["E1_1"])[0].any()


@pytest.mark.parametrize(
    ("option", "embedded"), [("none", []), (SHOPS, []), (SHOPS - 1, ["shop"]), (0, ["shop", "town"])]
)
def test_the_limit_can_be_set(option, embedded, sales, run):
    run("train", *sales, "--embed-above", str(option))
    columns = dn.load("sales.safetensors", backend="numpy").metadata["columns"]
    assert [column["name"] for column in columns if column.get("embedded")] == embedded
    first, *_ = layers()
    assert (first.columns if embedded else first.units) == {0: 8, 1: [1], 2: [1, 2]}[len(embedded)]


def test_the_vectors_are_learned(sales, run):
    scores = {}
    for option in ("none", "60"):
        out, _ = run("train", *sales, "--epochs", "60", "--learning-rate", "0.01", "--embed-above", option, "--json")
        scores[option] = json.loads(out)["metrics"]["r2"]
    assert min(scores.values()) > 0.9, scores


def test_predict_evaluate_and_importance_take_the_model(sales, run):
    out, _ = run("train", *sales, "--validation", "0.1", "--json")
    trained = json.loads(out)["metrics"]
    out, _ = run("evaluate", "sales.safetensors", "sales.csv", "--json")
    assert json.loads(out)["metrics"]["r2"] == pytest.approx(trained["r2"], abs=0.2)
    out, _ = run("importance", "sales.safetensors", "sales.csv", "--json")
    assert sorted(json.loads(out)["columns"]["column"]) == ["shop", "size", "town"]
    model = dn.load("sales.safetensors", backend="numpy")
    out, _ = run("predict", "sales.safetensors", "sales.csv")
    np.testing.assert_allclose(np.loadtxt(io.StringIO(out), skiprows=1), model.predict("sales.csv"), rtol=1e-6)
    table = dn.read_table("sales.csv", missing="keep")
    np.testing.assert_allclose(model.predict(table), model.predict("sales.csv"), rtol=1e-6)


def test_an_unknown_category_has_the_zero_vector_and_a_missing_one_the_most_frequent(sales, run, capsys):
    run("train", *sales)
    Path("new.csv").write_text("size,shop,town\n5,elsewhere,t1\n5,,t1\n", encoding="utf-8")
    assert main(["predict", "sales.safetensors", "new.csv"]) == 1
    assert "row 1: column 'shop' has the unknown category 'elsewhere'; known categories:" in capsys.readouterr().err
    model = dn.load("sales.safetensors", backend="numpy")
    X = model.encode("new.csv", unknown="zeros")
    shop = model.encoder.features[1]
    assert X[:, 0].tolist() == [5, 0, 0, 1, 0, 0]
    assert X[1, 1] == 1 + shop.categories.index(shop.fill)
    first = model.network.activations(X, layer=1)
    assert not first[-17:, 0].any()
    assert first[-17:, 1].all()
    out, _ = run("predict", "sales.safetensors", "new.csv", "--unknown", "zeros")
    expected = model.predict("new.csv", unknown="zeros")
    np.testing.assert_allclose(np.loadtxt(io.StringIO(out), skiprows=1), expected, rtol=1e-6)


def test_ten_categories_are_one_hot_and_eleven_are_embedded(run):
    rows = [f"a{i % 10},b{i % 11},{i % 7}\n" for i in range(220)]
    Path("codes.csv").write_text("a,b,y\n" + "".join(rows))
    _, err = run("train", "codes.csv", "--target", "y", "--task", "regression", *QUICK[:-1])
    assert "column 'a': one-hot, 10 categories\ncolumn 'b': embedding of 6 numbers, 11 categories\n" in err


def test_categories_of_held_out_rows_alone_have_the_index_0(run):
    rows = [f"{i % 5},k{i},{i}\n" for i in range(100)]
    Path("ids.csv").write_text("a,id,y\n" + "".join(rows))
    options = ["--target", "y", "--task", "regression", "--categorical", "id", *QUICK[:-1]]
    _, err = run("train", "ids.csv", *options)
    assert "column 'id': embedding of 19 numbers, 80 categories" in err
    assert "column 'id': 20 held-out rows with a category that no training row has, encoded as zeros" in err
    assert layers("ids.safetensors")[0] == dn.Embedding({1: (81, 19)}, unknown=True)


def test_a_resumed_run_gives_the_same_model(sales, run):
    run("train", *sales, "-o", "whole")
    run("train", *sales, "-o", "first", "--checkpoint", "run", "--every", "1")
    os.remove(sorted(Path("run").iterdir())[-1])
    run("train", *sales, "-o", "second", "--checkpoint", "run", "--every", "1", "--resume")
    whole, second = (dn.load(path, backend="numpy").network for path in ("whole", "second"))
    np.testing.assert_array_equal(second.flat(), whole.flat())


def test_training_from_a_model_keeps_its_embedding(sales, run, capsys):
    run("train", *sales, "-o", "first")
    again = ["train", "sales.csv", "--from", "first", "--epochs", "1", "--learning-rate", "1e-9", "-o", "second"]
    run(*again, "--backend", "numpy", "--quiet")
    first, second = (dn.load(path, backend="numpy") for path in ("first", "second"))
    assert second.network.layers == first.network.layers
    np.testing.assert_allclose(second.predict("sales.csv"), first.predict("sales.csv"), rtol=1e-4)
    for limit in ("none", "0"):
        assert main([*again, "--embed-above", limit]) == 2
        assert "--embed-above cannot be combined with --from" in capsys.readouterr().err


def test_folds_members_and_search_embed_columns(sales, run):
    run("train", *sales, "--folds", "2", "--members", "2")
    ensemble = dn.load("sales.safetensors", backend="numpy").network
    assert [network.layers[0].columns for network in ensemble.networks] == [[1], [1]]
    out, _ = run("predict", "sales.safetensors", "sales.csv")
    assert len(out.splitlines()) == 1201
    options = [word for word in sales if word not in ("--layers", "8")]
    run("search", *options, "--trials", "2", "-o", "found", "--norm", "layer", "--residual")
    assert layers("found")[0].columns == [1]


def test_the_exported_files_look_the_vectors_up(sales, run):
    run("train", *sales)
    model = dn.load("sales.safetensors", backend="numpy")
    expected = model.predict("sales.csv")
    run("export", "sales.safetensors", "--python", "sales.py")
    process = subprocess.run([sys.executable, "sales.py", "sales.csv"], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(np.loadtxt(io.StringIO(process.stdout), skiprows=1), expected, rtol=1e-5, atol=1e-6)
    Path("new.csv").write_text("size,shop,town\n5,elsewhere,t1\n", encoding="utf-8")
    process = subprocess.run([sys.executable, "sales.py", "new.csv"], capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "column 'shop' has the unknown category 'elsewhere'" in process.stderr

    runtime = pytest.importorskip("onnxruntime", reason='the extra "onnx" is not installed')
    out, _ = run("export", "sales.safetensors", "--onnx", "sales.onnx", "--json")
    assert json.loads(out)["onnx"]["worst"] <= 1
    session = runtime.InferenceSession("sales.onnx", providers=["CPUExecutionProvider"])
    table = dn.read_table("sales.csv", missing="keep")
    feeds = {
        name: table.column(name).reshape(-1, 1).astype(float if name == "size" else object)
        for name in ("size", "shop", "town")
    }
    (outputs,) = session.run(None, feeds)
    np.testing.assert_allclose(outputs[:, 0], expected, rtol=1e-5, atol=1e-6)
    feeds = {name: column[:1] for name, column in feeds.items()} | {"shop": np.array([["elsewhere"]], object)}
    (outputs,) = session.run(None, feeds)
    row = {name: column[0] for name, column in feeds.items()}
    np.testing.assert_allclose(outputs[0], model.predict(row, unknown="zeros"), rtol=1e-5, atol=1e-6)


def test_a_column_of_numbers_is_embedded_in_an_onnx_file():
    table = dn.read_table({"zone": np.array([3.0, 1.5, 8.0, 3.0]), "size": np.arange(4.0)})
    encoder = dn.Encoder.fit(table, categorical=["zone"], embed_above=2)
    net = dn.Network([dn.Embedding(encoder.tables, unknown=True), dn.Dense(2)], 2, backend="numpy", seed=0)
    net.metadata = {"features": encoder.inputs, "columns": encoder.as_metadata()}
    content = onnx_writing.to_onnx(Chain.of(net, None), encoder)
    feeds, X = onnx_encoding.sample_columns(encoder)
    pytest.importorskip("onnxruntime", reason='the extra "onnx" is not installed')
    outputs, _ = onnx_writing.run(content, feeds)
    np.testing.assert_allclose(outputs.T, net.predict(X), rtol=1e-5)
    outputs, _ = onnx_writing.run(content, {"zone": np.array([[7.0]]), "size": np.array([[1.0]])})
    np.testing.assert_allclose(outputs.T, net.predict(np.array([[0.0], [1.0]])), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--embed-above", "-1"], "argument --embed-above: got '-1', wanted a whole number of at least 0"),
        (["--embed-above", "some"], "argument --embed-above: got 'some'"),
        (["--embed-above", "9", "--from-disk"], "--embed-above cannot be combined with --from-disk"),
    ],
)
def test_limits_that_cannot_be_used_are_refused(options, message, sales, capsys):
    arguments = sales[:3] if "--from-disk" in options else sales
    assert main(["train", *arguments, *options]) == 2
    assert message in capsys.readouterr().err


def test_a_model_whose_network_lacks_the_embedding_is_refused(sales, run):
    run("train", *sales)
    network = dn.load("sales.safetensors", backend="numpy").network
    other = dn.Network([dn.Dense(1)], network.inputs, backend="numpy", seed=0)
    other.metadata = network.metadata
    with pytest.raises(dn.ModelFileError, match=r"indices of categories \{1: 71\} for the layers"):
        dn.Model(other)
