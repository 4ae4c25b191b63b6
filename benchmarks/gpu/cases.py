"""The networks and batch sizes to measure on a GPU, and the options for each precision."""

from typing import NamedTuple

import numpy as np

import deepnotes as dn

PRECISIONS = ("float32", "tf32", "bfloat16")
"""The precisions of the factors of matrix products; everything else is float32."""

MATMUL = {"float32": "highest", "tf32": "high", "bfloat16": "bfloat16"}
"""The value of the CuPy backend's option ``matmul_precision`` for each precision."""

AGREEMENT = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 5e-2}
"""For each precision, the largest relative difference between the losses of two libraries that do the same work."""

LEARNING_RATE, BETA1, BETA2, EPSILON = 1e-5, 0.9, 0.999, 1e-8
"""Adam's options. The learning rate is small, so that rounding errors do not grow while losses are compared."""

ELEMENTS = 1 << 28
"""The maximum number of elements in the samples of a case: 1 GiB in float32."""


class Case(NamedTuple):
    """A batch size, and a network of ReLU layers with a softmax layer at the end."""

    sizes: tuple[int, ...]
    batch: int

    @property
    def name(self) -> str:
        """The sizes and the batch size."""
        return f"{'-'.join(map(str, self.sizes))}, batch {self.batch:,}"

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(n * (n_prev + 1) for n_prev, n in zip(self.sizes, self.sizes[1:], strict=False))

    @property
    def flops(self) -> int:
        """Floating-point operations of a step's matrix products: N2 and N13 in each layer, N15 in all but the first."""
        pairs = list(zip(self.sizes, self.sizes[1:], strict=False))
        return 2 * self.batch * sum(n_prev * n * (3 if first else 2) for first, (n_prev, n) in enumerate(pairs))

    @property
    def batches(self) -> int:
        """The number of batches in an epoch."""
        return max(1, min(64, ELEMENTS // (self.sizes[0] * self.batch)))

    @property
    def layers(self) -> list[dn.Layer]:
        """The layers of the network."""
        return [*(dn.Dense(n, "relu") for n in self.sizes[1:-1]), dn.Dense(self.sizes[-1], "softmax")]

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Return random X of float32, shape (samples, n[0]), and classes y of int64, shape (samples,)."""
        rng = np.random.default_rng(0)
        samples = self.batches * self.batch
        X = rng.random((samples, self.sizes[0]), np.float32)
        return X - np.float32(0.5), rng.integers(0, self.sizes[-1], samples)

    def start(self) -> dn.Network:
        """Return a network with the initial parameters."""
        return dn.Network(self.layers, self.sizes[0], backend="numpy", seed=0)


CASES = [
    *(Case(sizes, batch) for sizes in ((784, 512, 512, 10), (64, 128, 64, 10)) for batch in (128, 4096, 65_536)),
    Case((8192, 8192, 8192), 8192),
]
