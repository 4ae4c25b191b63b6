"""Exported C files compile without a warning, predict what the network predicts, and detect changes to themselves."""

import ctypes
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import literature
import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import main
from deepnotes.network.formats.c_writing import Quantized, check, to_c
from deepnotes.network.formats.chain import Chain, ChainMean, Target
from deepnotes.network.formats.check_vectors import expected, vectors_of
from deepnotes.nn.activations import LIBRARY

CC = shutil.which("cc")
needs_compiler = pytest.mark.skipif(CC is None, reason="there is no C compiler cc")
WARNINGS = ["-Wall", "-Wextra", "-pedantic", "-Wconversion", "-Wshadow", "-Wdouble-promotion"]
STRICT = ["-std=c99", "-O1", "-Werror", *WARNINGS]
USER_DEFINED = [*literature.ACTIVATIONS, *literature.COUPLED]
RNG = np.random.default_rng(0)


def network(activation: Any = "relu", dtype: str = "float32", outputs: int = 3, last: str = "softmax") -> dn.Network:
    standardizer = dn.Standardizer.fit(np.random.default_rng(0).normal(5, 3, size=(6, 20)))
    if isinstance(activation, str):
        activation = dn.Activation(activation, **dict.fromkeys(LIBRARY[activation].options, 0.3))
    layers = [dn.Dense(9, activation), dn.Dropout(0.5), dn.Dense(5, activation), dn.Dense(outputs, last)]
    return dn.Network(layers, inputs=6, dtype=dtype, seed=3, standardizer=standardizer)


def compile_strictly(text: str, folder: Path) -> Any:
    """Compile a C file as a library, with warnings as errors, and return the library."""
    (folder / "model.c").write_text(text, encoding="ascii")
    command = [str(CC), *STRICT, "-shared", "-fPIC", "-o", str(folder / "model.so"), str(folder / "model.c"), "-lm"]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(folder / "model.so"))


def predict(library: Any, rows: np.ndarray, outputs: int, result: str | None = None) -> np.ndarray:
    """Return the outputs of a compiled file for samples, one row per sample."""
    Y = np.full((len(rows), outputs), -1, result or rows.dtype)
    for x, y in zip(np.ascontiguousarray(rows), Y, strict=True):
        library.model_predict(x.ctypes.data_as(ctypes.c_void_p), y.ctypes.data_as(ctypes.c_void_p))
    return Y


def require_correct(chain: Any, library: Any, result: str | None = None) -> np.ndarray:
    """Compare the outputs for random samples with the bounds of a correct result, and return them, one row each."""
    X = RNG.normal(5, 3, size=(6, 20)).astype(chain.dtype)
    A = predict(library, X.T, chain.outputs, result)
    bounded = expected(chain, X)
    errors = abs(A.T - bounded.value.astype(np.float64))
    assert (errors <= bounded.rules.slack * bounded.error).all()
    return A


@needs_compiler
@pytest.mark.thinned(4)
@pytest.mark.parametrize("weights", ["exact", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", [*LIBRARY, *USER_DEFINED], ids=str)
def test_each_activation_is_compiled_without_a_warning_and_correct(
    activation: Any, dtype: str, weights: str, tmp_path: Path
) -> None:
    chain = Chain.of(network(activation, dtype))
    text = to_c(chain, weights=weights)
    library = compile_strictly(text, tmp_path)
    if weights == "exact":
        require_correct(chain, library)
    result = check(text)
    assert result is not None
    assert result[1].startswith("24 outputs for 8 test vectors are correct; the largest error is 0.")


@needs_compiler
@pytest.mark.parametrize("units", [(1,), (4,), (1, 1), (7, 2, 8, 3)])
@pytest.mark.parametrize("standardized", [True, False])
def test_networks_of_any_depth(units: tuple[int, ...], standardized: bool, tmp_path: Path) -> None:
    layers = [*(dn.Dense(n, "tanh") for n in units[:-1]), dn.Dense(units[-1])]
    standardizer = dn.Standardizer.fit(np.random.default_rng(0).normal(5, 3, size=(6, 20))) if standardized else None
    chain = Chain.of(dn.Network(layers, inputs=6, seed=0, standardizer=standardizer))
    require_correct(chain, compile_strictly(to_c(chain), tmp_path))


EMBEDDED: dict[str, list[dn.Layer]] = {
    "before layers": [dn.Dense(7, "relu"), dn.LayerNorm(), dn.Dense(3)],
    "before blocks": [dn.Residual([dn.Dense(15, "tanh")]), dn.GLU(5), dn.Dense(2, "softmax")],
    "before a gate": [dn.Dense(8), dn.Gate("sigmoid")],
    "before a normalization": [dn.LayerNorm()],
    "alone": [],
}


@needs_compiler
@pytest.mark.parametrize("layers", EMBEDDED.values(), ids=EMBEDDED)
@pytest.mark.parametrize("standardized", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_embedding_reads_indices(layers: list[dn.Layer], standardized: bool, dtype: str, tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(5, 3, size=(6, 20)).astype(dtype)
    X[[1, 5]] = np.random.default_rng(1).integers(0, [[12], [300]], (2, 20))
    standardizer = dn.Standardizer.fit(X, unchanged=[1, 5]) if standardized else None
    embedding = dn.Embedding({1: (12, 4), 5: (300, 7)})
    net = dn.Network([embedding, *layers], inputs=6, backend="numpy", dtype=dtype, seed=0, standardizer=standardizer)
    chain = Chain.of(net)
    text = to_c(chain)
    assert " * x[5] is the index of a category, a whole number from 0 to 299." in text
    library = compile_strictly(text, tmp_path)
    bounded = expected(chain, X)
    errors = abs(predict(library, X.T, chain.outputs).T - bounded.value.astype(np.float64))
    assert (errors <= bounded.rules.slack * bounded.error).all()
    if dtype == "float32":
        int8 = to_c(chain, weights="int8")
        for file in (text, int8):
            result = check(file)
            assert result is not None
            assert "are correct" in result[1]


@needs_compiler
@pytest.mark.parametrize("index", [-1, 12, 0.5, 1e30, -np.inf, np.nan])
def test_an_index_without_a_category_gives_nan(index: float, tmp_path: Path) -> None:
    net = dn.Network([dn.Embedding({0: (12, 4)}), dn.Dense(5, "relu"), dn.Dense(2)], inputs=2, backend="numpy", seed=0)
    library = compile_strictly(to_c(Chain.of(net)), tmp_path)
    rows = np.array([[index, 1.0], [11.0, 1.0]], np.float32)
    A = predict(library, rows, 2)
    assert np.isnan(A[0]).all()
    np.testing.assert_allclose(A[1], net.predict(rows[1:].T)[:, 0], rtol=1e-5)


@needs_compiler
def test_members_with_tables_of_different_sizes(tmp_path: Path) -> None:
    nets = [
        dn.Network([dn.Embedding({1: categories}), dn.Dense(3)], inputs=2, backend="numpy", seed=0)
        for categories in (30, 5)
    ]
    text = to_c(ChainMean.of(nets, {}, None))
    assert "x[1] is the index of a category, a whole number from 0 to 4." in text
    X = np.array([[0.5, -1.0], [4.0, 0.0]], np.float32)
    A = predict(compile_strictly(text, tmp_path), X.T, 3)
    np.testing.assert_allclose(A.T, np.mean([net.predict(X) for net in nets], axis=0), rtol=1e-5, atol=1e-6)


@needs_compiler
def test_a_target_and_an_ensemble(tmp_path: Path) -> None:
    networks = [network("tanh", outputs=2, last="identity") for _ in range(3)]
    for seed, net in enumerate(networks):
        net.set_flat(np.random.default_rng(seed).normal(size=net.flat().shape).astype(np.float32))
    for number, target in enumerate((None, Target(706.0, 31.5))):
        folder = tmp_path / str(number)
        folder.mkdir()
        text = to_c(ChainMean.of(networks, {}, target))
        assert ("double y[2]" in text) == (target is not None)
        require_correct(ChainMean.of(networks, {}, target), compile_strictly(text, folder), target and "float64")
        assert check(text)
    single = Chain.of(networks[0], Target(-3.0, 0.25))
    require_correct(single, compile_strictly(to_c(single), tmp_path), "float64")


@needs_compiler
def test_names_of_columns_and_classes_are_not_changed_and_cause_no_warning(tmp_path: Path) -> None:
    net = network()
    net.metadata = {
        "classes": ["MODEL_TEST", "b", "c"],
        "features": ["a /* b", "*/*", "\n#ifdef A_TEST", "d", "e", "f"],
    }
    text = to_c(Chain.of(net), "digits")
    folder = tmp_path / "strict"
    folder.mkdir()
    library = compile_strictly(text, folder)
    assert ctypes.c_char_p.in_dll(library, "digits_classes").value == b"MODEL_TEST"
    assert check(text)


@pytest.mark.parametrize("activation", [name for name in LIBRARY if name != "exp"])  # exp of exp is huge
def test_the_bounds_of_the_test_vectors_are_close(activation: str) -> None:
    vectors = vectors_of(Chain.of(network(activation, last="log_softmax")))
    assert vectors.allowed.max() < 1e-3


@pytest.mark.filterwarnings("error")
def test_quantized_weights_of_infinite_outputs() -> None:
    net = dn.Network([dn.Dense(2, "exp")], inputs=3, seed=0)
    net.set_flat(np.full(net.flat().shape, 1e30, np.float32))
    assert "by at most 0." in to_c(Chain.of(net), weights="int8")


@needs_compiler
@pytest.mark.parametrize("outputs", [1, 3])
def test_classes_may_have_any_names(outputs: int, tmp_path: Path) -> None:
    names = ['quote" \\', "??/ */ 7", "ÿ\n\0 11"][: max(2, outputs)]
    net = network("relu", outputs=outputs, last="sigmoid" if outputs == 1 else "softmax")
    net.metadata = {"classes": names, "features": ["*/", "??/", "\n#error", "ç", "a\\", "b"]}
    library = compile_strictly(to_c(Chain.of(net)), tmp_path)
    stored = (ctypes.c_char_p * len(names)).in_dll(library, "model_classes")
    assert list(stored) == [name.encode().partition(b"\0")[0] for name in names]
    A = predict(library, RNG.normal(5, 3, size=(50, 6)).astype(np.float32), outputs)
    expected = A.argmax(axis=1) if outputs > 1 else (A[:, 0] > 0.5).astype(int)
    assert [library.model_class(y.ctypes.data_as(ctypes.c_void_p)) for y in A] == expected.tolist()
    assert len(set(expected.tolist())) > 1


@needs_compiler
def test_weights_that_are_not_finite_and_extreme_inputs(tmp_path: Path) -> None:
    net = network("softplus")
    theta = net.flat().copy()
    theta[:4] = np.inf, -np.inf, np.nan, -0.0
    net.set_flat(theta)
    assert check(to_c(Chain.of(net)))
    with pytest.raises(dn.ModelFileError, match="a weight is NaN or infinite"):
        to_c(Chain.of(net), weights="int8")
    library = compile_strictly(to_c(Chain.of(network("softplus"))), tmp_path)
    rows = np.array([[np.inf] * 6, [1e30] * 6, [np.nan] * 6], np.float32)
    with np.errstate(all="ignore"):
        wanted = network("softplus").predict(rows.T).T
    np.testing.assert_allclose(predict(library, rows, 3), wanted, rtol=1e-4)


def test_quantized_weights_are_the_nearest_multiples_of_the_scale() -> None:
    W = np.array([[1.27, -0.635, 0.004], [0, 0, 0], [1e-45, 0, -1e-45], [3e38, -1, 2]], np.float32)
    q, scale = Quantized.of(W)
    assert q[:2].tolist() == [[127, -64, 0], [0, 0, 0]]
    assert (abs(q) <= 127).all()
    assert np.isfinite(scale).all()
    assert (abs(q.astype(np.float64) * scale - W) <= scale * 0.5001).all()


@needs_compiler
def test_a_changed_file_fails_its_check() -> None:
    text = to_c(Chain.of(network()))
    with pytest.raises(dn.ModelFileError, match=r"fails its check: FAILED: \d+ of 24 outputs"):
        check(text.replace("layer2_b[j]", "(layer2_b[j] + 1)"))
    with pytest.raises(dn.ModelFileError, match="cannot be compiled: "):
        check(text.replace("int i, j;", "int i"))


def test_names_come_from_the_file_and_constants_are_exact(tmp_path: Path) -> None:
    net = network("identity")
    net.to_c(tmp_path / "my-net 2.c")
    text = (tmp_path / "my-net 2.c").read_text(encoding="ascii")
    assert "void my_net_2_predict(const float x[6], float y[3]);" in text
    assert "#ifdef MY_NET_2_TEST" in text
    (numbers,) = re.findall(r"const real layer1_W\[54\] = \{(.*?)\}", text, flags=re.DOTALL)
    values = [
        float.fromhex(x.strip().rstrip("f")) if "x" in x else float(x.strip().rstrip("f")) for x in numbers.split(",")
    ]
    assert np.array_equal(np.array(values, np.float32).reshape(6, 9).T, net.parameters["W1"])
    assert "malloc" not in text
    assert max(map(len, text.splitlines())) <= 120
    with pytest.raises(dn.UnknownNameError, match="weights"):
        net.to_c(tmp_path / "b.c", weights="int4")
    assert not (tmp_path / "b.c").exists()


@needs_compiler
def test_the_command_line_writes_and_checks_a_c_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    network().save("m.safetensors")
    assert main(["export", "m.safetensors", "--c", "m.c", "--int8", "--json"]) == 0
    details = json.loads(capsys.readouterr().out)["c"]
    assert details["weights"] == "int8"
    assert details["checked"].startswith("24 outputs for 8 test vectors are correct")
    assert details["bytes"] == Path("m.c").stat().st_size
    subprocess.run([str(CC), *STRICT, "-DM_TEST", "-o", "check", "m.c", "-lm"], check=True)
    assert subprocess.run(["./check"], check=False).returncode == 0
    assert main(["export", "m.safetensors", "--onnx", "m.onnx", "--int8"]) == 2
    assert "--int8 has no effect without --c FILE" in capsys.readouterr().err


def test_without_a_compiler_the_file_is_written_and_the_message_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    network().save("m.safetensors")
    assert main(["export", "m.safetensors", "--c", "m.c"]) == 0
    assert "not compiled, as there is no compiler" in capsys.readouterr().out
    assert Path("m.c").exists()
