"""The backend as its Programs and Inferences know it; the backend itself knows them."""

from deepnotes.backends import HostBackend


class ThreadedBackend(HostBackend):
    """NumPy's arrays, and a limit of threads.

    Attributes
    ----------
    threads : int or None
        How many threads a call may take, if the user says so.
    """

    threads: int | None
