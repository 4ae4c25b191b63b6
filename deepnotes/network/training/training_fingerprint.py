"""The fingerprint of a training's settings and data, by which a checkpoint is matched to a training."""

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends.samples import host_columns
from deepnotes.network.training.loop import remembering
from deepnotes.network.training.object_fingerprint import NoFingerprintError, fingerprint, settings_of
from deepnotes.utils.wording import brief

if TYPE_CHECKING:
    from deepnotes.backends.base import Backend
    from deepnotes.backends.program import Data
    from deepnotes.network.training.state import Training


def settings(training: "Training") -> dict[str, str | None]:
    """Return the settings and data digests, by name, in which two trainings must agree to be the same.

    The backend and the number of epochs are not among them. None stands for a setting that cannot be compared, see
    :func:`incomparable`.
    """
    words: dict[str, str | None] = {}
    for name, value in _values(training).items():
        try:
            words[name] = _words(name, value)
        except NoFingerprintError:
            words[name] = None
    held_out = None if training.held_out is None else digest(training.network.backend, training.held_out)
    return words | {"data": digest(training.network.backend, training.data), "validation": held_out or "none"}


def incomparable(training: "Training") -> str:
    """Return why the training cannot be resumed, if a setting has no fingerprint; else an empty text."""
    for name, value in _values(training).items():
        try:
            _words(name, value)
        except NoFingerprintError as error:
            return (
                f"{name} has a part of your own whose settings cannot be compared: {error}; give it a method "
                "fingerprint() that returns them, as numbers, text, arrays, or lists or dicts of those"
            )
    return ""


def differences(found: Mapping[str, str | None], wanted: Mapping[str, str | None]) -> str:
    """Return a message that says which settings differ; an empty text if none does.

    Examples
    --------
    >>> differences({"batch_size": "32", "data": "0af3"}, {"batch_size": "64", "data": "0af3"})
    'batch_size was 32 and is 64'
    """
    told = []
    for name, value in wanted.items():
        if found.get(name) != value:
            was, now = _around(found.get(name) or "unknown", value or "unknown")
            hint = f", so make the network with seed={was}" if name == "seed" else ""
            told.append(f"{name} differs" if name in {"data", "validation"} else f"{name} was {was} and is {now}{hint}")
    return "; ".join(told)


def _around(was: str, now: str) -> tuple[str, str]:
    """Return two texts, or, if they are long, the parts around the place where they begin to differ."""
    same = next((i for i, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now)))
    start = same - 60 if same > 100 else 0
    was, now = (f"{'... ' if start else ''}{brief(text[start:])}" for text in (was, now))
    return was, now


def _values(training: "Training") -> dict[str, Any]:
    values: dict[str, Any] = {field.name: getattr(training.plan, field.name) for field in fields(training.plan)}
    return values | {
        "batch_size": training.batch_size,
        "shuffle": training.rng is not None,
        "watched": list(training.watched),
        "callbacks": remembering(training),
    }


def _words(name: str, value: Any) -> str:
    if name == "callbacks":  # only their settings: their memories are kept apart
        return f"[{', '.join(map(settings_of, value))}]"
    return fingerprint(value)


def digest(backend: "Backend", data: "Data") -> str:
    """Return the SHA-256 of samples, targets and weights, whatever their layout in memory."""
    found = hashlib.sha256()
    for array in data:
        if array is None:
            continue
        n, m = array.shape
        found.update(f"{n} {m};".encode())
        step = max(1, (1 << 20) // max(1, n))
        for start in range(0, m, step):
            part = host_columns(backend, array, slice(start, min(m, start + step)))
            found.update(np.ascontiguousarray(part.T).data)
    return found.hexdigest()
