"""Compare the time of predictions on deepnotes' backends and in ONNX Runtime with that of the matrix products alone.

    python -m benchmarks.predictions --backends numpy,numba --json benchmarks/results/predictions.json

Each call predicts one sample, for which ONNX Runtime has one thread, or a thousand samples, for which it has one thread
per core. All contenders get the same array: ONNX Runtime with samples as rows, deepnotes its transpose. Their outputs
are compared before anything is timed. The products are computed by NumPy, in place, with BLAS on one thread or on all
cores, whichever is faster. The benchmark requires the extra ``peers`` (``pip install "deepnotes[peers]"``).
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

import deepnotes as dn
from benchmarks.networks import NETWORKS
from benchmarks.options import Options, parser
from benchmarks.peers import parameters
from benchmarks.report import publish
from deepnotes.testing.bench.cases import Case
from deepnotes.testing.bench.contenders import Contender
from deepnotes.testing.bench.limits import PerformanceLimits, prediction_work
from deepnotes.testing.bench.machine import cores
from deepnotes.testing.bench.runs import call_timer, describe_result
from deepnotes.testing.bench.timing import fastest, on_blas_threads, seconds, summarize_ratios, turns

SAMPLES = {"1 sample": 1, "1,000 samples": 1000}
ROUND_SECONDS = 0.15


def onnx_model(net: dn.Network) -> bytes:
    """Return the network as an ONNX model whose input ``x`` and output, the probabilities, have one sample per row."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, name = [], [], "x"
    last = len(net.layers)
    for i, (W, b) in enumerate(parameters(net), start=1):
        weights += [numpy_helper.from_array(W.T.copy(), f"W{i}"), numpy_helper.from_array(b, f"b{i}")]
        g = "Relu" if i < last else "Sigmoid" if net.outputs == 1 else "Softmax"
        nodes.append(helper.make_node("Gemm", [name, f"W{i}", f"b{i}"], [f"Z{i}"]))
        attributes: dict[str, Any] = {"axis": 1} if g == "Softmax" else {}
        nodes.append(helper.make_node(g, [f"Z{i}"], [f"A{i}"], **attributes))
        name = f"A{i}"
    ends = [(["x"], net.inputs), ([name], net.outputs)]
    x, A = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", n]) for name in names] for names, n in ends)
    graph = helper.make_graph(nodes, "dense", x, A, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def onnx_runtime(net: dn.Network, rows: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    """Return a function that computes the predictions for `rows` with ONNX Runtime."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(onnx_model(net), settings, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": rows})[0]


def products(net: dn.Network, X: np.ndarray) -> Callable[[], None]:
    """Return a function that computes only the matrix products of a prediction, in place."""
    triples, A_prev = [], X
    for W, _ in parameters(net):
        triples.append((W, A_prev, np.empty((len(W), X.shape[1]), np.float32)))
        A_prev = triples[-1][2]

    def run() -> None:
        for a, b, out in triples:
            np.matmul(a, b, out=out)

    return run


def measure(
    case: Case, backends: list[str], rounds: int, limits: Mapping[str, PerformanceLimits], with_onnx: bool = True
) -> dict[str, Any]:
    """Measure the prediction of a batch; return the median times in microseconds and the spread of the ratios."""
    rows, _ = case.data(case.batch)
    X = rows.T
    start = dn.Network(case.layers, case.sizes[0], backend="numpy", seed=0)

    def ours(backend: str) -> Callable[[], np.ndarray]:
        net = dn.Network(case.layers, case.sizes[0], backend=backend, theta=start.flat(), seed=0)
        return lambda: net.predict(X)

    threads = 1 if case.batch == 1 else cores()
    functions = {backend: ours(backend) for backend in backends}
    if with_onnx:
        theirs = onnx_runtime(start, rows, threads)
        functions["onnxruntime"] = lambda: theirs().T
    first = functions[backends[0]]()
    for name, function in functions.items():
        np.testing.assert_allclose(function(), first, rtol=1e-3, atol=1e-5, err_msg=f"{name} predicts differently")
    timers = {name: call_timer(function, ROUND_SECONDS) for name, function in functions.items()}
    run_products = products(start, X)
    calls = max(1, round(ROUND_SECONDS / min(seconds(run_products) for _ in range(3))))
    best = fastest([1, cores()], lambda n: on_blas_threads(n, run_products, calls))
    timers["products"] = partial(on_blas_threads, best, run_products, calls)
    times = turns(timers, rounds)
    all_contenders = [Contender(name, dn.get_backend(name if name in backends else "numpy")) for name in times]
    work = prediction_work(case.plan, case.batch)
    return describe_result(case, summarize_ratios(times, backends), all_contenders, limits, work, 1) | {
        "chosen": {"onnxruntime": {"threads": threads}, "products": {"threads": best}}
    }


def main() -> None:
    """Measure all networks, print a table, and write the results if requested."""
    command_line = parser(__doc__)
    command_line.add_argument(
        "--networks", default=",".join(NETWORKS), help=f"from {', '.join(NETWORKS)}; default: all"
    )
    options = Options(command_line)
    has_onnx = find_spec("onnxruntime") and find_spec("onnx")
    why = None if has_onnx else 'it needs onnxruntime and onnx; to get them: pip install "deepnotes[peers]"'
    options.leave_out("onnxruntime", why)
    results = {}
    for name in options.with_progress(options.known("--networks", NETWORKS)):
        for description, samples in SAMPLES.items():
            case = NETWORKS[name]._replace(batch=samples)
            result = measure(case, options.backends, options.rounds, options.limits, why is None)
            results[f"{name}, {description}"] = result
    publish("predictions", "net.predict, float32", results, options.json, ceilings=options.ceilings)


if __name__ == "__main__":
    main()
