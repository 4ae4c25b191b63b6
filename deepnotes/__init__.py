"""deepnotes: dense networks from one set of lecture-note equations, on pluggable array backends.

Samples are columns: X has shape (features, samples). See :class:`Network` for how to begin.
"""

from typing import TYPE_CHECKING, Any

from deepnotes.activations import Activation, ActivationFunction
from deepnotes.backend import Backend
from deepnotes.callbacks import Callback, EarlyStopping
from deepnotes.dialects import defaults
from deepnotes.disk import OnDisk
from deepnotes.errors import (
    ArgumentError,
    BackendUnavailable,
    BusyError,
    CheckpointError,
    DataError,
    DeepnotesError,
    DeviceMemoryError,
    DTypeError,
    ForeignArrayError,
    ForkedProcessError,
    MissingExtraError,
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
    from deepnotes.disk_tables import open_table
    from deepnotes.encoding import Encoder
    from deepnotes.estimators import DenseClassifier, DenseRegressor
    from deepnotes.formats.estimators import from_sklearn
    from deepnotes.formats.onnx_reading import from_onnx
    from deepnotes.formats.skl2onnx_converter import register_skl2onnx
    from deepnotes.tables import Table, read_table, write_table
    from deepnotes.tensorboard import TensorBoard

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
    "BusyError",
    "Callback",
    "CheckpointError",
    "Checkpoints",
    "Constant",
    "CosineDecay",
    "DTypeError",
    "DataError",
    "DeepnotesError",
    "Dense",
    "DenseClassifier",
    "DenseRegressor",
    "DeviceMemoryError",
    "Dropout",
    "EarlyStopping",
    "Encoder",
    "ExponentialDecay",
    "ForeignArrayError",
    "ForkedProcessError",
    "History",
    "InverseScaling",
    "Layer",
    "Loss",
    "LossFunction",
    "MissingExtraError",
    "ModelFileError",
    "Network",
    "NonFiniteLossError",
    "OnDisk",
    "Optimizer",
    "RMSProp",
    "ReduceOnPlateau",
    "Schedule",
    "ShapeError",
    "Standardizer",
    "StepDecay",
    "Table",
    "TableError",
    "TensorBoard",
    "UnknownNameError",
    "UnknownParameterError",
    "available_backends",
    "defaults",
    "from_onnx",
    "from_sklearn",
    "get_backend",
    "load",
    "open_table",
    "read_table",
    "register_skl2onnx",
    "registered_backends",
    "set_backend",
    "use_backend",
    "write_table",
]

_LATER = {
    "Checkpoints": "deepnotes.checkpoints",
    "DenseClassifier": "deepnotes.estimators",
    "DenseRegressor": "deepnotes.estimators",
    "Encoder": "deepnotes.encoding",
    "Table": "deepnotes.tables",
    "TensorBoard": "deepnotes.tensorboard",
    "from_onnx": "deepnotes.formats.onnx_reading",
    "from_sklearn": "deepnotes.formats.estimators",
    "open_table": "deepnotes.disk_tables",
    "read_table": "deepnotes.tables",
    "register_skl2onnx": "deepnotes.formats.skl2onnx_converter",
    "write_table": "deepnotes.tables",
}
"""What is imported when it is first asked for, and where from: it needs more than most programs do."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = getattr(import_module(_LATER[name]), name)
    return globals()[name]
