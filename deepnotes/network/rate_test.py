"""A search for a good learning rate: a short training run in which the rate grows with every update."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.network.inputs import is_native
from deepnotes.network.network import Network
from deepnotes.nn.full_batch import FullBatchOptimizer
from deepnotes.nn.optimizer_base import Optimizer
from deepnotes.nn.optimizers import as_optimizer
from deepnotes.nn.schedules import ExponentialDecay
from deepnotes.utils.arguments import number, whole
from deepnotes.utils.errors import ArgumentError, NonFiniteLossError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RateTest:
    """The result of :func:`learning_rate_test`.

    Attributes
    ----------
    learning_rates : ndarray of float64, shape (updates,)
        The rate of each update.
    losses : ndarray of float64, shape (updates,)
        The loss of each batch before its update. The last one may be infinite, if training diverged.
    smoothing : float
    """

    learning_rates: np.ndarray
    losses: np.ndarray
    smoothing: float

    @property
    def smoothed(self) -> np.ndarray:
        """The exponential moving average of the losses, with the correction of its bias to 0, shape (updates,)."""
        return _smooth(self.losses, self.smoothing)

    @property
    def suggestion(self) -> float | None:
        """The rate at two thirds of the longest fall of the smoothed loss; None if it falls nowhere.

        The longest fall is the longest sequence of losses, not necessarily of consecutive updates, each of which is
        below the one before. Noise interrupts it, but does not end it.
        """
        first, last = _longest_fall(self.smoothed[np.isfinite(self.losses)])
        return float(self.learning_rates[first + (last - first) * 2 // 3]) if last > first else None

    def __repr__(self) -> str:
        rates, suggestion = self.learning_rates, self.suggestion
        between = f", rates {rates[0]:.3g} to {rates[-1]:.3g}" if len(rates) else ""
        suggested = "None" if suggestion is None else f"{suggestion:.3g}"
        return f"{type(self).__name__}({len(rates)} updates{between}, suggestion={suggested})"

    def plot(self, *, ax: Any = None) -> "Figure":
        """Draw the losses over the rates, and the suggestion: see :func:`deepnotes.plots.learning_rates`."""
        from deepnotes.plots import learning_rates

        return learning_rates(self, ax=ax)


def _smooth(losses: Sequence[float] | np.ndarray, smoothing: float) -> np.ndarray:
    average, values = 0.0, np.empty(len(losses))
    for i, loss in enumerate(losses):
        average = smoothing * average + (1 - smoothing) * loss
        values[i] = average / (1 - smoothing ** (i + 1))
    return values


def _longest_fall(losses: np.ndarray) -> tuple[int, int]:
    """Return the indices of the first and the last element of the longest falling subsequence; (0, 0) if it is empty.

    `ends` has the index of the largest last element of a falling subsequence of each length (C. Schensted, Canadian J.
    Math. 13 (1961) 179).
    """
    from bisect import bisect_left  # not needed by other programs

    ends: list[int] = []
    before: list[int] = []
    for i, loss in enumerate(losses):
        length = bisect_left(ends, -loss, key=lambda end: -losses[end])
        before.append(ends[length - 1] if length else i)
        ends[length : length + 1] = [i]
    first = last = ends[-1] if ends else 0
    while ends and before[first] != first:
        first = before[first]
    return first, last


def learning_rate_test(  # noqa: PLR0913 - the options of the test, each with a default
    network: Network,
    X: Any,
    Y: Any,
    *,
    lowest: float = 1e-6,
    highest: float = 10.0,
    updates: int = 100,
    batch_size: int = 32,
    optimizer: str | Optimizer = "adam",
    smoothing: float = 0.9,
    stop_at: float = 4.0,
    **settings: Any,
) -> RateTest:
    """Train a copy of a network while the learning rate grows exponentially, and return the losses (arXiv:1506.01186).

    The network does not change. A good rate is where the loss falls steadily; ``suggestion`` is one.

    Parameters
    ----------
    network : Network
    X, Y : array_like
        As for :meth:`Network.fit`.
    lowest, highest : float, default 1e-6 and 10.0
        The rates of the first and of the last update.
    updates : int, default 100
        The number of updates, at least 2. After all samples were used, they are drawn again in another order.
    batch_size : int, default 32
    optimizer : str or Optimizer, default "adam"
        Its own learning rate is not used.
    smoothing : float, default 0.9
        The factor of the moving average of the losses, from 0 to below 1.
    stop_at : float, default 4.0
        The test ends early when the smoothed loss exceeds this multiple of its lowest value, or is not finite.
    **settings : object
        Further arguments of :meth:`Network.partial_fit`, such as ``loss`` and ``l2``.

    Raises
    ------
    ArgumentError, ShapeError, DTypeError, DataError, ForeignArrayError, UnknownNameError
        If an argument is not valid.

    Examples
    --------
    >>> import deepnotes as dn
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(3, 200))
    >>> net = dn.Network([dn.Dense(8, "tanh"), dn.Dense(1)], inputs=3, seed=0)
    >>> test = dn.learning_rate_test(net, X, X[:1] * X[1:2])
    >>> 1e-4 < test.suggestion < 10
    True
    """
    if not isinstance(network, Network):
        raise ArgumentError.of("network", network, "a Network")
    number("lowest", lowest, positive=True)
    if number("highest", highest, positive=True) <= lowest:
        raise ArgumentError.of("highest", highest, f"above lowest={lowest}")
    whole("updates", updates, 2)
    whole("batch_size", batch_size)
    number("smoothing", smoothing, below=1)
    number("stop_at", stop_at, positive=True)
    schedule = ExponentialDecay(lowest, every=updates - 1, factor=highest / lowest)
    chosen = as_optimizer(optimizer, network.dialect)
    if isinstance(chosen, FullBatchOptimizer):
        raise ArgumentError.of(
            "optimizer", chosen, "one that makes updates from batches: the test takes one for each rate"
        )
    try:
        settings["optimizer"] = replace(chosen, learning_rate=schedule)  # type: ignore[type-var]
    except TypeError:
        raise ArgumentError(f"optimizer: {chosen!r} is not a dataclass with a field learning_rate") from None
    trained, rng = copy.deepcopy(network), np.random.default_rng(network.seed)
    X, Y = (network.backend.to_numpy(x) if is_native(network, x) else np.asarray(x) for x in (X, Y))
    losses: list[float] = []
    order, average, lowest_loss = np.empty(0, np.int64), 0.0, np.inf
    while len(losses) < updates:
        if not len(order):
            order = rng.permutation(X.shape[-1])
        batch, order = order[:batch_size], order[batch_size:]
        try:
            losses.append(trained.partial_fit(X[..., batch], Y[..., batch], **settings))
        except NonFiniteLossError:
            losses.append(np.inf)
        average = smoothing * average + (1 - smoothing) * losses[-1]
        smoothed = average / (1 - smoothing ** len(losses))
        lowest_loss = min(lowest_loss, smoothed)
        if not smoothed <= stop_at * lowest_loss or not np.isfinite(smoothed):
            break
    return RateTest(np.array(schedule.rates(0, len(losses))), np.array(losses), smoothing)
