"""Fingerprints of the settings and data of a training run, to decide whether it can be resumed from a checkpoint."""

import hashlib
import platform
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends.samples import host_columns
from deepnotes.network.training.loop import callbacks_with_memory
from deepnotes.network.training.object_fingerprint import NoFingerprintError, fingerprint, fingerprint_settings
from deepnotes.nn import formulas
from deepnotes.nn.activations import Activation, as_formula
from deepnotes.nn.expressions import Expression
from deepnotes.nn.layers import Dense, Layer
from deepnotes.nn.losses import LossFunction
from deepnotes.nn.optimizer_base import Optimizer
from deepnotes.nn.optimizers import LIBRARY as OPTIMIZERS
from deepnotes.utils.errors import NotAnExpressionError
from deepnotes.utils.version import __version__
from deepnotes.utils.wording import brief

if TYPE_CHECKING:
    from deepnotes.backends.base import Backend
    from deepnotes.backends.program import Data
    from deepnotes.network.training.state import Training
    from deepnotes.nn.plan import Plan

DEFAULTS = {"shards": "none", "accumulate": "1", "l1": "0.0"}
"""The values of settings if they are not used; older checkpoints lack these settings."""


def settings(training: "Training") -> dict[str, str | None]:
    """Return the fingerprints of the settings and the digests of the data of a training run, by name.

    Training can be resumed from a checkpoint if all fingerprints and digests equal those in the checkpoint. The backend
    and the number of epochs are not included. If a setting has no fingerprint, its value is None; see
    :func:`describe_incomparable`.
    """
    fingerprints: dict[str, str | None] = {}
    for name, value in _settings_to_compare(training).items():
        try:
            fingerprints[name] = _fingerprint_setting(name, value)
        except NoFingerprintError:
            fingerprints[name] = None
    held_out = None if training.held_out is None else digest(training.network.backend, training.held_out)
    fingerprints["shards"] = str(training.shards or DEFAULTS["shards"])
    return fingerprints | {"data": digest(training.network.backend, training.data), "validation": held_out or "none"}


def versions(training: "Training") -> dict[str, str]:
    """Return the versions that may affect the last bits of the results of training."""
    return {
        "deepnotes": __version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "backend": training.network.backend.describe(),
    }


def describe_incomparable(training: "Training") -> str:
    """Return an error message if a setting has no fingerprint, so that it cannot be compared, else an empty string."""
    for name, value in _settings_to_compare(training).items():
        try:
            _fingerprint_setting(name, value)
        except NoFingerprintError as error:
            return (
                f"{name} contains a user-defined object whose settings cannot be compared: {error}; give it a method "
                "fingerprint() that returns its settings: numbers, strings, arrays, or lists or dicts of these"
            )
    return ""


def differences(before: Mapping[str, str | None], now: Mapping[str, str | None]) -> str:
    """Return a message that lists the settings whose fingerprints differ, or an empty string if all are equal.

    Examples
    --------
    >>> differences({"batch_size": "32", "data": "0af3"}, {"batch_size": "64", "data": "0af3"})
    'batch_size was 32 and is 64'
    """
    messages = []
    for name, value in now.items():
        old_value = before.get(name, DEFAULTS.get(name))
        if old_value == value:
            continue
        if name in {"data", "validation"}:
            messages.append(f"{name} differs")
            continue
        old, new = excerpts(old_value or "unknown", value or "unknown")
        hint = f", so create the network with seed={old}" if name == "seed" else ""
        messages.append(f"{name} was {old} and is {new}{hint}")
    return "; ".join(messages)


def excerpts(old: str, new: str) -> tuple[str, str]:
    """Return both strings; if they are long, return excerpts that begin shortly before the first difference."""
    same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    start = same - 60 if same > 100 else 0
    old, new = (f"{'... ' if start else ''}{brief(text[start:])}" for text in (old, new))
    return old, new


def _settings_to_compare(training: "Training") -> dict[str, Any]:
    """Return the settings that must not change when training is resumed, by name."""
    plan: dict[str, Any] = {field.name: getattr(training.plan, field.name) for field in fields(training.plan)}
    return plan | {
        "layers": tuple(_layer(layer, training.plan.dtype) for layer in training.plan.layers),
        "loss": _loss(training.plan),
        "optimizer": _optimizer(training.plan),
        "batch_size": training.batch_size,
        "accumulate": training.accumulate,
        "shuffle": training.rng is not None,
        "watched": list(training.watched),
        "callbacks": callbacks_with_memory(training),
    }


def _layer(layer: Layer, dtype: str) -> Layer:
    """Return a layer with the formula of its activation in place of a user-defined one that has a formula."""
    if type(layer) is not Dense or type(layer.g) is Activation or hasattr(layer.g, "fingerprint"):
        return layer
    try:
        return replace(layer, activation=as_formula(layer.g, dtype, layer.units))
    except NotAnExpressionError:
        return layer


def _loss(plan: "Plan") -> Any:
    """Return the formula of a user-defined loss, or the loss itself if other methods of it matter."""
    loss = plan.loss
    if type(loss).fused_with is not LossFunction.fused_with:
        return loss
    formula = _formula(formulas.loss_and_derivative, loss, plan.dtype, plan.layout.sizes[-1])
    return {"formula": formula} if formula else loss


def _optimizer(plan: "Plan") -> Any:
    """Return the formula of a user-defined optimizer, or the optimizer itself if other methods of it matter."""
    optimizer = plan.optimizer
    if type(optimizer).scalars is not Optimizer.scalars or type(optimizer) in OPTIMIZERS.values():
        return optimizer
    formula = _formula(formulas.update, optimizer, plan.dtype)
    return {"formula": formula, "learning_rate": optimizer.learning_rate} if formula else optimizer


def _formula(describe: Callable[..., Expression], part: object, *arguments: Any) -> dict[str, Any] | None:
    """Return the formula of a part as data; None if it has none, may change, or defines its fingerprint."""
    if hasattr(part, "fingerprint") or not formulas.is_fixed(part):
        return None
    try:
        return describe(part, *arguments).to_data()
    except NotAnExpressionError:
        return None


def _fingerprint_setting(name: str, value: Any) -> str:
    """Return the fingerprint of a setting. For a callback, only its settings count, not its state."""
    if name == "callbacks":
        return f"[{', '.join(map(fingerprint_settings, value))}]"
    return fingerprint(value)


def digest(backend: "Backend", data: "Data") -> str:
    """Return the SHA-256 digest of samples, targets and weights, independent of their layout in memory."""
    sha256 = hashlib.sha256()
    for array in data:
        if array is None:
            continue
        n, m = array.shape
        sha256.update(f"{n} {m};".encode())
        step = max(1, (1 << 20) // max(1, n))
        for start in range(0, m, step):
            block = host_columns(backend, array, slice(start, min(m, start + step)))
            sha256.update(np.ascontiguousarray(block.T).data)
    return sha256.hexdigest()
