"""A third-party backend for PyTorch, based only on the namespace of array-api-compat."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from deepnotes import Backend, BackendUnavailable


class TorchBackend(Backend):
    """A backend that computes with PyTorch tensors on the CPU."""

    known_gaps: Mapping[str, str] = {"namespace.divide": "to divide by a number, PyTorch multiplies by its reciprocal"}

    def from_numpy(self, x: np.ndarray, dtype: Any = None) -> Any:
        """Return a tensor with a copy of `x`, since a tensor can neither be read-only nor have negative strides."""
        return self.xp.asarray(np.array(x, order="C"), dtype=dtype)

    def to_numpy(self, x: Any) -> np.ndarray:
        """Return an array that shares the tensor's memory."""
        return np.asarray(x.numpy())

    def describe(self) -> str:
        """Return the version of PyTorch and its number of threads."""
        import torch

        return f"torch {torch.__version__}, {torch.get_num_threads()} threads"


def create() -> Backend:
    """Return the backend. The entry point of the package refers to this function."""
    try:
        from array_api_compat import torch
    except ImportError as error:
        raise BackendUnavailable("torch", str(error), "pip install deepnotes-torch") from error
    return TorchBackend("torch", torch)
