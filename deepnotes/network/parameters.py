"""Two views of the flat buffer of a network: its parameters by name, and the state of a training run."""

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends.foreign_arrays import as_host, to_host
from deepnotes.backends.program import State
from deepnotes.equations.array import Array
from deepnotes.network import array_validation
from deepnotes.utils.errors import ShapeError, UnknownNameError, UnknownParameterError, look_up

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike


class Parameters(MutableMapping[str, Array]):
    """The parameters of a network by name (``W1``, ``b1``, ...), as views of its flat buffer where possible.

    A NumPy array or an array of the backend can be assigned to a parameter; it is checked and copied.
    """

    def __init__(self, network: "NetworkLike") -> None:
        self._network = network

    def __getitem__(self, name: str) -> Array:
        entry = self._entry(name)
        network = self._network
        return network.backend.xp.reshape(network.theta[entry.start : entry.stop], entry.parameter.shape)

    def __setitem__(self, name: str, value: Any) -> None:
        network, entry = self._network, self._entry(name)
        host = as_host(network.backend, to_host(network.backend, value, name), name)
        if host.shape != entry.parameter.shape:
            raise ShapeError.of(name, host.shape, str(entry.parameter.shape))
        flat = network.backend.from_numpy(as_values(network, host, name).reshape(-1))
        network.theta = network.backend.write(network.theta, entry.start, flat)

    def __delitem__(self, name: str) -> None:
        raise TypeError("the parameters of a network cannot be deleted")

    def __iter__(self) -> Iterator[str]:
        return iter(self._network.layout.in_order)

    def __len__(self) -> int:
        return len(self._network.layout.entries)

    def __repr__(self) -> str:
        return f"Parameters({', '.join(f'{e.name} {e.parameter.shape}' for e in map(self._entry, self))})"

    def _entry(self, name: str) -> Any:
        """Return the layout entry of a parameter, or raise UnknownParameterError."""
        try:
            return look_up("parameter", name, self._network.layout.entries)
        except UnknownNameError as error:
            raise UnknownParameterError(str(error)) from None


def as_values(network: "NetworkLike", host: np.ndarray, name: str) -> np.ndarray:
    """Return an array as values of a parameter, in the network's dtype; `name` is its name in error messages.

    Raises
    ------
    DataError
        If a value is NaN, infinite, or too large for the dtype.
    """
    with np.errstate(over="ignore"):  # values beyond the dtype's range become infinite and are refused
        values = np.ascontiguousarray(host, dtype=network.dtype)
    array_validation.check_finite(network.backend, values, name, host)
    return values


class NetworkState(State):
    """A training state that uses the network's θ instead of a copy."""

    def __init__(self, network: "NetworkLike", slots: tuple[Array, ...]) -> None:
        self._network = network
        self.slots, self.step = slots, 0

    @property
    def theta(self) -> Array:
        return self._network.theta

    @theta.setter
    def theta(self, theta: Array) -> None:
        self._network.theta = theta
