"""Activations, losses and optimizers that no library has, given as formulas: alone, and in a network."""

from deepnotes.nn.activations import ActivationFunction
from deepnotes.nn.layers import Dense, Layer
from deepnotes.nn.losses import LossFunction
from deepnotes.testing.checks import CheckFunction, Trial, check
from deepnotes.testing.own_parts import OWN_PARTS
from deepnotes.testing.parts import Part, compare_part
from deepnotes.testing.suite.programs import TARGETS
from deepnotes.testing.training_cases import TrainingCase, check_training

OUTPUT_ACTIVATIONS = {"real": "identity", "positive": "softplus", "unit": "sigmoid", "simplex": "softmax"}


def make_part_check(part: Part) -> CheckFunction:
    """Return the check of one part: its values and derivatives, or its updates; and the training of a network."""

    def run(trial: Trial) -> None:
        for dtype in trial.dtypes:
            compare_part(trial, part, dtype)
            check_training(trial, _case(part, dtype), f"{dtype} network")

    return run


def _case(part: Part, dtype: str) -> TrainingCase:
    if isinstance(part, ActivationFunction):
        layers: list[Layer] = [Dense(7, part), Dense(5, part), Dense(3)]
        return TrainingCase(layers, dtype, rate=0.01)
    if isinstance(part, LossFunction):
        layers = [Dense(7, "tanh"), Dense(3, OUTPUT_ACTIVATIONS[part.outputs[0]])]
        return TrainingCase(layers, dtype, part, targets=TARGETS[part.targets], weighted=True)
    return TrainingCase([Dense(7, "tanh"), Dense(3)], dtype, optimizer=part)


for _name, _part in OWN_PARTS.items():
    about = "a part given as a formula: values, derivatives or updates, and the training of a network"
    check(f"programs.own_parts.{_name}", about)(make_part_check(_part))
