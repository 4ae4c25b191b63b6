"""What a network can be written to: the part of :class:`~deepnotes.Network` that has to do with files."""

from os import PathLike
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike


class Exports:
    """The methods of a network that write it to a file, whole or not at all."""

    def save(self, path: "str | PathLike[str]") -> None:
        """Write the network to a safetensors file: architecture, parameters, standardizer, metadata.

        Raises
        ------
        ModelFileError
            If the network has parts of the user's own, which no file can name, or the file cannot be written.
        """
        from deepnotes.network.formats.model_files import save

        save(cast("NetworkLike", self), path)

    def to_onnx(self, path: "str | PathLike[str]") -> None:
        """Write the network to an ONNX file whose input ``X`` has samples as rows, shape (m, n[0]).

        The standardizer is part of it, and the metadata go with it. ``onnx.checker`` has checked it.

        Raises
        ------
        ModelFileError
            As :meth:`save`.
        MissingExtraError
            Without the extra ``onnx``.
        """
        from deepnotes.network.formats import chain, onnx_writing

        onnx_writing.write(path, onnx_writing.to_onnx(chain.Chain.of(cast("NetworkLike", self))))

    def to_python(self, path: "str | PathLike[str]") -> None:
        """Write the network to a file of Python that needs only NumPy, and that can check itself.

        Its ``predict`` takes samples as rows, shape (m, n[0]); ``python FILE --check`` holds it to the test vectors
        that it carries.

        Raises
        ------
        ModelFileError
            As :meth:`save`.
        """
        from deepnotes.network.formats import chain, onnx_writing, python_writing

        onnx_writing.write(path, python_writing.to_python(chain.Chain.of(cast("NetworkLike", self))))
