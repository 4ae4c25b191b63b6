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

ELEMENTS = 1 << 27
"""The maximum number of elements in the samples of a case: 512 MiB in float32."""


class Case(NamedTuple):
    """A batch size, and a network of ReLU layers with a softmax layer at the end."""

    sizes: tuple[int, ...]
    batch: int

    @property
    def network(self) -> str:
        """The sizes, with hyphens between them."""
        return "-".join(map(str, self.sizes))

    @property
    def name(self) -> str:
        """The sizes and the batch size."""
        return f"{self.network}, batch {self.batch:,}"

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
        """The number of batches in an epoch, a power of two of at most 64."""
        most = max(1, min(64, ELEMENTS // (self.sizes[0] * self.batch)))
        return 1 << (most.bit_length() - 1)

    @property
    def layers(self) -> list[dn.Layer]:
        """The layers of the network."""
        return [*(dn.Dense(n, "relu") for n in self.sizes[1:-1]), dn.Dense(self.sizes[-1], "softmax")]

    def data(self, samples: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return random X of float32, shape (samples, n[0]), and classes y of int64, by default for an epoch."""
        rng = np.random.default_rng(0)
        samples = self.batches * self.batch if samples is None else samples
        X = rng.random((samples, self.sizes[0]), np.float32)
        X -= np.float32(0.5)
        return X, rng.integers(0, self.sizes[-1], samples)

    def start(self) -> dn.Network:
        """Return a network with the initial parameters."""
        return dn.Network(self.layers, self.sizes[0], backend="numpy", seed=0)


SMALLEST, SMALL, MIDDLE = (4, 16, 16, 2), (64, 128, 64, 10), (784, 512, 512, 10)
STEPS = [
    (Case(SMALLEST, 32), "float32"),
    (Case(SMALL, 128), "float32"),
    (Case(MIDDLE, 128), "float32"),
    (Case(MIDDLE, 128), "bfloat16"),
    (Case(MIDDLE, 4096), "bfloat16"),
    (Case(MIDDLE, 65_536), "bfloat16"),
]
"""The most important cases and their precisions, which are measured first."""

WIDE = Case((8192, 8192, 8192), 8192)
"""A case in which almost all time is spent in products, so it is compared with the products alone."""

MORE_STEPS = [
    (Case(SMALL, 128), "bfloat16"),
    (Case(MIDDLE, 128), "tf32"),
    (Case(MIDDLE, 4096), "float32"),
    (Case(MIDDLE, 4096), "tf32"),
    (Case(MIDDLE, 65_536), "float32"),
]
"""Cases that are measured if time is left."""

PREDICTIONS = [(MIDDLE, 1), (MIDDLE, 1000), (MIDDLE, 100_000), (SMALL, 1), (SMALL, 1_000_000)]
"""Networks and numbers of samples to predict, in float32."""

STREAMING, STREAMED_SAMPLES = Case((784, 128, 10), 4096), 400_000
"""Training on data that stay on the host. The network is small, so that sending the samples takes most of the time."""
