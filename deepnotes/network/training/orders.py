"""The order of the samples in each epoch, drawn while the epoch before it trains on a device."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

WORTH_A_THREAD = 1 << 12
"""The smallest number of samples whose order is drawn in a thread: for fewer, that would take longer."""


class Orders:
    """Draws the orders of the samples.

    A thread draws the next order with a second generator, whose state the first adopts when that order is used. So the
    first generator always has the state that belongs to the orders used so far, and the orders are the same as without
    a thread.

    Parameters
    ----------
    rng : Generator or None
        If None, the samples stay in their order.
    samples : int
        The number of samples.
    ahead : bool
        Whether to draw in a thread. This saves time only if this processor is idle during an epoch.
    """

    def __init__(self, rng: "np.random.Generator | None", samples: int, ahead: bool) -> None:
        self._rng, self._samples = rng, samples
        self._next: tuple[Any, Future[tuple[np.ndarray, Any]]] | None = None
        self._executor: Executor | None = None
        if rng is not None and ahead and samples >= WORTH_A_THREAD:
            self._second = np.random.Generator(type(rng.bit_generator)())
            with suppress(RuntimeError):  # no thread can start while the interpreter shuts down
                from concurrent.futures import ThreadPoolExecutor  # slow to import, and rarely used

                self._executor = ThreadPoolExecutor(1, "deepnotes-order")

    def draw(self, another: bool) -> np.ndarray:
        """Return the indices of the samples in the order of the next epoch, int64; `another` if an epoch follows it."""
        rng = self._rng
        if rng is None:
            return np.arange(self._samples)
        before, drawn = self._next or (None, None)
        if drawn is not None and before == rng.bit_generator.state:  # a callback may have changed it
            order, rng.bit_generator.state = drawn.result()
        else:
            order = rng.permutation(self._samples)
        self._next = None
        if another and self._executor is not None:
            state = self._second.bit_generator.state = rng.bit_generator.state
            with suppress(RuntimeError):  # as above
                self._next = state, self._executor.submit(_draw, self._second, self._samples)
        return order


def _draw(rng: "np.random.Generator", samples: int) -> tuple[np.ndarray, Any]:
    """Return an order, and the state of the generator after it."""
    return rng.permutation(samples), rng.bit_generator.state
