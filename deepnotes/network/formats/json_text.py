"""Networks as JSON: the header of a model file, and its tensors as nested lists under ``tensors``.

Each number is the shortest decimal that is read back with the same bits. :class:`JsonDocument` has the interface of an
open model file, so that the same code reads both, with the same checks.
"""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.network.formats.containers import check_format, strict_json
from deepnotes.network.formats.model_files import content
from deepnotes.utils.errors import ArgumentError, ModelFileError
from deepnotes.utils.wording import brief

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike

SOURCE = "text"
"""The name of the JSON in error messages: that of the argument."""


def to_json(network: "NetworkLike") -> str:
    """Return `network` as JSON; see :meth:`deepnotes.Network.to_json`."""
    header, tensors = content(network)
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ModelFileError(f"{name} has numbers that are NaN or infinite, which JSON does not have")
    lists = {name: _decimals(tensor).tolist() for name, tensor in tensors.items()}
    try:
        return json.dumps({"format": 1, **header, "tensors": lists}, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"metadata: wanted only JSON values ({error})") from None


def _decimals(tensor: np.ndarray) -> np.ndarray:
    """Return the float64 numbers whose shortest decimals are those of `tensor` in its own dtype."""
    if tensor.dtype != np.float32:
        return tensor
    decimals = tensor.astype(str).astype(np.float64)
    return np.where(decimals.astype(np.float32) == tensor, decimals, tensor)


class JsonDocument:
    """A network in JSON: its header, and its tensors.

    Parameters
    ----------
    text : str
        The result of :func:`to_json`.

    Attributes
    ----------
    header : dict
    shapes : dict of str to tuple of int
        The shapes of the tensors, by name.

    Raises
    ------
    ArgumentError
        If `text` is not a str.
    ModelFileError
        If it is not such JSON, or contains NaN, infinities or matrices whose rows have different lengths.
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise ArgumentError(f"text: got {type(text).__name__}, wanted JSON as a str, as net.to_json() returns it")
        try:
            self.header = strict_json(text)
        except (ValueError, RecursionError) as error:
            raise ModelFileError(f"{SOURCE} is not valid JSON ({brief(error)})") from None
        tensors = self.header.pop("tensors", None) if isinstance(self.header, dict) else None
        if not isinstance(tensors, dict):
            raise ModelFileError(f"{SOURCE} is JSON, but not a network as net.to_json() writes it")
        check_format(SOURCE, self.header.get("format"))
        self._tensors = {name: _matrix(name, rows) for name, rows in tensors.items()}
        self.shapes: dict[str, tuple[int, ...]] = {name: matrix.shape for name, matrix in self._tensors.items()}

    def tensor(self, name: str, shape: tuple[int, ...] | None = None, dtype: np.dtype[Any] | None = None) -> np.ndarray:
        """Return the tensor `name`, after a check of its shape, in float64 or `dtype`.

        Raises
        ------
        ModelFileError
            If the tensor is missing, has a different shape, or has a number too large for `dtype`.
        """
        if name not in self.shapes:
            raise ModelFileError(f"{SOURCE}: tensor {brief(name)} is missing")
        if shape is not None and self.shapes[name] != shape:
            raise ModelFileError(f"{SOURCE}: tensor {brief(name)} has shape {self.shapes[name]}, wanted {brief(shape)}")
        with np.errstate(over="ignore"):
            tensor = self._tensors[name].astype(dtype or np.float64)
        if not np.isfinite(tensor).all():
            raise ModelFileError(f"{SOURCE}: tensor {brief(name)} has numbers that are too large for {tensor.dtype}")
        return tensor


def _matrix(name: str, rows: Any) -> np.ndarray:
    """Return the rows of a matrix, in nested lists of JSON, as an array of float64."""
    is_matrix = (
        isinstance(rows, list)
        and all(isinstance(row, list) and len(row) == len(rows[0]) for row in rows)
        and all(type(x) in (int, float) for row in rows for x in row)
    )
    if not is_matrix:
        raise ModelFileError(f"{SOURCE}: tensor {brief(name)} is not a list of rows of numbers, all equally long")
    try:
        return np.array(rows, np.float64).reshape(len(rows), -1 if rows and rows[0] else 0)
    except OverflowError:  # a whole number beyond the range of floats
        raise ModelFileError(f"{SOURCE}: tensor {brief(name)} has numbers that are too large for float64") from None
