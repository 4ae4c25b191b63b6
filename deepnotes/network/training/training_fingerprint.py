"""What a training was started with, in words, so that another can be told to be the same."""

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.network.training.fingerprint import NoFingerprintError, fingerprint, settings_of
from deepnotes.network.training.loop import remembering
from deepnotes.utils.wording import brief

if TYPE_CHECKING:
    from deepnotes.backends.base import Backend
    from deepnotes.backends.program import Data
    from deepnotes.network.training.state import Training


def settings(training: "Training") -> dict[str, str | None]:
    """Return by name all that two trainings must have in common to be the same, but for backend and epochs.

    None stands for what cannot be compared, see :func:`incomparable`.
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
    """Return in words what has no fingerprint, and why a training with it cannot be resumed; or nothing."""
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
    """Return in words what differs, or nothing.

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
    """Return two texts, or, where they are long, what follows shortly before they differ."""
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
    if name == "callbacks":  # they have a memory of their own beside their settings
        return f"[{', '.join(map(settings_of, value))}]"
    return fingerprint(value)


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
