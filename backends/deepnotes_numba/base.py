"""The interface of the backend that its Programs and Inferences use, without importing the backend."""

from deepnotes.backends import HostBackend


class ThreadedBackend(HostBackend):
    """NumPy's arrays, and a limit on threads.

    Attributes
    ----------
    threads : int or None
        The most threads that a call may use, if the user sets it.
    """

    threads: int | None
