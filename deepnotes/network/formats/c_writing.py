"""Export of a network or an ensemble to a single C99 file, for devices without Python.

The file needs no library but the functions of ``math.h``, allocates no memory, and has no variables that change, so
several threads may call it. It contains test vectors with error bounds; a program that checks them is compiled if
``MODEL_TEST`` is defined.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np

from deepnotes.backends.bounds import Bounds
from deepnotes.network.formats import onnx_writing
from deepnotes.network.formats.c_formulas import function_of, literal
from deepnotes.network.formats.chain import Chain, EmbeddingLink, Exportable, FeatureLink, Link, ShortcutLink
from deepnotes.network.formats.check_vectors import Vectors, vectors_from, vectors_of
from deepnotes.network.formats.containers import as_path
from deepnotes.nn import formulas
from deepnotes.utils.errors import ModelFileError, look_up
from deepnotes.utils.version import __version__

WEIGHTS = {
    "exact": "in the dtype of the network",
    "int8": "as integers from -127 to 127, times a scale for each neuron",
}
"""How weights can be stored."""
WIDTH = 110
"""The number of columns of the lines with numbers."""
AT_ONCE = 4
"""The number of inputs whose contributions are added to the outputs in one pass, so that the outputs are read less."""


class Quantized(NamedTuple):
    """Weights ``scale * q``: integers q, shape (n, n_prev), from -127 to 127, and one scale per row, shape (n, 1)."""

    q: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, W: np.ndarray) -> "Quantized":
        """Return the weights with the smallest error whose largest absolute value in each row is 127 scales.

        Raises
        ------
        ModelFileError
            If a weight is NaN or infinite.
        """
        if not np.isfinite(W).all():
            raise ModelFileError("a weight is NaN or infinite, which 8-bit integers cannot represent")
        largest = abs(W.astype(np.float64)).max(axis=1, keepdims=True)
        with np.errstate(all="ignore"):
            scale = np.where(largest > 0, largest / 127, 1).astype(W.dtype)
            scale = np.where(scale > 0, scale, np.finfo(W.dtype).tiny).astype(W.dtype)  # 127 scales may underflow
        return cls(np.clip(np.rint(W / scale.astype(np.float64)), -127, 127).astype(W.dtype), scale)


def identifier(path: str | PathLike[str]) -> str:
    """Return the name of a file without its suffix as an identifier of C.

    Examples
    --------
    >>> identifier("models/digits-2.c"), identifier("2nd.c")
    ('digits_2', 'model_2nd')
    """
    name = re.sub(r"[^0-9A-Za-z_]", "_", as_path(path).stem).strip("_") or "model"
    return name if name[0].isalpha() else f"model_{name}"


def to_c(chain: Exportable, name: str = "model", weights: str = "exact") -> str:
    """Return the source of a C99 file for `chain`.

    Parameters
    ----------
    chain : Chain or ChainMean
        Its encoder, if it has one, is not part of the file.
    name : str, default "model"
        An identifier with which the names of the file begin: ``model_predict``.
    weights : {"exact", "int8"}, default "exact"

    Raises
    ------
    UnknownNameError
        If `weights` is not one of these.
    ModelFileError
        If a weight is not finite and `weights` is "int8".
    """
    look_up("weights", weights, WEIGHTS)
    real = {"float32": "float", "float64": "double"}[chain.dtype]
    output = real if chain.target is None else "double"
    vectors, difference = _vectors(chain, weights)
    inputs, outputs, classes = chain.inputs, chain.outputs, _classes(chain)
    signatures = [f"void {name}_predict(const {real} x[{inputs}], {output} y[{outputs}]);"]
    if classes is not None:
        signatures += [
            f"int {name}_class(const {output} y[{outputs}]);",
            f"extern const char *const {name}_classes[{len(classes)}];",
        ]
    parts: list[str] = [
        _comment(chain, name, weights, difference, signatures),
        f"#include <math.h>\n#ifdef {_macro(name)}\n#include <stdio.h>\n#endif",
        f"typedef {real} real;",
        "\n".join(signatures),
        *(text for prefix, member in chain.members for text in _member(member, prefix, weights)),
        "\n".join(_predict(chain, name, output)),
    ]
    if classes is not None:
        parts.append("\n".join(_classification(name, output, outputs, classes)))
    parts.append("\n".join(_test(name, output, vectors)))
    return "\n\n".join(parts) + "\n"


def write(path: str | PathLike[str], chain: Exportable, weights: str) -> None:
    """Write a C99 file for `chain`, whose names begin with the name of the file.

    Raises
    ------
    ModelFileError
        As for :func:`to_c`, or if the file cannot be written.
    """
    onnx_writing.write(path, to_c(chain, identifier(path), weights))


def check(text: str) -> tuple[str, str] | None:
    """Compile an exported file with the C compiler ``cc`` and run its check; return the compiler and the message.

    Returns None if there is no compiler.

    Raises
    ------
    ModelFileError
        If the check fails.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "model.c"), Path(folder, "model")
        source.write_text(text, encoding="ascii")
        define = re.search(r"^#ifdef (\w+_TEST)$", text, re.MULTILINE)
        assert define is not None
        command = [compiler, "-std=c99", "-O2", f"-D{define[1]}", "-o", str(program), str(source), "-lm"]
        compiled = subprocess.run(command, capture_output=True, text=True, check=False)
        if compiled.returncode != 0:
            raise ModelFileError(f"the C file cannot be compiled: {compiled.stderr.strip()[:500]}")
        ran = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise ModelFileError(f"the C file fails its check: {ran.stdout.strip() or f'exit status {ran.returncode}'}")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    return next(iter(version.splitlines()), compiler), ran.stdout.strip().removeprefix("passed: ")


def _vectors(chain: Exportable, weights: str) -> tuple[Vectors, float]:
    """Return the test vectors, and the largest difference of the outputs that the rounding of the weights causes."""
    exact = vectors_of(chain)
    if weights == "exact":
        return exact, 0.0
    vectors = vectors_from(chain, exact.X.T, _forward_quantized)
    finite = np.isfinite(vectors.A) & np.isfinite(exact.A)
    return vectors, float(abs(vectors.A[finite] - exact.A[finite]).max(initial=0))


def _forward_quantized(chain: Chain, bounds: Bounds, A: Any) -> Any:
    """Return the outputs of a chain for preprocessed inputs, with the weights rounded to integers times a scale."""

    def dense(link: Link, A: Any) -> Any:
        q, scale = map(bounds.from_numpy, Quantized.of(link.W))
        return link.g.forward(bounds.ops, (q @ A) * scale + bounds.from_numpy(link.b))

    return chain.forward(bounds.ops, A, lambda _, x: bounds.from_numpy(x), dense)


def _classes(chain: Exportable) -> list[str] | None:
    """Return the names of the classes, or None unless the metadata have one for each."""
    classes = chain.metadata.get("classes")
    if not isinstance(classes, list) or len(classes) != max(2, chain.outputs):
        return None
    return [str(name) for name in classes]


def _macro(name: str) -> str:
    """Return the name of the macro with which the file is a program that checks itself."""
    return f"{name.upper()}_TEST"


def _comment(chain: Exportable, name: str, weights: str, difference: float, signatures: list[str]) -> str:
    """Return the comment at the beginning of the file."""
    lines = [
        f"Written by deepnotes {__version__}: {chain}, {chain.dtype}.",
        "",
        "To use it, compile this file with your program (C99, -lm), and declare there:",
        "",
        *(f"    {signature}" for signature in signatures),
        "",
        f"x has the {chain.inputs} inputs of one sample{_features(chain)}; they are standardized here.",
        *_indices(chain),
        f"Nothing is allocated; about {_stack(chain):,} bytes of the stack are used.",
    ]
    if weights == "int8":
        lines += [
            "The weights are 8-bit integers times a scale for each neuron. For the test vectors, this changes the "
            f"outputs by at most {difference:.2g}.",
        ]
    lines += ["", f"To check this file:  cc -std=c99 -D{_macro(name)} -o check {name}.c -lm && ./check"]
    text = "\n".join("\n".join(wrap(line, WIDTH)) if len(line) > WIDTH else line for line in lines)
    return "/*\n" + "\n".join(f" * {_harmless(line)}".rstrip() for line in text.splitlines()) + "\n */"


def _features(chain: Exportable) -> str:
    """Return the names of the inputs in parentheses, or nothing."""
    names = chain.metadata.get("features")
    if not isinstance(names, list) or len(names) != chain.inputs or chain.inputs > 100:
        return ""
    return f" ({', '.join(map(str, names))})"


def _indices(chain: Exportable) -> Iterator[str]:
    """Yield what the inputs with a table hold, for the comment at the beginning of the file."""
    limits: dict[int, int] = {}
    for first in (member.links[0] for _, member in chain.members):
        for column, categories, _ in first.layer if isinstance(first, EmbeddingLink) else ():
            limits[column] = min(categories, limits.get(column, categories))
    for column, categories in sorted(limits.items()):
        yield f"x[{column}] is the index of a category, a whole number from 0 to {categories - 1}."
    if limits:
        yield "For any other index, the outputs are those for an input that is NaN."


def _harmless(text: str) -> str:
    """Return text that neither ends a comment nor begins one, with other than ASCII characters escaped."""
    return re.sub(r"(?<=\*)(?=/)|(?<=/)(?=\*)|(?<=\?)(?=\?)", " ", text.encode("ascii", "backslashreplace").decode())


def _string(text: str) -> str:
    """Return text as a string constant of C, in UTF-8."""
    plain = set(range(32, 127)) - set(b'"\\?')
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode()) + '"'


def _stack(chain: Exportable) -> int:
    """Return the number of bytes of the arrays on the stack."""
    size = np.dtype(chain.dtype).itemsize
    widest = max(sum(_buffers(member)) + sum(_kept(member).values()) for _, member in chain.members)
    return size * (widest + (chain.outputs if chain.target is not None or len(chain.members) > 1 else 0))


def _buffers(chain: Chain) -> tuple[int, int]:
    """Return the sizes of the two arrays that dense layers and an embedding read and write by turns."""
    written = [link.outputs for link in chain.links if isinstance(link, Link | EmbeddingLink)]
    widths = [chain.inputs if _needs_copy(chain) else 1, *(written if _shrinks(chain) else written[:-1])]
    return max(widths[::2]), max(widths[1::2], default=1)


def _shrinks(chain: Chain) -> bool:
    """Return whether the last dense layer has more outputs than the network, because of a gate after it."""
    links = list(chain.links)
    last = max((index for index, link in enumerate(links) if isinstance(link, Link | EmbeddingLink)), default=-1)
    return any(link.inputs != link.outputs for link in links[last + 1 :])


def _needs_copy(chain: Chain) -> bool:
    """Return whether the inputs are changed before the first layer, or its outputs are written over them."""
    return chain.standardizer is not None or not isinstance(chain.links[0], Link | EmbeddingLink)


def _kept(chain: Chain) -> dict[int, int]:
    """Return the links whose inputs a shortcut adds later, by their indices, with the numbers of inputs."""
    return {link.source: link.size for link in chain.links if isinstance(link, ShortcutLink)}


def _member(chain: Chain, prefix: str, weights: str) -> Iterator[str]:
    """Yield the arrays and functions of one network."""
    before = f"{prefix}_" if prefix else ""
    if chain.standardizer is not None:
        for name, x in (("mean", chain.standardizer.mean), ("scale", chain.standardizer.scale)):
            yield "\n".join(_array(f"const double {before}{name}", [literal(v, "float64") for v in np.ravel(x)]))
        yield "\n".join(_standardize(before, chain.inputs))
    for number, link in enumerate(chain.links, 1):
        name = f"{before}layer{number}"
        if isinstance(link, Link):
            yield from _layer(link, name, chain.dtype, weights)
        elif isinstance(link, FeatureLink):
            yield from _feature_layer(link, name, chain.dtype)
        elif isinstance(link, EmbeddingLink):
            yield from _embedding(link, name, chain.dtype)
    yield "\n".join(_network(chain, before))


def _array(declaration: str, values: Iterable[str]) -> Iterator[str]:
    """Yield the lines that define an array."""
    values = list(values)
    yield f"static {declaration}[{len(values)}] = {{"
    yield from wrap(", ".join(values), WIDTH, initial_indent="    ", subsequent_indent="    ")
    yield "};"


def _standardize(before: str, inputs: int) -> Iterator[str]:
    yield f"static void {before}standardize(const real *x, real *a)"
    yield "{"
    yield "    int i;"
    yield f"    for (i = 0; i < {inputs}; i++)"
    yield f"        a[i] = (real)(((double)x[i] - {before}mean[i]) / {before}scale[i]);"
    yield "}"


def _layer(link: Link, name: str, dtype: str, weights: str) -> Iterator[str]:
    """Yield the parameters of a layer, the function that computes Z (N2), and the function of its activation."""
    n, n_prev = link.W.shape
    biases = [literal(x, dtype) for x in link.b.ravel()]
    if weights == "int8":
        q, scale = Quantized.of(link.W)
        yield "\n".join(_array(f"const signed char {name}_W", (f"{x:.0f}" for x in q.T.ravel())))
        yield "\n".join(_array(f"const real {name}_scale", [literal(x, dtype) for x in scale.ravel()]))
    else:
        yield "\n".join(_array(f"const real {name}_W", [literal(x, dtype) for x in link.W.T.ravel()]))
    yield "\n".join(_array(f"const real {name}_b", biases))
    yield "\n".join(_linear(name, n, n_prev, weights))
    formula = formulas.activation(link.g, dtype, n)
    if not formula.is_input("Z"):
        yield "\n".join(function_of(formula, f"{name}_activation", n))


def _feature_layer(link: FeatureLink, name: str, dtype: str) -> Iterator[str]:
    """Yield the parameters of a layer by feature, and the function that replaces its inputs by its outputs."""
    names = [f"{name}_parameter{i}" for i in range(len(link.parameters))]
    for parameter, x in zip(names, link.parameters.values(), strict=True):
        yield "\n".join(_array(f"const real {parameter}", [literal(value, dtype) for value in x.ravel()]))
    sources = [*[f"a[i + {link.outputs}]"] * (link.inputs != link.outputs), *(f"{x}[i]" for x in names)]
    others = dict(zip(link.formula.arrays[1:], sources, strict=True))
    yield "\n".join(function_of(link.formula, name, link.outputs, others))


def _embedding(link: EmbeddingLink, name: str, dtype: str) -> Iterator[str]:
    """Yield the tables, and the function that copies the other inputs and the vectors of the categories.

    An index that no category has must not be read from memory; its vector is NaN.
    """
    for t, E in zip(link.layer, link.parameters.values(), strict=True):
        yield "\n".join(_array(f"const real {name}_E{t.column}", [literal(x, dtype) for x in E.ravel()]))
    lines, row = [], 0
    for columns in link.layer.numeric(link.inputs):
        lines += [f"    for (j = 0; j < {len(columns)}; j++)", f"        z[{row} + j] = a[{columns.start} + j];"]
        row += len(columns)
    for t in link.layer:
        lines += [
            f"    index = a[{t.column}] >= 0 && a[{t.column}] < {t.categories} ? (int)a[{t.column}] : -1;",
            f"    known = index >= 0 && a[{t.column}] == (real)index;",
            f"    for (j = 0; j < {t.size}; j++)",
            f"        z[{row} + j] = known ? {name}_E{t.column}[index * {t.size} + j] : (real)NAN;",
        ]
        row += t.size
    head = [f"static void {name}(const real *restrict a, real *restrict z)", "{", "    int j, index, known;"]
    yield "\n".join([*head, *lines, "}"])


def _linear(name: str, n: int, n_prev: int, weights: str) -> Iterator[str]:
    """Yield the function for ``Z = W A_prev + b`` of one sample; the columns of W follow each other in memory."""
    kind = "signed char" if weights == "int8" else "real"
    cast = "(real)" if weights == "int8" else ""
    fours = n_prev // AT_ONCE * AT_ONCE

    def terms(count: int) -> str:
        return " + ".join(f"{cast}w[j{f' + {k * n}' if k else ''}] * x{k}" for k in range(count))

    def pass_over_outputs(indent: str, count: int) -> Iterator[str]:
        yield f"{indent}const {kind} *w = {name}_W + i * {n};"
        for k in range(count):
            yield f"{indent}const real x{k} = a[i{f' + {k}' if k else ''}];"
        yield f"{indent}for (j = 0; j < {n}; j++)"
        yield f"{indent}    z[j] += {terms(count)};"

    yield f"static void {name}(const real *restrict a, real *restrict z)"
    yield "{"
    yield "    int i, j;"
    yield f"    for (j = 0; j < {n}; j++)"
    yield f"        z[j] = {'0' if weights == 'int8' else f'{name}_b[j]'};"
    for start, stop, step in ((0, fours, AT_ONCE), (fours, n_prev, 1)):
        if start < stop:
            yield f"    for (i = {start}; i < {stop}; i {'+= ' + str(step) if step > 1 else '+= 1'}) {{"
            yield from pass_over_outputs("        ", step)
            yield "    }"
    if weights == "int8":
        yield f"    for (j = 0; j < {n}; j++)"
        yield f"        z[j] = z[j] * {name}_scale[j] + {name}_b[j];"
    yield "}"


def _network(chain: Chain, before: str) -> Iterator[str]:
    """Yield the function that computes the outputs of one network from its inputs."""
    sizes, kept = _buffers(chain), _kept(chain)
    body = list(_calls(chain, before))
    declared = [f"{name}[{size}]" for name, size in zip(("even", "odd"), sizes, strict=True) if name in " ".join(body)]
    declared += [f"kept{index}[{size}]" for index, size in kept.items()]
    yield f"static void {before}network(const real *x, real *y)"
    yield "{"
    if declared:
        yield f"    real {', '.join(declared)};"
    yield from body
    yield "}"


def _calls(chain: Chain, before: str) -> Iterator[str]:
    """Yield the statements of the function that computes the outputs of one network."""
    kept, shrinks = _kept(chain), _shrinks(chain)
    count = sum(isinstance(link, Link | EmbeddingLink) for link in chain.links)
    source = "x"
    if _needs_copy(chain):
        source = "even" if count or shrinks else "y"
        if chain.standardizer is not None:
            yield f"    {before}standardize(x, {source});"
        else:
            yield from _copy("x", source, chain.inputs)
    done = 0
    for index, link in enumerate(chain.links):
        if index in kept:
            yield from _copy(source, f"kept{index}", kept[index])
        if isinstance(link, ShortcutLink):
            yield from _copy(f"kept{link.source}", source, link.size, "+=")
        elif isinstance(link, FeatureLink):
            yield f"    {before}layer{index + 1}({source});"
        else:
            done += 1
            to = "y" if done == count and not shrinks else "odd" if done % 2 else "even"
            yield f"    {before}layer{index + 1}({source}, {to});"
            if isinstance(link, Link) and not formulas.activation(link.g, chain.dtype, len(link.W)).is_input("Z"):
                yield f"    {before}layer{index + 1}_activation({to});"
            source = to
    if source != "y":
        yield from _copy(source, "y", chain.outputs)


def _copy(source: str, to: str, size: int, operator: str = "=") -> Iterator[str]:
    """Yield a block that copies an array, or adds it to another."""
    yield "    {"
    yield "        int i;"
    yield f"        for (i = 0; i < {size}; i++)"
    yield f"            {to}[i] {operator} {source}[i];"
    yield "    }"


def _predict(chain: Exportable, name: str, output: str) -> Iterator[str]:
    """Yield the function that users call."""
    real = {"float32": "float", "float64": "double"}[chain.dtype]
    members, outputs = [f"{prefix}_" if prefix else "" for prefix, _ in chain.members], chain.outputs
    separate = chain.target is not None or len(members) > 1
    yield f"void {name}_predict(const {real} x[{chain.inputs}], {output} y[{outputs}])"
    yield "{"
    if not separate:
        yield "    network(x, y);"
        yield "}"
        return
    yield f"    real a[{outputs}]{f', sum[{outputs}]' if len(members) > 1 else ''};"
    yield "    int i;"
    total = "a"
    yield f"    {members[0]}network(x, {'sum' if len(members) > 1 else 'a'});"
    for member in members[1:]:
        total = "sum"
        yield f"    {member}network(x, a);"
        yield f"    for (i = 0; i < {outputs}; i++)"
        yield "        sum[i] += a[i];"
    mean = f"{total}[i]" + (f" / {literal(len(members), chain.dtype)}" if len(members) > 1 else "")
    if chain.target is not None:
        center, scale = (literal(x, "float64") for x in chain.target)
        mean = f"(double)({mean}) * {scale} + {center}"
    yield f"    for (i = 0; i < {outputs}; i++)"
    yield f"        y[i] = {mean};"
    yield "}"


def _classification(name: str, output: str, outputs: int, classes: list[str]) -> Iterator[str]:
    """Yield the names of the classes, and the function that returns the number of the most probable one."""
    yield f"const char *const {name}_classes[{len(classes)}] = {{"
    yield from (f"    {_string(text)}," for text in classes)
    yield "};"
    yield ""
    yield f"int {name}_class(const {output} y[{outputs}])"
    yield "{"
    if outputs == 1:
        yield f"    return y[0] > {literal(0.5, 'float64' if output == 'double' else 'float32')};"
    else:
        yield "    int i, best = 0;"
        yield f"    for (i = 1; i < {outputs}; i++)"
        yield "        if (y[i] > y[best] || (y[i] != y[i] && y[best] == y[best]))"
        yield "            best = i;"
        yield "    return best;"
    yield "}"


def _test(name: str, output: str, vectors: Vectors) -> Iterator[str]:
    """Yield the test vectors, and a program that compares the outputs with them."""
    rows, inputs, outputs = *vectors.X.shape, vectors.A.shape[1]
    yield f"#ifdef {_macro(name)}"
    yield from _array("const real test_inputs", [literal(x, str(vectors.X.dtype)) for x in vectors.X.ravel()])
    yield from _array("const double test_outputs", [literal(x, "float64") for x in vectors.A.ravel()])
    yield from _array("const double test_bounds", [literal(x, "float64") for x in vectors.allowed.ravel()])
    yield from f"""
int main(void)
{{
    {output} y[{outputs}];
    double largest = 0;
    int row, i, wrong = 0;
    for (row = 0; row < {rows}; row++) {{
        {name}_predict(test_inputs + row * {inputs}, y);
        for (i = 0; i < {outputs}; i++) {{
            const double value = (double)y[i], expected = test_outputs[row * {outputs} + i];
            const double bound = test_bounds[row * {outputs} + i], error = fabs(value - expected);
            if (value == expected || (value != value && expected != expected) || bound > 1e308)
                continue;
            if (!(error <= bound))
                wrong++;
            else if (error / bound > largest)
                largest = error / bound;
        }}
    }}
    if (wrong > 0) {{
        printf("FAILED: %d of {rows * outputs} outputs for {rows} test vectors are wrong\\n", wrong);
        return 1;
    }}
    printf("passed: {rows * outputs} outputs for {rows} test vectors are correct; "
           "the largest error is %.2g of its rounding bound\\n", largest);
    return 0;
}}
#endif""".splitlines()
