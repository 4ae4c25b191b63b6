"""The network of an estimator, kept consistent with ``coefs_`` and ``intercepts_``, and the state of its optimizer."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.program import Program, State
from deepnotes.network.network import Network
from deepnotes.nn.layers import Layer
from deepnotes.nn.plan import Plan
from deepnotes.nn.schedules import Schedule


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
    """A network whose parameters are kept equal to an estimator's ``coefs_`` and ``intercepts_``.

    Users read, change and pickle ``coefs_`` and ``intercepts_``. On backends that use NumPy arrays, these are views of
    the network's parameters. On other backends they are copies, which are read-only because writing to a copy would not
    change the network. If a user assigns new arrays, the network copies their values when it is next used.

    Attributes
    ----------
    rate : EpochRate
    """

    def __init__(self, rate: float) -> None:
        self.rate = EpochRate(rate)
        self._network: Network | None = None
        self._exposed: list[np.ndarray] = []  # the arrays that the last call of expose() returned
        self._moments: tuple[list[np.ndarray], int] | None = None  # the optimizer's slots and step, for resuming

    def network(
        self,
        layers: Sequence[Layer],
        backend: Backend,
        seed: int,
        coefs: Sequence[np.ndarray],
        intercepts: Sequence[np.ndarray],
    ) -> Network:
        """Return the network with these parameters: a new one only if the layers, the backend or the dtype changed."""
        net = self._network
        if net is None or net.backend is not backend or net.layers != tuple(layers) or net.dtype != _dtype(coefs):
            inputs = int(np.shape(coefs[0])[0])
            net = Network(
                layers,
                inputs,
                backend=backend,
                dtype=_dtype(coefs),
                seed=seed,
                theta=pack_parameters(coefs, intercepts),
            )
            if self._network is not None and self._network._training is not None:
                self._moments = _moments(self._network)
            self._network = net
        elif not self._exposes(coefs, intercepts):
            net.set_flat(pack_parameters(coefs, intercepts))
        return net

    def current(self, coefs: Sequence[np.ndarray], intercepts: Sequence[np.ndarray]) -> Network | None:
        """Return the network if the arguments are the arrays that it exposes, else None: a shortcut for ``predict``."""
        return self._network if self._exposes(coefs, intercepts) else None

    def expose(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the network's parameters as arrays for ``coefs_`` and ``intercepts_``."""
        net = self._network
        assert net is not None
        flat = net.backend.to_numpy(net.theta)
        if flat is not cast(Any, net.theta):
            flat = np.array(flat)
            flat.flags.writeable = False
        coefs, intercepts = [], []
        for entry in net.layout.entries.values():
            part = flat[entry.start : entry.stop].reshape(entry.parameter.shape)
            coefs += [part.T] if entry.key == "W" else []
            intercepts += [part.reshape(-1)] if entry.key == "b" else []
        self._exposed = [*coefs, *intercepts]
        return coefs, intercepts

    def start(self, plan: Plan, resume: bool) -> tuple[Program, State]:
        """Return a Program and its state; with `resume`, the optimizer continues with its current slots and step."""
        net = self._network
        assert net is not None
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

    def release_program(self) -> None:
        """Release the Program and its workspace, but keep what training needs to continue."""
        assert self._network is not None
        if self._network._training is not None:
            self._moments = _moments(self._network)
            self._network._training = None

    def _exposes(self, coefs: Sequence[np.ndarray], intercepts: Sequence[np.ndarray]) -> bool:
        """Return whether these are the very objects that the last call of :meth:`expose` returned."""
        arrays = [*coefs, *intercepts]
        return len(arrays) == len(self._exposed) and all(a is b for a, b in zip(arrays, self._exposed, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        """Return the rate and the optimizer's slots and step; the estimator stores the parameters."""
        net = self._network
        moments = self._moments if net is None or net._training is None else _moments(net)
        return {"rate": self.rate.rate, "moments": moments}

    def __setstate__(self, content: dict[str, Any]) -> None:
        self.__init__(content["rate"])  # type: ignore[misc]
        self._moments = content["moments"]


def _moments(network: Network) -> tuple[list[np.ndarray], int]:
    """Return the slots and the step of the optimizer with which `network` was trained."""
    assert network._training is not None
    _, _, state = network._training
    return [np.array(network.backend.to_numpy(slot)) for slot in state.slots], state.step


def pack_parameters(coefs: Sequence[np.ndarray], intercepts: Sequence[np.ndarray]) -> np.ndarray:
    """Return all parameters as a flat buffer, shape (p,): the weights of all layers, then the biases."""
    return np.concatenate([*(np.asarray(W).T.ravel() for W in coefs), *(np.ravel(b) for b in intercepts)])


def _dtype(coefs: Sequence[np.ndarray]) -> str:
    return "float32" if np.asarray(coefs[0]).dtype == np.float32 else "float64"
