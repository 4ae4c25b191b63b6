"""Performance limits: the shortest time in which a machine could compute a case, by the roofline model.

The floating-point operations of a step are counted by recording it (:mod:`deepnotes.backends.recording.trace`) and
adding up the operations of the recorded instructions. The number of bytes is the minimum that any implementation must
move: each sample is read once, and each parameter and slot is read and written once. The limit is the time for the
operations or the time for the bytes, whichever is longer, at the best rates measured on the machine (Williams,
Waterman and Patterson, CACM 2009). A contender's share of the limit is the limit divided by its measured time.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.recording.trace import BINARY, UNARY, Instruction, Recorder, Symbol
from deepnotes.equations.ops import Ops
from deepnotes.nn.plan import Plan
from deepnotes.nn.steps import forward, gradient_step, update_step
from deepnotes.testing.bench.machine import cores
from deepnotes.testing.bench.timing import blas_threads, seconds

COUNTED = (BINARY - {"equal", "less", "less_equal", "greater", "greater_equal"} | UNARY) - {
    "bitwise_and", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift",
}  # fmt: skip
"""Elementwise instructions that count as one operation per element; comparisons, bit operations and conversions do not
count."""

PRODUCT_SIZES = (512, 1024)
"""The sizes of the square matrices whose products are timed on the host."""
DEVICE_PRODUCT_SIZES = (1024, 4096)
"""The sizes of the square matrices whose products are timed on a device."""
COPY_BYTES = (1 << 18, 1 << 21, 1 << 24, 1 << 27)
"""The sizes of the copies that are timed, in bytes read plus bytes written: the smaller ones fit into a core's cache or
into the shared cache, the largest into neither."""


class Work(NamedTuple):
    """The work of a step or a prediction.

    Attributes
    ----------
    flops : int
        The number of floating-point operations.
    bytes : int
        The number of bytes that must be read and written.
    resident : int
        The size of the working set in bytes.
    """

    flops: int
    bytes: int
    resident: int


def operations(function: Callable[..., Sequence[Any]], shapes: Sequence[tuple[int, ...]], dtypes: Sequence[Any]) -> int:
    """Count the floating-point operations of a pure function for arrays of the given shapes.

    Parameters
    ----------
    function : callable
        Called once as ``function(xp, *arrays)`` to record its operations, without computing anything. It returns a
        sequence of arrays.
    shapes, dtypes : sequence
        The shape and the dtype of each array.

    Examples
    --------
    >>> operations(lambda xp, W, A, b: [W @ A + b], [(2, 3), (3, 5), (2, 1)], ["float32"] * 3)
    70
    """
    recorder = Recorder(np)
    models = (
        np.broadcast_to(np.zeros((), dtype), shape) if shape else np.empty((), dtype)
        for shape, dtype in zip(shapes, dtypes, strict=True)
    )
    stack = list(function(recorder, *(Symbol(recorder, model) for model in models)))
    required: dict[int, Instruction] = {}  # only instructions on which an output depends are counted
    while stack:
        source = stack.pop().root.source
        if source is not None and id(source) not in required:
            required[id(source)] = source
            stack += source.symbols
    return sum(map(_count_operations, required.values()))


def _count_operations(instruction: Instruction) -> int:
    """Return the number of floating-point operations of an instruction."""
    name, result = instruction.name, instruction.result.model
    if name in COUNTED:
        return result.size if result.dtype.kind == "f" else 0
    if name == "matmul":
        return 2 * result.size * instruction.symbols[0].shape[1]
    if name in {"sum", "max"}:
        return instruction.symbols[0].model.size
    return 2 * instruction.symbols[0].model.size if name == "square_sum" else 0


def step_work(plan: Plan, m: int) -> Work:
    """Return the work of one training step with a batch of m samples."""
    p, slots, size = plan.layout.size, len(plan.optimizer.slots), np.dtype(plan.dtype).itemsize
    targets = m * (8 if plan.class_indices else size * plan.layout.sizes[-1])
    samples = m * size * plan.inputs + targets
    moved = samples + size * p * 2 * (1 + slots)
    return Work(_affine(lambda m: _step_operations(plan, m), m), moved, samples + size * p * (2 + slots))


def prediction_work(plan: Plan, m: int) -> Work:
    """Return the work of a prediction for m samples."""
    size = np.dtype(plan.dtype).itemsize
    moved = size * (plan.layout.size + m * (plan.layout.sizes[0] + plan.layout.sizes[-1]))

    def count(m: int) -> int:
        def run(xp: Any, theta: Any, X: Any) -> list[Any]:
            return [forward(Ops(xp, {}), plan.layers, plan.layout.split(xp, theta), X, plan.seed, None)[0]]

        return operations(run, [(plan.layout.size,), (plan.inputs, m)], [plan.dtype] * 2)

    return Work(_affine(count, m), moved, moved)


def _step_operations(plan: Plan, m: int) -> int:
    """Return the number of floating-point operations of a training step with a batch of m samples."""
    p, k, dtype = plan.layout.size, plan.layout.sizes[-1], plan.dtype
    scalars = sorted(plan.optimizer.scalars(1, 1.0))
    targets, kind = ((1, m), "int64") if plan.class_indices else ((k, m), dtype)

    def run(xp: Any, theta: Any, decays: Any, step: Any, X: Any, Y: Any, *more: Any) -> list[Any]:
        ops = Ops(xp, {})
        gradient = gradient_step(ops, plan, theta, decays, step, X, Y)
        slots, values = more[: len(plan.optimizer.slots)], more[len(plan.optimizer.slots) :]
        theta, new = update_step(
            ops, plan, theta, decays, gradient.flat, slots, dict(zip(scalars, values, strict=True))
        )
        return [gradient.cost, theta, *new]

    shapes: list[tuple[int, ...]] = [(p,), (p,), (), (plan.inputs, m), targets]
    shapes += [(p,)] * len(plan.optimizer.slots) + [()] * len(scalars)
    dtypes = [dtype, dtype, "int64", dtype, kind] + [dtype] * (len(shapes) - 5)
    return operations(run, shapes, dtypes)


def _affine(count: Callable[[int], int], m: int) -> int:
    """Return ``count(m)`` by linear extrapolation from m = 2 and m = 3, since recording a large batch would be slow.

    The extrapolation is exact, since the cost of an instruction is either constant or proportional to m.
    """
    two, three = count(2), count(3)
    return two + (m - 2) * (three - two)


@dataclass(frozen=True)
class PerformanceLimits:
    """The best rates that were measured on the host or on a device.

    Attributes
    ----------
    flops : dict of str to float
        Floating-point operations per second in matrix products, by dtype.
    copies : list of [float, float]
        For each size of copy, the number of bytes of source and target together, and the bytes moved per second.
    call : float
        The duration of a call of the array library for an array of one element, in seconds.
    """

    flops: dict[str, float]
    copies: list[list[float]]
    call: float

    def bandwidth(self, resident: int) -> float:
        """Return the bytes per second for a working set of `resident` bytes, from copies of at least this size."""
        return max([rate for size, rate in self.copies if size >= resident] or [self.copies[-1][1]])

    def seconds(self, work: Work, dtype: str, calls: int = 0) -> float:
        """Return the shortest possible time for the work, including a number of calls of the array library."""
        return max(work.flops / self.flops[dtype], work.bytes / self.bandwidth(work.resident)) + calls * self.call

    def as_dict(self) -> dict[str, Any]:
        """Return the rates as JSON values."""
        return asdict(self)

    def compare_with_limit(
        self, work: Work, dtype: str, microseconds: dict[str, float], calls: int = 0
    ) -> dict[str, Any]:
        """Return the limit for `work`, and the share of it that each contender reaches, as JSON values.

        `microseconds` are the measured times of the contenders.
        """
        limit = self.seconds(work, dtype, calls) * 1e6
        return {
            "flops": work.flops,
            "bytes": work.bytes,
            "microseconds": float(f"{limit:.4g}"),
            "share": {name: float(f"{limit / us:.3g}") for name, us in microseconds.items()},
        }


def location(backend: Backend) -> str:
    """Return where a backend computes: ``"host"``, or its name if it has a device. Limits are measured per location."""
    return "host" if backend.on_host else backend.name


def measure_limits(
    backend: Backend, dtypes: Sequence[str] = ("float32", "float64"), rounds: int = 3
) -> PerformanceLimits:
    """Measure the best rates at the location where a backend computes, with the backend's array library."""
    one = backend.from_numpy(np.ones((1, 1), dtypes[0]))
    call = min(_seconds_per_call(backend, lambda: abs(one), 200) for _ in range(rounds))
    copy_rate = _host_copy_rate if location(backend) == "host" else _device_copy_rate
    copies = [[float(size), copy_rate(backend, size, rounds)] for size in COPY_BYTES]
    return PerformanceLimits({dtype: _product_rate(backend, dtype, rounds) for dtype in dtypes}, copies, call)


def _product_rate(backend: Backend, dtype: str, rounds: int) -> float:
    """Return the floating-point operations per second in matrix products."""
    rates = []
    for n in PRODUCT_SIZES if location(backend) == "host" else DEVICE_PRODUCT_SIZES:
        a, b = (backend.from_numpy(np.full((n, n), 1 / n, dtype)) for _ in range(2))
        for threads in _thread_counts(backend):
            with blas_threads(threads):
                shortest = min(_seconds_per_call(backend, lambda a=a, b=b: a @ b, 2) for _ in range(rounds))  # type: ignore[misc]
            rates.append(2 * n**3 / shortest)
    return max(rates)


def _thread_counts(backend: Backend) -> list[int | None]:
    """Return the numbers of BLAS threads to measure; None if the number cannot be set."""
    if location(backend) != "host":
        return [None]
    try:
        import threadpoolctl  # noqa: F401
    except ImportError:
        return [None]
    return [1, cores()] if cores() > 1 else [1]


def _seconds_per_call(backend: Backend, function: Callable[[], Any], times: int) -> float:
    """Return the mean seconds per call for several calls in a row, until the last result is available."""

    def run() -> None:
        for _ in range(times):
            result = function()
        backend.to_numpy(result[:1, :1])  # wait for the device, if any

    return seconds(run) / times


def _host_copy_rate(backend: Backend, size: int, rounds: int) -> float:
    """Return the bytes read and written per second, with one thread or one per core, whichever is faster."""
    rates = []
    for threads in sorted({1, cores()}):
        pairs = [(np.ones(size // 16 // threads), np.zeros(size // 16 // threads)) for _ in range(threads)]
        times = max(1, (1 << 25) // size)

        def copy(pair: tuple[np.ndarray, np.ndarray], times: int = times) -> None:
            for _ in range(times):
                np.copyto(pair[1], pair[0])

        with ThreadPoolExecutor(threads) as pool:

            def run(pool: ThreadPoolExecutor = pool, pairs: list[Any] = pairs) -> None:
                list(pool.map(copy, pairs))

            run()  # warm up: map the memory pages and start the threads
            rates += [size * times / seconds(run) for _ in range(rounds)]
    return max(rates)


def _device_copy_rate(backend: Backend, size: int, rounds: int) -> float:
    """Return the bytes read and written per second by an elementwise function on a device."""
    x = cast(Any, backend.from_numpy(np.ones((64, size // 8 // 64), np.float32)))
    times = max(1, (1 << 28) // size)
    return max(size / _seconds_per_call(backend, lambda: abs(x), times) for _ in range(rounds))
