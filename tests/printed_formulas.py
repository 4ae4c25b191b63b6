"""The values of the formulas that a trace prints, computed with NumPy from the text alone.

Two operands in a row are a product of matrices, or of a number and an array; it binds more strongly than ``*``. A sum
or mean over the outputs or samples takes the product that follows it. Definitions follow after ``, with``.
"""

import re
from collections.abc import Callable
from math import erf
from typing import Any

import numpy as np

TOKEN = re.compile(
    r"\s*(Σ_samples|Σ_outputs|mean_outputs|mean_samples|e\^|where\b|else\b|[A-Za-z][A-Za-z0-9_]*|[Σ√σΦφλαπ]|\d+\.?\d*(?:e-?\d+)?|<=|>=|.)"
)
CONSTANTS = {"π": np.pi, "λ": 1.0507009873554805, "α": 1.6732632423543772}
PREFIXES = {
    "tanh": np.tanh,
    "log": np.log,
    "cosh": np.cosh,
    "sign": np.sign,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "√": np.sqrt,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "max": np.maximum,
    "min": np.minimum,
    "σ": lambda z: 1 / (1 + np.exp(-z)),
    "Φ": np.vectorize(lambda z: (1 + erf(z / np.sqrt(2))) / 2),
    "φ": lambda z: np.exp(-z * z / 2) / np.sqrt(2 * np.pi),
}
REDUCTIONS = {
    "Σ_samples": lambda x: np.sum(x, axis=1, keepdims=True),
    "Σ_outputs": lambda x: np.sum(x, axis=0, keepdims=True),
    "mean_samples": lambda x: np.mean(x, axis=1, keepdims=True),
    "mean_outputs": lambda x: np.mean(x, axis=0, keepdims=True),
}
COMPARISONS = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}


def evaluate(formula, arrays):
    """Return the value of a printed formula for arrays by name."""
    formula, _, definitions = formula.partition(", with ")
    arrays = {**CONSTANTS, **arrays}
    for definition in filter(None, definitions.split(" and ")):
        name, _, value = definition.partition(" = ")
        arrays[name] = Reader(value, arrays).whole()
    return Reader(formula, arrays).whole()


class Reader:
    """Reads a formula from left to right; each method takes the tokens of what it is named after."""

    def __init__(self, text, arrays):
        self.tokens, self.arrays = TOKEN.findall(text), arrays

    def next(self):
        return self.tokens[0] if self.tokens else ""

    def take(self, *expected):
        token = self.tokens.pop(0)
        assert not expected or token in expected, (token, expected, self.tokens)
        return token

    def whole(self):
        value = self.cases()
        assert not self.tokens, self.tokens
        return value

    def cases(self):
        value = self.sum()
        if self.next() != "where":
            return value
        self.take()
        left, holds = self.sum(), True
        while self.next() in COMPARISONS:
            compare, right = COMPARISONS[self.take()], self.sum()
            left, holds = right, holds & compare(left, right)
        self.take(",")
        self.take("else")
        return np.where(holds, value, self.cases())

    def sum(self):
        value = self.product()
        while self.next() and self.next() in "+-":
            value = value + self.product() if self.take() == "+" else value - self.product()
        return value

    def product(self):
        value = self.row()
        while self.next() and self.next() in "*/":
            value = value * self.row() if self.take() == "*" else value / self.row()
        return value

    def row(self):
        value = self.signed()
        while re.match(r"[\w(Σ√]", self.next()) and self.next() not in ("where", "else"):
            right = self.signed()
            value = value @ right if np.ndim(value) and np.ndim(right) else value * right
        return value

    def signed(self):
        if self.next() == "-":
            self.take()
            return -self.signed()
        if self.next() in REDUCTIONS:
            return REDUCTIONS[self.take()](self.product())
        if self.next() in PREFIXES:
            return PREFIXES[self.take()](self.signed())
        if self.next() == "e^":
            self.take()
            return np.exp(self.signed())
        value = self.operand()
        while self.next() and self.next() in "²³ᵀ^":
            mark = self.take()
            value = (
                value.T
                if mark == "ᵀ"
                else value ** {"²": 2, "³": 3}.get(mark)
                if mark != "^"
                else value ** self.signed()
            )
        return value

    def operand(self):
        token = self.take()
        if token in FUNCTIONS:
            self.take("(")
            arguments = [self.cases()]
            while self.take(",", ")") == ",":
                arguments.append(self.cases())
            return FUNCTIONS[token](*arguments)
        if token in ("(", "|"):
            value = self.cases()
            self.take(")" if token == "(" else "|")
            return value if token == "(" else abs(value)
        return float(token) if token[0].isdigit() else self.arrays[token]
