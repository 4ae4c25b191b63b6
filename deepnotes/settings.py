"""What a training was started with, in words, so that another can be told to be the same."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.callbacks import Callback
from deepnotes.wording import brief

if TYPE_CHECKING:
    from deepnotes.backend import Backend
    from deepnotes.program import Data
    from deepnotes.training import Training


def settings(training: "Training") -> dict[str, str]:
    """Return by name all that two trainings must have in common to be the same, but for backend and epochs."""
    plan, backend = training.plan, training.network.backend
    values: dict[str, Any] = {field.name: getattr(plan, field.name) for field in fields(plan)}
    values |= {
        "batch_size": training.batch_size,
        "shuffle": training.rng is not None,
        "watched": list(training.watched),
        "callbacks": remembering(training),
    }
    words = {name: _words(value) for name, value in values.items()}
    held_out = "none" if training.held_out is None else digest(backend, training.held_out)
    return words | {"data": digest(backend, training.data), "validation": held_out}


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """Return in words what differs, or nothing.

    Examples
    --------
    >>> differences({"batch_size": "32", "data": "0af3"}, {"batch_size": "64", "data": "0af3"})
    'batch_size was 32 and is 64'
    """
    told = []
    for name, value in wanted.items():
        if found.get(name) != value:
            is_digest = name in {"data", "validation"}
            told.append(
                f"{name} is other" if is_digest else f"{name} was {brief(found.get(name))} and is {brief(value)}"
            )
    return "; ".join(told)


def remembering(training: "Training") -> list[Callback]:
    """Return the callbacks that have something for a checkpoint to keep."""
    return [callback for callback in training.callbacks if type(callback).memory is not Callback.memory]


def digest(backend: "Backend", data: "Data") -> str:
    """Return the SHA-256 of samples, targets and weights, however they lie in memory."""
    found = hashlib.sha256()
    for array in data:
        if array is None:
            continue
        n, m = array.shape
        found.update(f"{n} {m};".encode())
        step = max(1, (1 << 20) // max(1, n))
        for start in range(0, m, step):
            part = backend.to_numpy(array[:, start : min(m, start + step)])
            found.update(np.ascontiguousarray(part.T).data)
    return found.hexdigest()


def _words(value: Any) -> str:
    """Return what Python writes for a value, without the addresses of objects and functions."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
