"""Train the parts of tests/literature.py on a GPU, as ``python tests/gpu_literature.py``: one line per part.

Each part is trained with generated kernels, and compared with PyTorch's results in tests/fixtures/literature.npz in
float64, and with the equations on NumPy in float32. Then SiLU, the Huber loss and Adam, written as a user would write
them, are timed against the library's kernels.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "backends"), str(ROOT / "tests")]

import numpy as np  # noqa: E402 - sys.path comes first
from literature_cases import PARTS, STORED, by_name, train  # noqa: E402

import deepnotes as dn  # noqa: E402


@dataclass(frozen=True)
class OwnSiLU(dn.ActivationFunction):
    """SiLU, without its derivative."""

    def forward(self, ops: Any, Z: Any) -> Any:
        return Z / (1 + ops.xp.exp(-Z))


@dataclass(frozen=True)
class OwnHuber(dn.LossFunction):
    """The Huber loss, without its derivative."""

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        xp, size = ops.xp, abs(A - Y)
        clipped = xp.minimum(size, xp.asarray(1.0, dtype=A.dtype))
        return xp.sum(clipped * (size - 0.5 * clipped), axis=0, keepdims=True) / A.shape[0]


@dataclass(frozen=True)
class OwnAdam(dn.Adam):
    """Adam as a class of a user, so that its kernel is generated."""


def checks(gpu: Any) -> Iterator[tuple[bool, str]]:
    """Train every part, and yield whether it passed, and a line about it."""
    for name in PARTS:
        try:
            net, losses = train(name, gpu)
            found = {key: net.backend.to_numpy(value) for key, value in net.parameters.items()}
            wanted = by_name(net, STORED[f"{name}/parameters"])
            error = max(float(abs(found[key] - w).max() / abs(w).max()) for key, w in wanted.items())
            error = max(error, float(abs(np.divide(losses, STORED[f"{name}/losses"]) - 1).max()))
            single, reference = (train(name, backend, "float32")[1] for backend in (gpu, "numpy"))
            error32 = float(abs(np.divide(single, reference) - 1).max())
            program = type(net._training[1]).__name__  # type: ignore[index]
            passed = program == "CupyProgram" and error < 1e-10 and error32 < 1e-3
            yield passed, f"{name}: {program}, float64 {error:.1e}, float32 {error32:.1e}"
        except Exception as failure:
            yield False, f"{name}: {type(failure).__name__}: {str(failure)[:500]}"


def steps_per_second(gpu: Any, hidden: Any, loss: Any, optimizer: Any) -> Callable[[], float]:
    """Return a function that trains 784-512-512-10 for one epoch of 128 batches, and returns its speed."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(784, 16384)).astype("float32"), rng.normal(size=(10, 16384)).astype("float32")
    net = dn.Network([dn.Dense(512, hidden), dn.Dense(512, hidden), dn.Dense(10)], 784, backend=gpu, seed=0)
    settings = {"epochs": 4, "batch_size": 128, "loss": loss, "optimizer": optimizer}
    net.fit(X, Y, **settings)

    def measure() -> float:
        start = time.perf_counter()
        net.fit(X, Y, **settings)
        return 512 / (time.perf_counter() - start)

    return measure


def speeds(gpu: Any) -> Iterator[str]:
    """Yield the ratio of the speed of generated kernels to that of the library's: the median of paired runs."""
    library = {"hidden": "silu", "loss": "huber", "optimizer": dn.Adam(1e-4)}
    own = {"hidden": OwnSiLU(), "loss": OwnHuber(), "optimizer": OwnAdam(1e-4)}
    reference = steps_per_second(gpu, **library)
    for part, value in own.items():
        generated = steps_per_second(gpu, **library | {part: value})
        ratios = sorted(generated() / reference() for _ in range(9))
        yield f"{type(value).__name__}: {ratios[4]:.3f} times the library's speed ({ratios[0]:.3f} to {ratios[-1]:.3f})"


if __name__ == "__main__":
    backend, failed = dn.get_backend("cupy"), 0
    for good, line in checks(backend):
        failed += not good
        sys.stdout.write(f"{'pass' if good else 'FAIL'} {line}\n")
        sys.stdout.flush()
    for line in speeds(backend):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{failed} of {len(PARTS)} parts failed\n")
    sys.exit(failed > 0)
