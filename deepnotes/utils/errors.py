"""The errors of deepnotes: each derives from DeepnotesError and from the built-in class that a caller would expect.

A message about an argument names the argument, its value and what was wanted; the error is raised before any state
changes.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self, TypeVar

from deepnotes.utils.wording import brief

Entry = TypeVar("Entry")


class DeepnotesError(Exception):
    """The base class of the errors below, so that one ``except`` catches every error of deepnotes."""


class _InvalidArgument(DeepnotesError):
    """An error about one argument, whose message names the argument, its value and what was wanted instead."""

    _template: ClassVar[str]

    @classmethod
    def of(cls, name: str, value: object, wanted: str) -> Self:
        """Return the error for an argument.

        Parameters
        ----------
        name : str
            The argument, or an element of it, such as ``layers[2]``.
        value : object
            The argument's value; for a ShapeError its shape, for a DTypeError its dtype.
        wanted : str
            A description of the values that are accepted.

        Examples
        --------
        >>> print(ArgumentError.of("mode", "up", "'min' or 'max'"))
        mode='up', wanted 'min' or 'max'
        >>> print(ShapeError.of("theta", (3,), "(4,)"))
        theta has shape (3,), wanted (4,)
        >>> print(DTypeError.of("X", "complex128", "real numbers"))
        X: got an array of complex128, wanted real numbers
        >>> print(DataError.of("Y[0]", -1, "at least 0"))
        Y[0] is -1, wanted at least 0
        """
        return cls(cls._template.format(name=name, value=value, wanted=wanted))


class ArgumentError(_InvalidArgument, ValueError):
    """An argument has a value outside its range, such as ``batch_size=0``."""

    _template = "{name}={value!r}, wanted {wanted}"


class ShapeError(_InvalidArgument, ValueError):
    """An array has a shape that does not fit the network or another array."""

    _template = "{name} has shape {value}, wanted {wanted}"


class DTypeError(_InvalidArgument, TypeError):
    """An array's dtype is not real: objects, strings, complex numbers."""

    _template = "{name}: got an array of {value}, wanted {wanted}"


class DataError(_InvalidArgument, ValueError):
    """An array holds numbers that cannot be used: NaN, infinity, labels out of range."""

    _template = "{name} is {value}, wanted {wanted}"


class ForeignArrayError(DeepnotesError, TypeError):
    """An array lives on another device or backend; deepnotes does not move arrays implicitly."""


class UnknownNameError(DeepnotesError, ValueError):
    """There is no activation, loss, optimizer, backend or other object of the given name."""


class UnknownParameterError(UnknownNameError, KeyError):
    """A parameter that the network does not have."""

    def __str__(self) -> str:
        """Return the message without quotes, which a KeyError would add."""
        return str(self.args[0])


class NotAnExpressionError(DeepnotesError, NotImplementedError):
    """A formula uses something that cannot be traced or differentiated; the message names it."""


class BackendUnavailable(DeepnotesError, RuntimeError):
    """A backend is not installed, fails to import or has no device.

    Parameters
    ----------
    name : str
        The requested backend.
    cause : str
        The reason, in a few words.
    fix : str
        The exact command or step that fixes the cause.
    """

    def __init__(self, name: str, cause: str, fix: str) -> None:
        super().__init__(f"backend {name!r} is unavailable: {cause}; to fix it: {fix}")
        self.name, self.cause, self.fix = name, cause, fix


class NonFiniteLossError(DeepnotesError, ArithmeticError):
    """A loss or gradient became NaN or infinite during training; the parameters are the last finite ones.

    Attributes
    ----------
    step : int
        The number of the update that was not applied, counted from 1 at the start of training.
    history : object
        The :class:`~deepnotes.network.training.history.History` up to that update, or None.
    layer : int or None
        The first layer, counted from 1, whose output or gradient is not finite; None if all are finite.
    """

    def __init__(self, message: str, step: int, history: object = None, layer: int | None = None) -> None:
        super().__init__(message)
        self.step, self.history, self.layer = step, history, layer


class MissingExtraError(DeepnotesError, ImportError):
    """A feature needs a library from an optional extra, and the library cannot be imported.

    Parameters
    ----------
    what : str
        The feature.
    extra : str
        The extra that installs the library.
    cause : object
        The reason, in a few words.
    """

    def __init__(self, what: str, extra: str, cause: object) -> None:
        super().__init__(f'{what}: {cause}; to fix it: pip install "deepnotes[{extra}]"')


class DeviceMemoryError(DeepnotesError, MemoryError):
    """A device has too little free memory for a request; a smaller request may still succeed in the same process.

    Parameters
    ----------
    requested, free : int
        The requested and the free memory in bytes.
    advice : str, optional
        Advice on a request that would fit.
    batch_size : int, optional
        A batch size that would fit.

    Examples
    --------
    >>> print(DeviceMemoryError(3 << 30, 1 << 30, "batch_size=4096 would fit", 4096))
    3,221,225,472 bytes were requested on the device, but 1,073,741,824 are free; batch_size=4096 would fit
    """

    def __init__(self, requested: int, free: int, advice: str = "", batch_size: int | None = None) -> None:
        message = f"{requested:,} bytes were requested on the device, but {free:,} are free"
        super().__init__(f"{message}; {advice}" if advice else message)
        self.requested, self.free, self.advice, self.batch_size = requested, free, advice, batch_size

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.requested, self.free, self.advice, self.batch_size)


class ForkedProcessError(DeepnotesError, RuntimeError):
    """A forked process uses a device that its parent process has opened; no driver supports this."""


class BusyError(DeepnotesError, RuntimeError):
    """A network is already being trained; two training runs at once would overwrite each other's updates."""


class CheckpointError(DeepnotesError, ValueError):
    """There is no checkpoint to resume from, it belongs to another training run, or a checkpoint cannot be written."""


class RankError(DeepnotesError, RuntimeError):
    """A training run that several processes share cannot go on: a rank failed, is lost, or was started differently.

    Parameters
    ----------
    message : str
    rank : int, optional
        The number of the rank that failed.
    is_reported : bool, default False
        Whether that rank has told all others.
    """

    def __init__(self, message: str, rank: int | None = None, is_reported: bool = False) -> None:
        super().__init__(message)
        self.rank, self.is_reported = rank, is_reported

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (str(self), self.rank, self.is_reported)


class TableError(DeepnotesError, ValueError):
    """A data file cannot be read, or a table cannot be written; the message gives the file and, if known, the line.

    If a file has several problems, the message describes the first, and each note (``__notes__``) another one.

    Attributes
    ----------
    problems : tuple
        The problems of the file, if it was examined as a whole; ``str`` describes each in one line.
    """

    problems: tuple[object, ...] = ()


class ModelFileError(DeepnotesError, ValueError):
    """A model file is truncated, altered or malicious, or has a format that this version does not know."""


def look_up(kind: str, name: Any, library: Mapping[str, Entry]) -> Entry:
    """Return ``library[name]``.

    Raises
    ------
    UnknownNameError
        If `name`, whatever its type, is not a key.
    """
    if not isinstance(name, str) or name not in library:
        raise unknown_name(kind, name, library)
    return library[name]


def nearest(name: object, known: Iterable[str]) -> str | None:
    """Return the known name that `name` resembles most or abbreviates, or None if there is none.

    Examples
    --------
    >>> nearest("adma", ["adam", "adamax"]), nearest("mse", ["mean_squared_error"]), nearest("zzz", ["relu"])
    ('adam', 'mean_squared_error', None)
    """
    from difflib import get_close_matches  # slow to import and rarely needed

    known = sorted(known)
    lower = str(name).lower()
    initials = [k for k in known if "".join(word[0] for word in k.split("_")) == lower]  # mse, mae, bce
    close = get_close_matches(lower, known, cutoff=0.5) if len(lower) < 100 else []
    near = initials or [k for k in close if sorted(k) == sorted(lower)] or close  # letters in another order come first
    return near[0] if near else None


LISTED = 40
"""The largest number of known names that an error lists."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """Return the error for a `name` that is not one of the `known` names; the message suggests the nearest match.

    Parameters
    ----------
    kind : str
        What the name should refer to, such as ``"activation"``.
    name : object
    known : iterable of str

    Examples
    --------
    >>> print(unknown_name("activation", "rleu", ["relu", "tanh"]))
    unknown activation 'rleu'; did you mean 'relu'? known: relu, tanh
    """
    if isinstance(name, type):
        return UnknownNameError(f"{kind} is the class {name.__name__}, wanted an object of it: {name.__name__}()")
    known = sorted(known)
    near = nearest(name, known)
    hint = f"did you mean {near!r}? " if near else ""
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return UnknownNameError(f"unknown {kind} {brief(repr(name))}; {hint}known: {', '.join(known[:LISTED])}{more}")
