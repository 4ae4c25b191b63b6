"""The network of an estimator, kept consistent with its attributes, and the state of its optimizer."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.program import Program, State
from deepnotes.network.network import Network
from deepnotes.network.training.state import Training
from deepnotes.nn.averaging import Averaged
from deepnotes.nn.layers import Layer
from deepnotes.nn.plan import Layout, Plan
from deepnotes.nn.schedules import Memory, Rate, Schedule

Parameters: TypeAlias = Mapping[str, Sequence[np.ndarray]]
"""The parameters of all layers by their keys there, such as ``W``, in the order of the layers.

Those with the key ``W`` have the shape (n_prev, n), as in scikit-learn, and the others (n,).
"""


class EpochRate(Schedule):
    """A learning rate that scikit-learn's rules set after each epoch.

    Attributes
    ----------
    rate : float
    """

    def __init__(self, rate: float) -> None:
        self.rate = float(rate)

    def __call__(self, step: int) -> float:
        """Return the rate of the current epoch."""
        return self.rate

    def rates(self, first: int, count: int) -> list[float]:
        """Return the rate `count` times."""
        return [self.rate] * count


class LiveNetwork:
    """A network whose parameters are kept equal to the attributes of an estimator, such as ``coefs_``.

    Users read, change and pickle these attributes. On backends that use NumPy arrays, they are views of the network's
    parameters. On other backends they are copies, which are read-only because writing to a copy would not change the
    network. If a user assigns new arrays, the network copies their values when it is next used.

    Attributes
    ----------
    rate : EpochRate
    """

    def __init__(self, rate: float) -> None:
        self.rate = EpochRate(rate)
        self._network: Network | None = None
        self._exposed: list[np.ndarray] = []  # the arrays that the last call of expose() returned
        self._moments: tuple[list[np.ndarray], int] | None = None  # the optimizer's slots and step, for resuming
        self._averaged: tuple[np.ndarray, np.ndarray] | None = None  # the trained parameters, and their averages
        self._memory: tuple[Rate, Memory] | None = None  # of the last training run

    def network(self, layers: Sequence[Layer], backend: Backend, seed: int, parameters: Parameters) -> Network:
        """Return the network with these parameters: a new one only if the layers, the backend or the dtype changed."""
        net, W = self._network, np.asarray(parameters["W"][0])
        dtype = "float32" if W.dtype == np.float32 else "float64"
        if net is None or net.backend is not backend or net.layers != tuple(layers) or net.dtype != dtype:
            theta = _pack(Layout(len(W), layers), parameters)
            net = Network(layers, len(W), backend=backend, dtype=dtype, seed=seed, theta=theta)
            if self._network is not None and self._network._training is not None:
                self._moments = _moments(self._network)
            self._network = net
        elif not self._exposes(parameters):
            net.set_flat(_pack(net.layout, parameters))
        return net

    def current(self, parameters: Parameters) -> Network | None:
        """Return the network if the arguments are the arrays that it exposes, else None: a shortcut for ``predict``."""
        return self._network if self._exposes(parameters) else None

    def expose(self) -> dict[str, list[np.ndarray]]:
        """Return the network's parameters by key, as arrays for the attributes of the estimator."""
        net = self._network
        assert net is not None
        flat = net.backend.to_numpy(net.theta)
        if flat is not cast(Any, net.theta):
            flat = np.array(flat)
            flat.flags.writeable = False
        parameters: dict[str, list[np.ndarray]] = {}
        for entry in net.layout.entries.values():
            part = flat[entry.start : entry.stop]
            part = part.reshape(entry.parameter.shape).T if entry.key == "W" else part
            parameters.setdefault(entry.key, []).append(part)
        self._exposed = [part for parts in parameters.values() for part in parts]
        return parameters

    def start(self, plan: Plan, resume: bool) -> tuple[Program, State]:
        """Return a Program and its state; with `resume`, the optimizer continues with its current slots and step.

        Then training also continues from the parameters of which the network has the averages, unless these changed.
        """
        net = self._network
        assert net is not None
        if resume and self._averaged is not None and isinstance(plan.optimizer, Averaged):
            trained, averages = self._averaged
            if np.array_equal(net.flat(), averages):
                net.set_flat(trained)
        self._averaged = None
        moments = self._moments if net._training is None else None
        if resume and net._training is not None:
            if net._training[0] == plan:
                return net._training[1:]
            moments = _moments(net)
        self._moments = None
        program, state = net._start(plan)
        if not resume or moments is None:
            return program, state
        slots, step = moments
        if len(slots) == len(state.slots) and all(slot.shape == net.theta.shape for slot in slots):
            write = net.backend.write
            state.slots = tuple(write(a, 0, net.from_host(b)) for a, b in zip(state.slots, slots, strict=True))
            state.step = step
        return program, state

    def use_averages(self, training: Training) -> None:
        """Set the parameters to their averages, if there are any, and keep the parameters for :meth:`start`."""
        averages = training.averages
        if averages is not None:
            self._averaged = training.network.flat(), averages
            training.use_averages()

    def recall(self, training: Training) -> None:
        """Let a training run begin with the memory that its schedule had at the end of the last one."""
        if self._memory is not None and self._memory[0] == training.plan.optimizer.learning_rate:
            training.position.memory = self._memory[1]

    def remember(self, training: Training) -> None:
        """Keep the memory of the schedule, if it has one."""
        memory = training.position.memory
        self._memory = (training.plan.optimizer.learning_rate, memory) if memory else None

    def release_program(self) -> None:
        """Release the Program and its workspace, but keep what training needs to continue."""
        assert self._network is not None
        if self._network._training is not None:
            self._moments = _moments(self._network)
            self._network._training = None

    def _exposes(self, parameters: Parameters) -> bool:
        """Return whether these are the very objects that the last call of :meth:`expose` returned."""
        arrays = [array for arrays in parameters.values() for array in arrays]
        return len(arrays) == len(self._exposed) and all(a is b for a, b in zip(arrays, self._exposed, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        """Return the rate, the optimizer's slots and step, and the like; the estimator stores the parameters."""
        net = self._network
        moments = self._moments if net is None or net._training is None else _moments(net)
        content = {"rate": self.rate.rate, "moments": moments, "averaged": self._averaged, "memory": self._memory}
        return {key: value for key, value in content.items() if value is not None}

    def __setstate__(self, content: dict[str, Any]) -> None:
        self.__init__(content["rate"])  # type: ignore[misc]
        self._moments, self._averaged = content.get("moments"), content.get("averaged")
        self._memory = content.get("memory")


def _moments(network: Network) -> tuple[list[np.ndarray], int]:
    """Return the slots and the step of the optimizer with which `network` was trained."""
    assert network._training is not None
    _, _, state = network._training
    return [np.array(network.backend.to_numpy(slot)) for slot in state.slots], state.step


def _pack(layout: Layout, parameters: Parameters) -> np.ndarray:
    """Return all parameters as a flat buffer, shape (p,)."""
    remaining = {key: iter(arrays) for key, arrays in parameters.items()}
    return np.concatenate([np.asarray(next(remaining[entry.key])).T.ravel() for entry in layout.entries.values()])
