"""The base class of the backend, which Programs and Inferences import to avoid an import cycle."""

from deepnotes.backends import HostBackend


class ThreadedBackend(HostBackend):
    """A backend with NumPy's arrays and a limit on the number of threads.

    Attributes
    ----------
    threads : int or None
        The maximum number of threads of a call, or None if the user has not set it.
    """

    threads: int | None
