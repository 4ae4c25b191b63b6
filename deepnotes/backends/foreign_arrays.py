"""Read arrays of other libraries in place, through DLPack or NumPy's own protocol; only :func:`to_host` copies them.

NumPy reads an array on the host in place, whatever its library (PyTorch, JAX, ...). An array in the memory of a GPU is
read in place by a backend whose arrays are on the same GPU. Any other backend raises an error, and the message names
the call that copies the array.
"""

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends.dlpack import HOST, device_of
from deepnotes.utils.array_checks import refuse_masked
from deepnotes.utils.errors import DTypeError, ForeignArrayError

if TYPE_CHECKING:
    from deepnotes.backends.base import Backend


ANY_COPY = "numpy.from_dlpack({0}, device='cpu', copy=True) or deepnotes.get_backend(...).to_numpy({0})"
COPIES = {
    "cupy": "{0}.get() or deepnotes.get_backend('cupy').to_numpy({0})",
    "jax": "jax.device_get({0})",
    "jaxlib": "jax.device_get({0})",
    "torch": "{0}.cpu()",
}
"""The call that copies an array to the host, by library; the name of the array replaces {0}."""


def is_neighbour(backend: "Backend", x: Any) -> bool:
    """Return whether `x` is another library's array on the backend's device, and the device is not the host."""
    if (
        backend.dlpack_device is None
        or backend.dlpack_device[0] in HOST
        or isinstance(x, np.ndarray)
        or backend.is_array(x)
    ):
        return False
    return device_of(x) == backend.dlpack_device


def adopt(backend: "Backend", x: Any, name: str) -> Any:
    """Convert another library's array on the backend's device to an array of the backend, without a copy.

    Anything else is returned unchanged. `name` is the name of `x` in error messages.

    Raises
    ------
    DTypeError
        If the array cannot be read.
    """
    if not is_neighbour(backend, x):
        return x
    namespace: Any = backend.xp
    try:
        return namespace.from_dlpack(x)
    except Exception as error:  # a foreign array may raise any error
        raise DTypeError(_unreadable_message(x, name, error)) from None


def to_host(backend: "Backend", x: Any, name: str) -> Any:
    """Convert an array on the backend's device, whatever its library, to a NumPy array; return other objects unchanged.

    Raises
    ------
    DTypeError
        As in :func:`adopt`.
    DataError
        If elements are masked.
    """
    refuse_masked(x, name)
    x = adopt(backend, x, name)
    return backend.to_numpy(x) if backend.is_array(x) else x


def as_host(backend: "Backend", x: Any, name: str) -> np.ndarray:
    """Return `x`, which is not an array of `backend`, as real numbers in NumPy, without a copy where possible.

    Raises
    ------
    ForeignArrayError
        If the array is on another device.
    DTypeError
        If the array does not hold real numbers, or cannot be read.
    DataError
        If elements are masked.
    """
    refuse_masked(x, name)
    if not isinstance(x, np.ndarray) and hasattr(x, "__dlpack_device__"):
        device = device_of(x)
        if device is None or device[0] not in HOST:
            raise ForeignArrayError(_device_message(backend, x, name))
    if hasattr(x, "tocsr"):
        raise DTypeError(f"{name} is a sparse {type(x).__name__}, but a network takes dense arrays: {name}.toarray()")
    try:
        # NumPy's protocol first: through DLPack, PyTorch ignores the negative bit of a tensor.
        by_dlpack = hasattr(x, "__dlpack__") and not hasattr(x, "__array__")
        array = np.from_dlpack(x) if by_dlpack else np.asarray(x)
    except Exception as error:  # a foreign array may raise any error
        raise DTypeError(_unreadable_message(x, name, error)) from None
    if array.dtype.kind == "V" and array.dtype.names is None:
        raise DTypeError(_dtype_message(name, array.dtype))
    if array.dtype.kind == "O" and hasattr(x, "dtypes"):
        array = _convert_frame(x, array)
    if array.dtype.kind not in "biuf":
        raise DTypeError.of(name, array.dtype, f"real numbers{_hint(x, name, array)}")
    return array


def _hint(x: Any, name: str, array: np.ndarray) -> str:
    """Return the end of the error message for an array without numbers: how to convert it."""
    is_text = array.dtype.kind in "US" or (array.dtype.kind == "O" and isinstance(next(array.flat, None), str))
    if is_text and name.startswith("Y"):
        return (
            f"; convert the names of classes: classes, indices = numpy.unique({name}, return_inverse=True), or use "
            "deepnotes.DenseClassifier, which takes names"
        )
    return f"; use {name}.astype('float64') for numbers, deepnotes.Encoder for text" if hasattr(x, "dtypes") else ""


def _convert_frame(x: Any, array: np.ndarray) -> np.ndarray:
    """Return the elements of a pandas frame or series as numbers, with NaN for missing values.

    If a column has neither numbers nor booleans, return `array` unchanged; its elements are Python objects.
    """
    dtypes = x.dtypes if x.ndim == 2 else [x.dtypes]
    kinds = {getattr(dtype, "kind", "O") for dtype in dtypes}
    if not kinds <= set("biuf"):
        return array
    dtype = {"b": np.bool_, "i": np.int64, "u": np.uint64}.get("".join(kinds), np.float64)
    if dtype is not np.float64 and not x.isna().to_numpy().any():
        return np.asarray(x.to_numpy(dtype=dtype))
    return np.asarray(x.to_numpy(dtype=np.float64, na_value=np.nan))


def _library(x: Any) -> str:
    return type(x).__module__.partition(".")[0]


def _device_message(backend: "Backend", x: Any, name: str) -> str:
    copy = COPIES.get(_library(x), ANY_COPY).format(name)
    return (
        f"{name} is a {_library(x)}.{type(x).__name__} on another device, but this network runs on {backend.name!r}; "
        f"arrays are not copied between devices implicitly: copy it with {copy}, or create the network with the "
        f"backend of {name}"
    )


def _unreadable_message(x: Any, name: str, error: Exception) -> str:
    kind = type(x).__name__
    if getattr(x, "requires_grad", False) is True:
        return (
            f"{name}: got a {kind} that requires a gradient, but gradients do not flow through a network; pass "
            f"{name}.detach()"
        )
    if re.search("bfloat16|float8|float4", str(getattr(x, "dtype", ""))):
        return _dtype_message(name, x.dtype)
    cause = " ".join(str(error).split()) or type(error).__name__
    return f"{name}: got {kind}, wanted an array of real numbers ({cause})"


def _dtype_message(name: str, dtype: Any) -> str:
    return f"{name}: got an array of {dtype}, which NumPy cannot read; convert it, for example to float32"
