"""Replay: training steps as CUDA graphs, each compared with steps run one by one before it is used."""

import logging
from collections.abc import Sequence
from math import sqrt
from typing import Any

from deepnotes.backends import DeviceMemoryError, Plan
from deepnotes_cupy import control
from deepnotes_cupy.comparisons import largest
from deepnotes_cupy.device import UNITS, CaptureRefused, Device, Factors, Graph
from deepnotes_cupy.step import Arrays, Shared, Source, Step

GRAPH_STEPS = (16, 4, 1)
"""The numbers of steps in graphs."""
WARM_UP_STEPS = 2
"""The number of steps run one by one before a capture; after them, everything that is loaded at first use is loaded."""


class Replay:
    """Runs steps as graphs, or one by one if they cannot be captured.

    Parameters
    ----------
    device : Device
    plan : Plan
    step : Step
    shared : Shared
    arrays : Arrays
    factors : str
    """

    def __init__(
        self, device: Device, plan: Plan, step: Step, shared: Shared, arrays: Arrays, factors: Factors
    ) -> None:
        self.step, self.refusal = step, ""
        self._device, self._plan, self._shared, self._arrays = device, plan, shared, arrays
        self._u = UNITS[factors]
        self._graphs: dict[int, Graph] = {}
        self._run = 0

    def bind(self, source: Source, batch_size: int) -> None:
        """Gather batches from the arrays of `source` from now on."""
        self._shared.bind(source, batch_size)

    def enqueue(self, steps: int) -> None:
        """Enqueue a number of steps, not as graphs, since they are captured to be timed."""
        self.step.run(steps)

    def unbind(self) -> None:
        """Release the data."""
        self._shared.unbind()

    def run(self, steps: int) -> None:
        """Enqueue a number of steps."""
        while steps:
            count = next(size for size in GRAPH_STEPS if size <= steps)
            graph = self._graph(count) if self._run >= WARM_UP_STEPS and not self.refusal else None
            if graph is None:
                count = 1
                self.step.run()
            else:
                graph.launch()
            self._run += count
            steps -= count

    def _graph(self, steps: int) -> Graph | None:
        """Return a checked graph of `steps` steps, or None if the steps have to run one by one."""
        if steps not in self._graphs:
            try:
                graph = self._device.capture(lambda: self.step.run(steps))
                difference = self._difference(graph, steps)
            except (CaptureRefused, DeviceMemoryError) as error:
                difference = f"the steps cannot be captured ({error})"
            if difference is None:  # the steps stopped, so nothing could be compared; try again later
                self._run = -GRAPH_STEPS[0]
                return None
            if difference:
                self.refusal = difference
                self._graphs.clear()
                logging.getLogger("deepnotes").warning(
                    "cupy: training runs step by step, not as a CUDA graph: %s", difference
                )
                return None
            self._graphs[steps] = graph
        return self._graphs[steps]

    def _difference(self, graph: Graph, steps: int) -> str | None:
        """Return how the results of a graph differ from those of steps run one by one from the same start.

        The result is "" if they agree, and None if the steps stopped, so that nothing can be compared. Afterwards, θ,
        the slots and ``Control`` are restored.
        """
        device = self._device
        state = [self._arrays.theta, *self._arrays.slots, self._shared.control]
        results = [*state, self._shared.g]
        before, expected = self._copies(state), self._empty_like(results)
        try:
            for _ in range(steps):
                self.step.run()
            self._copy(results, expected)
            self._copy(before, state)
            self.step.spoil()  # so that results of the steps cannot be mistaken for results of the graph
            graph.launch()
            graph_control = control.read(device.download(self._shared.control))
            step_control = control.read(device.download(expected[len(state) - 1]))
            if step_control["stopped"]:
                return None
            if graph_control["updates"] != step_control["updates"] or graph_control["stopped"]:
                return f"a graph made {graph_control['updates']} of {step_control['updates']} updates"
            names = ["θ", *self._plan.optimizer.slots, "", "the gradient"]
            for name, actual, reference in zip(names, results, expected, strict=True):
                error = self._relative_error(actual, reference) if name else 0.0
                if not error <= self._bound:  # NaN is a difference
                    return f"{name} computed by a graph has a relative error of {error:.2g}, above {self._bound:.2g}"
            return ""
        finally:
            self._copy(before, state)

    @property
    def _bound(self) -> float:
        """The allowed relative error: ``2 sqrt(k) u`` for each product, where k is the number of terms in a sum."""
        sizes = self._plan.layout.sizes
        return 6 * len(sizes) * sqrt(max(*sizes, self.step.m)) * self._u

    def _relative_error(self, actual: Any, expected: Any) -> float:
        """Return the largest difference, divided by the largest expected magnitude unless that is 0."""
        magnitude, error = largest(self._device, expected), largest(self._device, actual, expected)
        return error / magnitude if magnitude else error

    def _empty_like(self, arrays: Sequence[Any]) -> list[Any]:
        return [self._device.empty(array.size, str(array.dtype)) for array in arrays]

    def _copies(self, arrays: Sequence[Any]) -> list[Any]:
        copies = self._empty_like(arrays)
        self._copy(arrays, copies)
        return copies

    def _copy(self, sources: Sequence[Any], targets: Sequence[Any]) -> None:
        for source, target in zip(sources, targets, strict=True):
            self._device.copier(source, target)()
