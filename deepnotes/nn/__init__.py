"""The parts of a network and of its training, and the base classes for parts of your own.

A layer of your own derives from :class:`Layer`, an activation from :class:`ActivationFunction`, a loss from
:class:`LossFunction`, an optimizer from :class:`Optimizer`, a schedule from :class:`Schedule`. They compute through
:class:`Ops` on an :class:`Array` and need nothing else, so they run on every backend.
"""

from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn.activations import Activation, ActivationFunction
from deepnotes.nn.initializers import Initializer
from deepnotes.nn.layers import Context, Dense, Dropout, Layer, Parameter
from deepnotes.nn.losses import Loss, LossFunction
from deepnotes.nn.optimizers import SGD, Adam, AdamW, Optimizer, RMSProp
from deepnotes.nn.schedules import (
    Constant,
    CosineDecay,
    ExponentialDecay,
    InverseScaling,
    ReduceOnPlateau,
    Schedule,
    StepDecay,
)

__all__ = [
    "SGD",
    "Activation",
    "ActivationFunction",
    "Adam",
    "AdamW",
    "Array",
    "Constant",
    "Context",
    "CosineDecay",
    "Dense",
    "Dropout",
    "ExponentialDecay",
    "Initializer",
    "InverseScaling",
    "Layer",
    "Loss",
    "LossFunction",
    "Ops",
    "Optimizer",
    "Parameter",
    "RMSProp",
    "ReduceOnPlateau",
    "Schedule",
    "StepDecay",
]
