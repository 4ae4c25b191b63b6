"""Export of networks to files, as methods of :class:`~deepnotes.Network`."""

from os import PathLike
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike


class Exports:
    """The methods of a network that write it to a file; if writing fails, an existing file is left unchanged."""

    def save(self, path: "str | PathLike[str]") -> None:
        """Write the network to a safetensors file: architecture, parameters, standardizer, metadata.

        Raises
        ------
        ModelFileError
            If the network has user-defined parts, which a file cannot describe, or the file cannot be written.
        """
        from deepnotes.network.formats.model_files import save

        save(cast("NetworkLike", self), path)

    def to_onnx(self, path: "str | PathLike[str]") -> None:
        """Write the network to an ONNX file whose input ``X`` has samples as rows, shape (m, n[0]).

        The file includes the standardizer and the metadata. It is checked by ``onnx.checker``.

        Raises
        ------
        ModelFileError
            As for :meth:`save`.
        MissingExtraError
            If the extra ``onnx`` is not installed.
        """
        from deepnotes.network.formats import chain, onnx_writing

        onnx_writing.write(path, onnx_writing.to_onnx(chain.Chain.of(cast("NetworkLike", self))))

    def to_python(self, path: "str | PathLike[str]") -> None:
        """Write the network to a Python file that needs only NumPy and can check itself.

        Its ``predict`` takes samples as rows, shape (m, n[0]); ``python FILE --check`` checks its outputs against test
        vectors in the file.

        Raises
        ------
        ModelFileError
            As for :meth:`save`.
        """
        from deepnotes.network.formats import chain, onnx_writing, python_writing

        onnx_writing.write(path, python_writing.to_python(chain.Chain.of(cast("NetworkLike", self))))
