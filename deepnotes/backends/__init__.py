"""The interface of backends: everything that the packages under ``backends/`` use, and nothing else.

A backend derives from :class:`Backend`, or from :class:`HostBackend` if its arrays are NumPy's. A backend that has
only a namespace can train (level 1). The ``kernels`` of a backend replace equations (level 2). The methods ``compile``
and ``compile_inference`` of a backend return its own :class:`Program` and :class:`Inference` for the plans that it
supports, see :class:`Supported` (level 3). The other names are types and helpers for implementing backends.

These names are stable; the modules that define them are not.
"""

from typing import TYPE_CHECKING, Any

from deepnotes.backends.base import Backend
from deepnotes.backends.eager import ELEMENTS, EagerInference, EagerProgram
from deepnotes.backends.host import HostBackend, aligned, gather_into
from deepnotes.backends.inference import Inference
from deepnotes.backends.jit import JitProgram
from deepnotes.backends.program import CHUNK_SECONDS, Batches, Chunk, Data, EpochProgram, Program, Shard, State, Sums
from deepnotes.backends.samples import Indices, Samples
from deepnotes.equations.array import Array, DType, Namespace, Shape
from deepnotes.equations.ops import Ops
from deepnotes.nn import formulas
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.activations import Activation, ActivationFunction
from deepnotes.nn.expressions import FULL, NUMBER, PER_SAMPLE, Expression, trace
from deepnotes.nn.layers import BatchNorm, Context, Dense, Dropout, Embedding, Layer, Noise, Parameter, Shortcut
from deepnotes.nn.library import library_activations, library_layers, library_losses, library_optimizers
from deepnotes.nn.losses import LIBRARY as LOSSES
from deepnotes.nn.losses import Loss, LossFunction
from deepnotes.nn.optimizer_base import Optimizer
from deepnotes.nn.optimizers import LIBRARY as OPTIMIZERS
from deepnotes.nn.optimizers import SGD, Adam, AdamW, RMSProp
from deepnotes.nn.plan import NOTES, Layout, Objective, Plan, Supported, fuses, scalar_table
from deepnotes.nn.steps import Gradient, squared_norm
from deepnotes.utils.arguments import number, whole
from deepnotes.utils.atomic_files import replacing
from deepnotes.utils.cache_folder import cache_folder
from deepnotes.utils.errors import ArgumentError, BackendUnavailable, DeviceMemoryError, ForkedProcessError, RankError
from deepnotes.utils.wording import reason

if TYPE_CHECKING:
    from deepnotes.backends.recording.program import RecordedProgram, recordable

__all__ = [
    "ACTIVATIONS",
    "CHUNK_SECONDS",
    "ELEMENTS",
    "FULL",
    "LOSSES",
    "NOTES",
    "NUMBER",
    "OPTIMIZERS",
    "PER_SAMPLE",
    "SGD",
    "Activation",
    "ActivationFunction",
    "Adam",
    "AdamW",
    "ArgumentError",
    "Array",
    "Backend",
    "BackendUnavailable",
    "BatchNorm",
    "Batches",
    "Chunk",
    "Context",
    "DType",
    "Data",
    "Dense",
    "DeviceMemoryError",
    "Dropout",
    "EagerInference",
    "EagerProgram",
    "Embedding",
    "EpochProgram",
    "Expression",
    "ForkedProcessError",
    "Gradient",
    "HostBackend",
    "Indices",
    "Inference",
    "JitProgram",
    "Layer",
    "Layout",
    "Loss",
    "LossFunction",
    "Namespace",
    "Noise",
    "Objective",
    "Ops",
    "Optimizer",
    "Parameter",
    "Plan",
    "Program",
    "RMSProp",
    "RankError",
    "RecordedProgram",
    "Samples",
    "Shape",
    "Shard",
    "Shortcut",
    "State",
    "Sums",
    "Supported",
    "aligned",
    "cache_folder",
    "formulas",
    "fuses",
    "gather_into",
    "library_activations",
    "library_layers",
    "library_losses",
    "library_optimizers",
    "number",
    "reason",
    "recordable",
    "replacing",
    "scalar_table",
    "squared_norm",
    "trace",
    "whole",
]


def __getattr__(name: str) -> Any:
    if name not in {"RecordedProgram", "recordable"}:  # imported late, since most programs do not use them
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from deepnotes.backends.recording import program

    globals()[name] = getattr(program, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
