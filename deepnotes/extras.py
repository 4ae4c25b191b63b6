"""Libraries that are not always there: imported where they are used, with an error that says how to get them."""

from importlib import import_module
from typing import Any

from deepnotes.errors import ExtraMissing


def needed(module: str, extra: str, purpose: str) -> Any:
    """Return a module of an optional library.

    Parameters
    ----------
    module : str
    extra : str
        The extra of deepnotes that has it.
    purpose : str
        What needs it, as the subject of a sentence.

    Raises
    ------
    ExtraMissing

    Examples
    --------
    >>> needed("no_such_library", "onnx", "dn.from_onnx")
    Traceback (most recent call last):
    deepnotes.errors.ExtraMissing: dn.from_onnx needs no_such_library; to get it: pip install "deepnotes[onnx]"
    """
    try:
        return import_module(module)
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # it is there, and something else is not
        raise ExtraMissing(module.partition(".")[0], extra, purpose) from None
