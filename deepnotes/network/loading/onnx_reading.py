"""Loading of dense networks from ONNX files, whichever exporter wrote them."""

from os import PathLike
from typing import TYPE_CHECKING

from deepnotes.backends.base import Backend
from deepnotes.network.formats.chain import Chain
from deepnotes.network.formats.containers import as_path
from deepnotes.network.formats.onnx_file import Graph, read
from deepnotes.network.formats.onnx_nodes import HANDLERS
from deepnotes.network.formats.onnx_shapes import SAMPLES, UNKNOWN, Shape
from deepnotes.network.formats.onnx_walk import Refusal, Walk
from deepnotes.network.loading.conversion import network_of
from deepnotes.nn.activations import LIBRARY
from deepnotes.utils.errors import DeepnotesError, ModelFileError

if TYPE_CHECKING:
    from deepnotes.network.network import Network

SUPPORTED = (
    "Gemm and MatMul with constant weights; affine functions with constants before and after them (Add, Sub, Mul, Div, "
    "Neg, Scaler, BatchNormalization); Identity, Dropout, Cast; Flatten, Reshape, Transpose, Squeeze and Unsqueeze if "
    "they keep the order of each sample's numbers; LinearClassifier and LinearRegressor; PRelu; normalizations over "
    "the features, as nodes (LayerNormalization, RMSNormalization) or as their formulas; gates; "
    "residual blocks; and the activations "
    f"{', '.join(sorted(LIBRARY))}, as the common exporters write them"
)


def from_onnx(
    path: str | PathLike[str], *, backend: str | Backend | None = None, output: str | None = None
) -> "Network":
    """Return the network in an ONNX file: dense layers, activations, PReLU, normalizations, gates and residual blocks.

    Samples are columns of the network's arrays, even if they are rows in the file. Standardization before the first
    layer becomes a :class:`~deepnotes.Standardizer`; class names and metadata are kept. Weights in half precision
    are converted to float32, which represents them exactly.

    Parameters
    ----------
    path : path
        If the weights are in a second file, as PyTorch's exporter may write them, that file must be in the same
        directory.
    backend : str or Backend, optional
        The backend to run on; by default the selected one.
    output : str, optional
        The name of the output to compute; required if the file has more than one numeric output. An output of
        ``ZipMap``, which is a dict for each sample, becomes an array.

    Returns
    -------
    Network
        A network with the dtype of the weights in the file; float32 if they are in half precision.

    Raises
    ------
    ModelFileError
        If the file cannot be read, is corrupted, refers to data outside its directory, has weights that are not finite,
        or is not a chain of dense layers; in the last case, the message names the node and the supported operators.
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
        supported = f"; supported: {SUPPORTED}" if isinstance(error, Refusal) else ""
        raise ModelFileError(f"{path}: {error}{supported}") from None
    return network_of(chain, backend)


def _chain(graph: Graph) -> Chain:
    """Return the chain in a graph; each axis of the input that may be the axis of samples is tried in turn."""
    first, *others = _shapes(graph.sizes)
    try:
        return Walk(graph, first, HANDLERS).chain()
    except ModelFileError:
        for shape in others:
            try:
                return Walk(graph, shape, HANDLERS).chain()
            except ModelFileError:
                continue
        raise


def _shapes(sizes: tuple[int, ...] | None) -> list[Shape]:
    """Return the possible shapes of the input, the most likely first.

    Samples are rows, unless the input has two axes and only the second has an unspecified size. If the input has two
    axes and both sizes are specified, or neither, samples may also be columns.

    Parameters
    ----------
    sizes : tuple of int or None
        The sizes of the axes of the input, with 0 for an unspecified size; None if the number of axes is unspecified.
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
