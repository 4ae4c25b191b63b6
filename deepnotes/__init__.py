"""Dense neural networks, defined by one set of equations from lecture notes, on exchangeable array backends.

Samples are columns: X has shape (features, samples). Start with :class:`Network`.
"""

from typing import TYPE_CHECKING, Any

from deepnotes.backends.base import Backend
from deepnotes.backends.registry import available_backends, get_backend, registered_backends, set_backend, use_backend
from deepnotes.datasets.on_disk import OnDisk
from deepnotes.datasets.standardizer import Standardizer
from deepnotes.equations.ops import Ops
from deepnotes.network import distributed as distributed
from deepnotes.network.loading.model_reading import load
from deepnotes.network.network import Network
from deepnotes.network.rate_test import RateTest, learning_rate_test
from deepnotes.network.training.callbacks import EarlyStopping, Snapshots
from deepnotes.network.training.history import History
from deepnotes.network.training.state import Callback
from deepnotes.nn.activations import Activation, ActivationFunction
from deepnotes.nn.averaging import EMA, SWA, WeightAverage
from deepnotes.nn.checking import check
from deepnotes.nn.constraints import Constraint, MaxNorm, NonNegative
from deepnotes.nn.full_batch import LBFGS
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
from deepnotes.nn.presets import defaults
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
from deepnotes.utils.errors import (
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
    NotAnExpressionError,
    RankError,
    ShapeError,
    TableError,
    UnknownNameError,
    UnknownParameterError,
)
from deepnotes.utils.extras import is_installed
from deepnotes.utils.version import __version__ as __version__

if TYPE_CHECKING:
    from deepnotes.datasets.disk_tables import open_table
    from deepnotes.datasets.encoding import Encoder
    from deepnotes.datasets.tables import Table, read_table, write_table
    from deepnotes.estimators import (
        DenseClassifier,
        DenseEnsembleClassifier,
        DenseEnsembleRegressor,
        DenseRegressor,
        DenseSearchCV,
        cross_validate,
    )
    from deepnotes.estimators.skl2onnx_converter import register_skl2onnx
    from deepnotes.network.ensemble import Ensemble
    from deepnotes.network.fit_many import FitManyInterrupt, FitResult, fit_many
    from deepnotes.network.gradient_checks import check_gradients
    from deepnotes.network.loading.json_reading import from_json
    from deepnotes.network.loading.onnx_reading import from_onnx
    from deepnotes.network.loading.sklearn_reading import from_sklearn
    from deepnotes.network.model import Model
    from deepnotes.network.training.checkpoints import Checkpoints
    from deepnotes.network.training.tensorboard import TensorBoard


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
    "ArgumentError",
    "Backend",
    "BackendUnavailable",
    "BatchNorm",
    "BusyError",
    "Callback",
    "CheckpointError",
    "Checkpoints",
    "Constant",
    "Constraint",
    "Context",
    "CosineDecay",
    "Cyclic",
    "DTypeError",
    "DataError",
    "DeepnotesError",
    "Dense",
    "DeviceMemoryError",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "Encoder",
    "Ensemble",
    "ExponentialDecay",
    "FitManyInterrupt",
    "FitResult",
    "ForeignArrayError",
    "ForkedProcessError",
    "Gate",
    "GaussianNLL",
    "History",
    "InverseScaling",
    "Layer",
    "LayerNorm",
    "Lion",
    "Loss",
    "LossFunction",
    "MaxNorm",
    "MissingExtraError",
    "Model",
    "ModelFileError",
    "Muon",
    "NAdam",
    "Network",
    "Noise",
    "NonFiniteLossError",
    "NonNegative",
    "NotAnExpressionError",
    "OnDisk",
    "OneCycle",
    "Ops",
    "Optimizer",
    "PReLU",
    "Parameter",
    "QuantileLoss",
    "RAdam",
    "RMSNorm",
    "RMSProp",
    "RankError",
    "RateTest",
    "ReduceOnPlateau",
    "Residual",
    "Schedule",
    "ShapeError",
    "Shortcut",
    "Snapshots",
    "Standardizer",
    "StepDecay",
    "SwiGLU",
    "Table",
    "TableError",
    "TensorBoard",
    "UnknownNameError",
    "UnknownParameterError",
    "WeightAverage",
    "available_backends",
    "check",
    "check_gradients",
    "defaults",
    "fit_many",
    "from_json",
    "from_onnx",
    "from_sklearn",
    "get_backend",
    "learning_rate_test",
    "load",
    "open_table",
    "read_table",
    "registered_backends",
    "set_backend",
    "use_backend",
    "write_table",
]

if is_installed("sklearn"):
    __all__ += [
        "DenseClassifier",
        "DenseEnsembleClassifier",
        "DenseEnsembleRegressor",
        "DenseRegressor",
        "DenseSearchCV",
        "cross_validate",
        "register_skl2onnx",
    ]

_LAZY = {
    "Checkpoints": "deepnotes.network.training.checkpoints",
    "DenseClassifier": "deepnotes.estimators",
    "DenseEnsembleClassifier": "deepnotes.estimators",
    "DenseEnsembleRegressor": "deepnotes.estimators",
    "DenseRegressor": "deepnotes.estimators",
    "DenseSearchCV": "deepnotes.estimators",
    "Encoder": "deepnotes.datasets.encoding",
    "Ensemble": "deepnotes.network.ensemble",
    "FitManyInterrupt": "deepnotes.network.fit_many",
    "FitResult": "deepnotes.network.fit_many",
    "Model": "deepnotes.network.model",
    "Table": "deepnotes.datasets.tables",
    "TensorBoard": "deepnotes.network.training.tensorboard",
    "check_gradients": "deepnotes.network.gradient_checks",
    "cross_validate": "deepnotes.estimators",
    "fit_many": "deepnotes.network.fit_many",
    "from_json": "deepnotes.network.loading.json_reading",
    "from_onnx": "deepnotes.network.loading.onnx_reading",
    "from_sklearn": "deepnotes.network.loading.sklearn_reading",
    "open_table": "deepnotes.datasets.disk_tables",
    "read_table": "deepnotes.datasets.tables",
    "register_skl2onnx": "deepnotes.estimators.skl2onnx_converter",
    "write_table": "deepnotes.datasets.tables",
}
"""The names that are imported on first use, since most programs do not need them, and the modules that define them."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        value = getattr(import_module(_LAZY[name]), name)
    except MissingExtraError as error:
        if _is_import_statement():
            raise
        raise AttributeError(str(error), name=name) from None
    globals()[name] = value
    return value


def _is_import_statement() -> bool:
    """Return whether the attribute is read by ``from deepnotes import name``, which reports only an ImportError."""
    import sys

    return sys._getframe(2).f_globals.get("__name__") == "importlib._bootstrap"


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
