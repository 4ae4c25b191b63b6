"""Networks: their parameters, predictions, training, and file formats."""

from deepnotes.network.network import Network

__all__ = ["Network"]
