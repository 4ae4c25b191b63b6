"""Wording of names, cells and causes in error messages: on one line and of readable length."""

from collections.abc import Iterable


def listed(names: Iterable[str]) -> str:
    """Return at most ten names, then an ellipsis."""
    names = list(names)
    return ", ".join(map(one_line, names[:10])) + (", ..." if len(names) > 10 else "")


def one_line(name: object) -> str:
    """Return a name or path unchanged, or escaped if it would break the line of a message."""
    text = str(name)
    return text if text.isprintable() else repr(text)


def shown(cell: object) -> str:
    """Return a cell's text in quotes, on one line and cut to a readable length."""
    text = repr(str(cell))
    return text if len(text) <= 60 else f"{text[:57]}..."


def reason(error: Exception) -> str:
    """Return the message of an error; for a system error, the system's own words."""
    if isinstance(error, ValueError) and "embedded null" in str(error):  # its wording depends on the Python version
        return "the path contains a null byte"
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


def brief(told: object) -> str:
    """Return a text on one line, cut in the middle to a readable length, whatever a file contained."""
    text = one_line(told)
    return text if len(text) <= 400 else f"{text[:300]} ... {text[-80:]}"
