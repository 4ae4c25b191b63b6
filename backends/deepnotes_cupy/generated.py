"""CUDA code generated from the expressions of activations, losses, optimizers and layers by feature.

A part becomes a structure, which is inserted into a template among the CUDA sources: a few kernels for steps in graphs,
or a program that computes with several parts in one launch. Elements are computed in registers. An activation whose
outputs depend on each other, and a loss, become loops over the outputs of a sample, which a group of lanes shares: one
loop for each level of sums and maxima. What several loops need is held in registers.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from math import isfinite, isnan
from typing import NamedTuple

import numpy as np

from deepnotes.backends import FULL, NUMBER, PER_SAMPLE, Expression
from deepnotes_cupy.sources import Kernel, parse, program

OPERATIONS = {
    "add": "{} + {}", "subtract": "{} - {}", "multiply": "{} * {}", "divide": "{} / {}", "negative": "-{}",
    "abs": "fabs({})", "sqrt": "sqrt({})", "exp": "exp({})", "expm1": "expm1({})", "log": "log({})",
    "log1p": "log1p({})", "tanh": "tanh({})", "sign": "sign({})", "maximum": "larger({}, {})",
    "minimum": "smaller({}, {})", "less": "{} < {}", "less_equal": "{} <= {}", "greater": "{} > {}",
    "greater_equal": "{} >= {}", "equal": "{} == {}", "bitwise_and": "{} && {}", "bitwise_xor": "{} != {}",
    "number": "{} ? 1 : 0", "where": "{} ? {} : {}", "spread": "{0}",
}  # fmt: skip
"""The operations as CUDA; their arguments are names or literals."""
REDUCTIONS = {"sum": "{1} + {0}", "max": "larger({0}, {1})"}
"""The operations over the outputs, as the next value from an element and the value so far."""
MOST_OPTIONS = 64
"""The largest number of constants that are arguments of a kernel."""


class Part(NamedTuple):
    """A part as a structure.

    Attributes
    ----------
    code : str
        The structure, except for its name.
    options : tuple of float
        The constants that its constructor takes: they may change from part to part, so that another value compiles
        nothing.
    by_rows : bool, default False
        Whether it is an activation whose outputs depend on each other.
    needs_Z, needs_A : bool, default False
        Which arrays the backward pass of an activation reads.
    """

    code: str
    options: tuple[float, ...] = ()
    by_rows: bool = False
    needs_Z: bool = False
    needs_A: bool = False

    def declare(self, name: str) -> str:
        """Return the declaration of the structure with a name."""
        return self.code.replace("NAME", name)


class Source:
    """The source of a function that computes an expression.

    Numbers are computed once, in double precision, by the constructor of the structure, and are members. Values that
    belong to a sample are computed in all lanes of its group; the elements of arrays, in the innermost loop.

    Parameters
    ----------
    expression : Expression
    options : sequence of float
        The constants that the constructor takes.
    given : dict of str to str
        The source of each argument of the expression: of an element if it is an array.
    prefix : str, optional
        The beginning of the members' names.
    """

    def __init__(
        self, expression: Expression, options: Sequence[float], given: dict[str, str], prefix: str = ""
    ) -> None:
        self.given, self.nodes, self.results = given, expression.nodes, expression.results
        self.shapes = [kind.shape for kind in expression.kinds]
        self.booleans = [kind.boolean for kind in expression.kinds]
        self.real = np.dtype(expression.dtype).type
        self.options, self.prefix = options, prefix
        self.levels: list[int] = []
        """For each node, the number of loops over the outputs that have to end before it can be computed."""
        for node in self.nodes:
            level = max((self.levels[i] for i in node.arguments), default=0)
            self.levels.append(level + (node.operation in REDUCTIONS))
        used = {i for index, node in enumerate(self.nodes) if self.shapes[index] != NUMBER for i in node.arguments}
        numbers = [i for i, shape in enumerate(self.shapes) if shape == NUMBER and not self._literal(i)]
        converted = [i for i in numbers if i in used or i in self.results]  # other values are computed from them
        self.members = [f"{self._kind(i)} {self.name(i)};" for i in converted]
        self.constructor = [
            f"const {self._kind(i, 'double')} {self.name(i, 'double')} = {self._value(i, 'double')};" for i in numbers
        ]
        self.constructor += [f"{self.name(i)} = {self.name(i, 'double')};" for i in converted]

    def name(self, index: int, real: str = "real") -> str:
        """Return how the value of a node is written; a number, in double precision if `real` is "double"."""
        if literal := self._literal(index, real):
            return literal
        if self.shapes[index] == NUMBER:
            return f"{self.prefix}{'n' if real == 'double' else 'c'}{index}"
        return f"{'row' if self.shapes[index] == PER_SAMPLE else 'x'}{index}"

    def elements(
        self, results: Collection[int], held: Collection[int] = (), ready: Collection[int] = ()
    ) -> Iterator[str]:
        """Yield the computation of the elements of some nodes; those of `ready` are read from registers.

        The elements of the nodes in `held` are kept in registers.
        """
        for i in sorted(self._needed(results, ready)):
            register = f"held{i}[t]" if i in held else ""
            value = register if i in ready else " = ".join(filter(None, [register, self._value(i)]))
            yield f"const {self._kind(i)} x{i} = {value};"

    def _needed(self, results: Collection[int], ready: Collection[int]) -> set[int]:
        """Return the nodes whose elements are needed for some nodes; what `ready` nodes depend on is not needed."""
        needed = {i for i in results if self.shapes[i] == FULL}
        for index in range(max(needed, default=-1), -1, -1):
            if index in needed and index not in ready:
                needed.update(i for i in self.nodes[index].arguments if self.shapes[i] == FULL)
        return needed

    def loops(self, writes: dict[int, str], first: str = "") -> Iterator[str]:
        """Yield the computation of a sample's values, and the loops over its outputs.

        A lane holds elements that another loop needs as well in registers, of its first HELD outputs; for the others,
        they are read from memory and computed again.

        Parameters
        ----------
        writes : dict of int to str
            For each node to store, the statements that store an element.
        first : str, optional
            What the first loop begins with.
        """
        reduced: list[list[int]] = [[] for _ in range(max(self.levels) + 1)]
        rows: list[list[int]] = [[] for _ in reduced]
        for i, (node, level) in enumerate(zip(self.nodes, self.levels, strict=True)):
            if self.shapes[i] == PER_SAMPLE:
                (reduced[level - 1] if node.operation in REDUCTIONS else rows[level]).append(i)
        written = [[i for i in writes if self.levels[i] == level] for level in range(len(reduced))]
        results = [
            [*(self.nodes[i].arguments[0] for i in sums), *nodes] for sums, nodes in zip(reduced, written, strict=True)
        ]
        ready: list[set[int]] = [set()]
        held: set[int] = set()
        for wanted in results:
            needed = self._needed(wanted, ready[-1])
            held |= needed & ready[-1]
            ready.append(ready[-1] | needed)
        yield from (f"{self._kind(i)} held{i}[HELD];" for i in sorted(held))
        for level, wanted in enumerate(results):
            yield from (f"const {self._kind(i)} row{i} = {self._value(i)};" for i in rows[level])
            if not wanted:
                continue
            sums = {i: self.nodes[i].operation for i in reduced[level]}
            yield from (f"real row{i} = {'0' if sums[i] == 'sum' else '-infinity()'};" for i in sums)
            after = [
                f"row{i} = {REDUCTIONS[operation].format(self.name(self.nodes[i].arguments[0]), f'row{i}')};"
                for i, operation in sums.items()
            ]
            after += [writes[i].format(self.name(i)) for i in written[level]]
            if held:
                body = [first, *self.elements(wanted, held, ready[level]), *after]
                yield "#pragma unroll"
                yield "for (int t = 0; t < HELD; t++) {"
                yield "const int i = group.lane + t * group.lanes;"
                yield "if (HELD > 4 && i >= count) break;"  # few iterations are faster without a branch
                yield "if (i < count) {"
                yield ELEMENT if any("[at]" in line for line in body) else ""
                yield from (*body, "}", "}")
                yield "if constexpr (!HOLDS_ALL)"
                yield "#pragma unroll 1"
            start = "group.lane + HELD * group.lanes" if held else "group.lane"
            yield f"for (int i = {start}; i < count; i += group.lanes) {{"
            yield from (ELEMENT, first, *self.elements(wanted), *after, "}")
            first = ""
            yield from (f"row{i} = group.{operation}(row{i});" for i, operation in sums.items())

    def _kind(self, index: int, real: str = "real") -> str:
        return "bool" if self.booleans[index] else real

    def _value(self, index: int, real: str = "real") -> str:
        node = self.nodes[index]
        if node.operation == "input":
            return self.given[str(node.value)]
        if node.operation == "constant":
            return f"options[{self.options.index(node.number)}]"
        if node.operation == "outputs":
            return "n"
        if node.operation == "output":
            return "real(i)"
        return OPERATIONS[node.operation].format(*(self.name(i, real) for i in node.arguments))

    def _literal(self, index: int, real: str = "real") -> str:
        """Return a constant that is not an option as a literal, and "" for other nodes."""
        node = self.nodes[index]
        if node.operation != "constant" or node.number in self.options:
            return ""
        value = node.number
        with np.errstate(over="ignore"):
            value = value if real == "double" else float(self.real(value))
        if isfinite(value):
            return f"{real}({value.hex()})"
        return f"{real}({'0 * ' if isnan(value) else '-' if value < 0 else ''}infinity())"


def activation(forward: Expression, backward: Expression, options: Collection[float]) -> Part:
    """Return an activation: a structure with functions ``forward`` and ``backward``, see ``kernels/activation.cu``.

    If outputs depend on each other, they process samples, see ``kernels/rows.cu``; otherwise V numbers, see
    ``Identity`` in ``kernels/dense.cuh``. `options` are constants whose values may change from part to
    part.
    """
    by_rows = any(kind.shape == PER_SAMPLE for kind in (*forward.kinds, *backward.kinds))
    given = {"Z": "Z[at]", "A": "A[at]", "dA": "D[at]"} if by_rows else {"Z": "z[v]", "A": "a[v]", "dA": "d[v]"}
    constants = _constants(options, forward, backward)
    g, slope = Source(forward, constants, given, "f"), Source(backward, constants, given, "b")
    (A,), (dZ,) = g.results, slope.results
    needs_Z, needs_A = backward.uses("Z"), backward.uses("A")
    if by_rows:
        functions = [
            *_over_samples("forward", "real* Z, const real* b, real* A", *g.loops({A: "A[at] = {};"}, ADD_BIAS)),
            *_over_samples("backward", "real* D, const real* Z, const real* A", *slope.loops({dZ: "D[at] = {};"})),
        ]
    else:
        functions = [
            *_elementwise("forward", "real (&z)[V]", *g.elements([A]), f"z[v] = {g.name(A)};"),
            *_elementwise(
                "backward", "real (&d)[V], const real (&z)[V], const real (&a)[V]",
                *slope.elements([dZ]), f"d[v] = {slope.name(dZ)};",
            ),
        ]  # fmt: skip
    flags = {"BY_ROWS": by_rows, "NEEDS_Z": needs_Z, "NEEDS_A": needs_A}
    values = ", ".join(f"{name} = {str(value).lower()}" for name, value in flags.items())
    members = [f"static constexpr bool CHANGES = true, {values};"]
    code = _structure("const double* options, int n", members, functions, g, slope)
    return Part(code, constants, by_rows, needs_Z, needs_A)


def loss(both: Expression, options: Collection[float]) -> Part:
    """Return a loss: a structure whose call operator processes samples, see ``kernels/loss.cu``.

    The expression has the losses and dA, for arguments A and Y; or the losses, dZ and A, for arguments Z and Y.
    """
    constants = _constants(options, both)
    source = Source(both, constants, dict.fromkeys("ZA", "Z[at]") | {"Y": "target(Y, class_indices, j, n, i)"})
    value, derivative, *outputs = source.results
    writes = {derivative: "D[at] = {} * scale;"}
    for A in outputs:
        writes[A] = writes.get(A, "") + "if (A) A[at] = {0};"
    function = _over_samples(
        "operator()",
        "real* Z, const real* b, const real* Y, int class_indices, const real* w, real* A, real* D, "
        "const Factor& factor, real* L",
        "const real scale = j < m ? weight_of(w, j) : real(0);",
        *source.loops(writes, ADD_BIAS),
        f"if (j < m && group.lane == 0) L[j] = {source.name(value)} * scale;",
        "if (factor.out) round_row(group, D, factor, j, stride, count);",
    )
    return Part(_structure("const double* options, int n", [], function, source), constants)


def layer(forward: Expression, backward: Expression, options: Collection[float]) -> Part:
    """Return a layer by feature: a structure whose functions process samples, see ``kernels/features.cu``.

    The expressions are those of :func:`deepnotes.nn.formulas.layer` and :func:`deepnotes.nn.formulas.layer_backward`.
    """
    halves = "A_prev_2" in forward.arrays
    inputs = ["X[2 * j * n + i]", "X[2 * j * n + n + i]"] if halves else ["X[at]"]
    derivatives = [x.replace("X", "E", 1) for x in inputs]
    parameters = [name for name in forward.arrays if name.startswith("parameter")]
    given = {"dA": "D[at]", "A_prev": inputs[0], "A_prev_2": inputs[-1]}
    given |= {name: f"p[{k} * n + i]" for k, name in enumerate(parameters)}
    constants = _constants(options, forward, backward)
    value, slope = Source(forward, constants, given, "f"), Source(backward, constants, given, "b")
    targets = [*derivatives, *(f"(T + {k} * terms)[at]" for k in range(len(parameters)))]
    writes: dict[int, str] = {}
    for k, (target, i) in enumerate(zip(targets, slope.results, strict=True)):
        if k < len(derivatives) or k - len(derivatives) not in terms_in_place(backward):
            writes[i] = writes.get(i, "") + f"{target} = {{0}};"
    (A,) = value.results
    functions = [
        *_over_samples("forward", "const real* X, const real* p, real* A", *value.loops({A: "A[at] = {};"})),
        *_over_samples(
            "backward", "const real* D, const real* X, const real* p, real* E, real* T, long long terms",
            *slope.loops(writes),
        ),
    ]  # fmt: skip
    return Part(_structure("const double* options, int n", [], functions, value, slope), constants)


def terms_in_place(backward: Expression) -> list[int]:
    """Return the indices of the parameters of a layer by feature whose gradients have the terms dA."""
    terms = backward.results[2 if "A_prev_2" in backward.arrays else 1 :]
    nodes = [backward.nodes[i] for i in terms]
    return [k for k, node in enumerate(nodes) if node.operation == "input" and node.value == "dA"]


def update(step: Expression, slots: int, names: Sequence[str]) -> Part:
    """Return an optimizer's update: a structure whose call operator updates V parameters and their slots.

    `names` are those of its scalars.
    """
    options = [node.number for node in step.nodes if node.operation == "constant"]
    given = {"theta": "w[v]", "g": "g[v]", "decays": "decays[v]"} | {f"slot{i}": f"s{i}[v]" for i in range(slots)}
    given |= {name: f"scalars[{column}]" for column, name in enumerate(names, 1)}
    # Weights and biases may share a pack, so `decays` differs from element to element.
    step = replace(step, arrays=(*step.arrays, "decays"), numbers=tuple(names))
    constants = _constants(options, step)
    source = Source(step, constants, given)
    targets = ["w[v]", *(f"s{i}[v]" for i in range(slots))]
    function = _elementwise(
        "operator()", "long long at, real (&w)[V], const real (&g)[V], const real (&decays)[V]",
        *source.elements(source.results),
        *(f"{to} = {source.name(i)};" for to, i in zip(targets, source.results, strict=True)),
        before=[f"real s{i}[V]; load(slot{i} + at, s{i});" for i in range(slots)],
        after=[f"store(slot{i} + at, s{i});" for i in range(slots)],
    )  # fmt: skip
    source.constructor += [f"slot{i} = slots[{i}];" for i in range(slots)]
    members = [f"static constexpr int SLOTS = {slots};", *(f"real* slot{i};" for i in range(slots))]
    parameters = "const double* options, const double* scalars, real* const* slots"
    return Part(_structure(parameters, members, function, source), constants)


def kernels(template: str, part: Part, slots: int = 0, outputs: int = 0) -> dict[str, Kernel]:
    """Return the kernels of a template for a part, by name; their last arguments are the options of the part.

    If a part holds elements in registers, its kernels depend on the number of outputs.
    """
    head = registers(outputs if "HELD" in part.code else 1)
    return _kernels(template, head + part.declare("Part"), len(part.options), slots)


def registers(outputs: int) -> str:
    """Return how many outputs of a sample each lane holds in registers, and whether these are all, in CUDA.

    Lanes hold all outputs of up to 128. Of more, they would hold a small share, and more registers leave room for fewer
    threads.
    """
    held = next((x for x in (1, 2, 4) if 32 * x >= outputs), 2)
    return f"constexpr int HELD = {held};\nconstexpr bool HOLDS_ALL = {str(32 * held >= outputs).lower()};\n"


@cache
def _kernels(template: str, code: str, options: int, slots: int) -> dict[str, Kernel]:
    names, buffers = [f"option{i}" for i in range(options)], [f"slot{i}" for i in range(slots)]
    source = insert(program(template), code)
    source = source.replace(", OPTIONS", "".join(f", double {name}" for name in names))
    source = source.replace("SLOTS, ", "".join(f"real* {name}, " for name in buffers))
    source = source.replace("OPTION_VALUES", ", ".join([*names, "0"]))
    return parse(source.replace("SLOT_VALUES", ", ".join([*buffers, "nullptr"])))


def combine(parts: Sequence[Part | None], hand_written: dict[Part | None, int]) -> tuple[str, list[int]]:
    """Return the source of some activations, and the number of each.

    The source consists of the structures, except for those that have a number in `hand_written`, and of the macro
    ``EACH_ACTIVATION(CASE)``, which expands to ``CASE(number, structure)`` for each of them. It depends on the set of
    structures only.
    """
    structures = sorted({part.code for part in parts if part and part not in hand_written})
    code = "\n".join(x.replace("NAME", f"Activation{i}") for i, x in enumerate(structures))
    cases = " ".join(f"CASE({i}, Activation{i})" for i in range(len(structures)))
    numbers = [structures.index(x.code) if x and x not in hand_written else hand_written[x] for x in parts]
    return f"{code}\n#define EACH_ACTIVATION(CASE) {cases}", numbers


def insert(template: str, code: str) -> str:
    """Return a template with generated code."""
    before, after = template.split("GENERATED\n")
    *_, last = re.finditer(r'#line (\d+) ("\S+")\n', before)
    number = int(last[1]) + before[last.end() :].count("\n") + 1
    return f'{before}#line 1 "generated"\n{code}\n#line {number} {last[2]}\n{after}'


ELEMENT = "const long long at = j * stride + i * apart;"
ADD_BIAS = "if (b) Z[at] += b[i];"


def _constants(options: Collection[float], *expressions: Expression) -> tuple[float, ...]:
    """Return the constants, not 0, that are options or their negatives."""
    nodes = (node for expression in expressions for node in expression.nodes if node.operation == "constant")
    constants = dict.fromkeys(node.number for node in nodes)
    return tuple([x for x in constants if x != 0 and abs(x) in map(abs, options)][:MOST_OPTIONS])


def _structure(parameters: str, members: Sequence[str], functions: Iterable[str], *sources: Source) -> str:
    """Return a structure, except for its name; the parameters are those of its constructor."""
    lines = ["struct NAME {", *members]
    for source in sources:
        lines += source.members
    lines.append(f"__device__ NAME({parameters}) {{")
    for source in sources:
        lines += source.constructor
    return "\n".join([*lines, "}", *functions, "};"])


def _elementwise(
    name: str, parameters: str, *body: str, before: Sequence[str] = (), after: Sequence[str] = ()
) -> Iterator[str]:
    """Yield a function that computes V elements, in a loop over v."""
    yield f"template <int V> __device__ void {name}({parameters}) const {{"
    yield from before
    yield "#pragma unroll"
    yield "for (int v = 0; v < V; v++) {"
    yield from body
    yield "}"
    yield from after
    yield "}"


def _over_samples(name: str, parameters: str, *body: str) -> Iterator[str]:
    """Yield a function that loops over samples j; a group without a sample has no outputs.

    Output i of sample j is at ``[j * stride + i * apart]``.
    """
    sizes = "int n, long long m, int stride, int apart = 1"
    yield f"__device__ void {name}(const Group& group, {parameters}, {sizes}) const {{"
    yield "for (long long first = group.first; first < m; first += group.step) {"
    yield "const long long j = first + group.index;"
    yield "const int count = j < m ? n : 0;"
    yield from body
    yield "}"
    yield "}"
