"""Loading of networks from JSON."""

from typing import Any

from deepnotes.backends.base import Backend
from deepnotes.network.formats.json_text import SOURCE, JsonDocument
from deepnotes.network.loading.model_reading import as_model, read_network


def from_json(text: str, backend: str | Backend | None = None) -> Any:
    """Return the network in JSON that :meth:`Network.to_json` has written, with the same bits.

    Parameters
    ----------
    text : str
        The JSON itself, not the name of a file: ``Path("model.json").read_text()``.
    backend : str or Backend, optional
        The backend to run on, by default the selected one.

    Returns
    -------
    Network
        Or a :class:`~deepnotes.Model`, if the metadata describe one; see :func:`deepnotes.load`.

    Raises
    ------
    ArgumentError
        If `text` is not a str.
    ModelFileError
        If it is not valid JSON, contains NaN or infinities, has a newer format, or is not a network.
    UnknownNameError, BackendUnavailable
        As for :func:`deepnotes.get_backend`.

    Examples
    --------
    >>> import deepnotes as dn
    >>> net = dn.Network([dn.Dense(2, "tanh"), dn.Dense(1)], inputs=3, seed=0)
    >>> again = dn.from_json(net.to_json())
    >>> again.layers == net.layers, bool((again.flat() == net.flat()).all())
    (True, True)
    """
    return as_model(read_network(SOURCE, JsonDocument(text), backend), SOURCE)
