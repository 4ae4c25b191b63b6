"""An argument that is True or False takes nothing else: the text "no" would count as true, and None as false."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

import deepnotes as dn

X, Y = np.ones((2, 4)), np.ones((1, 4))
CLASSES = {"EarlyStopping": {}, "OneCycle": {"learning_rate": 0.1, "steps": 100}} | {
    name: {}
    for name in dn.__all__
    if isinstance(getattr(dn, name), type) and issubclass(getattr(dn, name), dn.Optimizer)
}
FIELDS = [
    (name, field.name)
    for name in sorted(CLASSES)
    if hasattr(getattr(dn, name), "__dataclass_fields__")
    for field in fields(getattr(dn, name))
    if field.type in {bool, "bool"}
]


def network() -> dn.Network:
    return dn.Network([dn.Dense(1)], 2, backend="numpy", seed=0)


CALLS: dict[str, Callable[[Any], object]] = {
    "shuffle": lambda value: network().fit(X, Y, epochs=1, shuffle=value),
    "progress": lambda value: network().fit(X, Y, epochs=1, progress=value),
    "resume": lambda value: network().fit(X, Y, epochs=1, resume=value),
    "resume of Checkpoints": lambda value: dn.Checkpoints("folder", resume=value),
    "progress of fit_many": lambda value: dn.fit_many([network()], X, Y, epochs=1, progress=value),
    "return_std": lambda value: dn.Ensemble([network()]).predict(X, return_std=value),
} | {
    f"{name} of {cls}": lambda value, cls=cls, name=name: getattr(dn, cls)(**CLASSES[cls], **{name: value})
    for cls, name in FIELDS
}


def test_the_options_of_all_classes_are_found() -> None:
    assert {("SGD", "nesterov"), ("AMSGrad", "epsilon_hat"), ("EarlyStopping", "restore_best")} <= set(FIELDS)


@pytest.mark.parametrize("value", ["no", "False", 1, [], 0.0])
@pytest.mark.parametrize("call", CALLS)
def test_anything_else_is_refused(call: str, value: Any) -> None:
    with pytest.raises(dn.ArgumentError, match=rf"^{call.split()[0]}=.*, wanted True or False$"):
        CALLS[call](value)


@pytest.mark.parametrize("call", CALLS)
def test_false_of_numpy_is_accepted(call: str) -> None:
    CALLS[call](np.False_)
