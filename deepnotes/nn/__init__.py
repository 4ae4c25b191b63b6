"""Layers, activations, losses, optimizers and schedules, with base classes for defining more of them.

A user-defined layer derives from :class:`Layer`, an activation from :class:`ActivationFunction`, a loss from
:class:`LossFunction`, an optimizer from :class:`Optimizer`, and a schedule from :class:`Schedule`. All except schedules
compute with the functions of an :class:`Ops` on arrays of type :class:`Array`, so they run on every backend. Schedules
compute on the host, in Python.
"""

from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn.activations import Activation, ActivationFunction, FormulaActivation
from deepnotes.nn.averaging import EMA, SWA, WeightAverage
from deepnotes.nn.checking import DerivativeReport
from deepnotes.nn.constraints import Constraint, MaxNorm, NonNegative
from deepnotes.nn.full_batch import LBFGS
from deepnotes.nn.initializers import Initializer
from deepnotes.nn.layers import (
    GLU,
    BatchNorm,
    Context,
    Dense,
    Dropout,
    Embedding,
    Gate,
    Layer,
    LayerNorm,
    Noise,
    Parameter,
    PReLU,
    Residual,
    RMSNorm,
    Shortcut,
    SwiGLU,
)
from deepnotes.nn.losses import GaussianNLL, Loss, LossFunction, QuantileLoss
from deepnotes.nn.optimizer_base import Optimizer
from deepnotes.nn.optimizers import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    AMSGrad,
    Lion,
    Muon,
    NAdam,
    RAdam,
    RMSProp,
)
from deepnotes.nn.schedules import (
    Constant,
    CosineDecay,
    Cyclic,
    ExponentialDecay,
    InverseScaling,
    OneCycle,
    ReduceOnPlateau,
    Schedule,
    StepDecay,
)

__all__ = [
    "EMA",
    "GLU",
    "LBFGS",
    "SGD",
    "SWA",
    "AMSGrad",
    "Activation",
    "ActivationFunction",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Array",
    "BatchNorm",
    "Constant",
    "Constraint",
    "Context",
    "CosineDecay",
    "Cyclic",
    "Dense",
    "DerivativeReport",
    "Dropout",
    "Embedding",
    "ExponentialDecay",
    "FormulaActivation",
    "Gate",
    "GaussianNLL",
    "Initializer",
    "InverseScaling",
    "Layer",
    "LayerNorm",
    "Lion",
    "Loss",
    "LossFunction",
    "MaxNorm",
    "Muon",
    "NAdam",
    "Noise",
    "NonNegative",
    "OneCycle",
    "Ops",
    "Optimizer",
    "PReLU",
    "Parameter",
    "QuantileLoss",
    "RAdam",
    "RMSNorm",
    "RMSProp",
    "ReduceOnPlateau",
    "Residual",
    "Schedule",
    "Shortcut",
    "StepDecay",
    "SwiGLU",
    "WeightAverage",
]
