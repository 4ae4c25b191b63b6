"""Networks as one file of Python that needs only NumPy.

The formulas in it are the source of :mod:`deepnotes.equations`, word for word: the functions that this network needs
and what they refer to. Beside them stand the parameters, test vectors with the bounds of their outputs, and the few
functions of :mod:`deepnotes.formats.carried`.
"""

import ast
import re
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from textwrap import wrap
from types import ModuleType
from typing import Any

import numpy as np

import deepnotes
from deepnotes.equations import EQUATIONS
from deepnotes.errors import ModelFileError
from deepnotes.formats.chain import Chain
from deepnotes.formats.vectors import vectors_of

WIDTH = 118
CARRIED = "deepnotes.formats.carried"


def to_python(chain: Chain) -> str:
    """Return a chain as the text of a file of Python.

    Raises
    ------
    ModelFileError
        If deepnotes is installed without its source.
    """
    texts = source_of("deepnotes.safe_text", ["escaped", "inert"])[0] + source_of("deepnotes.streams", ["write_all"])[0]
    functions, imports = equations_of(["standardize"] * (chain.standardizer is not None) + _functions(chain))
    numbers = {name: _encoded(x) for name, x in _arrays(chain).items()}
    content = "".join(f"{name} {numbers[name]} " for name in sorted(numbers))
    return "\n".join(
        [
            _docstring(chain),
            *(f"import {name}" for name in ("csv", "errno", "io", "math", "os", "re", "sys", "unicodedata")),
            "from base64 import b64decode\nfrom hashlib import sha256",
            *imports,
            "from types import ModuleType as Namespace\nfrom typing import Any\n",
            "import numpy as np\nfrom numpy import ndarray as Array\n",
            *(f"{name} = {value!r}" for name, value in _constants(chain).items()),
            _rule("the equations of deepnotes, word for word; xp is NumPy"),
            *(f"\n{text}\n" for text in functions),
            _rule("the network"),
            *_predict(chain),
            _rule("reading, checking, writing"),
            *(f"\n{text}\n" for text in texts),
            "\n" + _carried() + "\n",
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
    """Return what such a file, run here, finds of itself.

    Raises
    ------
    ModelFileError
        If it finds itself wrong.
    """
    module = ModuleType("exported")
    exec(compile(text, "exported.py", "exec"), module.__dict__)
    good, told = module.check()
    if not good:
        raise ModelFileError(f"the file of Python is wrong: {told}")
    return str(told)


def equations_of(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the source of equations and of what they refer to, module by module, and the imports that it needs.

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
    """Return the source of functions of a module and of what they refer to in it, and what it imports from ``math``.

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
    """Return the lines of a statement, and of the comment above it."""
    start = statement.lineno - 1
    while lines[start - 1].startswith("#"):
        start -= 1
    return "\n".join(lines[start : statement.end_lineno])


def _functions(chain: Chain) -> list[str]:
    return ["linear", *{link.g.name: None for link in chain.links}]


def _carried() -> str:
    text = _source(CARRIED).partition(f"# {'-' * WIDTH}\n")[2].strip()
    return re.sub(r"  # (?:type: ignore|noqa).*", "", text)


def _docstring(chain: Chain) -> str:
    told = f"A network of deepnotes {deepnotes.__version__}: {chain}, in {chain.dtype}."
    return "\n".join(
        [
            f'"""{wrap(told, WIDTH - 3)[0]}',
            *wrap(told, WIDTH - 3)[1:],
            "",
            "It needs Python 3.10 or newer and NumPy, and nothing else.",
            "",
            "    python FILE --check       holds it to the test vectors that it carries",
            "    python FILE DATA.csv      predicts each row, as CSV; with --spreadsheet, safe to open in one",
            f"    predict(X)                is what to import: X has shape (rows, {chain.inputs})",
            '"""\n',
        ]
    )


def _constants(chain: Chain) -> dict[str, Any]:
    def names(key: str, number: int) -> list[str] | None:
        found = chain.metadata.get(key)
        good = isinstance(found, list) and len(found) == number and all(isinstance(name, str) for name in found)
        return found if good else None

    encoder, g = chain.encoder, chain.links[-1].g.name
    columns = encoder and [(feature.name, feature.categories, feature.fill) for feature in encoder.features]
    one = g == "sigmoid" and chain.outputs == 1
    return {
        "FEATURES": names("features", chain.inputs),
        "COLUMNS": columns,
        "CLASSES": names("classes", 2 if one else chain.outputs) if one or g == "softmax" else None,
        "INPUTS": chain.inputs,
        "OUTPUTS": chain.outputs,
        "DTYPE": chain.dtype,
    }


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
