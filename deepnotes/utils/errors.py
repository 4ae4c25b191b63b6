"""Every error that deepnotes raises on purpose: one base class, and the built-in class a caller would expect.

Each message names the argument, says what came and what was wanted, and is raised before any state changes.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from deepnotes.utils.wording import brief

Entry = TypeVar("Entry")


class DeepnotesError(Exception):
    """The base of all of them, so that one ``except`` can catch what deepnotes refuses."""


class ArgumentError(DeepnotesError, ValueError):
    """An argument has a value outside its range, such as ``batch_size=0``."""


class ShapeError(DeepnotesError, ValueError):
    """An array has a shape that does not fit the network or another array."""


class DTypeError(DeepnotesError, TypeError):
    """An array holds something that is not real numbers: objects, strings, complex numbers."""


class DataError(DeepnotesError, ValueError):
    """An array holds numbers that cannot be used: NaN, infinity, labels out of range."""


class ForeignArrayError(DeepnotesError, TypeError):
    """An array lives on another device or backend, and nothing moves unless asked."""


class UnknownNameError(DeepnotesError, ValueError):
    """A name of an activation, loss, optimizer, backend, ... that does not exist."""


class UnknownParameterError(UnknownNameError, KeyError):
    """A name of a parameter that the network does not have."""

    def __str__(self) -> str:
        """Return the message as it is; a KeyError would quote it."""
        return str(self.args[0])


class BackendUnavailable(DeepnotesError, RuntimeError):
    """A backend is not installed, fails to import or has no device.

    Parameters
    ----------
    name : str
        The backend that was asked for.
    cause : str
        What is wrong, in a few words.
    fix : str
        The exact command, or the step, that mends it.
    """

    def __init__(self, name: str, cause: str, fix: str) -> None:
        super().__init__(f"backend {name!r} is unavailable: {cause}; to fix it: {fix}")
        self.name, self.cause, self.fix = name, cause, fix


class NonFiniteLossError(DeepnotesError, ArithmeticError):
    """Training met a loss or gradient that is NaN or infinite; the parameters are the last finite ones.

    Attributes
    ----------
    step : int
        The update, counted from 1 since training began, that was not made.
    history : object
        The :class:`~deepnotes.network.training.history.History` up to there, or None.
    layer : int or None
        The layer, counted from 1, whose output or gradient was the first that is not finite; None where none was.
    """

    def __init__(self, message: str, step: int, history: object = None, layer: int | None = None) -> None:
        super().__init__(message)
        self.step, self.history, self.layer = step, history, layer


class MissingExtraError(DeepnotesError, ImportError):
    """What was asked for needs a library that comes with an extra, and it cannot be imported.

    Parameters
    ----------
    what : str
        What was asked for.
    extra : str
        The extra that brings it.
    cause : object
        What is wrong, in a few words.
    """

    def __init__(self, what: str, extra: str, cause: object) -> None:
        super().__init__(f'{what}: {cause}; to fix it: pip install "deepnotes[{extra}]"')


class DeviceMemoryError(DeepnotesError, MemoryError):
    """A device has too little memory left for what was asked of it; something smaller works in the same process.

    Parameters
    ----------
    requested, free : int
        Bytes.
    advice : str, optional
        What would fit.
    batch_size : int, optional
        A batch size that would.

    Examples
    --------
    >>> print(DeviceMemoryError(3 << 30, 1 << 30, "batch_size=4096 would fit", 4096))
    3,221,225,472 bytes were asked for on the device and 1,073,741,824 are free; batch_size=4096 would fit
    """

    def __init__(self, requested: int, free: int, advice: str = "", batch_size: int | None = None) -> None:
        told = f"{requested:,} bytes were asked for on the device and {free:,} are free"
        super().__init__(f"{told}; {advice}" if advice else told)
        self.requested, self.free, self.advice, self.batch_size = requested, free, advice, batch_size

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.requested, self.free, self.advice, self.batch_size)


class ForkedProcessError(DeepnotesError, RuntimeError):
    """A process that was forked uses a device that its parent had opened, which no driver allows."""


class BusyError(DeepnotesError, RuntimeError):
    """A network is being trained already; two trainings at once would be none."""


class CheckpointError(DeepnotesError, ValueError):
    """There is no checkpoint to go on from, or it is of another training; or one cannot be written."""


class TableError(DeepnotesError, ValueError):
    """A data file cannot be read as a table of numbers; the message gives line and column."""


class ModelFileError(DeepnotesError, ValueError):
    """A model file is truncated, altered, hostile, or of a format this version does not know."""


def look_up(kind: str, name: Any, library: Mapping[str, Entry]) -> Entry:
    """Return ``library[name]``.

    Raises
    ------
    UnknownNameError
        If `name` is no key of it, whatever else it may be.
    """
    if not isinstance(name, str) or name not in library:
        raise unknown_name(kind, name, library)
    return library[name]


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """Return the error for a `name` that is none of the `known` ones, with the nearest match.

    Parameters
    ----------
    kind : str
        What it should be the name of.
    name : object
    known : iterable of str

    Examples
    --------
    >>> print(unknown_name("activation", "rleu", ["relu", "tanh"]))
    unknown activation 'rleu'; did you mean 'relu'? known: relu, tanh
    """
    from difflib import get_close_matches  # slow to import, and seldom needed

    known = sorted(known)
    asked = str(name).lower()
    initials = [k for k in known if "".join(word[0] for word in k.split("_")) == asked]  # mse, mae, bce
    near = initials or (get_close_matches(asked, known, n=1, cutoff=0.5) if len(asked) < 100 else [])
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UnknownNameError(f"unknown {kind} {brief(repr(name))}; {hint}known: {', '.join(known)}")
