"""Estimate the time of a training step on a GPU from its operations, bytes, launches and barriers.

    python -m benchmarks.gpu.estimate

Next to each estimate is the time in ``benchmarks/results/gpu.json``. The estimate is a goal, not a measurement: each
launch takes as long as an empty one, or as its bytes at the rate of a copy, or as its operations at the device's peak
rate, whichever is longest, and no two launches run at the same time. In shared memory, a step takes the time of its
operations on the multiprocessors of its blocks, and of its barriers.
"""

import json
import sys
from itertools import pairwise
from math import ceil
from typing import Any, NamedTuple

from benchmarks.gpu.cases import MORE_STEPS, STEPS, WIDE, Case
from benchmarks.gpu.checkout import ROOT
from benchmarks.gpu.record import align, number
from deepnotes_cupy.geometry import chunks, stage_tiles
from deepnotes_cupy.tape import STAGE_OUTPUTS

PEAK = {"float32": 67e12, "tf32": 495e12, "bfloat16": 989e12}
"""Operations per second of dense products on an NVIDIA H200, from its data sheet."""
PROCESSORS = 132
"""The number of multiprocessors of an NVIDIA H200."""
BARRIER_SECONDS, CLUSTER_BARRIER_SECONDS = 4e-8, 2.5e-7
"""The duration of a barrier of a block, about 80 cycles, and of a cluster, about 500."""
NUMBER = 4
"""The number of bytes of a number in float32."""


class Device(NamedTuple):
    """What was measured on a device: the bytes that a copy reads and writes per second, and the seconds of a launch."""

    copy: float
    launch: float

    @classmethod
    def of(cls, results: dict[str, Any]) -> "Device":
        """Return the device of the results in ``gpu.json``."""
        limits = results["limits"]
        return cls(1e9 * limits["copy, GB/s"], 1e-6 * limits["launch, µs"])


class Launch(NamedTuple):
    """One launch: the number of its operations in products, and of the bytes that it reads and writes."""

    name: str
    flops: float
    bytes: float


def launches(case: Case, precision: str) -> list[Launch]:
    """Return the launches of a step with Adam in a graph, in order; with stages, if they are tried."""
    m, factor = case.batch, 2 if precision == "bfloat16" else NUMBER
    p, layers = case.parameters, list(pairwise(case.sizes))
    copies = factor < NUMBER  # factors are rounded copies
    in_stages = precision == "float32" and m * max(case.sizes[1:]) <= STAGE_OUTPUTS
    result = [Launch("gather", 0, m * case.sizes[0] * (NUMBER + factor))]
    if copies:
        result.append(Launch("round weights", 0, p * (NUMBER + factor)))

    def product(name: str, n: int, n_prev: int) -> Launch:
        factors, out = [m * n, m * n_prev, n * n_prev], {"Z": 0, "dA": 1, "dW": 2}[name]
        moved = NUMBER * factors.pop(out) + factor * sum(factors)
        return Launch(f"product {name}", 2.0 * m * n * n_prev, moved)

    for index, (n_prev, n) in enumerate(layers):
        result.append(product("Z", n, n_prev))
        if index + 1 < len(layers) and not in_stages:
            result.append(Launch("bias and activation", 0, m * n * (2 * NUMBER + copies * factor)))
    k = case.sizes[-1]
    result.append(Launch("softmax and loss", 0, m * k * (2 * NUMBER + copies * factor)))
    for index, (n_prev, n) in reversed(list(enumerate(layers))):
        last = index + 1 == len(layers)
        if last or not in_stages:
            result.append(Launch("derivative and db", 0, m * n * (3 * NUMBER + copies * factor)))
        parts = chunks(n, m, processors=PROCESSORS) if last or not in_stages else stage_tiles(m)
        if parts[1] > 1:
            result.append(Launch("sum of db", 0, n * (parts[1] + 1) * NUMBER))
        result.append(product("dW", n, n_prev))
        if index:
            dA = product("dA", n, n_prev)
            result.append(dA._replace(name="stage dZ", bytes=dA.bytes + NUMBER * m * n_prev) if in_stages else dA)
    result.append(Launch("norm of the gradient", 0, p * NUMBER))
    result.append(Launch("check", 0, 0))
    result.append(Launch("update", 0, 7 * p * NUMBER))
    return result


def by_graph(case: Case, precision: str, device: Device) -> float:
    """Return the estimated seconds of a step in a graph."""
    steps = launches(case, precision)
    return sum(max(device.launch, x.flops / PEAK[precision], x.bytes / device.copy) for x in steps)


def in_shared_memory(case: Case) -> float | None:
    """Return the estimated seconds of a step in shared memory, or None if it does not fit."""
    layers, work = len(case.sizes) - 1, case.parameters * case.batch
    blocks = 8 if work >= 100_000 and case.batch >= 16 else 1
    samples = ceil(case.batch / blocks)
    numbers = 2 * case.parameters + 2 * case.parameters / blocks + min(samples, 16) * 2 * sum(case.sizes)
    if numbers * NUMBER > 227 << 10 or work > 8 << 20:
        return None
    operations = case.flops / (PEAK["float32"] / PROCESSORS * blocks)
    barriers = (3 * layers + 4) * BARRIER_SECONDS + (3 * CLUSTER_BARRIER_SECONDS if blocks > 1 else 0)
    return operations + barriers


def rows(results: dict[str, Any]) -> list[list[str]]:
    """Return a table: for each case, the work of a step, the estimate, and the measured time."""
    device = Device.of(results)
    table = [["case", "precision", "Mflop", "MB", "launches", "estimate, µs", "measured, µs"]]
    for case, precision in [*STEPS, (WIDE, "bfloat16"), (WIDE, "float32"), *MORE_STEPS]:
        steps, shared = launches(case, precision), in_shared_memory(case) if precision == "float32" else None
        seconds = by_graph(case, precision, device) if shared is None else shared
        measured = results.get(f"steps, {case.name}, {precision}", {}).get("microseconds", {}).get("deepnotes")
        table.append(
            [
                case.name, precision, f"{case.flops / 1e6:,.2f}", f"{sum(x.bytes for x in steps) / 1e6:,.2f}",
                str(len(steps)) if shared is None else "shared memory", number(1e6 * seconds), number(measured),
            ]
        )  # fmt: skip
    return table


def main() -> None:
    """Print the table."""
    content = json.loads((ROOT / "benchmarks" / "results" / "gpu.json").read_text(encoding="utf-8"))
    sys.stdout.write(f"{align(rows(content['results']))}\n")


if __name__ == "__main__":
    main()
