"""Performance limits of a GPU: the time of a step's products and of a CUDA graph's node, and the memory bandwidth."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.gpu.cases import MATMUL, Case
from deepnotes.backends import Adam
from deepnotes_cupy import control, geometry
from deepnotes_cupy.device import PRECISIONS, Device, Product
from deepnotes_cupy.lowering import lower_update
from deepnotes_cupy.sources import kernels
from deepnotes_cupy.tape import padded

SECONDS = 0.1
"""The approximate duration of one measurement, in seconds."""
PIECE = 64 << 20
"""The bytes of one copy from pinned memory, as many as streaming sends at once."""
NODES = 256
"""The number of nodes in the timed graph."""


def products(case: Case, precision: str, device: Device) -> Callable[[], float]:
    """Return a function that times the matrix products of a step alone, captured as a CUDA graph, in seconds."""
    factors = PRECISIONS[MATMUL[precision]]
    kind, stride = ("uint16", padded) if factors == "bfloat16" else ("float32", int)
    calls = []
    for first, (n_prev, n) in enumerate(zip(case.sizes, case.sizes[1:], strict=False)):
        m = case.batch
        of_A, of_Z = stride(n_prev), stride(n)
        W, A_prev, dZ = (_filled(device, size, kind) for size in (n * n_prev, of_A * m, of_Z * m))
        Z, dW, dA_prev = (device.empty(size, "float32") for size in (n * m, n * n_prev, n_prev * m))
        layer_products = [
            Product((True, False), n, m, n_prev, 1.0, W, A_prev, Z, factors, 1, (n_prev, of_A)),
            Product((False, True), n_prev, n, m, 1 / m, A_prev, dZ, dW, factors, 1, (of_A, of_Z)),
        ]
        if first:
            layer_products.append(
                Product((False, False), n_prev, m, n, 1.0, W, dZ, dA_prev, factors, 1, (n_prev, of_Z))
            )
        calls += [device.multiplier(product) for product in layer_products]
    return graph_timer(device, calls)


def node(device: Device) -> dict[str, float]:
    """Return the microseconds per graph node for the smallest nodes: a copy of four bytes, and a kernel launch."""
    source, target = (_filled(device, 1, "float32") for _ in range(2))
    number, bits = _filled(device, 1, "float32"), device.empty(1, "uint16")
    grid, block = geometry.grid("round16", 1)
    launch = device.launcher(kernels()["round16"], "float32", grid, block, (number, bits, 1, 0, 1.0))
    measurements = {}
    for name, call in (("copy, µs", device.copier(source, target)), ("launch, µs", launch)):
        measurements[name] = round(graph_timer(device, [call] * NODES)() / NODES * 1e6, 3)
    return measurements


def bandwidths(device: Device, parameters: int) -> dict[str, float]:
    """Return the memory bandwidth, in GB/s, of a copy on the device and of Adam's update.

    A copy makes two passes over its array: it reads and writes. The update makes seven: it reads θ, the gradient and
    two slots, and writes all of them except the gradient.

    Parameters
    ----------
    device : Device
    parameters : int
        The number of float32 parameters to copy and to update.
    """
    theta, g, first, second = (_filled(device, parameters, "float32") for _ in range(4))
    state = device.empty(control.SIZE, "uint8")
    device.upload(control.initial(0), state)
    scalars = device.empty(4, "float64")
    device.upload(np.array([1e-3, 1e-3, 1e-8, 0.0]), scalars)  # learning rate, rate, epsilon
    kernel, options = lower_update(Adam(), "float32").launch
    grid, block = geometry.grid(kernel, parameters, processors=device.processors)
    arguments = theta, g, first, second, parameters, parameters, state, scalars, *options
    update = device.launcher(kernel, "float32", grid, block, arguments)
    measurements = {}
    for name, call, passes in (("copy, GB/s", device.copier(theta, g), 2), ("update, GB/s", update, 7)):
        measurements[name] = round(4 * parameters * passes / graph_timer(device, [call])() / 1e9, 1)
    measurements["share"] = round(measurements["update, GB/s"] / measurements["copy, GB/s"], 3)
    return measurements


def pinned_copy(device: Device, size: int) -> float:
    """Return the seconds of copying `size` bytes from pinned memory to the device, in copies of :data:`PIECE` bytes."""
    piece = min(PIECE, size) // 4
    pinned, target = device.empty_pinned(piece, "float32"), _filled(device, piece, "float32")
    pinned[...] = 0
    copies = max(1, round(size / pinned.nbytes))
    with device.section():
        device.synchronize(device.send([(pinned, target)], device.record_event()))
        began = time.perf_counter()
        events = [device.send([(pinned, target)], None) for _ in range(copies)]
        device.synchronize(events[-1])
        return (time.perf_counter() - began) * size / (copies * pinned.nbytes)


def graph_timer(device: Device, calls: Sequence[Callable[[], None]]) -> Callable[[], float]:
    """Capture all calls as one CUDA graph, and return a function that measures the mean seconds of several launches."""
    with device.section():
        for call in calls:  # the first call of each may allocate or compile, which a capture does not allow
            call()
        flag = _filled(device, 1, "float32")
        device.download(flag)

        def run() -> None:
            for call in calls:
                call()

        graph = device.capture(run)

    def seconds(times: int) -> float:
        with device.section():
            device.download(flag)
            began = time.perf_counter()
            for _ in range(times):
                graph.launch()
            device.download(flag)
            return (time.perf_counter() - began) / times

    times = max(3, round(SECONDS / max(seconds(3), 1e-6)))
    return lambda: seconds(times)


def _filled(device: Device, size: int, dtype: str) -> Any:
    """Return a flat array of ones, because products of subnormal numbers might be slower."""
    with device.section():
        array = device.empty(size, dtype)
        ones = np.ones(size, np.float32) if dtype == "float32" else np.full(size, 0x3F80, np.uint16)
        device.upload(ones, array)
    return array
