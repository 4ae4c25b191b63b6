"""Predictions and losses, by the backend's own Inference or by the eager one."""

import numpy as np

from deepnotes.backends.eager import EagerInference
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.layers import Dense, Dropout, Layer
from deepnotes.nn.losses import LIBRARY as LOSSES
from deepnotes.testing.checks import CheckFunction, Trial, check
from deepnotes.testing.inputs import LAYOUTS
from deepnotes.testing.suite.programs import OUTPUT_ACTIVATIONS, TARGETS, small
from deepnotes.testing.training_cases import TrainingCase, compile_inference, place_on


def check_predictions(trial: Trial, training: TrainingCase, where: str) -> None:
    """Check outputs and losses against the equations."""
    bounds, plan = trial.bounds(training.dtype), training.plan
    reference = EagerInference(bounds, plan.layers, plan.layout, plan.dtype)
    (expected_state, expected_data), (state, data) = place_on(bounds, training), place_on(trial.backend, training)
    inference = compile_inference(trial.backend, training.plan)
    with np.errstate(all="ignore"):
        expected = reference.predict(expected_state.theta, expected_data.X)
        result = inference.predict(state.theta, data.X)
        trial.compare(result, expected, where)  # type: ignore[arg-type]
        if data.X.shape[1]:
            wanted_losses = reference.losses(expected_state.theta, expected_data.X, expected_data.Y, plan.loss)[1]
            outputs, losses = inference.losses(state.theta, data.X, data.Y, plan.loss)
            trial.compare(losses, wanted_losses, f"{where}: losses")  # type: ignore[arg-type]
            trial.compare(outputs, expected, f"{where}: outputs computed with the losses")  # type: ignore[arg-type]
    trial.same(data.X, training.data()[0], f"{where}: X afterwards")


def make_prediction_check(name: str) -> CheckFunction:
    """Return the check of predictions for one activation."""

    def run(trial: Trial) -> None:
        for dtype in trial.dtypes:
            layers: list[Layer] = [Dense(n, name) for n in (9, 33, 3)]
            for samples in (1, 40):
                check_predictions(trial, TrainingCase(layers, dtype, samples=samples), f"{dtype} {samples} samples")

    return run


for _name in ACTIVATIONS:
    check(f"inference.activation.{_name}", "outputs and losses of one sample and of many")(make_prediction_check(_name))


@check("inference.samples")
def sample_counts(trial: Trial) -> None:
    """Predictions are correct for 0 samples, 1, many, and numbers of samples close to the width of a register."""
    for dtype in trial.dtypes:
        for m in (0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 200 if trial.quick else 5000):
            check_predictions(
                trial,
                TrainingCase([Dense(7, "tanh"), Dropout(0.5), Dense(3)], dtype, samples=m),
                f"{dtype} {m} samples",
            )


@check("inference.layouts")
def inference_layouts(trial: Trial) -> None:
    """Predictions are correct for samples in any memory layout."""
    for dtype in trial.dtypes:
        for name, layout in LAYOUTS.items():
            for m in (1, 23):
                check_predictions(
                    trial, TrainingCase(small(), dtype, samples=m, layout=layout), f"{dtype} {m} samples, {name}"
                )


@check("inference.losses")
def losses(trial: Trial) -> None:
    """The loss of each sample is correct, for every loss function."""
    for dtype in trial.dtypes:
        for name, traits in LOSSES.items():
            for activation in OUTPUT_ACTIVATIONS.get(name, ["identity", "softmax"]):
                layers: list[Layer] = [Dense(6, "tanh"), Dense(3, activation)]
                training = TrainingCase(layers, dtype, name, targets=TARGETS[traits.targets])
                check_predictions(trial, training, f"{dtype} {name} after {activation}")


@check("inference.new_parameters")
def new_parameters(trial: Trial) -> None:
    """Each prediction uses the parameters passed to the call, not the parameters of an earlier call."""
    for dtype in trial.dtypes:
        training = TrainingCase(small(), dtype)
        inference, bounds = compile_inference(trial.backend, training.plan), trial.bounds(dtype)
        reference = compile_inference(bounds, training.plan)
        _, data = place_on(trial.backend, training)
        _, expected_data = place_on(bounds, training)
        for factor in (1, 0.5, -1, 1):
            theta = training.theta() * training.plan.layout.decays().dtype.type(factor)
            theta = theta.astype(dtype)
            for columns in (slice(0, 1), slice(None)):
                result = inference.predict(trial.backend.from_numpy(theta), data.X[:, columns])
                expected = reference.predict(bounds.from_numpy(theta), expected_data.X[:, columns])
                trial.compare(result, expected, f"{dtype} θ times {factor}")  # type: ignore[arg-type]
