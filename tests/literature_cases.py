"""The networks that train the parts of literature.py and of the library, and the results of PyTorch for them."""

from pathlib import Path
from typing import Any

import literature
import numpy as np

import deepnotes as dn

FIXTURES = Path(__file__).parent / "fixtures"
with np.load(FIXTURES / "pytorch.npz") as file:
    DATA = dict(file)
with np.load(FIXTURES / "literature.npz") as file:
    STORED = dict(file)

BUILT_IN: dict[str, Any] = {
    "Mish": dn.Activation("mish"),
    "SELU": dn.Activation("selu"),
    "CELU": dn.Activation("celu", alpha=1.3),
    "HardSwish": dn.Activation("hardswish"),
    "SoftSign": dn.Activation("softsign"),
    "ReLU6": dn.Activation("relu6"),
    "LogSoftmax": dn.Activation("log_softmax"),
    "LogCosh": dn.Loss("log_cosh"),
    "Pinball": dn.Loss("pinball", quantile=0.8),
    "Focal": dn.Loss("focal"),
    "KLDivergence": dn.Loss("kl_divergence"),
    "Hinge": dn.Loss("hinge"),
    "LabelSmoothing": dn.Loss("categorical_cross_entropy", label_smoothing=0.1),
    "ExpPoisson": dn.Loss("poisson"),
    "Lion": dn.Lion(0.01),
    "LionDecay": dn.Lion(0.01, weight_decay=0.1),
    "Adagrad": dn.Adagrad(0.01, epsilon=1e-6),
    "Adadelta": dn.Adadelta(1.0, rho=0.9, epsilon=1e-6),
    "Adamax": dn.Adamax(0.01, beta2=0.99, epsilon=1e-6),
    "AMSGrad": dn.AMSGrad(0.01, beta2=0.99, epsilon=1e-6),
    "NAdam": dn.NAdam(0.01, beta2=0.99, epsilon=1e-6),
    "RAdam": dn.RAdam(0.01, beta2=0.99, epsilon=1e-6),
}
"""Parts of the library, with the settings of the fixture."""
OWN = {type(p).__name__: p for p in (*literature.ACTIVATIONS, *literature.LOSSES, *literature.OPTIMIZERS)}
PARTS = OWN | BUILT_IN
TARGETS = {
    "Focal": "binaries", "KLDivergence": "soft", "Hinge": "binaries", "SquaredHinge": "binaries",
    "GammaDeviance": "counts", "LabelSmoothing": "labels", "ExpPoisson": "counts",
}  # fmt: skip
OUTPUTS = {"Focal": "sigmoid", "KLDivergence": "softmax", "GammaDeviance": "softplus"}
OUTPUTS |= {"LabelSmoothing": "softmax", "ExpPoisson": "exp"}
BATCH = 8


def network(name: str, backend: Any, dtype: str = "float64") -> tuple[dn.Network, dict[str, Any], np.ndarray]:
    """Return the network of a case with PyTorch's initial parameters, what `partial_fit` takes, and the targets."""
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
    net = dn.Network(layers, inputs=5, backend=backend, dtype=dtype, seed=0)
    net.parameters.update(by_name(net, DATA["start/3"]))
    return net, settings, Y


def by_name(net: dn.Network, flat: np.ndarray) -> dict[str, np.ndarray]:
    """Return parameters by name, of a vector of all of them in the order W1, b1, W2, b2, ..."""
    shapes = {name: parameter.shape for name, parameter in net.parameters.items()}
    parts = np.split(flat, np.cumsum([np.prod(shape) for shape in shapes.values()])[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def train(name: str, backend: Any, dtype: str = "float64") -> tuple[dn.Network, list[float]]:
    """Return the trained network of a case, and the loss of each batch."""
    net, settings, Y = network(name, backend, dtype)
    losses = []
    for step in range(len(STORED[f"{name}/losses"])):
        batch = slice(step * BATCH % 40, step * BATCH % 40 + BATCH)
        losses.append(net.partial_fit(DATA["X"][:, batch], Y[..., batch], **settings))
    return net, losses
