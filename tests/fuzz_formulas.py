"""Fuzzing target: formulas of activations in model files, mutated so that many of them are still valid."""

import tempfile
from pathlib import Path
from typing import Any

import hostile
import literature
import numpy as np
from fuzzing import NUMBERS, altered, target
from hypothesis import strategies as st

import deepnotes as dn
from deepnotes.network.formats import onnx_writing
from deepnotes.network.formats.chain import Chain, Link
from deepnotes.network.formats.check_vectors import vectors_of, worst
from deepnotes.network.formats.python_writing import formulas_of
from deepnotes.nn.expressions import NOT_FINITE, OPERATIONS

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(3, 9)), RNG.normal(size=(2, 9))
EXTREMES = np.array([[0.0, -0.0, 1.5, -40.0, 1e30, -1e30, np.inf, -np.inf, np.nan]] * 4)


def model_file(g: dn.ActivationFunction, dtype: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the tensors of a model file with this activation in both layers."""
    net = dn.Network([dn.Dense(4, g), dn.Dense(2, g)], inputs=3, dtype=dtype, seed=0, backend="numpy")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        net.save(path)
        return hostile.header_of(path.read_bytes()), hostile.tensors(path.read_bytes())


VALID = [
    model_file(g, dtype) for g in (*literature.ACTIVATIONS, *literature.COUPLED) for dtype in ("float32", "float64")
]


@st.composite
def mutated(draw: st.DrawFn, expression: dict[str, Any]) -> dict[str, Any]:
    """Return an expression with a few operations, arguments, constants or results replaced, or nodes added."""
    nodes = [list(node) for node in expression["nodes"]]
    results = list(expression["results"])
    for _ in range(draw(st.integers(1, 4))):
        change = draw(st.sampled_from(["operation", "argument", "constant", "add", "add", "result"]))
        index = draw(st.integers(0, len(nodes) - 1))
        operation, *arguments = nodes[index]
        if change == "operation" and operation in OPERATIONS:
            same = [name for name, count in OPERATIONS.items() if count == len(arguments)]
            nodes[index][0] = draw(st.sampled_from(same))
        elif change == "argument" and operation in OPERATIONS:
            nodes[index][draw(st.integers(1, len(arguments)))] = draw(st.integers(0, index))
        elif change == "constant" and operation in ("constant", "outputs"):
            constants = st.sampled_from([*NUMBERS, *NOT_FINITE]) | st.floats(allow_nan=False, allow_infinity=False)
            nodes[index] = ["constant", draw(constants)] if draw(st.integers(0, 3)) else ["outputs"]
        elif change == "add":
            name = draw(st.sampled_from(sorted(OPERATIONS)))
            recent = st.integers(max(0, len(nodes) - 4), len(nodes) - 1) | st.integers(0, len(nodes) - 1)
            nodes.append([name, *(draw(recent) for _ in range(OPERATIONS[name]))])
            results = [len(nodes) - 1]
        elif change == "result":
            results = [draw(st.integers(0, len(nodes) - 1))]
    return expression | {"nodes": nodes, "results": results}


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Return a model file with correct digests and a valid or malicious formula."""
    header, arrays = draw(st.sampled_from(VALID))
    first, second = header["network"]["layers"]
    key = draw(st.sampled_from(["formula", "formula", "derivative"]))
    mutates_formula = draw(st.integers(0, 9)) > 0
    first = first | {key: draw(mutated(first[key]))} if mutates_formula else draw(altered(first))
    return hostile.sealed(header | {"network": header["network"] | {"layers": [first, second]}}, arrays)


@target("formula of a model file", files(), ".safetensors")
def load_and_use(path: Path) -> None:
    """Check that a network can predict, train and be exported, and that a reloaded copy computes the same bits."""
    net = dn.load(path, backend="numpy")
    assert len(repr(net) + net.summary()) < 5000
    copy = path.with_suffix(".copy")
    net.save(copy)
    reloaded = dn.load(copy, backend="numpy")
    assert reloaded.layers[0].g.fingerprint() == net.layers[0].g.fingerprint()
    outputs = [predict_and_train(each) for each in (net, reloaded)]
    np.testing.assert_array_equal(*outputs)
    check_exports(dn.load(copy, backend="numpy"))


def predict_and_train(net: dn.Network) -> np.ndarray:
    """Return the outputs of a network before an update and, if its loss is finite, after it."""
    outputs = [net.predict(X)]
    try:
        net.partial_fit(X, Y)
    except dn.NonFiniteLossError:
        return outputs[0]
    return np.stack([*outputs, net.predict(X)])


def check_exports(net: dn.Network) -> None:
    """Check that Python code for the formulas computes the same bits, and an ONNX file nearly the same outputs."""
    chain = Chain.of(net)
    names: dict[str, Any] = {}
    exec("\n".join(formulas_of(chain)), names)
    for number, link in enumerate(chain.links, 1):
        assert isinstance(link, Link)
        Z = EXTREMES[: len(link.W)].astype(net.dtype)
        with np.errstate(all="ignore"):
            found, expected = names[f"activation{number}"](np, Z), link.g.forward(dn.Ops(np, {}), Z)
        np.testing.assert_array_equal(found, expected)
    try:
        content = onnx_writing.to_onnx(chain)
        tests = vectors_of(chain)
        outputs, _ = onnx_writing.run(content, tests)
    except dn.MissingExtraError:
        return
    assert worst(outputs, tests) <= 1
