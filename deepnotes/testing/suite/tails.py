"""Loss of digits for special inputs: small losses and outputs in the tails, and sums over many samples."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from deepnotes.backends.program import Batches, Data, State
from deepnotes.nn.layers import Dense
from deepnotes.nn.optimizers import SGD
from deepnotes.testing.calls import call
from deepnotes.testing.checks import DTYPES, Trial, check
from deepnotes.testing.training_cases import TrainingCase, check_number, check_training, inference, program


def _of_few_bits(x: np.ndarray) -> np.ndarray:
    """Return numbers close to x that are exact in every precision of products."""
    mantissa, exponent = np.frexp(x)
    found: np.ndarray = np.ldexp(np.round(mantissa * 128) / 128, exponent)
    return found


LOGITS = _of_few_bits(np.concatenate([np.linspace(-100, 100, 81), *np.outer([1, -1], np.geomspace(1e-4, 12, 15))]))
TARGETS = (0.0, 1e-3, 0.5, 0.9, 0.999, 1.0)
ACTIVATIONS = ("sigmoid", "tanh", "elu", "gelu", "gelu_tanh", "silu", "softplus")
MANY = 100_000
"""The number of samples for which sequential summation loses four digits of single precision."""


def _of_sigmoid() -> tuple[np.ndarray, np.ndarray]:
    """Return logits and targets, shape (1, m): each logit with each target."""
    Z, Y = np.meshgrid(LOGITS, TARGETS)
    return Z.reshape(1, -1), Y.reshape(1, -1)


def _of_softmax() -> tuple[np.ndarray, np.ndarray]:
    """Return logits and targets, shape (3, m): the right class leads by each logit; certain or not, and ties."""
    ahead = np.vstack([LOGITS, np.zeros_like(LOGITS), np.full_like(LOGITS, -0.5)])
    certain = np.zeros_like(ahead)
    certain[0] = 1
    likely = np.array([[0.75], [0.125], [0.125]]) + 0 * LOGITS
    ties = np.array([[3.0, 0, -50], [3, 0, -50], [3, -9, -50]])
    Z = np.hstack([ahead, ahead, ties])
    return Z, np.hstack([certain, likely, np.eye(3)])


@check("semantics.tails")
def tails(trial: Trial) -> None:
    """Logits from -100 to 100, outputs close to 0, 1 and the target: small results keep their digits."""
    for dtype in DTYPES:
        eps = float(np.finfo(dtype).eps)
        for name in ACTIVATIONS:
            trial.check(call(name, {}), [LOGITS[None]], dtype, f"{dtype} {name}")
        trial.check(call("sigmoid_cross_entropy", {}), _of_sigmoid(), dtype, f"{dtype} sigmoid_cross_entropy")
        trial.check(call("softmax_cross_entropy", {}), _of_softmax(), dtype, f"{dtype} softmax_cross_entropy")
        near = np.array([eps, 4 * eps, 1e-3, 0.5, 1 - 1e-3, 1 - 4 * eps, 1 - eps])
        A, Y = (x.reshape(1, -1) for x in np.meshgrid(near, [0.0, 1.0]))
        for end in ("", "_derivative"):
            for name in ("binary_cross_entropy", "categorical_cross_entropy", "poisson"):
                trial.check(call(name + end, {}), [A, Y], dtype, f"{dtype} {name}{end}")
            close = np.array([[2 - 2 * eps, 2, 2 + 2 * eps, 2 + 1e-3]])
            for name in ("mean_squared_error", "mean_absolute_error", "huber", "poisson"):
                trial.check(call(name + end, {}), [close, np.full((1, 4), 2.0)], dtype, f"{dtype} {name}{end} close")


def _passing_on(name: str, dtype: str, targets: str) -> tuple[TrainingCase, np.ndarray]:
    """Return a network of one layer whose logits are its inputs, to the last bit, and its parameters."""
    k = 1 if name == "sigmoid" else 3
    loss = {"sigmoid": "binary_cross_entropy", "softmax": "categorical_cross_entropy"}[name]
    training = TrainingCase([Dense(k, name)], dtype, loss, optimizer=SGD(0.1), inputs=k, targets=targets)
    return training, np.concatenate([np.eye(k).ravel(), np.zeros(k)]).astype(dtype)


def _passed_on(trial: Trial, dtype: str) -> Any:
    """Yield cases of such networks: a name, the network, its parameters, X, Y and the losses wanted."""
    for name, (Z, Y) in {"sigmoid": _of_sigmoid(), "softmax": _of_softmax()}.items():
        X, Y = Z.astype(dtype), Y.astype(dtype)
        ops, put = trial.bounds(dtype).ops, trial.bounds(dtype).from_numpy
        for targets in ("columns", "labels") if name == "softmax" else ("columns",):
            if targets == "labels":
                certain = Y.max(axis=0) == 1
                X, Y = X[:, certain], Y[:, certain]
            wanted = getattr(ops, f"{name}_cross_entropy")(put(X), put(Y))
            given = Y.argmax(axis=0)[None] if targets == "labels" else Y
            yield f"{dtype} {name}, {targets}", *_passing_on(name, dtype, targets), X, given, wanted


@check("inference.tails")
def inference_tails(trial: Trial) -> None:
    """The losses of samples whose logits go from -100 to 100, right and wrong, as numbers and as classes."""
    for dtype in DTYPES:
        for where, training, theta, X, Y, wanted in _passed_on(trial, dtype):
            put = trial.backend.from_numpy
            made = inference(trial.backend, training)
            trial.compare(made.losses(put(theta), put(X), put(Y), training.plan.loss)[1], wanted, where)


@check("programs.tails")
def programs_tails(trial: Trial) -> None:
    """The cost of batches of one sample whose logits go from -100 to 100, right and wrong."""
    for dtype in DTYPES:
        for where, training, theta, X, Y, wanted in _passed_on(trial, dtype):
            put = trial.backend.from_numpy
            made = program(trial.backend, training.plan)
            data = Data(put(X), put(Y))
            with np.errstate(all="ignore"):
                for sample in range(0, X.shape[1], 7 if trial.quick else 1):
                    chunk = made.train(State(put(theta.copy())), Batches(data, np.array([sample]), 1, np.array([1e-3])))
                    check_number(trial, chunk.cost, wanted[0, sample], f"{where}, logits {X[:, sample]}")


def _many(trial: Trial) -> int:
    return MANY // 4 if trial.quick else MANY


@check("semantics.many_samples")
def many_samples(trial: Trial) -> None:
    """Sums over many samples of equal terms, whose roundings do not cancel: their error does not grow with the sum."""
    m = _many(trial)
    for dtype in DTYPES:
        dZ, A = (np.array(x)[:, None] + np.zeros(m) for x in ([0.7, -0.1, 1 / 3], [1.0, 0.3]))
        for name, arguments in {
            "weight_gradient": [dZ, A], "bias_gradient": [dZ], "mean_loss": [dZ[:1]], "total_weight": [dZ[:1]],
        }.items():  # fmt: skip
            trial.check(call(name, {}), arguments, dtype, f"{dtype} {name} of {m} samples", random=False)


@dataclass(frozen=True)
class Equal(TrainingCase):
    """A training on samples that are all equal."""

    def data(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return X, Y and weights."""
        X, Y, w = super().data()
        return tuple(None if x is None else np.repeat(x[:, :1], self.samples, axis=1) for x in (X, Y, w))  # type: ignore[return-value]


@check("programs.many_samples")
def programs_many_samples(trial: Trial) -> None:
    """One update on a large batch of equal samples, weighted and not."""
    m = _many(trial)
    for dtype in DTYPES:
        for weighted in (False, True):
            training = Equal([Dense(3)], dtype, inputs=2, samples=m, batch=m, updates=(m,), rate=1.0, weighted=weighted)
            where = f"{dtype} {m} samples{', weighted' if weighted else ''}"
            check_training(trial, training, where, random=False)
