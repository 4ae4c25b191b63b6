r"""Text that others wrote, made safe to show on a terminal and to open in a spreadsheet.

The files of Python that networks are exported to carry these functions word for word, so they need nothing else.
"""

import re
import unicodedata

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""A finite number in ASCII digits: no underscores, no digits of other scripts, which ``float`` would take as well."""


def escaped(text: str, keep: str = "") -> str:
    r"""Return text with whatever a terminal would act on, hide or reorder written as an escape.

    That is whatever Python's ``repr`` escapes: control characters, line breaks, bidirectional overrides, surrogates.

    Parameters
    ----------
    text : str
    keep : str
        Characters to leave as they are.

    Examples
    --------
    >>> print(escaped("red \x1b[31m\nnew line"))
    red \x1b[31m\nnew line
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def inert(text: str) -> str:
    r"""Return text with an apostrophe wherever a spreadsheet could take it, or a part of it, for a formula.

    A part begins after a semicolon, a tab, a bar or a line break: where a spreadsheet separates cells by these, as in
    countries with a decimal comma, quotes around text do not keep it together.

    Examples
    --------
    >>> inert("=1+1"), inert("a;=1+1"), inert("-5"), inert("a = b")
    ("'=1+1", "a;'=1+1", '-5', 'a = b')
    """
    parts = re.split(r"([;|\t\r\n])", text)
    made = "".join(f"'{part}" if is_formula(part) else part for part in parts)
    return f"'{made}" if made[:1] in ("\t", "\r", "\n") else made


def is_formula(text: str) -> bool:
    """Return whether a cell of this text may be taken for a formula, full-width signs and leading blanks included."""
    for c in text:
        if not (c.isspace() or c in '"`' or not c.isprintable()):
            sign = unicodedata.normalize("NFKC", c)[0]
            return sign in "=+-@\u2212" and not NUMBER.fullmatch(text.strip())
    return False
