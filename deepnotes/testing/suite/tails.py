"""Accuracy where digits are easily lost: in the tails of activations and losses, and in sums over many samples."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from deepnotes.backends.program import Batches, Data, State
from deepnotes.nn.layers import Dense
from deepnotes.nn.optimizers import SGD
from deepnotes.testing.calls import call
from deepnotes.testing.checks import Trial, check
from deepnotes.testing.inputs import round_to_7_bits
from deepnotes.testing.training_cases import (
    TrainingCase,
    check_number,
    check_training,
    compile_inference,
    compile_program,
)

LOGITS = round_to_7_bits(np.concatenate([np.linspace(-100, 100, 81), *np.outer([1, -1], np.geomspace(1e-4, 12, 15))]))
TARGETS = (0.0, 1e-3, 0.5, 0.9, 0.999, 1.0)
ACTIVATIONS = (
    "sigmoid", "tanh", "elu", "gelu", "gelu_tanh", "silu", "softplus", "mish", "selu", "celu", "hardswish", "softsign",
)  # fmt: skip
MANY_SAMPLES = 100_000
"""A number of samples at which sequential summation in single precision loses four digits."""


def _sigmoid_inputs() -> tuple[np.ndarray, np.ndarray]:
    """Return logits and targets, shape (1, m), for each pair of a logit and a target."""
    Z, Y = np.meshgrid(LOGITS, TARGETS)
    return Z.reshape(1, -1), Y.reshape(1, -1)


def _softmax_inputs() -> tuple[np.ndarray, np.ndarray]:
    """Return logits and targets, shape (3, m).

    The logit of the first class exceeds 0 by each of LOGITS, once with a certain and once with an uncertain target.
    Three more samples have ties.
    """
    leads = np.vstack([LOGITS, np.zeros_like(LOGITS), np.full_like(LOGITS, -0.5)])
    certain = np.zeros_like(leads)
    certain[0] = 1
    uncertain = np.array([[0.75], [0.125], [0.125]]) + 0 * LOGITS
    ties = np.array([[3.0, 0, -50], [3, 0, -50], [3, -9, -50]])
    Z = np.hstack([leads, leads, ties])
    return Z, np.hstack([certain, uncertain, np.eye(3)])


@check("semantics.tails")
def tails(trial: Trial) -> None:
    """Small results are accurate: logits from -100 to 100, and outputs close to 0, to 1 and to the target."""
    for dtype in trial.dtypes:
        eps = float(np.finfo(dtype).eps)
        for name in ACTIVATIONS:
            trial.check(call(name, {}), [LOGITS[None]], dtype, f"{dtype} {name}")
        trial.check(call("log_softmax", {}), _softmax_inputs()[:1], dtype, f"{dtype} log_softmax")
        trial.check(call("sigmoid_cross_entropy", {}), _sigmoid_inputs(), dtype, f"{dtype} sigmoid_cross_entropy")
        trial.check(call("softmax_cross_entropy", {}), _softmax_inputs(), dtype, f"{dtype} softmax_cross_entropy")
        outputs = np.array([eps, 4 * eps, 1e-3, 0.5, 1 - 1e-3, 1 - 4 * eps, 1 - eps])
        A, Y = (x.reshape(1, -1) for x in np.meshgrid(outputs, [0.0, 1.0]))
        for end in ("", "_derivative"):
            for name in ("binary_cross_entropy", "categorical_cross_entropy", "poisson"):
                trial.check(call(name + end, {}), [A, Y], dtype, f"{dtype} {name}{end}")
            near_target = np.array([[2 - 2 * eps, 2, 2 + 2 * eps, 2 + 1e-3]])
            for name in ("mean_squared_error", "mean_absolute_error", "huber", "poisson"):
                trial.check(
                    call(name + end, {}), [near_target, np.full((1, 4), 2.0)], dtype, f"{dtype} {name}{end} near 2"
                )


def _identity_case(name: str, dtype: str, targets: str) -> tuple[TrainingCase, np.ndarray]:
    """Return a case of one layer whose logits equal its inputs bit by bit, and the parameters for it."""
    k = 1 if name == "sigmoid" else 3
    loss = {"sigmoid": "binary_cross_entropy", "softmax": "categorical_cross_entropy"}[name]
    training = TrainingCase([Dense(k, name)], dtype, loss, optimizer=SGD(0.1), inputs=k, targets=targets)
    return training, np.concatenate([np.eye(k).ravel(), np.zeros(k)]).astype(dtype)


def _identity_cases(trial: Trial, dtype: str) -> Any:
    """Yield a description, a case whose logits equal its inputs, its parameters, X, Y and the expected losses."""
    for name, (Z, Y) in {"sigmoid": _sigmoid_inputs(), "softmax": _softmax_inputs()}.items():
        X, Y = Z.astype(dtype), Y.astype(dtype)
        ops, put = trial.bounds(dtype).ops, trial.bounds(dtype).from_numpy
        for targets in ("distributions", "labels") if name == "softmax" else ("distributions",):
            if targets == "labels":
                certain = Y.max(axis=0) == 1
                X, Y = X[:, certain], Y[:, certain]
            expected = getattr(ops, f"{name}_cross_entropy")(put(X), put(Y))
            labels = Y.argmax(axis=0)[None] if targets == "labels" else Y
            yield f"{dtype} {name}, {targets}", *_identity_case(name, dtype, targets), X, labels, expected


@check("inference.tails")
def inference_tails(trial: Trial) -> None:
    """Losses are accurate for logits from -100 to 100, and for right and wrong targets, one-hot or as class indices."""
    for dtype in trial.dtypes:
        for where, training, theta, X, Y, expected in _identity_cases(trial, dtype):
            put = trial.backend.from_numpy
            inference = compile_inference(trial.backend, training.plan)
            trial.compare(inference.losses(put(theta), put(X), put(Y), training.plan.loss)[1], expected, where)


@check("programs.tails")
def programs_tails(trial: Trial) -> None:
    """Costs of batches of one sample are accurate for logits from -100 to 100, and for right and wrong targets."""
    for dtype in trial.dtypes:
        for where, training, theta, X, Y, expected in _identity_cases(trial, dtype):
            put = trial.backend.from_numpy
            program = compile_program(trial.backend, training.plan)
            data = Data(put(X), put(Y))
            with np.errstate(all="ignore"):
                for sample in range(0, X.shape[1], 7 if trial.quick else 1):
                    batches = Batches(data, np.array([sample]), 1, np.array([1e-3]))
                    chunk = program.train(State(put(theta.copy())), batches)
                    check_number(trial, chunk.cost, expected[0, sample], f"{where}, logits {X[:, sample]}")


def _sample_count(trial: Trial) -> int:
    return MANY_SAMPLES // 4 if trial.quick else MANY_SAMPLES


@check("semantics.many_samples")
def many_samples(trial: Trial) -> None:
    """Sums of many equal terms, whose rounding errors do not cancel, are within their error bounds."""
    m = _sample_count(trial)
    for dtype in trial.dtypes:
        dZ, A = (np.array(x)[:, None] + np.zeros(m) for x in ([0.7, -0.1, 1 / 3], [1.0, 0.3]))
        for name, arguments in {
            "weight_gradient": [dZ, A], "bias_gradient": [dZ], "mean_loss": [dZ[:1]], "total_weight": [dZ[:1]],
        }.items():  # fmt: skip
            trial.check(call(name, {}), arguments, dtype, f"{dtype} {name} of {m} samples", random=False)


@dataclass(frozen=True)
class EqualSamples(TrainingCase):
    """A training case whose samples are all equal."""

    def data(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return X, Y and weights."""
        X, Y, w = super().data()
        return tuple(None if x is None else np.repeat(x[:, :1], self.samples, axis=1) for x in (X, Y, w))  # type: ignore[return-value]


@check("programs.many_samples")
def programs_many_samples(trial: Trial) -> None:
    """An update on a large batch of equal samples is within its error bound, with and without weights."""
    m = _sample_count(trial)
    for dtype in trial.dtypes:
        for weighted in (False, True):
            training = EqualSamples(
                [Dense(3)], dtype, inputs=2, samples=m, batch=m, call_sizes=(m,), rate=1.0, weighted=weighted
            )
            where = f"{dtype} {m} samples{', weighted' if weighted else ''}"
            check_training(trial, training, where, random=False)
