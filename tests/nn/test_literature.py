"""Activations, losses and optimizers from the literature, written as formulas alone, train as in PyTorch.

tests/fixtures/make_literature.py stored PyTorch's results.
"""

from pathlib import Path
from typing import Any

import literature
import numpy as np
import pytest
from host_device import backend as cupy_backend

import deepnotes as dn

FIXTURES = Path(__file__).parents[1] / "fixtures"
with np.load(FIXTURES / "pytorch.npz") as file:
    DATA = dict(file)
with np.load(FIXTURES / "literature.npz") as file:
    STORED = dict(file)

PARTS = {type(p).__name__: p for p in (*literature.ACTIVATIONS, *literature.LOSSES, *literature.OPTIMIZERS)}
TARGETS = {
    "Focal": "binaries", "KLDivergence": "soft", "Hinge": "binaries", "SquaredHinge": "binaries",
    "GammaDeviance": "counts",
}  # fmt: skip
OUTPUTS = {"Focal": "sigmoid", "KLDivergence": "softmax", "GammaDeviance": "softplus"}
BATCH = 8


def network(name: str, backend: Any) -> tuple[dn.Network, dict[str, Any], np.ndarray]:
    """Return the network of a case with PyTorch's initial parameters, arguments for `partial_fit`, and the targets."""
    part: Any = PARTS[name]
    hidden: Any = "tanh"
    output = OUTPUTS.get(name, "identity")
    settings: dict[str, Any] = {
        "loss": "mean_squared_error",
        "optimizer": dn.SGD(0.001 if name == "LogSoftmax" else 0.02, momentum=0.9),
    }
    Y = DATA[TARGETS.get(name, "real")]
    if isinstance(part, dn.ActivationFunction):
        hidden = part
    elif isinstance(part, dn.LossFunction):
        settings["loss"] = part
    else:
        output, Y = "softmax", DATA["labels"]
        settings = {"loss": "categorical_cross_entropy", "optimizer": part}
    layers = [dn.Dense(7, hidden), dn.Dense(6, hidden), dn.Dense(3, output)]
    net = dn.Network(layers, inputs=5, backend=backend, dtype="float64", seed=0)
    net.parameters.update(by_name(net, DATA["start/3"]))
    return net, settings, Y


def by_name(net: dn.Network, flat: np.ndarray) -> dict[str, np.ndarray]:
    """Split a vector of all parameters, in the order W1, b1, W2, b2, ..., into parameters by name."""
    shapes = {name: parameter.shape for name, parameter in net.parameters.items()}
    parts = np.split(flat, np.cumsum([np.prod(shape) for shape in shapes.values()])[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


BACKENDS = {"numpy": lambda: "numpy", "numba": lambda: "numba", "cupy": cupy_backend}


def test_the_cases_are_those_of_the_fixture():
    assert sorted(PARTS) == sorted(name.removesuffix("/losses") for name in STORED if name.endswith("/losses"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PARTS)
def test_parts_from_the_literature_train_as_in_pytorch(name, backend):
    net, settings, Y = network(name, BACKENDS[backend]())
    losses = []
    for step in range(len(STORED[f"{name}/losses"])):
        start = step * BATCH % 40
        losses.append(net.partial_fit(DATA["X"][:, start : start + BATCH], Y[..., start : start + BATCH], **settings))
    np.testing.assert_allclose(losses, STORED[f"{name}/losses"], rtol=1e-10, atol=1e-14)
    for key, wanted in by_name(net, STORED[f"{name}/parameters"]).items():
        found = net.backend.to_numpy(net.parameters[key])
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 * abs(wanted).max())
