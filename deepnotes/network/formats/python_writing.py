"""Export of a network or an ensemble to a single Python file that needs only NumPy.

The file contains unchanged copies of the functions in :mod:`deepnotes.equations` that the networks need, and of
everything that they refer to. It also contains the parameters, test vectors with error bounds, and a copy of
:mod:`deepnotes.network.formats.python_runtime` with the library's functions that read and write CSV.
"""

import ast
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
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
from deepnotes.network.formats.chain import Chain, EmbeddingLink, Exportable, FeatureLink, Link, ShortcutLink
from deepnotes.network.formats.check_vectors import vectors_of
from deepnotes.nn.activations import Activation, FormulaActivation
from deepnotes.nn.expressions import NUMBER, Expression
from deepnotes.utils.errors import ModelFileError
from deepnotes.utils.version import __version__

WIDTH = 118  # the width of the text in the file, and of the dashed lines in python_runtime.py
RUNTIME = "deepnotes.network.formats.python_runtime"


def to_python(chain: Exportable) -> str:
    """Return the source of a Python file for `chain`.

    Raises
    ------
    ModelFileError
        If deepnotes is installed without its source.
    """
    runtime = Runtime.from_source()
    functions, imports = equations_of(_functions(chain))
    numbers = {name: _encode(x) for name, x in _arrays(chain).items()}
    content = "".join(f"{name} {numbers[name]} " for name in sorted(numbers))
    return "\n".join(
        [
            _docstring(chain),
            *_merge_imports({*runtime.imports, *imports, "from types import ModuleType as Namespace"}),
            "",
            *(f"{name} = {value!r}" for name, value in _constants(chain).items()),
            _heading("the equations of deepnotes, word for word; xp is NumPy"),
            *(f"\n{text}\n" for text in functions),
            *formulas_of(chain),
            _heading("the network"),
            *_predict(chain),
            _heading("reading data, checking, writing predictions"),
            *(f"\n{text}\n" for text in (runtime.first, *runtime.library, runtime.last)),
            _heading("the parameters and the test vectors"),
            f'DIGEST = "{sha256(content.encode()).hexdigest()}"',
            "NUMBERS = {",
            *(_entry(name, *entry) for name, entry in numbers.items()),
            "}",
            *(f'{name} = numbers("{name}")' for name in numbers if name.isidentifier()),
            '\nif __name__ == "__main__":\n    sys.exit(main(sys.argv[1:]))\n',
        ]
    )


def check(text: str) -> str:
    """Run the check of an exported file, given its source, in this process, and return its message.

    Raises
    ------
    ModelFileError
        If the check fails.
    """
    module = ModuleType("exported")
    exec(compile(text, "exported.py", "exec"), module.__dict__)
    passed, message = module.check()
    if not passed:
        raise ModelFileError(f"the Python file fails its check: {message}")
    return str(message)


def equations_of(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the source of equations and of everything that they refer to, and the import statements that they need.

    Raises
    ------
    ModelFileError
        If the source of deepnotes is missing.

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
    for module, functions in modules.items():
        module_texts, module_imports = source_of(module, functions)
        texts += module_texts
        imports |= module_imports
    return texts, sorted(imports)


def source_of(module: str, names: Iterable[str]) -> tuple[list[str], set[str]]:
    """Return the source of functions with everything in their module that they refer to, and their ``math`` imports.

    Raises
    ------
    ModelFileError
        If the source of deepnotes is missing.
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
    stack, required, imports = list(names), set(), set()
    while stack:
        name = stack.pop()
        if name in required or name not in defined:
            continue
        required.add(name)
        if isinstance(defined[name], ast.ImportFrom):
            imports.add(f"from math import {name}")
        else:
            stack += [node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)]
    statements = {id(s): s for name, s in defined.items() if name in required and not isinstance(s, ast.ImportFrom)}
    return [_text(lines, statement) for statement in sorted(statements.values(), key=lambda s: s.lineno)], imports


def _source(module: str) -> str:
    """Return the source of a module without importing it."""
    spec = find_spec(module)
    try:
        return Path(spec.origin).read_text(encoding="utf-8")  # type: ignore[union-attr, arg-type]
    except (OSError, TypeError, AttributeError):
        raise ModelFileError(f"{module} is installed without its source, which the export needs") from None


def _text(lines: list[str], statement: ast.stmt) -> str:
    """Return the source of a statement, including decorators and the comment above it."""
    start = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", ()))]) - 1
    while lines[start - 1].startswith("#"):
        start -= 1
    return "\n".join(lines[start : statement.end_lineno])


def _functions(chain: Exportable) -> list[str]:
    """Return the names of the equations that the networks need."""
    members = [member for _, member in chain.members]
    links = [link for member in members for link in member.links if isinstance(link, Link)]
    activations = [link.g.name for link in links if type(link.g) is Activation]
    standardized = any(member.standardizer is not None for member in members)
    embedded = any(isinstance(member.links[0], EmbeddingLink) for member in members)
    needed = {"standardize": standardized, "embedding": embedded, "linear": bool(links)}
    return [*(name for name, is_needed in needed.items() if is_needed), *dict.fromkeys(activations)]


OPERATORS = {
    "add": "{} + {}", "subtract": "{} - {}", "multiply": "{} * {}", "divide": "{} / {}", "negative": "-{}",
    "abs": "abs({})", "less": "{} < {}", "less_equal": "{} <= {}", "greater": "{} > {}", "greater_equal": "{} >= {}",
    "bitwise_and": "{} & {}", "bitwise_xor": "{} ^ {}", "number": "{}.astype(Z.dtype)",
    "spread": "xp.zeros_like({1}) + {0}", "sum": "xp.sum({}, axis=0, keepdims=True)",
    "max": "xp.max({}, axis=0, keepdims=True)",
}  # fmt: skip
"""The operations of formulas in Python; the others are functions of the namespace."""


def formulas_of(chain: Exportable) -> list[str]:
    """Return the source lines of the user-defined activations, and of the layers by feature."""
    lines = []
    for prefix, member in chain.members:
        for index, (number, link) in enumerate(member.numbered, 1):
            if isinstance(link, FeatureLink):
                name, inputs = f"layer{index}", ["Z", *["Z_2"] * (link.inputs != link.outputs)]
                arguments, formula = [*inputs, *link.parameters], link.formula
                text = f"the outputs of layer {index}, {link.name}, for inputs Z"
            elif isinstance(link, Link) and isinstance(link.g, FormulaActivation):
                name, arguments = f"activation{number}", ["Z"]
                text, formula = f"the activation {link.g.name} of layer {number}", link.g.formula
            else:
                continue
            lines += [
                "",
                f"def {_name(prefix, name)}({', '.join(['xp', *arguments])}):",
                f'    """Return {text}."""',
                *_formula_body(formula, np.empty((link.outputs, 0), chain.dtype), arguments),
                "",
            ]
    return [_heading("the formulas of activations and layers"), *lines] if lines else []


def _name(prefix: str, name: str) -> str:
    """Return the name in the file of something that belongs to the network with this prefix."""
    return f"{prefix}_{name}" if prefix else name


def _formula_body(formula: Expression, like: np.ndarray, arguments: Sequence[str]) -> list[str]:
    """Return the source lines that compute a formula, one for each operation on arrays.

    Parameters
    ----------
    formula : Expression
    like : ndarray, shape (n, 0)
        An array with the number of outputs and the dtype of the layer.
    arguments : sequence of str
        The names in the source of the arrays that the formula takes.
    """
    inputs = dict(zip(formula.arrays, arguments, strict=True))
    names = {index: _literal(value) for index, value in formula.values_of_numbers(like).items()}
    lines = []
    for index, node in enumerate(formula.nodes):
        if node.operation == "input":
            names[index] = inputs[str(node.value)]
        if index in names:
            continue
        is_function = node.operation not in OPERATORS
        operands = [
            f"xp.asarray({names[i]}, dtype={'bool' if formula.kinds[i].boolean else 'Z.dtype'})"
            if is_function and formula.kinds[i].shape == NUMBER
            else names[i]
            for i in node.arguments
        ]
        template = OPERATORS.get(node.operation, f"xp.{node.operation}({', '.join(['{}'] * len(operands))})")
        names[index] = f"t{index}"
        lines.append(f"    t{index} = {template.format(*operands)}")
    (result,) = formula.results
    return [*lines, f"    return {names[result]}"]


def _literal(value: float | bool) -> str:
    """Return a number as source; a negative one in parentheses."""
    if isinstance(value, float) and not np.isfinite(value):
        return f'float("{value}")'
    return f"({value!r})" if value < 0 else repr(value)


@dataclass
class Runtime:
    """The code that all exported files share.

    Attributes
    ----------
    first : str
        The source of :mod:`deepnotes.network.formats.python_runtime` between its two dashed lines.
    last : str
        The source below its second dashed line.
    library : list of str
        The source of the library's definitions that the runtime uses, each after those that it depends on.
    imports : set of str
        The necessary import statements, with one name in each.
    names : set of str
        The names that have been defined so far.
    """

    first: str
    last: str
    library: list[str] = field(default_factory=list)
    imports: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    @classmethod
    def from_source(cls) -> "Runtime":
        """Return the runtime, collected from the library's source files.

        Raises
        ------
        ModelFileError
            If the source of deepnotes is missing.
        """
        source = _source(RUNTIME)
        _, first, last = (_without_linter_comments(text).strip() for text in source.split(f"# {'-' * WIDTH}\n"))
        runtime = cls(first, last)
        runtime.names = set(_defined(ast.parse(source)))
        runtime.add(RUNTIME, _names_in(ast.parse(f"{first}\n{last}")))
        return runtime

    def add(self, module: str, names: Iterable[str]) -> None:
        """Add the functions, classes and constants called `names` in a module, and everything that they refer to."""
        source = _source(module)
        tree = ast.parse(source)
        defined, imported = _defined(tree), _imported(tree)
        statements: dict[int, ast.stmt] = {}
        names_by_module: dict[str, list[str]] = {}
        stack, seen = list(names), set()
        while stack:
            name = stack.pop()
            if name in imported and name not in seen:
                origin, statement = imported[name]
                if not origin.startswith("deepnotes."):
                    self.imports.add(statement)
                elif name not in self.names:
                    names_by_module.setdefault(origin, []).append(name)
            elif name in defined and name not in self.names:
                self.names.add(name)
                statements[id(defined[name])] = defined[name]
                stack += _names_in(defined[name])
            seen.add(name)
        for origin, imported_names in names_by_module.items():
            self.add(origin, imported_names)
        lines = source.splitlines()
        self.library += [
            _without_linter_comments(_text(lines, statement))
            for statement in sorted(statements.values(), key=lambda s: s.lineno)
        ]


def _names_in(tree: ast.AST) -> list[str]:
    """Return all names in a syntax tree, with repetitions."""
    return [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]


def _defined(tree: ast.Module) -> dict[str, ast.stmt]:
    """Return the statements of a module that define functions, classes and constants, by the name they define."""
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
    """Return, for each imported name, its module and an import statement for this name only."""
    imported = {}
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            module = statement.module if isinstance(statement, ast.ImportFrom) else None
            for alias in statement.names:
                text = f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
                text = text if module is None else f"from {module} {text}"
                imported[alias.asname or alias.name] = module or alias.name, text
    return imported


def _merge_imports(imports: Iterable[str]) -> list[str]:
    """Return the import statements with one statement per module; NumPy comes last."""
    modules: dict[tuple[bool, bool, str], list[str]] = {}
    for statement in sorted(imports):
        module, _, name = statement.removeprefix("from ").partition(" import ")
        is_whole = statement.startswith("import ")
        key = "numpy" in statement, not is_whole, statement if is_whole else f"from {module} import "
        modules.setdefault(key, []).append("" if is_whole else name)
    return [start + ", ".join(names) for (_, _, start), names in sorted(modules.items())]


def _without_linter_comments(text: str) -> str:
    """Return the source without the comments that address type checkers and linters."""
    return re.sub(r"  # (?:type: ignore|noqa|fmt: skip).*", "", text)


def _docstring(chain: Exportable) -> str:
    """Return the module docstring of the exported file."""
    kind = "A network" if isinstance(chain, Chain) else "An ensemble"
    summary = f"{kind} exported by deepnotes {__version__}: {chain}, in {chain.dtype}."
    return "\n".join(
        [
            f'"""{wrap(summary, WIDTH - 3)[0]}',
            *wrap(summary, WIDTH - 3)[1:],
            "",
            f"This file needs only Python {_python(chain)} or newer, and NumPy.",
            "",
            "    python FILE --check       compares its predictions with the test vectors in this file",
            "    python FILE DATA.csv      writes a prediction for each row, as CSV",
            "    --spreadsheet             before DATA.csv: write no cell that a spreadsheet would take as a formula",
            f"    predict(X)                is the function to import; X has shape (rows, {chain.inputs})",
            '"""\n',
        ]
    )


def _python(chain: Exportable) -> str:
    """Return the oldest Python version that can run the file; Python 3.10 cannot parse every kind of ISO 8601 date."""
    format, dates = _data_format(chain.metadata)
    return "3.11" if dates and format.get("date_format") is None else "3.10"


def _constants(chain: Exportable) -> dict[str, Any]:
    """Return the values of the constants at the top of the file, by name."""

    def names(key: str, count: int) -> list[str] | None:  # the names in the metadata, if there are `count` of them
        value = chain.metadata.get(key)
        valid = isinstance(value, list) and len(value) == count and all(isinstance(name, str) for name in value)
        return value if valid else None

    encoder, features = chain.encoder, names("features", chain.inputs)
    if encoder is None and features is not None:
        encoder = Encoder(tuple(map(Feature, features)))
    columns = encoder and [(f.name, f.categories, f.fill, *[True] * f.embedded) for f in encoder.features]
    format, dates = _data_format(chain.metadata)
    last = [member.links[-1] for _, member in chain.members]
    is_softmax = all(link.has("softmax") for link in last)
    # The output is the probability of the second class:
    is_binary = all(link.has("sigmoid") for link in last) and chain.outputs == 1
    return {
        "FEATURES": features,
        "COLUMNS": columns,
        "DATES": [name for name in dates if encoder is not None and name in encoder.names],
        "FORMAT": format,
        "CLASSES": names("classes", 2 if is_binary else chain.outputs) if is_binary or is_softmax else None,
        "INPUTS": chain.inputs,
        "OUTPUTS": chain.outputs,
        "DTYPE": chain.dtype,
    }


def _data_format(metadata: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the data format that a model's metadata describe, and the names of the date columns."""
    format, dates = metadata.get("format", {}), metadata.get("dates", [])
    try:
        Format(**format)
        if not isinstance(dates, list) or not all(isinstance(name, str) for name in dates):
            raise TypeError(f"dates {dates!r}")
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"metadata: the data format is not valid: {error}") from error
    return format, dates


def _predict(chain: Exportable) -> list[str]:
    """Return the source lines of the function ``predict``, and of one function for each network of an ensemble."""
    lines = [
        "",
        "def predict(X):",
        f'    """Return the outputs, shape (rows, {chain.outputs}), for X of shape (rows, {chain.inputs})."""',
    ]
    if isinstance(chain, Chain):
        lines += _outputs("", chain)
    else:
        calls = [f"        {prefix}(X)," for prefix, _ in chain.members]
        lines += ["    outputs = [", *calls, "    ]", "    A = sum(outputs[1:], start=outputs[0]) / len(outputs)"]
        for prefix, member in reversed(chain.members):
            text = f'    """Return the outputs of one network, shape ({chain.outputs}, rows)."""'
            lines = ["", f"def {prefix}(X):", text, *_outputs(prefix, member), "    return A", "", *lines]
    if chain.target is None:
        return [*lines, "    return A.T\n"]
    mean, scale = chain.target
    return [*lines, f"    return A.T.astype(np.float64) * {scale!r} + {mean!r}\n"]


def _outputs(prefix: str, chain: Chain) -> list[str]:
    """Return the source lines that compute the outputs A of one network, shape (n[L], rows)."""
    constants = "" if chain.standardizer is None else f", {_name(prefix, 'MEAN')}, {_name(prefix, 'SCALE')}"
    lines = [f"    A = samples(X{constants})  # samples are columns from here on"]
    sources = {link.source for link in chain.links if isinstance(link, ShortcutLink)}
    for index, (number, link) in enumerate(chain.numbered):
        if index in sources:
            lines.append(f"    A_{index} = A")
        if isinstance(link, ShortcutLink):
            lines.append(f"    A = A + A_{link.source}")
            continue
        if isinstance(link, FeatureLink):
            names = [_name(prefix, f"{key}{number}") for key in link.parameters]
            inputs = ["A"] if link.inputs == link.outputs else [f"A[:{link.outputs}]", f"A[{link.outputs}:]"]
            lines.append(f"    A = {_name(prefix, f'layer{index + 1}')}(np, {', '.join([*inputs, *names])})")
            continue
        if isinstance(link, EmbeddingLink):
            lines += _embedding_lines(link, [_name(prefix, f"{key}{number}") for key in link.parameters])
            continue
        g = link.g
        if type(g) is Activation:
            name, options = g.name, g.options
        else:
            name, options = _name(prefix, f"activation{number}"), ()
        arguments = "".join(f", {option}={value!r}" for option, value in options)
        W, b = _name(prefix, f"W{number}"), _name(prefix, f"b{number}")
        lines.append(f"    A = {name}(np, linear(np, {W}, A, {b}){arguments})")
    return lines


def _embedding_lines(link: EmbeddingLink, names: list[str]) -> list[str]:
    """Return the source lines that check the indices of categories, and replace them by the vectors in the tables."""
    lines = []
    parts = [f"A[{columns.start}:{columns.stop}]" for columns in link.layer.numeric(link.inputs)]
    for t, name in zip(link.layer, names, strict=True):
        lines += [
            f"    if not np.isin(A[{t.column}], np.arange({t.categories})).all():",
            f'        raise ValueError("column {t.column}: wanted whole numbers from 0 to {t.categories - 1}")',
        ]
        parts.append(f"embedding(np, {name}, A[{t.column}:{t.column + 1}])")
    return [*lines, f"    A = np.concatenate([{', '.join(parts)}])"]


def _arrays(chain: Exportable) -> dict[str, np.ndarray]:
    """Return the arrays in the file, by name."""
    arrays: dict[str, np.ndarray] = {}
    for prefix, member in chain.members:
        if (standardizer := member.standardizer) is not None:
            arrays |= {_name(prefix, "MEAN"): standardizer.mean, _name(prefix, "SCALE"): standardizer.scale}
        for number, link in member.numbered:
            arrays |= {_name(prefix, f"{key}{number}"): x for key, x in link.parameters.items()}
    tests = vectors_of(chain)
    return arrays | {"test inputs": tests.X, "test outputs": tests.A, "test bounds": tests.allowed}


def _encode(x: np.ndarray) -> tuple[tuple[int, ...], str, str]:
    """Return the shape of an array, its dtype, and its bytes as lines of base64."""
    little = np.ascontiguousarray(x, x.dtype.newbyteorder("<"))
    text = b64encode(little.tobytes()).decode()
    return x.shape, f"<f{x.dtype.itemsize}", "".join(f"\n{text[i : i + WIDTH]}" for i in range(0, len(text), WIDTH))


def _entry(name: str, shape: tuple[int, ...], dtype: str, text: str) -> str:
    """Return the source of an entry of NUMBERS."""
    return f'    "{name}": ({shape}, "{dtype}", """{text}"""),'


def _heading(title: str) -> str:
    return f"\n# --- {title} ".ljust(WIDTH + 3, "-") + "\n"
