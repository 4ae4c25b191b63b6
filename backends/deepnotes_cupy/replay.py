"""Replay: a step as CUDA graphs, each checked against the same steps run one by one before its first use."""

import logging
from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np

from deepnotes.backends import DeviceMemoryError, Plan
from deepnotes_cupy import control
from deepnotes_cupy.device import UNITS, CaptureRefused, Device, Factors, Graph
from deepnotes_cupy.step import Arrays, Shared, Source, Step

MANY = 16
"""Steps of a graph; what is left of a chunk takes a graph of one step."""
COMPARED_ON_HOST = 1 << 22
"""The count of numbers up to which fetching them is faster than compiling a comparison on the device."""
WARM = 2
"""Steps that are run one by one first, so that everything loaded at first use is loaded."""


class Replay:
    """Runs steps, by graphs where that is possible.

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
        self.step, self.refused = step, ""
        self._device, self._plan, self._shared, self._arrays = device, plan, shared, arrays
        self._u = UNITS[factors]
        self._graphs: dict[int, Graph] = {}
        self._run = 0

    def bind(self, source: Source, batch_size: int) -> None:
        """Gather from these arrays from now on."""
        if self.step.bind(source, batch_size):
            self._graphs.clear()
            self._run = 0

    def unbind(self) -> None:
        """Release the data, and the graphs that read them."""
        self.step.unbind()
        self._graphs.clear()

    def run(self, steps: int) -> None:
        """Enqueue a number of steps."""
        while steps:
            count = MANY if steps >= MANY else 1
            graph = self._graph(count) if self._run >= WARM and not self.refused else None
            if graph is None:
                count = 1
                self.step.run()
            else:
                graph.launch()
            self._run += count
            steps -= count

    def _steps(self, steps: int) -> None:
        for _ in range(steps):
            self.step.run()

    def _graph(self, steps: int) -> Graph | None:
        """Return the graph of a number of steps once it was checked against them; None if there is none."""
        if steps not in self._graphs:
            try:
                graph = self._device.capture(lambda: self._steps(steps))
                difference = self._difference(graph, steps)
            except (CaptureRefused, DeviceMemoryError) as error:
                difference = f"it cannot be captured: {error}"
            if difference is None:  # the steps could not show it; try again later
                self._run = -MANY
                return None
            if difference:
                self.refused = difference
                self._graphs.clear()
                logging.getLogger("deepnotes").warning(
                    "cupy: training runs step by step, not as a CUDA graph: %s", difference
                )
                return None
            self._graphs[steps] = graph
        return self._graphs[steps]

    def _difference(self, graph: Graph, steps: int) -> str | None:
        """Return how a replay differs from steps run one by one, from the same start; "" if it does not.

        θ, the slots and the control are restored afterwards. None if the steps stopped, which shows nothing.
        """
        device = self._device
        changing = [self._arrays.theta, *self._arrays.slots, self._shared.control]
        results = [*changing, self._shared.g]
        before, wanted = self._copies(changing), self._room(results)
        try:
            self._steps(steps)
            self._copy(results, wanted)
            self._copy(before, changing)
            self.step.spoil()  # results that the graph leaves out must not be taken from the steps before
            graph.launch()
            told = control.read(device.download(self._shared.control))
            told_eager = control.read(device.download(wanted[len(changing) - 1]))
            if told_eager["stopped"]:
                return None
            if told["made"] != told_eager["made"] or told["stopped"]:
                return f"a replay made {told['made']} updates of {told_eager['made']}"
            names = ["θ", *self._plan.optimizer.slots, "", "the gradient"]
            for name, found, other in zip(names, results, wanted, strict=True):
                if name and not (off := self._off(found, other)) <= self._bound:  # NaN does not count as agreement
                    return f"{name} of a replay is off by {off:.2g} of its norm, beyond {self._bound:.2g}"
            return ""
        finally:
            self._copy(before, changing)

    @property
    def _bound(self) -> float:
        """Return the allowed error as a share of the norm: ``2 sqrt(k) u`` for each product of the step."""
        sizes = self._plan.layout.sizes
        return 6 * len(sizes) * sqrt(max(*sizes, self.step.m)) * self._u

    def _off(self, found: Any, other: Any) -> float:
        """Return the largest difference, as a share of the largest number."""
        xp: Any = self._device.xp
        if found.size <= COMPARED_ON_HOST:
            xp, found, other = np, self._device.download(found), self._device.download(other)
        largest, off = float(xp.max(abs(other))), float(xp.max(abs(found - other)))
        return off / largest if largest else off

    def _room(self, arrays: Sequence[Any]) -> list[Any]:
        return [self._device.empty(array.size, str(array.dtype)) for array in arrays]

    def _copies(self, arrays: Sequence[Any]) -> list[Any]:
        room = self._room(arrays)
        self._copy(arrays, room)
        return room

    def _copy(self, sources: Sequence[Any], targets: Sequence[Any]) -> None:
        for source, target in zip(sources, targets, strict=True):
            self._device.copier(source, target)()
