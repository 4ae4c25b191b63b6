"""The orders of the samples in each epoch, drawn while earlier epochs train on a device."""

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

WORTH_A_THREAD = 1 << 12
"""The smallest number of indices to draw in a thread: for fewer, that would take longer."""


class Drawn(NamedTuple):
    """An order, and the state of the generator before and after it was drawn."""

    before: Any
    order: np.ndarray
    after: Any


class Orders:
    """Draws the orders of the samples.

    A thread draws the next orders with a second generator, whose state the first adopts when an order is used. So the
    first generator always has the state that belongs to the orders used so far, and the orders are the same as without
    a thread.

    Parameters
    ----------
    rng : Generator or None
        If None, the samples stay in their order. The orders of any other object with the method ``permutation`` and the
        attribute ``state``, such as that of scikit-learn's estimators, are drawn when they are needed.
    samples : int
        The number of samples.
    ahead : bool
        Whether to draw in a thread. This saves time only if this processor is idle during an epoch.
    """

    def __init__(self, rng: "np.random.Generator | None", samples: int, ahead: bool) -> None:
        self._rng, self._samples, self._ahead = rng, samples, ahead and isinstance(rng, np.random.Generator)
        self._ready: deque[Drawn] = deque()
        self._future: Future[list[Drawn]] | None = None
        self._executor: Executor | None = None

    @property
    def state(self) -> Any:
        """The state of the generator; orders that are drawn ahead do not count."""
        rng: Any = self._rng
        return None if rng is None else rng.bit_generator.state if isinstance(rng, np.random.Generator) else rng.state

    @state.setter
    def state(self, state: Any) -> None:
        rng: Any = self._rng
        if isinstance(rng, np.random.Generator):
            rng.bit_generator.state = state
        elif rng is not None:
            rng.state = state

    def draw(self, epochs: int, remaining: int) -> np.ndarray:
        """Return the indices of the samples in the order of the next epochs.

        As many orders are then drawn in the thread, but no more than for the `remaining` epochs after these.

        Returns
        -------
        ndarray of int64, shape (epochs, samples)
        """
        orders = [self._draw() for _ in range(epochs)]
        if self._ahead:
            self._draw_ahead(min(epochs, remaining) - len(self._ready))
        return orders[0][None] if epochs == 1 else np.stack(orders)  # a large order is not copied

    def _draw(self) -> np.ndarray:
        """Return the order of one epoch."""
        rng = self._rng
        if rng is None:
            return np.arange(self._samples)
        if self._future is not None and not self._ready:
            self._ready.extend(self._future.result())
            self._future = None
        if self._ready:
            drawn = self._ready.popleft()
            if drawn.before == rng.bit_generator.state:
                rng.bit_generator.state = drawn.after
                return drawn.order
            self._ready.clear()  # a callback has changed the state
        return rng.permutation(self._samples)

    def _draw_ahead(self, epochs: int) -> None:
        """Draw the orders of some more epochs in the thread, if that is worthwhile."""
        if self._future is not None or epochs * self._samples < WORTH_A_THREAD:
            return
        assert self._rng is not None
        with suppress(RuntimeError):  # no thread can start while the interpreter shuts down
            if self._executor is None:
                from concurrent.futures import ThreadPoolExecutor  # slow to import, and rarely used

                self._executor = ThreadPoolExecutor(1, "deepnotes-order")
                self._second = np.random.Generator(type(self._rng.bit_generator)())
            self._second.bit_generator.state = self._ready[-1].after if self._ready else self._rng.bit_generator.state
            self._future = self._executor.submit(_draw, self._second, self._samples, epochs)


def _draw(rng: "np.random.Generator", samples: int, epochs: int) -> list[Drawn]:
    """Return the orders of some epochs."""
    drawn = []
    for _ in range(epochs):
        before = rng.bit_generator.state
        order = rng.permutation(samples)
        drawn.append(Drawn(before, order, rng.bit_generator.state))
    return drawn
