"""Recognize rows that a model was trained on, by a sketch of their hashes that is saved with the model.

The sketch holds the smallest hashes of the training rows, at most :data:`KEPT`. A row with a hash up to the largest of
these was trained on if, and only if, its hash is in the sketch; so the share of such rows can be computed from the rows
whose hashes are that small: exactly for tables of fewer than :data:`KEPT` rows, and otherwise as an estimate (A.
Broder, On the resemblance and containment of documents, 1997). Rows with equal values have equal hashes.
"""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepnotes.cli.output import format_count
from deepnotes.cli.tasks import Classification, Task
from deepnotes.datasets.on_disk import OnDisk
from deepnotes.datasets.tables import Column

KEPT = 1000
"""The largest number of hashes that are saved."""
KEY = "trained_on"
"""The key of the sketch in the metadata of a model."""
MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
"""The multipliers of the function that mixes the bits, SplitMix64 (G. Steele, D. Lea and C. Flood, 2014)."""


def describe_training_rows(
    X: np.ndarray | OnDisk, y: Column, task: Task, before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the sketch of the training rows as metadata of a model; {} if the samples are on disk.

    Parameters
    ----------
    X : ndarray or OnDisk, shape (n, m)
    y : array, shape (m,) or (m, k)
        The target columns.
    task : Task
    before : mapping, optional
        The metadata of the model that training started from, whose rows are added.
    """
    if isinstance(X, OnDisk):
        return {}
    smallest = np.unique(np.concatenate([_hashes(X, y, task), _read(before or {})]))[:KEPT]
    return {KEY: {"hashes": base64.b64encode(smallest.astype("<u8").tobytes()).decode("ascii")}}


def note_on_training_rows(
    metadata: Mapping[str, Any],
    X: np.ndarray | OnDisk,
    y: Column,
    task: Task,
    row: str = "row",
    model: str = "the model",
) -> str:
    """Return a note on how many of these rows a model was trained on; an empty string if none, or not known.

    Parameters
    ----------
    metadata : mapping
        The metadata of the model.
    X, y, task
        As for :func:`describe_training_rows`.
    row, model : str
        What the note calls a row, and the model.
    """
    smallest = _read(metadata)
    if isinstance(X, OnDisk) or not smallest.size:
        return ""
    hashes = _hashes(X, y, task)
    complete = smallest.size < KEPT
    comparable = hashes if complete else hashes[hashes <= smallest[-1]]
    seen = int(np.isin(comparable, smallest).sum())
    if not seen:
        return ""
    if complete:
        share = f"{seen:,} of {format_count(hashes.size, row)} are"
    else:
        share = f"about {seen / comparable.size:.0%} of the {format_count(hashes.size, row)} are"
    return f"{share} equal to rows that {model} was trained on, so the scores may be too good"


def _read(metadata: Mapping[str, Any]) -> NDArray[np.uint64]:
    """Return the hashes in the metadata of a model; none if they are missing or damaged."""
    try:
        content = base64.b64decode(metadata[KEY]["hashes"], validate=True)
        return np.sort(np.frombuffer(content, "<u8").astype(np.uint64))[:KEPT]
    except (LookupError, TypeError, ValueError):
        return np.empty(0, np.uint64)


def _hashes(X: np.ndarray, y: Column, task: Task) -> NDArray[np.uint64]:
    """Return a hash of the inputs and the target of each row, shape (m,)."""
    target = task.indices(y) if isinstance(task, Classification) else y
    hashes = np.zeros(X.shape[1], np.uint64)
    for values in (*X, *np.atleast_2d(target.T)):
        bits = (values.astype(np.float64) + 0.0).view(np.uint64)  # -0.0 becomes 0.0
        hashes = _mix(hashes * np.uint64(0x9E3779B97F4A7C15) + _mix(bits))
    return hashes


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return 64-bit numbers in which each bit depends on all bits of the given ones."""
    bits = (bits ^ (bits >> np.uint64(30))) * MULTIPLIERS[0]
    bits = (bits ^ (bits >> np.uint64(27))) * MULTIPLIERS[1]
    return bits ^ (bits >> np.uint64(31))
