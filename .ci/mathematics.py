r"""Hook for `mkdocs build`: set the formulas of a page as MathML, which browsers display without any script.

A formula is written as on GitHub: $`W^{[l]}`$ within a line, and a fenced block of the language ``math`` on its own.
"""

import re
from xml.etree import ElementTree

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page

FORMULA = re.compile(r"^```math\n(?P<block>.*?)^```$|\$`(?P<inline>[^`\n]+)`\$", re.MULTILINE | re.DOTALL)
PLACEHOLDER = "formula{:d}of{:d}"
STYLE = "<style>math[display=block]{margin:1em 0}math{font-size:1.1em}</style>"
_formulas: dict[str, list[str]] = {}


def to_mathml(match: re.Match[str]) -> str:
    """Return the MathML of a formula.

    Raises
    ------
    ValueError
        If the formula has a command that the converter does not know, or its MathML is not well-formed.
    """
    block = match["block"]
    latex = " ".join((block or match["inline"]).split())
    mathml: str = convert(latex, display="inline" if block is None else "block")
    try:
        text = "".join(ElementTree.fromstring(mathml).itertext())
    except ElementTree.ParseError as error:
        raise ValueError(f"{latex}: {error}") from None
    if "\\" in text or "&" in text:
        raise ValueError(f"{latex}: not known to latex2mathml")
    return mathml


def on_page_markdown(markdown: str, page: Page, **kwargs: object) -> str:
    """Replace each formula by a placeholder, which Markdown leaves as it is."""
    matches = list(FORMULA.finditer(markdown))
    try:
        _formulas[page.file.src_uri] = [to_mathml(match) for match in matches]
    except ValueError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from None
    numbers = iter(range(len(matches)))
    return FORMULA.sub(lambda match: PLACEHOLDER.format(next(numbers), len(matches)), markdown)


def on_page_content(html: str, page: Page, **kwargs: object) -> str:
    """Replace each placeholder by its formula."""
    formulas = _formulas.pop(page.file.src_uri, [])
    for i, mathml in enumerate(formulas):
        placeholder = PLACEHOLDER.format(i, len(formulas))
        if placeholder not in html:
            raise PluginError(f"{page.file.src_uri}: formula {i + 1} is within code")
        html = html.replace(placeholder, mathml, 1)
    return STYLE * bool(formulas) + html
