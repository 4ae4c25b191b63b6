"""Training compared with PyTorch, update by update; tests/fixtures/make_pytorch.py stored PyTorch's results."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.backends.recording.program import RecordedProgram

with np.load(Path(__file__).parents[2] / "fixtures" / "pytorch.npz") as file:
    STORED = dict(file)

SAMPLES, BATCH, EPOCHS = 37, 8, 10
BATCHES = [slice(start, start + BATCH) for start in range(0, SAMPLES, BATCH)]  # the last batch is smaller
TOLERANCE = 1e-10
"""The allowed relative error of a loss; for W and b, the error relative to the largest element of the array."""


@dataclass(frozen=True)
class Case:
    """The settings of a training run: by default a softmax classifier with tanh in hidden layers, trained with Adam."""

    hidden: str | dn.Activation = "tanh"
    output: str = "softmax"
    loss: str | dn.Loss = "categorical_cross_entropy"
    targets: str = "labels"
    optimizer: dn.Optimizer = field(default_factory=lambda: dn.Adam(0.01))
    l2: float = 0.0
    clip_norm: float | None = None
    sample_weight: bool = False
    class_weight: tuple[float, ...] | None = None


def regression(hidden: str, **options: float) -> Case:
    """Return a regression case with the activation `hidden` in hidden layers."""
    return Case(dn.Activation(hidden, **options), "identity", "mean_squared_error", "real")


CASES = {
    # optimizers
    "sgd": Case(optimizer=dn.SGD(0.1)),
    "momentum": Case(optimizer=dn.SGD(0.05, momentum=0.9)),
    "nesterov": Case(optimizer=dn.SGD(0.05, momentum=0.9, nesterov=True)),
    "rmsprop": Case(optimizer=dn.RMSProp(0.01, rho=0.95, epsilon=1e-6)),
    "adam": Case(optimizer=dn.Adam(0.01, beta1=0.8, beta2=0.99, epsilon=1e-6)),
    "adamw": Case(optimizer=dn.AdamW(0.01, weight_decay=0.3)),
    # losses
    "binary_cross_entropy": Case(output="sigmoid", loss="binary_cross_entropy", targets="binary"),
    "binary_cross_entropy_3_outputs": Case(output="sigmoid", loss="binary_cross_entropy", targets="binaries"),
    "softmax_binary_cross_entropy": Case(output="softmax", loss="binary_cross_entropy", targets="binaries"),
    "categorical_cross_entropy": Case(),
    "categorical_cross_entropy_soft": Case(targets="soft"),
    "sigmoid_mean_squared_error": Case(output="sigmoid", loss="mean_squared_error", targets="binaries"),
    "softmax_mean_squared_error": Case(output="softmax", loss="mean_squared_error", targets="soft"),
    "mean_absolute_error": Case(output="identity", loss="mean_absolute_error", targets="real"),
    "huber": Case(output="identity", loss="huber", targets="real"),
    "huber_0.7": Case(output="identity", loss=dn.Loss("huber", delta=0.7), targets="real"),
    "poisson": Case(output="softplus", loss="poisson", targets="counts"),
    "exp_poisson": Case(output="exp", loss="poisson", targets="counts"),
    # activations, with mean squared error
    "identity": regression("identity"),
    "sigmoid": regression("sigmoid"),
    "tanh": regression("tanh"),
    "relu": regression("relu"),
    "leaky_relu": regression("leaky_relu"),
    "elu": regression("elu"),
    "elu_0.5": regression("elu", alpha=0.5),
    "gelu": regression("gelu"),
    "gelu_tanh": regression("gelu_tanh"),
    "silu": regression("silu"),
    "softplus": regression("softplus"),
    # regularization, weights, schedules
    "l2": Case(optimizer=dn.SGD(0.1), l2=0.05),
    "l2_adam": Case(l2=0.05),
    "clip_norm": Case(optimizer=dn.SGD(0.3), clip_norm=0.8),
    "sample_weight": Case(sample_weight=True),
    "sample_weight_regression": Case(output="identity", loss="mean_squared_error", targets="real", sample_weight=True),
    "class_weight": Case(class_weight=(0.5, 1.0, 3.0)),
    "cosine": Case(optimizer=dn.Adam(dn.CosineDecay(0.03, steps=40, warmup=7, final=0.002))),
    "exponential": Case(optimizer=dn.SGD(dn.ExponentialDecay(0.2, every=10, factor=0.7))),
}

PROGRAMS = {"recorded": "numpy", "eager": dn.Backend("eager", np)}

every_case = pytest.mark.parametrize("name", CASES)
both_programs = pytest.mark.parametrize("program", PROGRAMS)


def network(case: Case, program: str) -> dn.Network:
    """Return the network for a case, with PyTorch's initial parameters."""
    outputs = 3 if case.targets == "labels" else len(STORED[case.targets])
    layers = [dn.Dense(7, case.hidden), dn.Dense(6, case.hidden), dn.Dense(outputs, case.output)]
    net = dn.Network(layers, inputs=5, backend=PROGRAMS[program], dtype="float64", seed=0)
    net.parameters.update(split_by_name(net, STORED[f"start/{outputs}"]))
    return net


def split_by_name(net: dn.Network, flat: np.ndarray) -> dict[str, np.ndarray]:
    """Split a vector in the order W1, b1, W2, b2, ... into parameters by name."""
    shapes = {name: parameter.shape for name, parameter in net.parameters.items()}
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    parts = np.split(flat, ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def settings(case: Case) -> dict[str, Any]:
    """Return the arguments that ``fit`` and ``partial_fit`` have in common."""
    return {"loss": case.loss, "optimizer": case.optimizer, "l2": case.l2, "clip_norm": case.clip_norm}


def weights(case: Case) -> np.ndarray | None:
    """Return the weight of each sample, shape (37,), scaled to mean 1, or None if the case has no weights."""
    w = STORED["weight"] if case.sample_weight else None
    if case.class_weight is not None:
        w = np.take(case.class_weight, STORED[case.targets])
    return None if w is None else w / w.mean()


def train_by_batch(case: Case, net: dn.Network) -> list[float]:
    """Train with one ``partial_fit`` for each update; return the costs (the loss of a batch times its mean weight)."""
    X, Y, w = STORED["X"], STORED[case.targets], weights(case)
    costs = []
    for part in EPOCHS * BATCHES:
        sample_weight = None if w is None else w[part]
        loss = net.partial_fit(X[:, part], Y[..., part], sample_weight=sample_weight, **settings(case))
        costs.append(loss if w is None else loss * w[part].mean())
    return costs


def train_by_epoch(case: Case, net: dn.Network) -> dn.History:
    """Train with ``fit``."""
    return net.fit(
        STORED["X"],
        STORED[case.targets],
        epochs=EPOCHS,
        batch_size=BATCH,
        shuffle=False,
        sample_weight=STORED["weight"] if case.sample_weight else None,
        class_weight=case.class_weight,
        **settings(case),
    )


def test_cases_match_the_fixture():
    assert list(CASES) == [name.removesuffix("/losses") for name in STORED if name.endswith("/losses")]


@pytest.mark.thinned(3)
@both_programs
@every_case
def test_losses_and_final_parameters_match_pytorch(name, program):
    net = network(CASES[name], program)
    losses = train_by_batch(CASES[name], net)
    np.testing.assert_allclose(losses, STORED[f"{name}/losses"], rtol=TOLERANCE, atol=0)
    for key, expected in split_by_name(net, STORED[f"{name}/parameters"]).items():
        np.testing.assert_allclose(net.parameters[key], expected, rtol=0, atol=TOLERANCE * abs(expected).max())
    assert net._training is not None
    assert isinstance(net._training[1], RecordedProgram) == (program == "recorded")


@pytest.mark.thinned(3)
@both_programs
@every_case
def test_fit_and_partial_fit_make_bit_identical_updates(name, program):
    case = CASES[name]
    by_batch, by_epoch = network(case, program), network(case, program)
    losses, history = train_by_batch(case, by_batch), train_by_epoch(case, by_epoch)
    np.testing.assert_array_equal(by_epoch.flat(), by_batch.flat())

    sizes = [STORED["X"][:, part].shape[1] for part in BATCHES]
    means = np.average(np.reshape(losses, (EPOCHS, len(BATCHES))), axis=1, weights=sizes)
    np.testing.assert_allclose(history.loss, means, rtol=1e-14)
