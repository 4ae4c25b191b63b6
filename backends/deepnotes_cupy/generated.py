"""CUDA kernels generated from expressions, for activations, losses and optimizers that have none in this package.

The kernels of a part are a program of their own, which includes headers of this package. An elementwise activation and
an update become functions for the templates of ``dense.cuh`` and ``updates.cuh``, so they are fused in the same way as
the library's. An activation whose outputs depend on each other, and a loss, become loops over the outputs of a sample,
which a group of lanes shares: one loop for each level of sums and maxima.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from math import isfinite, isnan

import numpy as np

from deepnotes.backends import FULL, NUMBER, PER_SAMPLE, Expression
from deepnotes_cupy.sources import Kernel, Launch, parse, program

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


class Source:
    """The source of a kernel that computes an expression.

    Numbers are computed once, in double precision. Values that belong to a sample are computed in all lanes of its
    group; the elements of arrays, in the innermost loop.

    Parameters
    ----------
    expression : Expression
    options : collection of float
        Constants whose values may change from part to part. They, and their negatives, are arguments of the kernel, so
        that another value compiles nothing.
    given : dict of str to str
        The source of each argument of the expression: of an element if it is an array.
    """

    def __init__(self, expression: Expression, options: Collection[float], given: dict[str, str]) -> None:
        self.given, self.nodes, self.results = given, expression.nodes, expression.results
        self.shapes = [kind.shape for kind in expression.kinds]
        self.booleans = [kind.boolean for kind in expression.kinds]
        self.real = np.dtype(expression.dtype).type
        constants = dict.fromkeys(n.number for n in self.nodes if n.operation == "constant")
        self.options = [x for x in constants if x != 0 and abs(x) in map(abs, options)][:MOST_OPTIONS]
        self.levels: list[int] = []
        """For each node, the number of loops over the outputs that have to end before it can be computed."""
        for node in self.nodes:
            level = max((self.levels[i] for i in node.arguments), default=0)
            self.levels.append(level + (node.operation in REDUCTIONS))
        used = {i for index, node in enumerate(self.nodes) if self.shapes[index] != NUMBER for i in node.arguments}
        numbers = [i for i, shape in enumerate(self.shapes) if shape == NUMBER and not self._literal(i)]
        self.converted = [i for i in numbers if i in used or i in self.results]
        """The numbers that are converted from double precision, since other values are computed from them."""
        self.numbers = [f"const {self._kind(i, 'double')} n{i} = {self._value(i, 'double')};" for i in numbers]
        self.numbers += [f"const {self._kind(i)} c{i} = n{i};" for i in self.converted]

    @property
    def parameters(self) -> str:
        """The declarations of the parameters for the options."""
        return "".join(f", double option{i}" for i in range(len(self.options)))

    @property
    def captures(self) -> list[tuple[str, str]]:
        """The type and the name of each number that the computation of the elements needs."""
        return [(self._kind(i), f"c{i}") for i in self.converted]

    def name(self, index: int, real: str = "real") -> str:
        """Return how the value of a node is written; a number, in double precision if `real` is "double"."""
        if literal := self._literal(index, real):
            return literal
        prefix = {NUMBER: "n" if real == "double" else "c", PER_SAMPLE: "row", FULL: "x"}
        return f"{prefix[self.shapes[index]]}{index}"

    def elements(self, results: Sequence[int]) -> Iterator[str]:
        """Yield the computation of the elements of some nodes."""
        needed = {i for i in results if self.shapes[i] == FULL}
        for index in range(max(needed, default=-1), -1, -1):
            if index in needed:
                needed.update(i for i in self.nodes[index].arguments if self.shapes[i] == FULL)
        yield from (f"const {self._kind(i)} x{i} = {self._value(i)};" for i in sorted(needed))

    def loops(self, result: int, write: str) -> Iterator[str]:
        """Yield the computation of a sample's values, and the loops over its outputs; `write` stores an element."""
        mine = [i for i, shape in enumerate(self.shapes) if shape == PER_SAMPLE]
        for level in range(max(self.levels) + 1):
            reduced = [i for i in mine if self.levels[i] == level + 1 and self.nodes[i].operation in REDUCTIONS]
            others = [i for i in mine if self.levels[i] == level and self.nodes[i].operation not in REDUCTIONS]
            writes = [result] if self.levels[result] == level else []
            yield from (f"const {self._kind(i)} row{i} = {self._value(i)};" for i in others)
            yield from (f"real row{i} = {'0' if self.nodes[i].operation == 'sum' else '-infinity()'};" for i in reduced)
            if not reduced and not writes:
                continue
            yield "for (int i = group.lane; i < count; i += group.lanes) {"
            yield "const long long at = j * n + i;"
            yield from self.elements([*(self.nodes[i].arguments[0] for i in reduced), *writes])
            for i in reduced:
                element = self.name(self.nodes[i].arguments[0])
                yield f"row{i} = {REDUCTIONS[self.nodes[i].operation].format(element, f'row{i}')};"
            yield from (write.format(self.name(i)) for i in writes)
            yield "}"
            yield from (f"row{i} = group.{self.nodes[i].operation}(row{i});" for i in reduced)

    def _kind(self, index: int, real: str = "real") -> str:
        return "bool" if self.booleans[index] else real

    def _value(self, index: int, real: str = "real") -> str:
        node = self.nodes[index]
        if node.operation == "input":
            return self.given[str(node.value)]
        if node.operation == "constant":
            return f"option{self.options.index(node.number)}"
        if node.operation == "outputs":
            return "n"
        return OPERATIONS[node.operation].format(*(self.name(i, real) for i in node.arguments))

    def _literal(self, index: int, real: str = "real") -> str:
        """Return a constant that is not an option as a literal, and "" for other nodes."""
        node = self.nodes[index]
        if node.operation != "constant" or node.value in self.options:
            return ""
        value = node.number
        with np.errstate(over="ignore"):
            value = value if real == "double" else float(self.real(value))
        if isfinite(value):
            return f"{real}({value.hex()})"
        return f"{real}({'0 * ' if isnan(value) else '-' if value < 0 else ''}infinity())"


def activation(forward: Expression, backward: Expression, options: Collection[float]) -> tuple[Launch, Launch]:
    """Return the kernels of an activation, forward and backward.

    They are ``bias_activation`` and ``activation_backward`` for an elementwise activation, otherwise ``row_activation``
    and ``row_backward``. Their parameters are those of the package's ``bias_activation``, ``activation_backward``,
    ``softmax`` and ``softmax_backward``, except for the options.
    """
    by_rows = any(kind.shape == PER_SAMPLE for kind in (*forward.kinds, *backward.kinds))
    at = "[at]" if by_rows else "[v]"
    g = Source(forward, options, {"Z": f"{'Z' if by_rows else 'z'}{at}"})
    slope = Source(
        backward, options, {x: (x[-1] if by_rows else x[-1].lower()) + at for x in ("Z", "A")}
        | {"dA": f"{'D' if by_rows else 'd'}{at}"},
    )  # fmt: skip
    (A,), (dZ,) = g.results, slope.results
    if by_rows:
        kernels = _parse(
            "common.cuh",
            *_kernel("row_activation", "real* Z, const real* b, real* A, int n, long long m", g),
            *_samples(
                "if (b)",
                "for (int i = group.lane; i < count; i += group.lanes) Z[j * n + i] += b[i];",
                *g.loops(A, "A[at] = {};"),
            ),
            *_kernel("row_backward", "real* D, const real* Z, const real* A, int n, long long m", slope),
            *_samples(*slope.loops(dZ, "D[at] = {};")),
        )
        names = "row_activation", "row_backward"
    else:
        kernels = _parse(
            "dense.cuh",
            *_function("Activate", g, "real (&z)[V]", *g.elements([A]), f"z[v] = {g.name(A)};"),
            *_kernel(
                "bias_activation",
                "real* Z, const real* b, real* A, unsigned short* half, int kind, int n, long long m",
                g,
            ),
            f"add_bias_and_activate(Z, b, A, Factor{{half, kind, 1}}, n, m, {_construct('Activate', g)});",
            "}",
            *_function(
                "Differentiate", slope, "real (&d)[V], const real (&z)[V], const real (&a)[V]",
                *slope.elements([dZ]), f"d[v] = {slope.name(dZ)};",
                members=[
                    f"static constexpr bool NEEDS_Z = {_uses(backward, 'Z')}, NEEDS_A = {_uses(backward, 'A')};",
                    "__device__ bool changes() const { return true; }",
                ],
            ),
            *_kernel(
                "activation_backward",
                "real* D, const real* Z, const real* A, unsigned short* half, int kind, real half_scale, "
                "real* partial, int n, long long m, long long rows, real scale",
                slope,
            ),
            "__shared__ real scratch[BLOCK * VEC];",
            "differentiate_and_sum(",
            "D, Z, A, Factor{half, kind, half_scale}, partial, n, m, rows, scale, scratch, "
            f"{_construct('Differentiate', slope)});",
            "}",
        )  # fmt: skip
        names = "bias_activation", "activation_backward"
    return Launch(kernels[names[0]], tuple(g.options)), Launch(kernels[names[1]], tuple(slope.options))


def loss(both: Expression, options: Collection[float]) -> Launch:
    """Return the kernel of a loss, from an expression of the losses and of dA.

    Its parameters are those of the package's kernel ``loss``, except for the options.
    """
    source = Source(both, options, {"A": "A[at]", "Y": "target(Y, class_indices, j, n, i)"})
    value, derivative = source.results
    parameters = "const real* A, const real* Y, int class_indices, const real* w, real* D, real* L, int n, long long m"
    kernels = _parse(
        "losses.cuh",
        *_kernel("loss", parameters, source),
        *_samples(
            "const real scale = j < m ? weight_of(w, j) : real(0);",
            *source.loops(derivative, "D[at] = {} * scale;"),
            f"if (j < m && group.lane == 0) L[j] = {source.name(value)} * scale;",
        ),
    )
    return Launch(kernels["loss"], tuple(source.options))


def update(step: Expression, slots: int, names: Sequence[str]) -> Launch:
    """Return the kernel of an optimizer's update; `names` are those of its scalars.

    Its parameters are those of the package's kernels such as ``adam``, except for the options.
    """
    options = [node.number for node in step.nodes if node.operation == "constant"]
    given = {"theta": "w[v]", "g": "g[v]", "decays": "real(at + v < decaying)"}
    given |= {f"slot{i}": f"s{i}[v]" for i in range(slots)}
    given |= {name: f"scalars[{column}]" for column, name in enumerate(names, 1)}
    # Weights and biases may share a pack, so `decays` differs from element to element.
    source = Source(replace(step, arrays=(*step.arrays, "decays"), numbers=tuple(names)), options, given)
    buffers = [f"slot{i}" for i in range(slots)]
    targets = ["w[v]", *(f"s{i}[v]" for i in range(slots))]
    kernels = _parse(
        "updates.cuh",
        *_function(
            "Step", source, "long long at, real (&w)[V], real (&g)[V]",
            *source.elements(source.results),
            *(f"{to} = {source.name(i)};" for to, i in zip(targets, source.results, strict=True)),
            members=[f"real* {name};" for name in buffers] + ["long long decaying;"],
            before=[f"real s{i}[V]; load(slot{i} + at, s{i});" for i in range(slots)],
            after=[f"store(slot{i} + at, s{i});" for i in range(slots)],
        ),
        *_kernel(
            "update",
            f"real* theta, const real* g, {''.join(f'real* {name}, ' for name in buffers)}long long p, "
            "long long decaying, const Control* control, const double* scalars",
            source,
        ),
        f"const bool packs = {' && '.join(['true', *(f'aligned({name})' for name in buffers)])};",
        "update_all(",
        f"theta, g, p, decaying, control, 0, packs, {_construct('Step', source, *buffers, 'decaying')});",
        "}",
    )  # fmt: skip
    return Launch(kernels["update"], tuple(source.options))


def _uses(expression: Expression, name: str) -> str:
    return "true" if expression.uses(name) else "false"


def _function(
    name: str, source: Source, parameters: str, *body: str, members: Sequence[str] = (), before: Sequence[str] = (),
    after: Sequence[str] = (),
) -> Iterator[str]:  # fmt: skip
    """Yield a structure that holds numbers, and whose call operator computes V elements, in a loop over v."""
    yield f"struct {name} {{"
    yield from members
    yield from (f"{kind} {number};" for kind, number in source.captures)
    yield f"template <int V> __device__ void operator()({parameters}) const {{"
    yield from before
    yield "#pragma unroll"
    yield "for (int v = 0; v < V; v++) {"
    yield from body
    yield "}"
    yield from after
    yield "}"
    yield "};"


def _construct(name: str, source: Source, *members: str) -> str:
    """Return an instance of the structure that :func:`_function` declares, with the values of its members."""
    return f"{name}{{{', '.join([*members, *(number for _, number in source.captures)])}}}"


def _kernel(name: str, parameters: str, source: Source) -> Iterator[str]:
    """Yield the declaration of a kernel, its opening brace, and the computation of the numbers.

    Two blocks have to fit on a multiprocessor: without a number, NVRTC spills registers to fit more.
    """
    yield f'extern "C" __global__ void __launch_bounds__(BLOCK, 2) {name}({parameters}{source.parameters}) {{'
    yield from source.numbers


def _samples(*body: str) -> Iterator[str]:
    """Yield a loop over samples j, and the closing brace of the kernel; a group without a sample has no outputs."""
    yield "const Group group(n);"
    yield "for (long long first = group.first; first < m; first += group.step) {"
    yield "const long long j = first + group.index;"
    yield "const int count = j < m ? n : 0;"
    yield from body
    yield "}"
    yield "}"


def _parse(header: str, *lines: str) -> dict[str, Kernel]:
    """Return the kernels of a program that includes a header."""
    return parse(f'{program(header)}#line 1 "generated"\n' + "\n".join(lines) + "\n")
