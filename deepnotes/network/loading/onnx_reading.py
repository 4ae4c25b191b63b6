"""Loading of dense networks from ONNX files of any exporter."""

from os import PathLike
from typing import TYPE_CHECKING

from deepnotes.backends.base import Backend
from deepnotes.network.formats.chain import Chain
from deepnotes.network.formats.containers import as_path
from deepnotes.network.formats.onnx_file import Graph, read
from deepnotes.network.formats.onnx_nodes import Refusal, Walk
from deepnotes.network.formats.onnx_shapes import SAMPLES, UNKNOWN, Shape
from deepnotes.network.loading.conversion import network_of
from deepnotes.nn.activations import LIBRARY
from deepnotes.utils.errors import DeepnotesError, ModelFileError

if TYPE_CHECKING:
    from deepnotes.network.network import Network

SUPPORTED = (
    "Gemm and MatMul with constant weights, affine functions with constants (Add, Sub, Mul, Div, Neg, Scaler, "
    "BatchNormalization) before and after them, Identity, Dropout, Cast, Flatten, Reshape, Transpose, Squeeze and "
    "Unsqueeze where each sample keeps its numbers in their order, LinearClassifier and LinearRegressor, and the "
    f"activations {', '.join(sorted(LIBRARY))}, in the ways in which they are usually written"
)


def from_onnx(
    path: str | PathLike[str], *, backend: str | Backend | None = None, output: str | None = None
) -> "Network":
    """Return the network that an ONNX file holds: a chain of dense layers and activations.

    In the network samples are columns, as always, even if they are rows in the file. Standardization before the first
    layer becomes a :class:`~deepnotes.Standardizer`; names of classes and metadata are kept. Weights in half precision
    are read as float32, which represents them exactly.

    Parameters
    ----------
    path : path
        If the file keeps its weights in another file, as PyTorch's exporter does, that is read from the same folder.
    backend : str or Backend, optional
        The backend to run on; by default the selected one.
    output : str, optional
        The output of the file to compute, if it has more than one numeric output. The output of ``ZipMap``, a dict for
        each sample, becomes an array.

    Returns
    -------
    Network
        Its dtype is that of the weights in the file.

    Raises
    ------
    ModelFileError
        If the file cannot be read, is damaged, keeps data outside its folder, holds weights that are not finite, or is
        not a dense chain; in the last case the message names the node, and what is supported.
    MissingExtraError
        If the extra ``onnx`` is not installed.
    UnknownNameError, BackendUnavailable
        As for :func:`deepnotes.get_backend`.
    """
    path = as_path(path)
    graph = read(path, output)
    try:
        chain = _chain(graph)
    except DeepnotesError as error:
        supported = f"; supported are {SUPPORTED}" if isinstance(error, Refusal) else ""
        raise ModelFileError(f"{path}: {error}{supported}") from None
    return network_of(chain, backend)


def _chain(graph: Graph) -> Chain:
    """Return the chain in a graph, trying each axis that may count the samples."""
    first, *others = _shapes(graph.sizes)
    try:
        return Walk(graph, first).chain()
    except ModelFileError:
        for shape in others:
            try:
                return Walk(graph, shape).chain()
            except ModelFileError:
                continue
        raise


def _shapes(sizes: tuple[int, ...] | None) -> list[Shape]:
    """Return the possible shapes of the input, the likeliest first.

    Samples are rows, unless there are two axes and only the second has an unspecified size, or the first layer takes
    columns.
    """
    if sizes is None:
        return [Shape((SAMPLES, UNKNOWN)), Shape((UNKNOWN, SAMPLES))]
    rows = Shape((SAMPLES, *sizes[1:]), sizes[0] or None)
    if len(sizes) != 2:
        return [rows]
    columns = Shape((sizes[0], SAMPLES), sizes[1] or None)
    if bool(sizes[0]) == bool(sizes[1]):
        return [rows, columns]
    return [rows] if sizes[1] else [columns]
