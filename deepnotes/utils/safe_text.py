r"""Make untrusted text safe to show on a terminal and to open in a spreadsheet.

Exported Python files contain these functions word for word, so they depend on nothing else.
"""

import re
import unicodedata

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""The pattern of a finite number in ASCII digits, without the underscores and other digits that ``float`` accepts."""


def escaped(text: str, keep: str = "") -> str:
    r"""Return text with escapes for all characters that a terminal would act on, hide or reorder.

    These are the characters that Python's ``repr`` escapes: control characters, line breaks, bidirectional overrides
    and surrogates.

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
    r"""Return text with an apostrophe before each part that a spreadsheet could take for a formula.

    A part begins at the start of the text, and after a semicolon, a tab, a vertical bar or a line break. Spreadsheets
    that separate cells at these characters, as in countries with a decimal comma, do so even within quotes.

    Examples
    --------
    >>> inert("=1+1"), inert("a;=1+1"), inert("-5"), inert("a = b")
    ("'=1+1", "a;'=1+1", '-5', 'a = b')
    """
    parts = re.split(r"([;|\t\r\n])", text)
    escaped_text = "".join(f"'{part}" if is_formula(part) else part for part in parts)
    return f"'{escaped_text}" if escaped_text[:1] in ("\t", "\r", "\n") else escaped_text


def is_formula(text: str) -> bool:
    """Return whether a spreadsheet may take text for a formula.

    Such text starts with ``=``, ``+``, ``-`` or ``@``, after any blanks and quotes, and is not a number.
    """
    for c in text:
        if not (c.isspace() or c in '"`' or not c.isprintable()):
            sign = unicodedata.normalize("NFKC", c)[0]
            return sign in "=+-@\u2212" and not NUMBER.fullmatch(text.strip())
    return False
