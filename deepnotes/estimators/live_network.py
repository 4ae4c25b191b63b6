"""The network of an estimator, kept in step with ``coefs_`` and ``intercepts_``, and the state of its optimizer."""

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

    Users read, change and pickle ``coefs_`` and ``intercepts_``. On backends with NumPy's arrays they are views of the
    network's parameters; on other backends they are read-only copies, since writing to a copy would have no effect. If
    a user assigns new arrays, the network takes their values at the next access.

    Attributes
    ----------
    rate : EpochRate
    """

    def __init__(self, rate: float) -> None:
        self.rate = EpochRate(rate)
        self._network: Network | None = None
        self._exposed: list[np.ndarray] = []  # the arrays of coefs_ and intercepts_ that show() returned last
        self._moments: tuple[list[np.ndarray], int] | None = None  # the optimizer's slots and step, to resume from

    def network(
        self,
        layers: Sequence[Layer],
        backend: Backend,
        seed: int,
        coefs: Sequence[np.ndarray],
        intercepts: Sequence[np.ndarray],
    ) -> Network:
        """Return the network with these parameters; a new one only if layers, backend or dtype have changed."""
        net = self._network
        if net is None or net.backend is not backend or net.layers != tuple(layers) or net.dtype != _dtype(coefs):
            inputs = int(np.shape(coefs[0])[0])
            net = Network(
                layers, inputs, backend=backend, dtype=_dtype(coefs), seed=seed, theta=packed(coefs, intercepts)
            )
            if self._network is not None and self._network._training is not None:
                self._moments = _moments(self._network)
            self._network = net
        elif not self._exposes(coefs, intercepts):
            net.set_flat(packed(coefs, intercepts))
        return net

    def current(self, coefs: Sequence[np.ndarray], intercepts: Sequence[np.ndarray]) -> Network | None:
        """Return the network if these are its own parameter arrays, else None: a fast path for predictions."""
        return self._network if self._exposes(coefs, intercepts) else None

    def show(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the network's parameters as ``coefs_`` and ``intercepts_``."""
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
        """Return a Program and its state; the optimizer's moments are new, or with `resume` the current ones."""
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

    def _exposes(self, coefs: Sequence[np.ndarray], intercepts: Sequence[np.ndarray]) -> bool:
        """Return whether these are the very arrays that :meth:`show` returned last."""
        arrays = [*coefs, *intercepts]
        return len(arrays) == len(self._exposed) and all(a is b for a, b in zip(arrays, self._exposed, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        """Return the rate and the optimizer's moments; the parameters are in the estimator."""
        net = self._network
        moments = self._moments if net is None or net._training is None else _moments(net)
        return {"rate": self.rate.rate, "moments": moments}

    def __setstate__(self, content: dict[str, Any]) -> None:
        self.__init__(content["rate"])  # type: ignore[misc]
        self._moments = content["moments"]


def _moments(network: Network) -> tuple[list[np.ndarray], int]:
    """Return the slots and the step of the optimizer of a network that has been trained."""
    assert network._training is not None
    _, _, state = network._training
    return [np.array(network.backend.to_numpy(slot)) for slot in state.slots], state.step


def packed(coefs: Sequence[np.ndarray], intercepts: Sequence[np.ndarray]) -> np.ndarray:
    """Return all parameters in the order of the buffer, weights first, shape (p,)."""
    return np.concatenate([*(np.asarray(W).T.ravel() for W in coefs), *(np.ravel(b) for b in intercepts)])


def _dtype(coefs: Sequence[np.ndarray]) -> str:
    return "float32" if np.asarray(coefs[0]).dtype == np.float32 else "float64"
