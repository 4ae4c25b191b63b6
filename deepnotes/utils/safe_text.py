r"""Make untrusted text safe to show on a terminal and to open in a spreadsheet.

Exported Python files contain these functions word for word, so they depend on nothing else.
"""

import re
import unicodedata

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""A finite number in ASCII digits: no underscores, no digits of other scripts, which ``float`` would take as well."""


def escaped(text: str, keep: str = "") -> str:
    r"""Return text with everything that a terminal would act on, hide or reorder escaped.

    These are the characters that Python's ``repr`` escapes: control characters, line breaks, bidirectional overrides,
    surrogates.

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
    r"""Return text with an apostrophe wherever a spreadsheet could take it, or a part of it, as a formula.

    A part begins after a semicolon, a tab, a bar or a line break: a spreadsheet that separates cells at these, as in
    countries with a decimal comma, does so even within quotes.

    Examples
    --------
    >>> inert("=1+1"), inert("a;=1+1"), inert("-5"), inert("a = b")
    ("'=1+1", "a;'=1+1", '-5', 'a = b')
    """
    parts = re.split(r"([;|\t\r\n])", text)
    made = "".join(f"'{part}" if is_formula(part) else part for part in parts)
    return f"'{made}" if made[:1] in ("\t", "\r", "\n") else made


def is_formula(text: str) -> bool:
    """Return whether a spreadsheet may take this text as a formula, full-width signs and leading blanks included."""
    for c in text:
        if not (c.isspace() or c in '"`' or not c.isprintable()):
            sign = unicodedata.normalize("NFKC", c)[0]
            return sign in "=+-@\u2212" and not NUMBER.fullmatch(text.strip())
    return False
