"""Default settings of the notes, PyTorch, Keras and scikit-learn.

A *dialect* is the table of the default settings of one of these systems. When an object is created, values that are not
specified come from the current dialect: the slope of an activation, the rates of an optimizer, and the initializers of
a network's layers. A network and its model files store the name of the dialect in which the network was created; an
optimizer that is passed to ``fit`` by name uses the defaults of that dialect.
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
    "Dense.initializer": None,  # determined by the activation, see deepnotes.nn.activations.LIBRARY
    "Dense.bias_initializer": None,  # zeros
    "leaky_relu.slope": 0.001,  # N9
    "elu.alpha": 1.0,
    "celu.alpha": 1.0,
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
    "NAdam.learning_rate": 0.002,
    "NAdam.beta1": 0.9,
    "NAdam.beta2": 0.999,
    "NAdam.epsilon": 1e-8,
    "NAdam.momentum_decay": 0.004,
    "RAdam.learning_rate": 0.001,
    "RAdam.beta1": 0.9,
    "RAdam.beta2": 0.999,
    "RAdam.epsilon": 1e-8,
    "Adamax.learning_rate": 0.002,
    "Adamax.beta1": 0.9,
    "Adamax.beta2": 0.999,
    "Adamax.epsilon": 1e-8,
    "Adagrad.learning_rate": 0.01,
    "Adagrad.epsilon": 1e-10,
    "Adadelta.learning_rate": 1.0,
    "Adadelta.rho": 0.9,
    "Adadelta.epsilon": 1e-6,
    "Lion.learning_rate": 1e-4,
    "Lion.beta1": 0.9,
    "Lion.beta2": 0.99,
    "Lion.weight_decay": 0.0,
}
"""Those of the optimizers from NAdam on, and of celu, are PyTorch's; for Lion, the paper's."""

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
    "leaky_relu.slope": 0.2,  # for activation="leaky_relu"; the default of the layer keras.layers.LeakyReLU is 0.3
    "SGD.rate_in_velocity": True,
    "RMSProp.epsilon_inside": True,
    "Adam.epsilon": 1e-7,
    "Adam.epsilon_hat": True,
    "AdamW.weight_decay": 0.004,
    "AdamW.decay_biases": True,
}

SKLEARN: Settings = {
    **NOTES,  # for leaky_relu, elu, RMSProp and AdamW, which scikit-learn does not have
    "Dense.initializer": "sklearn_uniform",
    "Dense.bias_initializer": "sklearn_uniform",
    "SGD.learning_rate": 0.001,
    "SGD.momentum": 0.9,
    "SGD.nesterov": None,  # True if momentum is above 0
    "SGD.rate_in_velocity": True,
    "Adam.epsilon_hat": True,
}

DIALECTS: Mapping[str, Settings] = MappingProxyType(
    {"notes": NOTES, "torch": TORCH, "keras": KERAS, "sklearn": SKLEARN},
)


class defaults:
    """A context manager that selects default settings for the objects that are created within its ``with`` block.

    As with :func:`deepnotes.use_backend`, the selection applies only to the current thread or async task; a new thread
    starts with the defaults of the notes. Without a ``with`` block, ``defaults(name)`` has no effect.

    Parameters
    ----------
    name : {"notes", "torch", "keras", "sklearn"}
        The system whose defaults are used: the notes, PyTorch, Keras or scikit-learn.

    Raises
    ------
    UnknownNameError
        If there is no dialect with this name.

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
    current = _current.get()
    return "notes" if current is None else current.name


def default(key: str) -> Any:
    """Return the value of a setting in the current dialect.

    Parameters
    ----------
    key : str
        A key of :data:`NOTES`.

    Examples
    --------
    >>> default("leaky_relu.slope")
    0.001
    """
    return DIALECTS[current_dialect()][key]


def default_of(key: str) -> Callable[[], Any]:
    """Return a ``default_factory`` for a dataclass field: a function that returns ``default(key)``."""
    return partial(default, key)


@contextmanager
def in_dialect(name: str | None) -> Iterator[None]:
    """Select a dialect within a ``with`` block; None keeps the current dialect."""
    if name is None:
        yield
        return
    with defaults(name):
        yield
