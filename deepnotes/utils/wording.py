"""How names, cells and causes are put into error messages: on one line, and no longer than can be read."""

from collections.abc import Iterable


def listed(names: Iterable[str]) -> str:
    """Return at most ten names, then dots."""
    names = list(names)
    return ", ".join(map(one_line, names[:10])) + (", ..." if len(names) > 10 else "")


def one_line(name: object) -> str:
    """Return a name or path as it is, unless it would break the line of a message."""
    text = str(name)
    return text if text.isprintable() else repr(text)


def shown(cell: object) -> str:
    """Return a cell's text in quotes, on one line and cut to a readable length."""
    text = repr(str(cell))
    return text if len(text) <= 60 else f"{text[:57]}..."


def reason(error: Exception) -> str:
    """Return what an error says, for a system error the system's words."""
    if isinstance(error, ValueError) and "embedded null" in str(error):  # each Python words it in its own way
        return "the path contains a null byte"
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


def brief(told: object) -> str:
    """Return a text on one line, cut in the middle to a length that can be read, whatever a file had put into it."""
    text = one_line(told)
    return text if len(text) <= 400 else f"{text[:300]} ... {text[-80:]}"
