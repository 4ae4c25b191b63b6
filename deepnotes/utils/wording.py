"""Format names, cells, causes and objects for messages: on one line, and cut to a readable length."""

from collections.abc import Iterable


def join_names(names: Iterable[str]) -> str:
    """Return names separated by commas; if there are more than ten, the first ten and an ellipsis."""
    names = list(names)
    return ", ".join(map(one_line, names[:10])) + (", ..." if len(names) > 10 else "")


def one_line(name: object) -> str:
    """Return a name or path, escaped if it has characters that would break a line or be invisible."""
    text = str(name)
    return text if text.isprintable() else repr(text)


def quote(cell: object) -> str:
    """Return a cell's text in quotes, on one line and cut to a readable length."""
    text = repr(str(cell))
    return text if len(text) <= 60 else f"{text[:57]}..."


def reason(error: Exception) -> str:
    """Return the message of an error; for a system error, the system's description without number and path."""
    if isinstance(error, ValueError) and "embedded null" in str(error):  # its wording depends on the Python version
        return "the path contains a null byte"
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


def brief(content: object) -> str:
    """Return content on one line; if it has more than 400 characters, without its middle."""
    text = one_line(content)
    return text if len(text) <= 400 else f"{text[:300]} ... {text[-80:]}"


def as_call(obj: object) -> str:
    """Return an object as a call of its class with its attributes, like the ``repr`` of a dataclass."""
    return f"{type(obj).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(obj).items())})"
