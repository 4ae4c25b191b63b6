"""Networks: parameters, predictions, training, and the formats of their files."""

from deepnotes.network.network import Network

__all__ = ["Network"]
