"""Trainers: what trains a plan on batches of each size, by graphs or in shared memory, and the choice between them."""

import logging
from collections.abc import Mapping
from functools import partial
from math import inf
from typing import TypeAlias

import numpy as np

from deepnotes.backends import ArgumentError, DeviceMemoryError, Plan, State
from deepnotes_cupy.device import Device, Factors
from deepnotes_cupy.lowering import stored_per_sample
from deepnotes_cupy.replay import STEPS_PER_GRAPH, Replay
from deepnotes_cupy.resident import MARGIN, Refused, Resident, fit
from deepnotes_cupy.scaling import LossScale
from deepnotes_cupy.step import MAX_INDICES, Arrays, Shared, Source, Step

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
        self._residents: dict[int, Resident | None] = {}  # None: by graphs
        self._settled: set[int] = set()  # the batch sizes whose trainer is final
        if driver == "resident":
            self._resident(1)

    def prepare(self, state: State, batch_size: int, count: int, weighted: bool) -> None:
        """Prepare to train on `count` samples in batches.

        This comes before anything else, since its error suggests a batch size that fits, and since it overwrites what a
        chunk sends to the device.
        """
        for m in (batch_size if count >= batch_size else 0, count % batch_size):
            if m:
                self._trainer(state, m, weighted)
                if m not in self._settled:
                    self._settle(state, m, weighted)
                    self._settled.add(m)

    def for_batches(self, state: State, source: Source, batch_size: int, count: int) -> list[tuple[Trainer, int]]:
        """Return what trains on `count` samples of `source` in batches, with the numbers of steps, in order."""
        if self._shared.bind(source, batch_size):  # launches on the data before would keep them in memory
            for resident in self._residents.values():
                if resident:
                    resident.unbind()
        trainers = []
        for m, steps in ((batch_size, count // batch_size), (count % batch_size, 1)):
            if m and steps:
                trainer = self._trainer(state, m, source.w is not None)
                trainer.bind(source, batch_size)
                trainers.append((trainer, steps))
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
            self._settled.clear()

    def _trainer(self, state: State, m: int, weighted: bool) -> Trainer:
        """Return what trains this state's arrays on batches of `m` samples."""
        self._use(state)
        if m not in self._residents:
            if len(self._residents) >= MAX_RESIDENTS:
                oldest = next(iter(self._residents))
                del self._residents[oldest]
                self._settled.discard(oldest)
            self._residents[m] = self._resident(m)
        return self._residents[m] or self.replay(state, m, weighted)

    def _resident(self, m: int, most: float = 1.0) -> Resident | None:
        """Return a new Resident for batches of `m` samples, or None if graphs are expected to be faster.

        Parameters
        ----------
        m : int
        most : float
            See :func:`deepnotes_cupy.resident.fit`.
        """
        forced = self._driver == "resident"
        if self._driver == "graph" or (self._factors not in ("float32", "float64") and not forced):
            return None
        try:
            if self._factors not in ("float32", "float64"):
                raise Refused(f"products have {self._factors} factors")
            found = fit(self._plan, self._shared.lowered, m, self._device, inf if forced else most)
        except Refused as error:
            if forced:
                raise ArgumentError(f"driver='resident' cannot train this network: {error}") from None
            logging.getLogger("deepnotes").debug("cupy: training by graphs, not in shared memory: %s", error)
            return None
        return self._arrays and Resident(self._device, self._plan, found, self._shared, self._arrays, m)

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

    def _settle(self, state: State, m: int, weighted: bool) -> None:
        """Choose between graphs and shared memory for batches of `m` samples, by timing unless it is clear."""
        proposed = self._residents[m]
        if self._driver != "auto" or (proposed and proposed.fit.is_certain):
            return
        resident = proposed or self._resident(m, MARGIN)
        if resident is None:
            return
        names = ["resident", "graph"] if proposed else ["graph", "resident"]
        key = repr((*names, resident.digest, self._plan.dtype, self._plan.layout.sizes, m, weighted))
        index = self._device.chosen(key)
        if index is None or index >= len(names):
            try:
                trainers: dict[str, Trainer] = {"resident": resident, "graph": self.replay(state, m, weighted)}
                index = self._fastest(key, {name: trainers[name] for name in names}, state, m, weighted)
            except DeviceMemoryError:
                return
        self._residents[m] = resident if names[index] == "resident" else None
        if self._residents[m]:
            self._replays.pop((m, weighted), None)

    def _fastest(self, key: str, trainers: Mapping[str, Trainer], state: State, m: int, weighted: bool) -> int:
        """Return the index of the fastest trainer; see :meth:`Device.fastest`. The state stays as it is.

        The samples are zeros, since the data may not be on the device yet.
        """
        assert self._arrays is not None
        device, shared, dtype = self._device, self._shared, self._plan.dtype
        steps = max(1, min(STEPS_PER_GRAPH, MAX_INDICES // m))
        shared.start(state.step, np.zeros(steps), (0.0, 0.0))
        shared.send_order(np.tile(np.arange(m), steps))
        X, Y, w = (device.empty(size, dtype) for size in (m * self._plan.inputs, m * shared.targets, m))
        source = Source(X, Y, w if weighted else None)
        for x in (X, Y, w):
            x.fill(0)
        changed = self._arrays.theta, *self._arrays.slots, shared.control
        copies = [device.empty(x.size, str(x.dtype)) for x in changed]
        save = [device.copier(x, copy) for x, copy in zip(changed, copies, strict=True)]
        restore = [device.copier(copy, x) for x, copy in zip(changed, copies, strict=True)]
        for trainer in trainers.values():
            trainer.bind(source, m)
        for call in save:
            call()
        try:
            # Each repetition begins at the same state: training that goes on might diverge, and stop early.
            return device.fastest(key, [[*restore, partial(x.enqueue, steps)] for x in trainers.values()])
        finally:
            for call in restore:
                call()
            for trainer in trainers.values():
                trainer.unbind()
