"""deepnotes: dense networks from one set of lecture-note equations, on pluggable array backends.

Samples are columns: X has shape (features, samples). See :class:`Network` for how to begin.
"""

from deepnotes.activations import Activation, ActivationFunction
from deepnotes.backend import Backend
from deepnotes.errors import (
    ArgumentError,
    BackendUnavailable,
    DataError,
    DeepnotesError,
    DTypeError,
    ForeignArrayError,
    ModelFileError,
    NonFiniteLossError,
    ShapeError,
    TableError,
    UnknownNameError,
    UnknownParameterError,
)
from deepnotes.files import load
from deepnotes.layers import Dense, Dropout, Layer
from deepnotes.losses import Loss, LossFunction
from deepnotes.network import Network
from deepnotes.optimizers import SGD, Adam, AdamW, Optimizer, RMSProp
from deepnotes.preprocessing import Standardizer
from deepnotes.registry import available_backends, get_backend, registered_backends, set_backend, use_backend
from deepnotes.schedules import (
    Constant,
    CosineDecay,
    ExponentialDecay,
    InverseScaling,
    ReduceOnPlateau,
    Schedule,
    StepDecay,
)
from deepnotes.training import Callback, EarlyStopping, History

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Activation",
    "ActivationFunction",
    "Adam",
    "AdamW",
    "ArgumentError",
    "Backend",
    "BackendUnavailable",
    "Callback",
    "Constant",
    "CosineDecay",
    "DTypeError",
    "DataError",
    "DeepnotesError",
    "Dense",
    "Dropout",
    "EarlyStopping",
    "ExponentialDecay",
    "ForeignArrayError",
    "History",
    "InverseScaling",
    "Layer",
    "Loss",
    "LossFunction",
    "ModelFileError",
    "Network",
    "NonFiniteLossError",
    "Optimizer",
    "RMSProp",
    "ReduceOnPlateau",
    "Schedule",
    "ShapeError",
    "Standardizer",
    "StepDecay",
    "TableError",
    "UnknownNameError",
    "UnknownParameterError",
    "available_backends",
    "get_backend",
    "load",
    "registered_backends",
    "set_backend",
    "use_backend",
]
