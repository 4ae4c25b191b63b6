"""The network behind an estimator, which follows ``coefs_`` and ``intercepts_``, and the state of its optimizer."""

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
        """Return the rate of this epoch."""
        return self.rate

    def rates(self, first: int, count: int) -> list[float]:
        """Return the rate `count` times."""
        return [self.rate] * count


class LiveNetwork:
    """A network that follows the parameters of an estimator, which are authoritative.

    ``coefs_`` and ``intercepts_`` are what users see, change and pickle. On backends with NumPy's arrays they are views
    of the network's parameters; elsewhere they are read-only copies, since writing to them would have no effect. New
    arrays assigned to them are noticed at the next access to the network.

    Attributes
    ----------
    rate : EpochRate
    """

    def __init__(self, rate: float) -> None:
        self.rate = EpochRate(rate)
        self._network: Network | None = None
        self._shown: list[np.ndarray] = []
        self._kept: tuple[list[np.ndarray], int] | None = None

    def network(
        self,
        layers: Sequence[Layer],
        backend: Backend,
        seed: int,
        coefs: Sequence[np.ndarray],
        intercepts: Sequence[np.ndarray],
    ) -> Network:
        """Return the network with these parameters: the last one, unless its layers, backend or dtype differ."""
        net = self._network
        if net is None or net.backend is not backend or net.layers != tuple(layers) or net.dtype != _dtype(coefs):
            inputs = int(np.shape(coefs[0])[0])
            net = Network(
                layers, inputs, backend=backend, dtype=_dtype(coefs), seed=seed, theta=packed(coefs, intercepts)
            )
            if self._network is not None and self._network._training is not None:
                self._kept = self._moments(self._network)
            self._network = net
        elif not self._shows(coefs, intercepts):
            net.set_flat(packed(coefs, intercepts))
        return net

    def asked(self, coefs: Sequence[np.ndarray], intercepts: Sequence[np.ndarray]) -> Network | None:
        """Return the network if it has exactly these parameter arrays, else None: the fast path of a prediction."""
        return self._network if self._shows(coefs, intercepts) else None

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
        self._shown = [*coefs, *intercepts]
        return coefs, intercepts

    def start(self, plan: Plan, go_on: bool) -> tuple[Program, State]:
        """Return a Program and its state, with new moments or, to `go_on`, with the existing ones."""
        net = self._network
        assert net is not None
        kept = self._kept if net._training is None else None
        if go_on and kept is None and net._training is not None:
            if net._training[0] == plan:
                return net._training[1:]
            kept = self._moments(net)
        program, state = net._start(plan)
        if (
            go_on
            and kept is not None
            and len(kept[0]) == len(state.slots)
            and all(s.shape == net.theta.shape for s in kept[0])
        ):
            write = net.backend.write
            state.slots = tuple(write(a, 0, net.from_host(b)) for a, b in zip(state.slots, kept[0], strict=True))
            state.step = kept[1]
        self._kept = None
        return program, state

    def _shows(self, coefs: Sequence[np.ndarray], intercepts: Sequence[np.ndarray]) -> bool:
        given = [*coefs, *intercepts]
        return len(given) == len(self._shown) and all(a is b for a, b in zip(given, self._shown, strict=True))

    def _moments(self, net: Network) -> tuple[list[np.ndarray], int]:
        assert net._training is not None
        _, _, state = net._training
        return [np.array(net.backend.to_numpy(slot)) for slot in state.slots], state.step

    def __getstate__(self) -> dict[str, Any]:
        """Return the rate and the optimizer's moments; the estimator keeps the parameters."""
        net = self._network
        kept = self._kept if net is None or net._training is None else self._moments(net)
        return {"rate": self.rate.rate, "kept": kept}

    def __setstate__(self, content: dict[str, Any]) -> None:
        self.__init__(content["rate"])  # type: ignore[misc]
        self._kept = content["kept"]


def packed(coefs: Sequence[np.ndarray], intercepts: Sequence[np.ndarray]) -> np.ndarray:
    """Return all parameters in the order of the buffer, weights first, shape (p,)."""
    return np.concatenate([*(np.asarray(W).T.ravel() for W in coefs), *(np.ravel(b) for b in intercepts)])


def _dtype(coefs: Sequence[np.ndarray]) -> str:
    return "float32" if np.asarray(coefs[0]).dtype == np.float32 else "float64"
