"""Exported ensembles compute the mean output, in ONNX Runtime and in a Python file that needs only NumPy."""

import json
from pathlib import Path
from typing import Any

import literature
import numpy as np
import pytest
from test_onnx_export import reference
from test_python_export import load_module, run_without_deepnotes

import deepnotes as dn
from deepnotes.network.formats.chain import ChainMean, Target
from deepnotes.network.formats.check_vectors import Vectors, expected, vectors_of, worst
from deepnotes.network.formats.python_writing import check, to_python

DTYPES = ["float32", "float64"]
HIDDEN: list[list[dn.Layer]] = [
    [dn.Dense(6, "relu")],
    [dn.Dense(5, "gelu"), dn.Dropout(0.5), dn.Dense(4, "tanh")],
    [dn.Dense(4, literature.ACTIVATIONS[0]), dn.Dense(3, "elu")],
    [],
]


def ensemble(last: str = "softmax", outputs: int = 3, dtype: str = "float32", hidden: Any = HIDDEN) -> dn.Ensemble:
    """Return an ensemble of networks with different layers; some of them have standardizers of their own."""
    rng = np.random.default_rng(0)
    standardizers = [dn.Standardizer.fit(rng.normal(i, 3, size=(4, 20))) if i % 2 == 0 else None for i in range(8)]
    return dn.Ensemble(
        [
            dn.Network([*layers, dn.Dense(outputs, last)], 4, dtype=dtype, seed=i, standardizer=standardizers[i])
            for i, layers in enumerate(hidden)
        ]
    )


def chain_of(members: dn.Ensemble, target: Target | None = None) -> ChainMean:
    return ChainMean.of(members.networks, members.metadata, target)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("last", "outputs"), [("softmax", 3), ("sigmoid", 1), ("identity", 2)])
def test_onnx_runtime_stays_within_the_bounds(last: str, outputs: int, dtype: str) -> None:
    pytest.importorskip("onnxruntime", reason='the extra "onnx" is not installed')
    from deepnotes.network.formats.onnx_writing import run, to_onnx

    members = ensemble(last, outputs, dtype)
    chain = chain_of(members)
    X = np.random.default_rng(1).normal(size=(33, 4)).astype(dtype)
    A = expected(chain, X.T)
    tests = Vectors(X, A.value.astype(np.float64).T, (A.rules.slack * A.error).T)
    content = to_onnx(chain)
    for actual in (run(content, tests)[0], reference(content, X), members.predict(X.T).T):
        assert actual.shape == (33, outputs)
        assert actual.dtype == dtype
        assert worst(actual, tests) <= 1
    vectors = vectors_of(chain)
    assert worst(run(content, vectors)[0], vectors) <= 1
    one_less = chain_of(members[1:])
    assert worst(run(to_onnx(one_less), tests)[0], tests) > 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_python_file_has_the_bits_of_the_ensemble(tmp_path: Path, dtype: str) -> None:
    members = ensemble(dtype=dtype)
    members.to_python(tmp_path / "model.py")
    module = load_module(tmp_path / "model.py")
    rows = np.random.default_rng(1).normal(size=(9, 4))
    actual = module.predict(rows)
    assert actual.dtype == dtype
    eager = dn.Backend("plain", np)
    plain = [
        dn.Network(net.layers, 4, backend=eager, dtype=dtype, seed=0, theta=net.flat(), standardizer=net.standardizer)
        for net in members
    ]
    np.testing.assert_array_equal(actual, dn.Ensemble(plain).predict(rows.T).T)
    passed, message = module.check()
    assert passed, message


def test_the_python_file_runs_alone(tmp_path: Path) -> None:
    members = ensemble()
    members.metadata = {"features": list("abcd"), "classes": ["x", "y", "z"]}
    members.to_python(tmp_path / "model.py")
    (tmp_path / "rows.csv").write_text("d,c,b,a\n1,2,3,4\n4,3,2,1\n")
    assert run_without_deepnotes(tmp_path / "model.py", "--check")[0].startswith("passed: 24 outputs")
    table, _ = run_without_deepnotes(tmp_path / "model.py", tmp_path / "rows.csv")
    header, *rows = table.splitlines()
    assert header == "prediction,p_x,p_y,p_z"
    A = members.predict(np.array([[4.0, 3, 2, 1], [1, 2, 3, 4]]).T)
    np.testing.assert_allclose([[float(p) for p in row.split(",")[1:]] for row in rows], A.T, rtol=1e-6)
    assert [row.split(",")[0] for row in rows] == ["xyz"[i] for i in A.argmax(axis=0)]


@pytest.mark.parametrize("name", ["network0_W1", "network1_b2", "network2_MEAN", "test outputs"])
def test_a_change_of_any_number_is_detected(name: str) -> None:
    text = to_python(chain_of(ensemble()))
    before, after = text.split(f'    "{name}": ')
    position = after.index("\n") + 3
    changed = after[:position] + ("A" if after[position] != "A" else "B") + after[position + 1 :]
    with pytest.raises(dn.ModelFileError, match="changed since it was written"):
        check(f'{before}    "{name}": {changed}')


def test_outputs_are_converted_to_the_units_of_the_target() -> None:
    pytest.importorskip("onnxruntime", reason='the extra "onnx" is not installed')
    from deepnotes.network.formats.onnx_writing import run, to_onnx

    members = ensemble("identity", 1)
    chain = chain_of(members, Target(100.0, 7.0))
    assert "correct" in check(to_python(chain))
    vectors = vectors_of(chain)
    outputs, _ = run(to_onnx(chain), vectors)
    assert worst(outputs, vectors) <= 1
    assert outputs.dtype == np.float64
    np.testing.assert_allclose(outputs[:7], members.predict(vectors.X[:7].T).T * 7 + 100, rtol=1e-6)


def test_the_onnx_file_has_the_metadata_of_the_ensemble(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason='the extra "onnx" is not installed')
    members = ensemble()
    members.metadata, members[0].metadata = {"classes": ["x", "y", "z"]}, {"note": "first"}
    members.to_onnx(tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert {entry.key: json.loads(entry.value) for entry in model.metadata_props} == members.metadata
    assert model.doc_string.startswith("the mean of 4 networks: 4 features, dense 6 relu, 3 softmax and others;")
    names = {tensor.name for tensor in model.graph.initializer}
    assert {"network0/W1", "network2/input_mean", "network3/b1"} <= names
    with pytest.raises(dn.ModelFileError, match="cannot be part of a chain of layers"):
        dn.from_onnx(tmp_path / "model.onnx")


class Opaque(dn.ActivationFunction):
    """An activation that branches on values, so that its formula cannot be traced."""

    def forward(self, ops: Any, Z: Any) -> Any:
        return Z if float(Z[0, 0]) > 0 else -Z


def test_what_cannot_be_exported_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    opaque = ensemble(hidden=[[], [dn.Dense(2, Opaque())]])
    with pytest.raises(dn.ModelFileError, match="layer 1 has the user-defined activation"):
        opaque.to_python(tmp_path / "model.py")
    members = ensemble()
    members.metadata = []  # type: ignore[assignment]
    with pytest.raises(dn.ModelFileError, match="wanted a dict"):
        members.to_python(tmp_path / "model.py")
    assert not list(tmp_path.iterdir())
