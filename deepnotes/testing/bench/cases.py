"""Cases to measure: a network, a batch size and a dtype."""

from typing import NamedTuple

import numpy as np

from deepnotes.nn.layers import Dense, Layer
from deepnotes.nn.losses import Loss
from deepnotes.nn.optimizers import Adam
from deepnotes.nn.plan import Plan
from deepnotes.testing.bench.machine import available_memory

LEARNING_RATE = 1e-5
"""Small, so that no outputs saturate: scikit-learn clips the logarithm of saturated outputs in its losses, which would
then differ from those of deepnotes."""

SHARE_OF_MEMORY = 0.7
"""The maximum share of the available memory that a case may use."""


class Case(NamedTuple):
    """A network, given by its layer sizes, with a batch size and a dtype.

    Attributes
    ----------
    sizes : tuple of int
        The number of inputs, followed by the number of units of each layer.
    batch : int
        The number of samples in a batch.
    dtype : {"float32", "float64"}

    Examples
    --------
    >>> case = Case((4, 16, 1), 32)
    >>> case.network, case.plan.loss, case.plan.layout.size
    ('4-16-1', Loss('binary_cross_entropy'), 97)
    """

    sizes: tuple[int, ...]
    batch: int
    dtype: str = "float32"

    @property
    def network(self) -> str:
        """The layer sizes as text, such as ``64-128-10``."""
        return "-".join(map(str, self.sizes))

    @property
    def layers(self) -> list[Layer]:
        """Layers with ReLU, and a last layer with sigmoid for one output or softmax for several."""
        *hidden, outputs = self.sizes[1:]
        last = Dense(1, "sigmoid") if outputs == 1 else Dense(outputs, "softmax")
        return [*(Dense(units, "relu") for units in hidden), last]

    @property
    def plan(self) -> Plan:
        """The plan of a training step with Adam and the loss that matches the last layer."""
        binary = self.sizes[-1] == 1
        loss = Loss("binary_cross_entropy" if binary else "categorical_cross_entropy")
        layers = tuple(self.layers)
        return Plan(self.sizes[0], layers, self.dtype, 0, loss, Adam(LEARNING_RATE), class_indices=not binary)

    def data(self, samples: int) -> tuple[np.ndarray, np.ndarray]:
        """Return random samples X, shape (samples, n[0]), and class indices y, shape (samples,); samples are rows."""
        rng = np.random.default_rng(0)
        X = rng.standard_normal((samples, self.sizes[0]), np.float32).astype(self.dtype, copy=False)
        return X, rng.integers(0, max(2, self.sizes[-1]), samples)

    def memory(self, samples: int) -> int:
        """Estimate the bytes needed to train on a number of samples.

        The estimate includes the parameters, the gradient and the slots, the initial parameters in double precision,
        the samples, and the arrays for each layer in a backend that computes one equation at a time.
        """
        p = sum((before + 1) * size for before, size in zip(self.sizes, self.sizes[1:], strict=False))
        numbers = p * (4 + len(Adam().slots)) + samples * (self.sizes[0] + 1)
        numbers += self.batch * (self.sizes[0] + 5 * sum(self.sizes[1:]))
        return numbers * np.dtype(self.dtype).itemsize + 8 * p  # initial parameters in double precision

    def too_large(self, samples: int) -> str | None:
        """Return why this case cannot be run with a number of samples, or None if it can."""
        needed, free = self.memory(samples), available_memory()
        if free is None or needed <= SHARE_OF_MEMORY * free:
            return None
        return f"needs about {needed / 1e9:,.1f} GB of memory, wanted at most {SHARE_OF_MEMORY * free / 1e9:,.1f} GB"
