"""Trainers: what trains a plan on batches of each size, by graphs or in shared memory, and the choice between them."""

import logging
from math import inf
from typing import TypeAlias

import numpy as np

from deepnotes.backends import ArgumentError, DeviceMemoryError, Plan, State
from deepnotes_cupy.device import Device, Factors
from deepnotes_cupy.lowering import stored_per_sample
from deepnotes_cupy.replay import Replay
from deepnotes_cupy.resident import MARGIN, Refused, Resident, fit
from deepnotes_cupy.scaling import LossScale
from deepnotes_cupy.step import Arrays, Shared, Source, Step
from deepnotes_cupy.timing import StepsStopped, fastest, is_timed

MAX_REPLAYS = 3
"""The largest number of batch sizes whose buffers are kept. Most training runs have two: the last batch is smaller."""
MAX_RESIDENTS = 16
"""The same for training in shared memory, where there are no buffers."""

Trainer: TypeAlias = Replay | Resident


class Trainers:
    """The trainers of a plan, by batch size. They are kept from one training run to the next.

    Parameters
    ----------
    device : Device
    plan : Plan
    shared : Shared
    factors : str
        The precision of the factors of products.
    scale : LossScale
    driver : {"auto", "graph", "resident"}

    Raises
    ------
    ArgumentError
        If the driver "resident" was asked for, but cannot train the plan.
    """

    def __init__(
        self, device: Device, plan: Plan, shared: Shared, factors: Factors, scale: LossScale, driver: str
    ) -> None:
        self._device, self._plan, self._shared = device, plan, shared
        self._factors, self._scale, self._driver = factors, scale, driver
        self._arrays: Arrays | None = None
        self._replays: dict[tuple[int, bool], Replay] = {}
        self._residents: dict[int, Resident | None] = {}
        # What timing has chosen, by the batch size and whether the samples have weights:
        self._ways: dict[tuple[int, bool], str] = {}
        if driver == "resident":
            self._fit_resident(1)

    def prepare(self, state: State, samples: int, batch_size: int, count: int, weighted: bool) -> None:
        """Prepare to train on `count` of the samples of the data in batches.

        This comes before anything else, since its error suggests a batch size that fits, and since it overwrites what a
        chunk sends to the device.
        """
        self._use(state)
        if is_timed(samples, batch_size) and count >= batch_size and (batch_size, weighted) not in self._ways:
            self._ways[batch_size, weighted] = self._settle(state, batch_size, weighted)
        self._trainers(state, samples, batch_size, count, weighted)

    def for_batches(
        self, state: State, source: Source, samples: int, batch_size: int, count: int
    ) -> list[tuple[Trainer, int]]:
        """Return what trains on `count` samples of `source` in batches, with the numbers of steps, in order.

        `samples` is the number of samples of the data.
        """
        if self._shared.bind(source, batch_size):  # launches on the data before would keep them in memory
            for resident in self._residents.values():
                if resident:
                    resident.unbind()
        trainers = self._trainers(state, samples, batch_size, count, source.w is not None)
        for trainer, _ in trainers:
            trainer.bind(source, batch_size)
        return trainers

    def replay(self, state: State, m: int, weighted: bool) -> Replay:
        """Return the Replay that trains this state's arrays on batches of `m` samples."""
        self._use(state)
        key = m, weighted
        if key not in self._replays:
            if len(self._replays) >= MAX_REPLAYS:
                del self._replays[next(iter(self._replays))]
            self._replays[key] = self._capture(m, weighted)
        return self._replays[key]

    def forget_graphs(self) -> None:
        """Capture new graphs from now on, since the loss scale has changed."""
        self._replays.clear()

    def unbind(self) -> None:
        """Release the data."""
        trainers: list[Trainer | None] = [*self._replays.values(), *self._residents.values()]
        for trainer in trainers:
            if trainer:
                trainer.unbind()

    def _use(self, state: State) -> None:
        """Prepare to train the arrays of this state."""
        arrays = (state.theta, *state.slots)
        if self._arrays is None or any(
            a is not b for a, b in zip(arrays, (self._arrays.theta, *self._arrays.slots), strict=True)
        ):
            self._arrays = Arrays(state.theta, tuple(state.slots))
            self._replays.clear()
            self._residents.clear()

    def _trainers(
        self, state: State, samples: int, batch_size: int, count: int, weighted: bool
    ) -> list[tuple[Trainer, int]]:
        """Return what trains on `count` samples in batches, with the numbers of steps, in order.

        Only for whole batches, of which the data have several, a way has been found by timing. So the way, and with it
        the bits, depend neither on the chunks into which a training is divided nor on what was trained before.
        """
        result: list[tuple[Trainer, int]] = []
        if count >= batch_size:
            timed = is_timed(samples, batch_size)
            way = self._ways[batch_size, weighted] if timed else self._proposal(batch_size)
            result.append((self._trainer(state, batch_size, weighted, way), count // batch_size))
        if m := count % batch_size:
            result.append((self._trainer(state, m, weighted, self._proposal(m)), 1))
        return result

    def _trainer(self, state: State, m: int, weighted: bool, way: str) -> Trainer:
        """Return what trains on batches of `m` samples in a way, or in shared memory if there is none for graphs."""
        resident = self._resident(m)
        if resident and way == "resident":
            return resident
        try:
            return self.replay(state, m, weighted)
        except DeviceMemoryError:
            if resident is None:
                raise
            return resident

    def _proposal(self, m: int) -> str:
        """Return the way that is expected to be faster for batches of `m` samples: "graph" or "resident"."""
        resident = self._resident(m)
        return "resident" if resident and (self._driver == "resident" or resident.fit.load <= 1) else "graph"

    def _resident(self, m: int) -> Resident | None:
        """Return what trains on batches of `m` samples in shared memory.

        The result is None if that is refused, does not fit, or is clearly slower than graphs.
        """
        if m not in self._residents:
            if len(self._residents) >= MAX_RESIDENTS:
                del self._residents[next(iter(self._residents))]
            self._residents[m] = self._fit_resident(m)
        return self._residents[m]

    def _fit_resident(self, m: int) -> Resident | None:
        """Return a new Resident, or None, as for :meth:`_resident`.

        Raises
        ------
        ArgumentError
            If the driver "resident" was asked for, but cannot train this plan.
        """
        forced = self._driver == "resident"
        if self._driver == "graph" or (self._factors not in ("float32", "float64") and not forced):
            return None
        try:
            if self._factors not in ("float32", "float64"):
                raise Refused(f"products have {self._factors} factors")
            found = fit(self._plan, self._shared.lowered, m, self._device, inf if forced else MARGIN)
        except Refused as error:
            if forced:
                raise ArgumentError(f"driver='resident' cannot train this network: {error}") from None
            logging.getLogger("deepnotes").debug("cupy: training by graphs, not in shared memory: %s", error)
            return None
        if self._arrays is None:  # nothing is trained yet: only the plan is checked
            return None
        return Resident(self._device, self._plan, found, self._shared, self._arrays, m)

    def _capture(self, m: int, weighted: bool) -> Replay:
        """Return a new Replay for batches of `m` samples, or raise an error that suggests a batch size that fits."""
        assert self._arrays is not None
        device, plan, shared, arrays = self._device, self._plan, self._shared, self._arrays
        requested = 0
        try:
            step = Step(device, plan, self._factors, self._scale.value, shared, arrays, m, weighted)
            return Replay(device, plan, step, shared, arrays, self._factors)
        except DeviceMemoryError as error:
            requested = error.requested
        # The caught exception keeps arrays alive, so the new one is raised only after it was released.
        self._replays.clear()
        free = device.free_bytes()
        per_sample = stored_per_sample(shared.lowered.rows, plan.inputs, shared.targets, self._factors)
        fits = int(0.8 * free / (per_sample * np.dtype(plan.dtype).itemsize))
        if fits < 1:
            raise DeviceMemoryError(requested, free, "no batch of this network would fit")
        fits = min(1 << (fits.bit_length() - 1), max(1, m // 2))
        raise DeviceMemoryError(requested, free, f"batch_size={fits} would fit", fits)

    # --- the choice by timing -------------------------------------------------------------------------------------

    def _settle(self, state: State, m: int, weighted: bool) -> str:
        """Return the faster way to train on batches of `m` samples, found by timing unless it is clear."""
        resident, proposed = self._resident(m), self._proposal(m)
        if self._driver != "auto" or resident is None or resident.fit.is_certain:
            return proposed
        ways = [proposed, "graph" if proposed == "resident" else "resident"]
        key = repr((*ways, resident.digest, self._plan.dtype, self._plan.layout.sizes, m, weighted))
        index, is_new = self._device.chosen(key), (m, weighted) not in self._replays
        if index is None or index >= len(ways):
            try:
                assert self._arrays is not None
                trainers = [resident if way == "resident" else self.replay(state, m, weighted) for way in ways]
                index = fastest(self._device, self._plan, self._shared, self._arrays, trainers, m, weighted, key)
            except (DeviceMemoryError, StepsStopped):
                index = 0
        if is_new and ways[index] == "resident":
            self._replays.pop((m, weighted), None)
        return ways[index]
