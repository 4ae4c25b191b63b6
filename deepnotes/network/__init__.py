"""The network: its parameters, predictions and training, and the files that it is saved to and loaded from."""

from deepnotes.network.network import Network

__all__ = ["Network"]
