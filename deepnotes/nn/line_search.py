"""A line search: a step along a direction that satisfies the strong Wolfe conditions.

J. Nocedal and S. J. Wright, Numerical Optimization, second edition (2006), algorithms 3.5 and 3.6.
"""

from collections.abc import Callable
from math import isfinite, sqrt
from typing import Any, NamedTuple


class Trial(NamedTuple):
    """A point on the line, ``θ + step d``.

    Attributes
    ----------
    step : float
    cost : float
        Infinite if the cost or its derivative is not finite.
    slope : float
        The derivative of the cost by the step.
    point : object
        What the caller wants to find again for this step.
    """

    step: float
    cost: float
    slope: float
    point: Any


LEAST_GROWTH, MOST_GROWTH = 0.01, 10.0
"""While the cost falls, the next step is at least this share of the last increase longer, and at most this factor."""
MARGIN = 0.1
"""The share of an interval that counts as near its ends."""


def strong_wolfe(
    evaluate: Callable[[float], Trial],
    start: Trial,
    first: float,
    c1: float,
    c2: float,
    most: int,
    least_width: float,
) -> Trial:
    """Return a trial that satisfies the strong Wolfe conditions (3.7), or the best one if none was found in time.

    They are ``φ(step) <= φ(0) + c1 step φ'(0)`` and ``|φ'(step)| <= c2 |φ'(0)|``, where φ is the cost along the line.
    The steps between two trials are minimizers of cubic polynomials (3.59), kept away from the ends of the interval
    as in M. Schmidt's minFunc (2005) and in PyTorch.

    Parameters
    ----------
    evaluate : callable
        Returns the trial of a step.
    start : Trial
        That of the step 0; its slope is below 0.
    first : float
        The first step to try, above 0.
    c1, c2 : float
        ``0 < c1 < c2 < 1``.
    most : int
        The largest number of evaluations.
    least_width : float
        The search ends when the interval is narrower.

    Returns
    -------
    Trial
        It satisfies the first condition. It is `start` if no other one does.
    """
    search = _Search(evaluate, start, c1, c2, most)
    low, high = search.bracket(first)
    return low if high is None else search.zoom(low, high, least_width)


class _Search:
    """One search; the arguments are those of :func:`strong_wolfe`."""

    def __init__(self, evaluate: Callable[[float], Trial], start: Trial, c1: float, c2: float, most: int) -> None:
        self._evaluate, self._start, self._c1, self._c2 = evaluate, start, c1, c2
        self._left = most

    def bracket(self, first: float) -> tuple[Trial, Trial | None]:
        """Return the ends of an interval with a step that satisfies both conditions (algorithm 3.5), the better first.

        The second is None if the first one satisfies them, or if there is no evaluation left.
        """
        before, trial = self._start, self._next(first)
        while self._decreases(trial) and (before is self._start or trial.cost < before.cost):
            if self._is_flat(trial) or not self._left:
                return trial, None
            if trial.slope >= 0:
                return trial, before
            least = trial.step + LEAST_GROWTH * (trial.step - before.step)
            before, trial = trial, self._next(_minimizer(before, trial, least, MOST_GROWTH * trial.step))
        return before, trial

    def zoom(self, low: Trial, high: Trial, least_width: float) -> Trial:
        """Narrow the interval between two trials (algorithm 3.6), and return the best trial, `low` at first."""
        was_near_end = False
        while self._left and abs(high.step - low.step) >= least_width:
            left, right = sorted((low.step, high.step))
            step, margin = _minimizer(low, high, left, right), MARGIN * (right - left)
            is_near_end = min(step - left, right - step) < margin
            if is_near_end and (was_near_end or not left < step < right):
                step = right - margin if right - step < step - left else left + margin
                is_near_end = False
            was_near_end = is_near_end
            trial = self._next(step)
            if not self._decreases(trial) or trial.cost >= low.cost:
                high = trial
                continue
            if self._is_flat(trial):
                return trial
            if trial.slope * (high.step - low.step) >= 0:
                high = low
            low = trial
        return low

    def _next(self, step: float) -> Trial:
        self._left -= 1
        return self._evaluate(step)

    def _decreases(self, trial: Trial) -> bool:
        """Return whether a trial satisfies the first condition: enough decrease."""
        return trial.cost <= self._start.cost + self._c1 * trial.step * self._start.slope

    def _is_flat(self, trial: Trial) -> bool:
        """Return whether a trial satisfies the second condition: a small slope."""
        return abs(trial.slope) <= -self._c2 * self._start.slope


def _minimizer(a: Trial, b: Trial, least: float, most: float) -> float:
    """Return the minimizer of the cubic with the costs and slopes of two trials (3.59), at least and at most as given.

    If there is none, return the middle between these limits.
    """
    if a.step > b.step:
        a, b = b, a
    d1 = a.slope + b.slope - 3 * (a.cost - b.cost) / (a.step - b.step)
    square = d1 * d1 - a.slope * b.slope
    if square >= 0 and isfinite(square):
        d2 = sqrt(square)
        if divisor := b.slope - a.slope + 2 * d2:
            step = b.step - (b.step - a.step) * ((b.slope + d2 - d1) / divisor)
            return min(max(step, least), most)
    return (least + most) / 2
