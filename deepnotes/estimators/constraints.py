"""Constraints on the constructor arguments that both estimators share."""

from numbers import Real
from typing import Any

from sklearn.neural_network import MLPClassifier
from sklearn.utils._param_validation import Interval, StrOptions

from deepnotes.backends.base import Backend
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.activations import ActivationFunction
from deepnotes.nn.averaging import WeightAverage
from deepnotes.nn.hidden_layers import NORMALIZATIONS
from deepnotes.nn.schedules import WHOLE_RUN, Schedule

CONSTRAINTS: dict[str, Any] = {
    **MLPClassifier._parameter_constraints,
    "activation": [StrOptions({"logistic", *ACTIVATIONS}), ActivationFunction, list, tuple],
    "learning_rate": [*MLPClassifier._parameter_constraints["learning_rate"], StrOptions({*WHOLE_RUN}), Schedule],
    "normalization": [StrOptions({*NORMALIZATIONS}), None],
    "residual": ["boolean"],
    "average": [WeightAverage, None],
    "backend": [str, Backend, None],
    "dtype": [StrOptions({"float32", "float64"}), None],
    "l1_ratio": [Interval(Real, 0, 1, closed="both")],
    "dropout": [Interval(Real, 0, 1, closed="left"), list, tuple],
    "callbacks": [list, tuple, None],
}
"""scikit-learn's constraints with more allowed values, and constraints on the arguments that only deepnotes has."""
