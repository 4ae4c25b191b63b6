"""The time of a prediction through the public API: deepnotes' backends beside ONNX Runtime and the products alone.

    python -m benchmarks.predictions --backends numpy,numba --json benchmarks/results/predictions.json

One sample, where ONNX Runtime has one thread; and ten thousand, where it has all cores. All are given the same array,
ONNX Runtime as rows, deepnotes as the columns of its transpose; their outputs are compared before anything is timed.
The products are NumPy's, in place, with the BLAS on one thread or on all cores, whichever is faster.
Needs the extra ``peers`` (``pip install "deepnotes[peers]"``).
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import deepnotes as dn
from benchmarks.machine import cores
from benchmarks.networks import NETWORKS
from benchmarks.peers import parameters
from benchmarks.report import publish
from benchmarks.timing import compared, fastest, on_blas_threads, seconds, turns

CASE = NETWORKS["digits"]
SAMPLES = {"one sample": 1, "many samples": 10_000}
ROUND_SECONDS = 0.2


def onnx_model(net: dn.Network) -> bytes:
    """Return the network as ONNX, from rows ``x`` to rows of probabilities."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, name = [], [], "x"
    last = len(net.layers)
    for i, (W, b) in enumerate(parameters(net), start=1):
        weights += [numpy_helper.from_array(W.T.copy(), f"W{i}"), numpy_helper.from_array(b, f"b{i}")]
        g = {"axis": 1} if i == last else {}
        nodes.append(helper.make_node("Gemm", [name, f"W{i}", f"b{i}"], [f"Z{i}"]))
        nodes.append(helper.make_node("Softmax" if i == last else "Relu", [f"Z{i}"], [f"A{i}"], **g))
        name = f"A{i}"
    ends = [(["x"], net.inputs), ([name], net.outputs)]
    x, A = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", n]) for name in names] for names, n in ends)
    graph = helper.make_graph(nodes, "dense", x, A, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def onnx_runtime(net: dn.Network, rows: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    """Return the prediction of ONNX Runtime for some rows."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(onnx_model(net), settings, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": rows})[0]


def products(net: dn.Network, X: np.ndarray) -> Callable[[], None]:
    """Return a function that does the matrix products of a prediction and nothing else, in place."""
    triples, A_prev = [], X
    for W, _ in parameters(net):
        triples.append((W, A_prev, np.empty((len(W), X.shape[1]), np.float32)))
        A_prev = triples[-1][2]

    def run() -> None:
        for a, b, out in triples:
            np.matmul(a, b, out=out)

    return run


def measure(samples: int, backends: list[str], rounds: int) -> dict[str, Any]:
    """Return the median times in microseconds, and the ratios as least, median and greatest, for some samples."""
    rows, _ = CASE.data(samples)
    X = rows.T
    start = dn.Network(CASE.layers, CASE.sizes[0], backend="numpy", seed=0)

    def ours(backend: str) -> Callable[[], np.ndarray]:
        net = dn.Network(CASE.layers, CASE.sizes[0], backend=backend, theta=start.flat(), seed=0)
        return lambda: net.predict(X)

    threads = 1 if samples == 1 else cores()
    functions = {backend: ours(backend) for backend in backends}
    theirs = functions["onnxruntime"] = onnx_runtime(start, rows, threads)
    for backend in backends:
        np.testing.assert_allclose(functions[backend](), theirs().T, rtol=1e-4, atol=1e-6, err_msg=backend)

    def timed(function: Callable[[], object], clock: Callable[..., float]) -> Callable[[], float]:
        times = max(1, round(ROUND_SECONDS / min(clock(function) for _ in range(3))))
        return partial(clock, function, times)

    in_turn = {who: timed(function, seconds) for who, function in functions.items()}
    alone = products(start, X)
    on = {n: timed(alone, partial(on_blas_threads, n)) for n in (1, cores())}
    best = fastest(list(on), lambda n: on[n]())
    in_turn["products"] = on[best]
    return {
        "network": "-".join(map(str, CASE.sizes)),
        "batch": samples,
        **compared(turns(in_turn, rounds), backends),
        "chosen": {"onnxruntime": {"threads": threads}, "products": {"threads": best}},
    }


def main() -> None:
    """Measure, print a table, and write the results where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", default="numpy")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    backends = options.backends.split(",")
    results = {name: measure(samples, backends, options.rounds) for name, samples in SAMPLES.items()}
    publish("predictions", "net.predict, float32", results, options.json)


if __name__ == "__main__":
    main()
