"""Print an SVG drawing of the packages and their imports.

    python .ci/architecture.py > docs/images/architecture.svg

All imports in the source files count, including those inside functions and those for types only. The description of
each package comes from the table in CONTRIBUTING.md. `tests/test_docs_architecture.py` compares the result with the
drawing in the documentation.
"""

import ast
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORE = "deepnotes"

WIDTH, GUTTER, GAP, LEVEL_GAP = 960, 40, 16, 34  # all lengths are in pixels
TITLE_HEIGHT, LINE_HEIGHT, PADDING, CHARACTER_WIDTH = 20, 16, 12, 7
FILL = {"core": "#e8eefc", "backend": "#e3f4e6"}
STROKE = {"core": "#5470b8", "backend": "#4d8f5b"}

Graph = Mapping[str, frozenset[str]]


def find_packages() -> dict[str, Path]:
    """Return the directory of each package, by name: the subpackages of deepnotes, and the backends."""
    core = {path.parent.name: path.parent for path in sorted((ROOT / CORE).glob("*/__init__.py"))}
    return core | {path.parent.name: path.parent for path in sorted((ROOT / "backends").glob("*/__init__.py"))}


def find_imports(packages: Mapping[str, Path]) -> Graph:
    """Return the other packages that each package imports."""
    return {
        name: frozenset(
            imported
            for path in folder.rglob("*.py")
            for module in _modules_imported_by(path)
            if (imported := _package_of(module)) in packages and imported != name
        )
        for name, folder in packages.items()
    }


def _modules_imported_by(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _package_of(module: str) -> str:
    top, _, rest = module.partition(".")
    return rest.partition(".")[0] if top == CORE else top


def find_levels(imports: Graph) -> list[list[str]]:
    """Return the packages of each level, lowest first: a package is one level above the highest that it imports.

    Raises
    ------
    graphlib.CycleError
        If there is an import cycle.
    """
    level: dict[str, int] = {}
    for name in TopologicalSorter(imports).static_order():
        level[name] = 1 + max((level[lower] for lower in imports[name]), default=-1)
    return [[name for name in imports if level[name] == i] for i in range(max(level.values()) + 1)]


def find_direct_imports(imports: Graph) -> Graph:
    """Return the transitive reduction of the imports: omit A -> C if A -> B and B -> C."""

    def reachable(name: str) -> set[str]:
        return set(imports[name]).union(*(reachable(lower) for lower in imports[name]))

    return {
        name: frozenset(lower for lower in direct if not any(lower in reachable(other) for other in direct - {lower}))
        for name, direct in imports.items()
    }


def read_descriptions() -> dict[str, str]:
    """Return the description of each package, from the table in CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(?:deepnotes|backends)/(\w+)/` \| (.*?) \|$", text, flags=re.MULTILINE)
    return {name: re.sub(r"`|\[(.*?)\]\(.*?\)", r"\1", description) for name, description in rows}


class Box:
    """A package in the drawing.

    Parameters
    ----------
    name, description : str
    folder : Path
    left, top, width : float
        In pixels, from the top left corner of the drawing.
    """

    def __init__(self, name: str, description: str, folder: Path, left: float, top: float, width: float) -> None:
        self.kind = "core" if folder.parent.name == CORE else "backend"
        self.title = f"{CORE}.{name}" if self.kind == "core" else name
        parts = sorted(path.parent.name for path in folder.glob("*/__init__.py"))
        text = f"{description} ({', '.join(f'{part}/' for part in parts)})" if parts else description
        self.lines = textwrap.wrap(text, int((width - 2 * PADDING) / CHARACTER_WIDTH))
        self.left, self.top, self.width = left, top, width
        self.height = 2 * PADDING + TITLE_HEIGHT + LINE_HEIGHT * len(self.lines) - 4

    @property
    def middle(self) -> float:
        """The x coordinate of the centre."""
        return self.left + self.width / 2

    def draw(self) -> Iterator[str]:
        """Yield the SVG elements of the box."""
        yield (
            f'<rect x="{self.left:g}" y="{self.top:g}" width="{self.width:g}" height="{self.height:g}" rx="6" '
            f'fill="{FILL[self.kind]}" stroke="{STROKE[self.kind]}"/>'
        )
        x, y = self.left + PADDING, self.top + PADDING + TITLE_HEIGHT - 8
        yield f'<text x="{x:g}" y="{y:g}" font-size="13" font-weight="bold" fill="#111">{escape(self.title)}</text>'
        for number, line in enumerate(self.lines, 1):
            yield f'<text x="{x:g}" y="{y + 3 + LINE_HEIGHT * number:g}">{escape(line)}</text>'


def place(levels: list[list[str]], packages: Mapping[str, Path]) -> dict[str, Box]:
    """Lay out the boxes: the highest level at the top, each level as one row, in the order of the table."""
    descriptions, boxes, top = read_descriptions(), {}, float(GAP)
    order = list(descriptions)
    for level in reversed(levels):
        names = sorted(level, key=order.index)
        width = (WIDTH - 2 * GUTTER - GAP * (len(names) - 1)) / len(names)
        row = [
            Box(name, descriptions[name], packages[name], GUTTER + i * (width + GAP), top, width)
            for i, name in enumerate(names)
        ]
        for box in row:
            box.height = max(other.height for other in row)
        boxes.update(zip(names, row, strict=True))
        top += row[0].height + LEVEL_GAP
    return boxes


def draw_arrow(upper: Box, lower: Box) -> str:
    """Return an arrow from a box to a lower one; it passes any levels between them at the edge of the drawing."""
    bottom, upper_end, lower_end = upper.top + upper.height, upper.left + upper.width, lower.left + lower.width
    if lower.top - bottom <= LEVEL_GAP:
        if upper_end < lower.left:
            return f'<path d="M{upper_end - GAP:g} {bottom:g}L{lower.left + GAP:g} {lower.top - 2:g}"/>'
        if lower_end < upper.left:
            return f'<path d="M{upper.left + GAP:g} {bottom:g}L{lower_end - GAP:g} {lower.top - 2:g}"/>'
        narrower = min(upper, lower, key=lambda box: box.width)
        return f'<path d="M{narrower.middle:g} {bottom:g}V{lower.top - 2:g}"/>'
    if lower.left == GUTTER:
        start, end, outside = upper.left, lower.left - 2, GUTTER / 2
    else:
        start, end, outside = upper_end, lower_end + 2, WIDTH - GUTTER / 2
    return (
        f'<path d="M{start:g} {upper.top + upper.height / 2:g}H{outside:g}V{lower.top + lower.height / 2:g}H{end:g}"/>'
    )


def draw() -> str:
    """Return the drawing as SVG."""
    packages = find_packages()
    imports = find_imports(packages)
    levels = find_levels(imports)
    boxes = place(levels, packages)
    height = max(box.top + box.height for box in boxes.values()) + GAP
    arrows = (
        draw_arrow(boxes[name], boxes[lower])
        for name, direct in find_direct_imports(imports).items()
        for lower in sorted(direct)
    )
    head = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" role="img">
<title>The packages of deepnotes and their imports</title>
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">\
<path d="M0 0L8 4L0 8Z" fill="#666"/></marker></defs>
<rect width="{WIDTH}" height="{height:g}" fill="#fff"/>
<g fill="none" stroke="#666" marker-end="url(#head)">"""
    elements = [element for box in boxes.values() for element in box.draw()]
    text = '<g font-family="sans-serif" font-size="12">'
    return "\n".join([head, *arrows, "</g>", text, *elements, "</g>", "</svg>"]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(draw())
