"""A Program for libraries with a compiler of pure functions, such as JAX."""

from collections.abc import Callable
from functools import partial
from typing import Any

from deepnotes.backends.base import Backend
from deepnotes.backends.eager import EagerProgram
from deepnotes.backends.program import Data, State
from deepnotes.equations.array import Array
from deepnotes.nn.plan import Plan
from deepnotes.nn.steps import Gradient, gradient_step, update_step


class JitProgram(EagerProgram):
    """A Program whose steps are the two pure functions of :mod:`deepnotes.nn.steps`, each compiled as a whole.

    The functions are compiled again for each size of a batch: as a rule there are two, since the last batch of an epoch
    is smaller. They contain no formulas beyond the equations, so they cannot diverge from the eager Program.

    Parameters
    ----------
    backend : Backend
    plan : Plan
        A plan for which :func:`recordable` is true: its functions do not branch on the values of arrays.
    jit : callable
        Takes a pure function of arrays and returns a faster one with the same results, up to rounding: ``jax.jit``. It
        has to accept and return tuples, named tuples, and dicts of arrays, and None for an argument.
    """

    def __init__(self, backend: Backend, plan: Plan, jit: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        super().__init__(backend, plan)
        self._gradient_step = jit(partial(gradient_step, self.ops, plan))
        self._update_step = jit(partial(update_step, self.ops, plan))
        self._dtype = getattr(self.ops.xp, plan.dtype)

    def gradients(self, state: State, data: Data) -> Gradient:
        """Return the cost and gradient of `data` as one batch; see :meth:`Program.gradients`."""
        step = self.ops.xp.asarray(state.step, dtype=self.backend.integer)
        return Gradient(*self._gradient_step(state.theta, self.decays, step, *data))

    def update(self, state: State, g: Array, rate: float) -> None:
        """Make one update; see :meth:`Program.update`."""
        scalars = self.plan.optimizer.scalars(state.step + 1, rate)
        arrays = {name: self.ops.xp.asarray(value, dtype=self._dtype) for name, value in scalars.items()}
        theta, slots = self._update_step(state.theta, self.decays, g, state.slots, arrays)
        state.theta = self.backend.write(state.theta, 0, theta)
        state.slots = tuple(self.backend.write(old, 0, new) for old, new in zip(state.slots, slots, strict=True))
        state.step += 1
