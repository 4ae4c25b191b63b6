"""Inference: the interface for running the forward pass of a network."""

from typing import Protocol

from deepnotes.equations.array import Array
from deepnotes.nn.losses import LossFunction


class Inference(Protocol):
    """The forward pass of a network, ready to run many times; several threads may run it at once.

    An Inference may also have a method ``predict_host(theta, X)``, which takes X and returns the outputs as NumPy
    arrays. If it does, predictions for samples in the memory of the host use this method.
    """

    def predict(self, theta: Array, X: Array) -> Array:
        """Return ``A[L]``, shape (n[L], m), for the parameters theta, shape (p,), and X, shape (n[0], m)."""

    def losses(self, theta: Array, X: Array, Y: Array, loss: LossFunction) -> tuple[Array, Array]:
        """Return ``A[L]`` and the loss of each sample, shape (1, m); Y has shape (n[L], m) or holds class indices."""
