"""Small networks with the parts of literature.py, and data to train them with."""

from typing import Any

import literature
import numpy as np

import deepnotes as dn

PARTS = [*literature.ACTIVATIONS, *literature.LOSSES, *literature.OPTIMIZERS]
UNITS = {"float32": 2.0**-24, "float64": 2.0**-53}


def make_network(part: Any, dtype: str, backend: Any, hidden: int = 9) -> tuple[dn.Network, dict[str, Any]]:
    """Return a network that uses `part`, and the settings to train it with."""
    activation: Any = "tanh"
    rate = 0.001 if isinstance(part, literature.LogSoftmax) else 0.05  # its outputs are far below 0
    settings: dict[str, Any] = {"loss": "mean_squared_error", "optimizer": dn.SGD(rate)}
    output = "softplus" if isinstance(part, literature.GammaDeviance) else "identity"
    if isinstance(part, dn.ActivationFunction):
        activation = part
    elif isinstance(part, dn.LossFunction):
        settings["loss"] = part
        output = {"unit": "sigmoid", "simplex": "softmax"}.get(part.outputs[0], output)
    else:
        settings["optimizer"] = part
    layers = [dn.Dense(hidden, activation), dn.Dropout(0.2), dn.Dense(5, activation), dn.Dense(3, output)]
    return dn.Network(layers, inputs=4, seed=0, dtype=dtype, backend=backend), settings


def make_data(part: Any, samples: int = 53) -> tuple[np.ndarray, np.ndarray]:
    """Return samples and targets that suit the loss."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(4, samples))
    kind = getattr(part, "targets", "real")
    Y = {
        "real": rng.normal(size=(3, samples)),
        "count": rng.poisson(2.0, (3, samples)).astype(float),
        "unit": rng.integers(0, 2, (3, samples)).astype(float),
        "simplex": rng.dirichlet((1.0, 1.0, 1.0), samples).T,
    }[kind]
    return X, Y
