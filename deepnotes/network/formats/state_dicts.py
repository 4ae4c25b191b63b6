"""Parameters under the names and in the shapes that PyTorch gives them in a ``torch.nn.Sequential``.

A Dense layer is a Linear module and, if it has an activation, a module for it; any other layer is one module, and so is
a residual block, which contains modules of its own::

    class Residual(torch.nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

So the second layer in the block that is the third module has the weight ``2.1.weight``.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from deepnotes.backends.foreign_arrays import as_host, to_host
from deepnotes.network.parameters import as_values
from deepnotes.nn.activations import Activation
from deepnotes.nn.layers import BatchNorm, Dense, Layer, LayerNorm, PReLU, RMSNorm, Shortcut
from deepnotes.nn.plan import Entry
from deepnotes.utils.errors import ArgumentError, ShapeError, UnknownParameterError
from deepnotes.utils.wording import brief

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike

NAMES: dict[type[Layer], dict[str, str]] = {
    Dense: {"W": "weight", "b": "bias"},
    BatchNorm: {name: name for name in ("running_mean", "running_var")} | {"gamma": "weight", "beta": "bias"},
    LayerNorm: {"gamma": "weight", "beta": "bias"},
    RMSNorm: {"gamma": "weight"},
    PReLU: {"alpha": "weight"},
}
"""The names in PyTorch of the parameters of each layer. Those of a user-defined layer keep their names."""

Modules: TypeAlias = "list[int | Modules]"
"""The layers of a Sequential by index, with a list for each residual block."""


class Parameter(NamedTuple):
    """One entry of a state dict.

    Attributes
    ----------
    entry : Entry
        The parameter in the network.
    shape : tuple of int
        Its shape in PyTorch.
    is_slope : bool
        Whether a single number may stand for all, as in ``torch.nn.PReLU()``.
    """

    entry: Entry
    shape: tuple[int, ...]
    is_slope: bool


def state_dict(network: "NetworkLike") -> dict[str, np.ndarray]:
    """Return a copy of the parameters; see :meth:`deepnotes.Network.state_dict`."""
    flat = network.flat()
    return {
        name: flat[entry.start : entry.stop].reshape(shape).copy()
        for name, (entry, shape, _) in _parameters(network).items()
    }


def load_state_dict(network: "NetworkLike", state: Any) -> None:
    """Set the parameters, after a check of all; see :meth:`deepnotes.Network.load_state_dict`."""
    if not isinstance(state, Mapping):
        raise ArgumentError(f"state: got {type(state).__name__}, wanted a dict of arrays by name: model.state_dict()")
    parameters = _parameters(network)
    _check_names(state, parameters)
    arrays = {}
    for name in parameters:
        title = f"state[{name!r}]"
        arrays[name] = as_host(network.backend, to_host(network.backend, state[name], title), title)
    _check_shapes(arrays, parameters)
    flat = network.flat()
    for name, (entry, _, _) in parameters.items():
        flat[entry.start : entry.stop] = as_values(network, arrays[name], f"state[{name!r}]").ravel()
    network.set_flat(flat)


def _check_names(state: Mapping[Any, Any], parameters: Mapping[str, Parameter]) -> None:
    """Raise UnknownParameterError if names are missing or superfluous."""
    missing = [f"{name} {parameter.shape}" for name, parameter in parameters.items() if name not in state]
    counters = {name.replace("running_var", "num_batches_tracked") for name in parameters}  # they have no effect here
    unknown = [str(name) for name in state if name not in parameters and name not in counters]
    problems = [
        f"{problem} {brief(', '.join(names))}" for problem, names in (("lacks", missing), ("has the unknown", unknown))
        if names
    ]  # fmt: skip
    if problems:
        raise UnknownParameterError(f"state {' and '.join(problems)}; wanted {brief(', '.join(parameters))}")


def _check_shapes(arrays: Mapping[str, np.ndarray], parameters: Mapping[str, Parameter]) -> None:
    """Raise ShapeError if arrays have other shapes than in PyTorch."""
    wrong = [
        f"state[{name!r}] has shape {arrays[name].shape}, wanted {shape}"
        for name, (_, shape, is_slope) in parameters.items()
        if arrays[name].shape != shape and not (is_slope and arrays[name].shape == (1,))
    ]
    if wrong:
        raise ShapeError(brief("; ".join(wrong)))


def _parameters(network: "NetworkLike") -> dict[str, Parameter]:
    """Return the parameters of a network by their names in PyTorch, in the order of the modules."""
    layers, layout = network.layers, network.layout
    paths = dict(_paths(layers, _sequence(layers, 0, len(layers)), ""))
    parameters = {}
    for entry in map(layout.entries.__getitem__, layout.in_order):
        layer = layers[entry.layer]
        shape: tuple[int, ...] = entry.parameter.shape
        names = next((names for kind, names in NAMES.items() if isinstance(layer, kind)), {})
        if entry.key in names and entry.key != "W":
            shape = shape[:1]
        name = f"{paths[entry.layer]}.{names.get(entry.key, entry.key)}"
        parameters[name] = Parameter(entry, shape, isinstance(layer, PReLU))
    return parameters


def _sequence(layers: Sequence[Layer], start: int, stop: int) -> Modules:
    """Return the modules of ``layers[start:stop]``, with a list for each residual block."""
    modules: Modules = []
    index = stop
    while index > start:
        index -= 1
        layer = layers[index]
        if type(layer) is not Shortcut:
            modules.append(index)
            continue
        first = index - layer.layers
        if first < start:
            raise ArgumentError(
                f"layers[{index}]: {layer!r} begins outside the residual block that it is in, which no nested "
                "torch.nn.Sequential does"
            )
        modules.append(_sequence(layers, first, index))
        index = first
    return modules[::-1]


def _paths(layers: Sequence[Layer], modules: Modules, prefix: str) -> Iterator[tuple[int, str]]:
    """Yield the index of each layer and the name of its module, such as ``2.1``."""
    number = 0
    for module in modules:
        if isinstance(module, list):
            yield from _paths(layers, module, f"{prefix}{number}.")
            number += 1
        else:
            yield module, f"{prefix}{number}"
            layer = layers[module]
            number += 2 if isinstance(layer, Dense) and layer.g != Activation("identity") else 1
