"""deepnotes: dense networks from one set of lecture-note equations, on pluggable array backends.

Samples are columns: X has shape (features, samples). See :class:`Network` for how to begin.
"""

from typing import TYPE_CHECKING, Any

from deepnotes.activations import Activation, ActivationFunction
from deepnotes.backend import Backend
from deepnotes.callbacks import Callback, EarlyStopping
from deepnotes.errors import (
    ArgumentError,
    BackendUnavailable,
    CheckpointError,
    DataError,
    DeepnotesError,
    DeviceMemoryError,
    DTypeError,
    ForeignArrayError,
    ForkedProcessError,
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
from deepnotes.training import History

if TYPE_CHECKING:
    from deepnotes.checkpoints import Checkpoints

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
    "CheckpointError",
    "Checkpoints",
    "Constant",
    "CosineDecay",
    "DTypeError",
    "DataError",
    "DeepnotesError",
    "Dense",
    "DeviceMemoryError",
    "Dropout",
    "EarlyStopping",
    "ExponentialDecay",
    "ForeignArrayError",
    "ForkedProcessError",
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

_LATER = {"Checkpoints": "deepnotes.checkpoints"}
"""What is imported when it is first asked for, and where from: it needs more than most programs do."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = getattr(import_module(_LATER[name]), name)
    return globals()[name]
