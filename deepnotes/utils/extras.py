"""Import optional libraries, with an error that says how to install them."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from deepnotes.utils.errors import MissingExtraError


def is_installed(module: str) -> bool:
    """Return whether a top-level module can be found; it is not imported.

    Parameters
    ----------
    module : str

    Returns
    -------
    bool

    Examples
    --------
    >>> is_installed("no_such")
    False
    """
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # an import hook refuses it, or a module of this name was made by hand
        return False


def import_optional(module: str, extra: str, what: str) -> Any:
    """Import and return a module of an optional library.

    Parameters
    ----------
    module : str
    extra : str
        The extra of deepnotes that installs the library.
    what : str
        The feature that needs the library.

    Raises
    ------
    MissingExtraError
        If the library cannot be imported.

    Examples
    --------
    >>> import_optional("no_such", "onnx", "it")
    Traceback (most recent call last):
    deepnotes.utils.errors.MissingExtraError: it: No module named 'no_such'; to fix it: pip install "deepnotes[onnx]"
    """
    try:
        return import_module(module)
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # the module exists, but a module that it imports does not
        raise MissingExtraError(what, extra, error) from None
