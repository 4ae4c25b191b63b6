"""Export of networks as a single Python file that needs only NumPy.

The formulas in the file are the source of :mod:`deepnotes.equations`, word for word: the functions that this network
needs and everything that they refer to. The file also holds the parameters, test vectors with error bounds, and
:mod:`deepnotes.network.formats.python_runtime` with the library's own functions that read and write CSV.
"""

import ast
import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from textwrap import wrap
from types import ModuleType
from typing import Any

import numpy as np

from deepnotes.datasets.encoding import Encoder, Feature
from deepnotes.datasets.reading import Format
from deepnotes.equations import EQUATIONS
from deepnotes.network.formats.chain import Chain
from deepnotes.network.formats.check_vectors import vectors_of
from deepnotes.utils.errors import ModelFileError
from deepnotes.utils.version import __version__

WIDTH = 118
CARRIED = "deepnotes.network.formats.python_runtime"


def to_python(chain: Chain) -> str:
    """Return the text of a Python file for a chain.

    Raises
    ------
    ModelFileError
        If deepnotes is installed without its source.
    """
    carried = Carried.found()
    functions, imports = equations_of(["standardize"] * (chain.standardizer is not None) + _functions(chain))
    numbers = {name: _encoded(x) for name, x in _arrays(chain).items()}
    content = "".join(f"{name} {numbers[name]} " for name in sorted(numbers))
    return "\n".join(
        [
            _docstring(chain),
            *_by_module({*carried.imports, *imports, "from types import ModuleType as Namespace"}),
            "",
            *(f"{name} = {value!r}" for name, value in _constants(chain).items()),
            _rule("the equations of deepnotes, word for word; xp is NumPy"),
            *(f"\n{text}\n" for text in functions),
            _rule("the network"),
            *_predict(chain),
            _rule("reading, checking, writing"),
            *(f"\n{text}\n" for text in (carried.first, *carried.library, carried.last)),
            _rule("the numbers"),
            f'DIGEST = "{sha256(content.encode()).hexdigest()}"',
            "NUMBERS = {",
            *(_entry(name, *entry) for name, entry in numbers.items()),
            "}",
            *(f'{name} = numbers("{name}")' for name in numbers if name.isidentifier()),
            *(["MEAN = SCALE = None"] if chain.standardizer is None else []),
            '\nif __name__ == "__main__":\n    sys.exit(main(sys.argv[1:]))\n',
        ]
    )


def check(text: str) -> str:
    """Run the check of such a file in this process, and return its message.

    Raises
    ------
    ModelFileError
        If the check fails.
    """
    module = ModuleType("exported")
    exec(compile(text, "exported.py", "exec"), module.__dict__)
    good, told = module.check()
    if not good:
        raise ModelFileError(f"the file of Python is wrong: {told}")
    return str(told)


def equations_of(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the source of equations and everything they refer to, module by module, and the imports needed.

    Raises
    ------
    ModelFileError
        If there is no source.

    Examples
    --------
    >>> functions, imports = equations_of(["gelu"])
    >>> [text.partition("(")[0] for text in functions], imports
    (['# erfc', 'def gelu', 'def normal_cdf'], ['from math import sqrt'])
    """
    texts: list[str] = []
    imports: set[str] = set()
    modules: dict[str, list[str]] = {}
    for name in names:
        modules.setdefault(EQUATIONS[name].__module__, []).append(name)
    for module, wanted in modules.items():
        found, needed = source_of(module, wanted)
        texts += found
        imports |= needed
    return texts, sorted(imports)


def source_of(module: str, names: Iterable[str]) -> tuple[list[str], set[str]]:
    """Return the source of functions and everything in their module that they refer to, and its ``math`` imports.

    Raises
    ------
    ModelFileError
        If there is no source.
    """
    source = _source(module)
    lines, tree = source.splitlines(), ast.parse(source)
    defined: dict[str, ast.stmt] = {}
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef):
            defined[statement.name] = statement
        elif isinstance(statement, ast.Assign):
            defined |= {target.id: statement for target in statement.targets if isinstance(target, ast.Name)}
        elif isinstance(statement, ast.ImportFrom) and statement.module == "math":
            defined |= {alias.name: statement for alias in statement.names}
    wanted, found, imports = list(names), set(), set()
    while wanted:
        name = wanted.pop()
        if name in found or name not in defined:
            continue
        found.add(name)
        if isinstance(defined[name], ast.ImportFrom):
            imports.add(f"from math import {name}")
        else:
            wanted += [node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)]
    kept = {id(s): s for name, s in defined.items() if name in found and not isinstance(s, ast.ImportFrom)}
    return [_text(lines, statement) for statement in sorted(kept.values(), key=lambda s: s.lineno)], imports


def _source(module: str) -> str:
    spec = find_spec(module)
    try:
        return Path(spec.origin).read_text(encoding="utf-8")  # type: ignore[union-attr, arg-type]
    except (OSError, TypeError, AttributeError):
        raise ModelFileError(f"{module} is installed without its source, and a file of Python is made of it") from None


def _text(lines: list[str], statement: ast.stmt) -> str:
    """Return the lines of a statement and of the comment above it."""
    start = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", ()))]) - 1
    while lines[start - 1].startswith("#"):
        start -= 1
    return "\n".join(lines[start : statement.end_lineno])


def _functions(chain: Chain) -> list[str]:
    return ["linear", *{link.g.name: None for link in chain.links}]


@dataclass
class Carried:
    """The part that all exported files have in common.

    Attributes
    ----------
    first, last : str
        The source of :mod:`deepnotes.network.formats.python_runtime` between its marks, and below them.
    library : list of str
        The definitions that it uses from the library, each after those that it needs when it is defined.
    imports : set of str
        All import statements needed, with one name in each.
    """

    first: str
    last: str
    library: list[str] = field(default_factory=list)
    imports: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    @classmethod
    def found(cls) -> "Carried":
        """Return the carried part, collected from the library's source.

        Raises
        ------
        ModelFileError
            If there is no source.
        """
        source = _source(CARRIED)
        _, first, last = (_without_marks(part).strip() for part in source.split(f"# {'-' * WIDTH}\n"))
        made = cls(first, last)
        made.names = set(_defined(ast.parse(source)))
        made.take(CARRIED, _names_in(ast.parse(f"{first}\n{last}")))
        return made

    def take(self, module: str, names: Iterable[str]) -> None:
        """Add the functions, classes and constants of these names that a module defines, and all they refer to."""
        source = _source(module)
        tree = ast.parse(source)
        defined, imported = _defined(tree), _imported(tree)
        found: dict[int, ast.stmt] = {}
        others: dict[str, list[str]] = {}
        wanted, seen = list(names), set()
        while wanted:
            name = wanted.pop()
            if name in imported and name not in seen:
                origin, statement = imported[name]
                if not origin.startswith("deepnotes."):
                    self.imports.add(statement)
                elif name not in self.names:
                    others.setdefault(origin, []).append(name)
            elif name in defined and name not in self.names:
                self.names.add(name)
                found[id(defined[name])] = defined[name]
                wanted += _names_in(defined[name])
            seen.add(name)
        for origin, of_it in others.items():
            self.take(origin, of_it)
        lines = source.splitlines()
        self.library += [
            _without_marks(_text(lines, statement)) for statement in sorted(found.values(), key=lambda s: s.lineno)
        ]


def _names_in(tree: ast.AST) -> list[str]:
    return [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]


def _defined(tree: ast.Module) -> dict[str, ast.stmt]:
    """Return the statements that define functions, classes and constants, by name."""
    defined: dict[str, ast.stmt] = {}
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            defined[statement.name] = statement
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names = [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
            defined |= dict.fromkeys(names, statement)
    return defined


def _imported(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """Return the module of each imported name, and the import statement."""
    imported = {}
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            module = statement.module if isinstance(statement, ast.ImportFrom) else None
            for alias in statement.names:
                told = f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
                told = told if module is None else f"from {module} {told}"
                imported[alias.asname or alias.name] = module or alias.name, told
    return imported


def _by_module(imports: Iterable[str]) -> list[str]:
    """Return import statements, merged by module; NumPy's come last."""
    modules: dict[tuple[bool, bool, str], list[str]] = {}
    for statement in sorted(imports):
        module, _, name = statement.removeprefix("from ").partition(" import ")
        is_whole = statement.startswith("import ")
        key = "numpy" in statement, not is_whole, statement if is_whole else f"from {module} import "
        modules.setdefault(key, []).append("" if is_whole else name)
    return [start + ", ".join(names) for (_, _, start), names in sorted(modules.items())]


def _without_marks(text: str) -> str:
    """Return source without comments for type checkers and linters."""
    return re.sub(r"  # (?:type: ignore|noqa|fmt: skip).*", "", text)


def _docstring(chain: Chain) -> str:
    told = f"A network of deepnotes {__version__}: {chain}, in {chain.dtype}."
    return "\n".join(
        [
            f'"""{wrap(told, WIDTH - 3)[0]}',
            *wrap(told, WIDTH - 3)[1:],
            "",
            f"It needs Python {_python(chain)} or newer and NumPy, and nothing else.",
            "",
            "    python FILE --check       holds it to the test vectors that it carries",
            "    python FILE DATA.csv      predicts each row, as CSV; with --spreadsheet, safe to open in one",
            f"    predict(X)                is what to import: X has shape (rows, {chain.inputs})",
            '"""\n',
        ]
    )


def _python(chain: Chain) -> str:
    """Return the oldest Python version that runs the file; Python 3.10 parses only some ISO 8601 dates."""
    form, dates = _reading(chain.metadata)
    return "3.11" if dates and form.get("date_format") is None else "3.10"


def _constants(chain: Chain) -> dict[str, Any]:
    def names(key: str, number: int) -> list[str] | None:
        found = chain.metadata.get(key)
        good = isinstance(found, list) and len(found) == number and all(isinstance(name, str) for name in found)
        return found if good else None

    encoder, features, g = chain.encoder, names("features", chain.inputs), chain.links[-1].g.name
    if encoder is None and features is not None:
        encoder = Encoder(tuple(map(Feature, features)))
    columns = encoder and [(feature.name, feature.categories, feature.fill) for feature in encoder.features]
    form, dates = _reading(chain.metadata)
    one = g == "sigmoid" and chain.outputs == 1
    return {
        "FEATURES": features,
        "COLUMNS": columns,
        "DATES": [name for name in dates if encoder is not None and name in encoder.names],
        "FORMAT": form,
        "CLASSES": names("classes", 2 if one else chain.outputs) if one or g == "softmax" else None,
        "INPUTS": chain.inputs,
        "OUTPUTS": chain.outputs,
        "DTYPE": chain.dtype,
    }


def _reading(metadata: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the format of a model's data, and the columns that are dates."""
    form, dates = metadata.get("format", {}), metadata.get("dates", [])
    try:
        Format(**form)
        if not isinstance(dates, list) or not all(isinstance(name, str) for name in dates):
            raise TypeError(f"dates {dates!r}")
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"metadata do not say how data are read: {error}") from error
    return form, dates


def _predict(chain: Chain) -> list[str]:
    lines = [
        "",
        "def predict(X):",
        f'    """Return the outputs, shape (rows, {chain.outputs}), for X of shape (rows, {chain.inputs})."""',
        "    A = samples(X)  # samples are columns from here on",
    ]
    for number, (_, _, g) in enumerate(chain.links, 1):
        options = "".join(f", {name}={value!r}" for name, value in g.options)
        lines.append(f"    A = {g.name}(np, linear(np, W{number}, A, b{number}){options})")
    if chain.target is None:
        return [*lines, "    return A.T\n"]
    mean, scale = chain.target
    return [*lines, f"    return A.T.astype(np.float64) * {scale!r} + {mean!r}\n"]


def _arrays(chain: Chain) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    if chain.standardizer is not None:
        found |= {"MEAN": chain.standardizer.mean, "SCALE": chain.standardizer.scale}
    for number, (W, b, _) in enumerate(chain.links, 1):
        found |= {f"W{number}": W, f"b{number}": b}
    tests = vectors_of(chain)
    return found | {"test inputs": tests.X, "test outputs": tests.A, "test bounds": tests.allowed}


def _encoded(x: np.ndarray) -> tuple[tuple[int, ...], str, str]:
    little = np.ascontiguousarray(x, x.dtype.newbyteorder("<"))
    text = b64encode(little.tobytes()).decode()
    return x.shape, f"<f{x.dtype.itemsize}", "".join(f"\n{text[i : i + WIDTH]}" for i in range(0, len(text), WIDTH))


def _entry(name: str, shape: tuple[int, ...], dtype: str, text: str) -> str:
    return f'    "{name}": ({shape}, "{dtype}", """{text}"""),'


def _rule(title: str) -> str:
    return f"\n# --- {title} ".ljust(WIDTH + 3, "-") + "\n"
