"""Derivatives of expressions by reverse accumulation: a rule for each operation, applied from the result backwards.

At a kink, the conventions are those of the notes: ``abs`` has the slope 0 at 0; the maximum and minimum of a value and
a constant have the slope 0 where both are equal, so the slope of ReLU at 0 is 0 (N8). If both arguments vary, each has
half of the derivative where they are equal, and so have equal maxima over the outputs.
"""

from collections.abc import Callable
from typing import Any

from deepnotes.nn.expressions import FULL, PER_SAMPLE, Expression, Symbol, Trace

Rule = Callable[..., tuple[Any, ...]]
"""Takes the trace, the derivative by the result, the result and the arguments; returns the derivatives by these.

None stands for a derivative that is 0 everywhere.
"""


def _choice(trace: Trace, d: Any, first: Any, second: Any, first_wins: Any, second_wins: Any) -> tuple[Any, Any]:
    """Return the derivatives of the maximum or minimum of two arguments.

    `first_wins` is true where the result is the first argument alone, `second_wins` where it is the second alone.
    """
    shares = []
    for mine, other, wins in ((first, second, first_wins), (second, first, second_wins)):
        share: Any = trace.apply("number", wins)
        if not _is_constant(trace, first) and not _is_constant(trace, second):
            share += 0.5 * trace.apply("number", trace.apply("equal", mine, other))
        shares.append(d * share)
    return shares[0], shares[1]


def _is_constant(trace: Trace, x: Symbol) -> bool:
    node = trace.nodes[x.index]
    if node.operation == "spread":
        node = trace.nodes[node.arguments[0]]
    return node.operation in ("constant", "outputs")


def _maximum(t: Trace, d: Any, y: Any, a: Any, b: Any) -> tuple[Any, Any]:
    return _choice(t, d, a, b, a > b, b > a)


def _minimum(t: Trace, d: Any, y: Any, a: Any, b: Any) -> tuple[Any, Any]:
    return _choice(t, d, a, b, a < b, b < a)


def _max(t: Trace, d: Any, y: Any, a: Any) -> tuple[Any]:
    largest: Any = t.apply("number", t.apply("equal", a, y))
    return (d * (largest / t.sum(largest, axis=0, keepdims=True)),)


def _where(t: Trace, d: Any, y: Any, condition: Any, a: Any, b: Any) -> tuple[Any, Any, Any]:
    return None, t.apply("where", condition, d, 0.0), t.apply("where", condition, 0.0, d)


RULES: dict[str, Rule] = {
    "add": lambda t, d, y, a, b: (d, d),
    "subtract": lambda t, d, y, a, b: (d, -d),
    "multiply": lambda t, d, y, a, b: (d * b, d * a),
    "divide": lambda t, d, y, a, b: (d / b, -(d * y) / b),
    "negative": lambda t, d, y, a: (-d,),
    "abs": lambda t, d, y, a: (d * t.sign(a),),
    "exp": lambda t, d, y, a: (d * y,),
    "expm1": lambda t, d, y, a: (d * (y + 1),),
    "log": lambda t, d, y, a: (d / a,),
    "log1p": lambda t, d, y, a: (d / (1 + a),),
    "sqrt": lambda t, d, y, a: (d * 0.5 / y,),
    "tanh": lambda t, d, y, a: (d * (1 - y * y),),
    "maximum": _maximum,
    "minimum": _minimum,
    "where": _where,
    "sum": lambda t, d, y, a: (d,),
    "max": _max,
    "spread": lambda t, d, y, a, like: (d, None),
}
"""The operations without a rule have the derivative 0: sign, the comparisons, and what is computed from them."""


def pullback(
    expression: Expression, outputs: int, by: str, seed: str | None = None, result: str | None = None
) -> Expression:
    """Return the derivative of an expression with one result by one of its arguments.

    Parameters
    ----------
    expression : Expression
    outputs : int
        The number of outputs of the samples.
    by : str
        The argument to differentiate by.
    seed : str, optional
        The name of a further argument that the derivative is multiplied with: with ``"dA"`` for an activation, it is
        ``dZ = dA * g'(Z)`` (N12), or ``dA`` times the Jacobian where outputs depend on each other. By default it is 1.
    result : str, optional
        The name of a further argument that holds the result, which is then not computed again.

    Returns
    -------
    Expression
        Its arguments are `seed`, those of `expression`, and `result`.

    Examples
    --------
    >>> import numpy as np
    >>> from deepnotes.nn.expressions import trace
    >>> square = trace(lambda xp, Z: Z * Z, ["Z"], "float64")
    >>> pullback(square, 1, "Z")(np, np.array([[3.0]]))
    (array([[6.]]),)
    """
    trace = Trace(expression.dtype, outputs)
    names = [*([seed] if seed else []), *expression.arrays, *([result] if result else [])]
    given = {name: trace.input(name) for name in names}
    (last,) = expression.results
    values = _replay(trace, expression, given, {last: given[result]} if result else {})
    derivatives = {last: given[seed] if seed else trace.constant(1.0)}
    inputs = [i for i, node in enumerate(expression.nodes) if node == ("input", (), by)]
    if inputs:
        _accumulate(trace, expression, values, derivatives, inputs[0])
    total = derivatives.get(inputs[0] if inputs else -1, trace.constant(0.0))
    if total.kind.shape != FULL:
        total = trace.apply("spread", total, given[by])
    return trace.expression([total], names)


def _replay(trace: Trace, expression: Expression, given: dict[str, Symbol], known: dict[int, Symbol]) -> list[Symbol]:
    """Return the value of each node in a trace; some values are known already, by the index of the node."""
    values: list[Symbol] = []
    for index, node in enumerate(expression.nodes):
        if index in known:
            values.append(known[index])
        elif node.operation == "input":
            values.append(given[str(node.value)])
        elif node.operation == "constant":
            values.append(trace.constant(node.number))
        elif node.operation == "outputs":
            values.append(trace.symbol(trace.outputs))
        elif node.operation == "output":
            values.append(trace.output())
        else:
            values.append(trace.apply(node.operation, *(values[i] for i in node.arguments)))
    return values


def _accumulate(
    trace: Trace, expression: Expression, values: list[Symbol], derivatives: dict[int, Symbol], by: int
) -> None:
    """Add the derivatives of the result by all nodes between it and node `by`, from the result backwards."""
    nodes, kinds = expression.nodes, expression.kinds
    varies = [index == by for index in range(len(nodes))]
    for index, node in enumerate(nodes):
        varies[index] |= any(varies[i] for i in node.arguments)
    for index in range(len(nodes) - 1, by, -1):
        node, d = nodes[index], derivatives.get(index)
        if d is None or not varies[index] or node.operation not in RULES:
            continue
        found = RULES[node.operation](trace, d, values[index], *(values[i] for i in node.arguments))
        for i, derivative in zip(node.arguments, found, strict=True):
            if derivative is None or not varies[i]:
                continue
            if kinds[i].shape == PER_SAMPLE and kinds[index].shape == FULL:  # it was broadcast over the outputs
                # So may be the derivative itself, and then the sum has equal terms.
                is_equal = derivative.kind.shape == PER_SAMPLE
                derivative = derivative * trace.outputs if is_equal else trace.sum(derivative, axis=0, keepdims=True)
            derivatives[i] = trace.apply("add", derivatives[i], derivative) if i in derivatives else derivative
