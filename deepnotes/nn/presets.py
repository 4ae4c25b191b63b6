"""Default settings: those of the notes, or those of PyTorch, Keras or scikit-learn.

The defaults of each system, a *dialect*, are a table in this file. A part takes its defaults from the current dialect
when it is made: an activation its slope, an optimizer its rates, and a network the initializers that its layers leave
open. Explicit arguments always win. A network remembers the dialect that it was made in, so that an optimizer passed to
its ``fit`` by name has the same system's defaults; model files store the dialect as well.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from functools import partial
from types import MappingProxyType
from typing import Any

from deepnotes.utils.errors import look_up

Settings = Mapping[str, Any]

NOTES: Settings = {
    "Dense.initializer": None,  # by the activation: he_normal for the relu family, else glorot_uniform
    "Dense.bias_initializer": None,  # zeros
    "leaky_relu.slope": 0.001,  # N9
    "elu.alpha": 1.0,
    "SGD.learning_rate": 0.01,
    "SGD.momentum": 0.0,
    "SGD.nesterov": False,
    "SGD.rate_in_velocity": False,
    "RMSProp.learning_rate": 0.001,
    "RMSProp.rho": 0.9,
    "RMSProp.epsilon": 1e-7,
    "RMSProp.epsilon_inside": False,
    "Adam.learning_rate": 0.001,
    "Adam.beta1": 0.9,
    "Adam.beta2": 0.999,
    "Adam.epsilon": 1e-8,
    "Adam.epsilon_hat": False,
    "AdamW.weight_decay": 0.01,
    "AdamW.decay_biases": False,
}

TORCH: Settings = {
    **NOTES,
    "Dense.initializer": "torch_uniform",
    "Dense.bias_initializer": "torch_uniform",
    "leaky_relu.slope": 0.01,
    "SGD.learning_rate": 0.001,
    "RMSProp.learning_rate": 0.01,
    "RMSProp.rho": 0.99,
    "RMSProp.epsilon": 1e-8,
    "AdamW.decay_biases": True,
}

KERAS: Settings = {
    **NOTES,
    "Dense.initializer": "glorot_uniform",
    "leaky_relu.slope": 0.2,  # of activation="leaky_relu"; the layer LeakyReLU has 0.3
    "SGD.rate_in_velocity": True,
    "RMSProp.epsilon_inside": True,
    "Adam.epsilon": 1e-7,
    "Adam.epsilon_hat": True,
    "AdamW.weight_decay": 0.004,
    "AdamW.decay_biases": True,
}

SKLEARN: Settings = {
    **NOTES,  # it has no leaky_relu, elu, RMSProp and AdamW
    "Dense.initializer": "sklearn_uniform",
    "Dense.bias_initializer": "sklearn_uniform",
    "SGD.learning_rate": 0.001,
    "SGD.momentum": 0.9,
    "SGD.nesterov": None,  # wherever there is momentum
    "SGD.rate_in_velocity": True,
    "Adam.epsilon_hat": True,
}

DIALECTS: Mapping[str, Settings] = MappingProxyType(
    {"notes": NOTES, "torch": TORCH, "keras": KERAS, "sklearn": SKLEARN},
)


class defaults:
    """Make a system's defaults those of what is made within a ``with`` block.

    As with :func:`deepnotes.use_backend`, that is for this thread or async task alone; a new thread begins with the
    notes'. Outside of a block, a call has no effect.

    Parameters
    ----------
    name : {"notes", "torch", "keras", "sklearn"}

    Raises
    ------
    UnknownNameError
        If there is no such dialect.

    Examples
    --------
    >>> import deepnotes as dn
    >>> with dn.defaults("torch"):
    ...     dn.Activation("leaky_relu"), dn.RMSProp(rho=0.9).learning_rate
    (Activation('leaky_relu', slope=0.01), 0.01)
    >>> dn.Activation("leaky_relu")
    Activation('leaky_relu', slope=0.001)
    """

    def __init__(self, name: str) -> None:
        look_up("dialect", name, DIALECTS)
        self.name = name
        self._tokens: list[Token[defaults | None]] = []

    def __enter__(self) -> "defaults":
        self._tokens.append(_current.set(self))
        return self

    def __exit__(self, *error: object) -> None:
        _current.reset(self._tokens.pop())

    def __repr__(self) -> str:
        return f"defaults({self.name!r})"


_current: ContextVar[defaults | None] = ContextVar("deepnotes_defaults", default=None)


def current_dialect() -> str:
    """Return the name of the current dialect."""
    in_force = _current.get()
    return "notes" if in_force is None else in_force.name


def default(key: str) -> Any:
    """Return the value of a setting in the current dialect.

    Examples
    --------
    >>> default("leaky_relu.slope")
    0.001
    """
    return DIALECTS[current_dialect()][key]


def default_of(key: str) -> Callable[[], Any]:
    """Return a default factory for a dataclass field; each call looks the setting up in the current dialect."""
    return partial(default, key)


@contextmanager
def in_dialect(name: str | None) -> Iterator[None]:
    """Make a dialect the current one within a ``with`` block; None leaves the current one as it is."""
    if name is None:
        yield
        return
    with defaults(name):
        yield
