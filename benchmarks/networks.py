"""The networks that every benchmark speaks of, and data for them."""

from typing import NamedTuple

import numpy as np

import deepnotes as dn


class Case(NamedTuple):
    """A network by its layer sizes, and the batch it is trained with."""

    sizes: tuple[int, ...]
    batch: int

    @property
    def layers(self) -> list[dn.Layer]:
        """ReLU layers, then sigmoid for one output, softmax for more."""
        *hidden, outputs = self.sizes[1:]
        last = dn.Dense(1, "sigmoid") if outputs == 1 else dn.Dense(outputs, "softmax")
        return [*(dn.Dense(units, "relu") for units in hidden), last]

    def data(self, samples: int, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
        """Return random X, shape (samples, n[0]): rows, as peers want them; and classes y, shape (samples,)."""
        rng = np.random.default_rng(0)
        X = rng.normal(size=(samples, self.sizes[0])).astype(dtype)
        return X, rng.integers(0, max(2, self.sizes[-1]), samples)


NETWORKS = {
    "tiny": Case((4, 16, 16, 1), 32),
    "small": Case((30, 64, 32, 1), 32),
    "digits": Case((64, 128, 64, 10), 64),
    "mnist": Case((784, 128, 10), 128),
    "deep-mnist": Case((784, 512, 512, 10), 128),
    "wide": Case((784, 2048, 2048, 10), 512),
}
