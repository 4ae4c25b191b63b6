"""The network: its parameters, predictions and training, and the files that it is written to and read from."""

from deepnotes.network.network import Network

__all__ = ["Network"]
