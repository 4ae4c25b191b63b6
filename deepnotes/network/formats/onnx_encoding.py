"""The encoding and imputation of columns as ONNX nodes, so that an ONNX file takes the columns of a table.

Each column is an input of shape (m, 1): numbers in double precision, with NaN for a missing one, or text, with an empty
string for a missing one. An unknown category becomes zeros, or the index 0, since ONNX has no errors.
"""

from typing import Any

import numpy as np

from deepnotes.datasets.encoding import Encoder, Feature
from deepnotes.datasets.tables import Table
from deepnotes.network.formats.check_vectors import ROWS
from deepnotes.network.formats.tracing import Trace, Value

DOMAIN, VERSION = "ai.onnx.ml", 2
"""The operators of ONNX for classical machine learning; this version dates from 2019."""


def encode(trace: Trace, encoder: Encoder) -> Value:
    """Return X of shape (m, n) in double precision, traced from the columns of `encoder`."""
    parts = []
    for number, feature in enumerate(encoder.features, 1):
        trace.scope = f"encode/column{number}/"
        parts.append(_encode(trace, feature, number))
    trace.scope = "encode/"
    return trace.node("Concat", *parts, axis=1)


def _encode(trace: Trace, feature: Feature, number: int) -> Any:
    """Return the inputs of one column, shape (m, k)."""
    column: Any = Value(trace, feature.name, np.dtype(object if feature.is_text else np.float64))
    categories = feature.categories
    if feature.is_text:
        codes = {str(name): code for code, name in enumerate(categories or (), int(feature.embedded))}
        if feature.fill is not None:
            codes[""] = codes[str(feature.fill)]
        column = trace.node(
            "LabelEncoder", column, result="int64", domain=DOMAIN, keys_strings=[*codes],
            values_int64s=[*codes.values()], default_int64=feature.embedded - 1,
        )  # fmt: skip
        if feature.embedded:
            return trace.cast(column, "float64")
        known = np.arange(len(categories or ()))
    else:
        if feature.fill is not None:
            missing = trace.node("IsNaN", column, result="bool")
            column = trace.node("Where", missing, trace.number(float(feature.fill), column.dtype), column)
        if categories is None:
            return column
        known = np.array(categories, np.float64)
    names = trace.constant(f"categories of column {number}", known.reshape(1, -1))
    one_hot = trace.cast(trace.node("Equal", column, names), "float64")
    if not feature.embedded:
        return one_hot
    indices = trace.constant(f"indices of column {number}", np.arange(1.0, len(known) + 1).reshape(-1, 1))
    return trace.node("MatMul", one_hot, indices)


def sample_columns(encoder: Encoder) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return columns to test a file with, `ROWS` rows of shape (m, 1), and the X of shape (n, m) that they give.

    Columns that are imputed have a missing value. The result is always the same for the same encoder.
    """
    rng, columns = np.random.default_rng(0), dict[str, np.ndarray]()
    for feature in encoder.features:
        if feature.categories is None:
            columns[feature.name] = rng.normal(size=ROWS)
        else:
            columns[feature.name] = rng.choice(np.array(feature.categories), ROWS)
        if feature.fill is not None:
            columns[feature.name][rng.integers(ROWS)] = "" if feature.is_text else np.nan
    X = encoder(Table(list(columns), columns))
    feeds = {
        name: column.reshape(-1, 1).astype(object if column.dtype.kind == "U" else np.float64)
        for name, column in columns.items()
    }
    return feeds, X
