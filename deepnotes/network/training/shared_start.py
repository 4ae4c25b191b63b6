"""The start of a training run that several ranks share: they compare their settings, and begin with the same state."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from deepnotes.network.distributed.ranks import Ranks
from deepnotes.network.training.loop import callbacks_with_memory
from deepnotes.network.training.state import Callback, Training
from deepnotes.network.training.training_fingerprint import excerpts, settings, versions
from deepnotes.utils.errors import RankError

DIGESTS = ("data", "validation", "the initial parameters", "the random generator")
"""Settings that are compared by a digest, which says nothing to a reader."""


class SharedStart(Callback):
    """A callback that compares the settings of the ranks, and gives all of them the state that rank 0 starts from.

    It comes before the callback that writes checkpoints, which rank 0 alone has: its `on_start` is called before that
    of the latter, and its `on_ready` afterwards, when rank 0 has the state from which it resumes.

    Parameters
    ----------
    ranks : Ranks
    """

    every_epoch = False

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def on_start(self, training: Training) -> None:
        """Compare the settings, data and versions of all ranks.

        Raises
        ------
        RankError
            On all ranks, if one differs from rank 0.
        """
        if self._ranks.size == 1:
            return
        everything = self._ranks.gather(_describe(training))
        for rank, own in enumerate(everything):
            if text := _differences(everything[0], own, rank):
                raise RankError(f"the ranks were not started alike, so nothing was trained: {text}", rank)

    def on_ready(self, training: Training) -> None:
        """Give all ranks the state of rank 0: the parameters, slots, position, history, and memories of callbacks."""
        if self._ranks.size == 1:
            return
        state = self._ranks.broadcast(_capture(training) if self._ranks.rank == 0 else None)
        if self._ranks.rank:
            _restore(training, state)


def on_rank(callbacks: Sequence[Callback], ranks: Ranks) -> list[Callback]:
    """Return the callbacks that a rank calls, in their order, and before those that write checkpoints a SharedStart."""
    first = next((i for i, callback in enumerate(callbacks) if callback.saves), len(callbacks))
    ordered = [*callbacks[:first], SharedStart(ranks), *callbacks[first:]]
    return [callback for callback in ordered if ranks.rank == 0 or not _is_of_rank_0(callback)]


def _is_of_rank_0(callback: Callback) -> bool:
    return callback.saves or not callback.every_rank


def _describe(training: Training) -> dict[str, str | None]:
    """Return all that has to be the same on all ranks, by name."""
    own = replace(training, callbacks=_shared_callbacks(training))
    parameters = hashlib.sha256(training.network.flat().tobytes()).hexdigest()
    order = "none" if training.rng is None else hashlib.sha256(repr(_generator(training)).encode()).hexdigest()
    return {
        **{f"the version of {name}": value for name, value in versions(training).items()},
        "epochs": str(training.epochs),
        "fixed_order": str(training.ranks.fixed_order),
        **settings(own),
        "the initial parameters": parameters,
        "the random generator": order,
    }


def _differences(first: Mapping[str, str | None], own: Mapping[str, str | None], rank: int) -> str:
    """Return a message that lists what differs between a rank and rank 0, or an empty string.

    Examples
    --------
    >>> _differences({"batch_size": "32", "data": "0af3"}, {"batch_size": "64", "data": "99b1"}, 2)
    'batch_size is 32 on rank 0 and 64 on rank 2; data differs between rank 0 and rank 2'
    """
    messages = []
    for name in {**first, **own}:
        old, new = first.get(name), own.get(name)
        if old == new:
            continue
        if name in DIGESTS or old is None or new is None:
            messages.append(f"{name} differs between rank 0 and rank {rank}")
            continue
        hint = ", so create the network with the same seed=NUMBER on all ranks" if name == "seed" else ""
        old, new = excerpts(old, new)
        messages.append(f"{name} is {old} on rank 0 and {new} on rank {rank}{hint}")
    return "; ".join(messages)


def _generator(training: Training) -> Any:
    """Return the state of the generator that draws the orders of the samples."""
    rng: Any = training.rng
    return None if rng is None else rng.bit_generator.state if isinstance(rng, np.random.Generator) else rng.state


def _shared_callbacks(training: Training) -> list[Callback]:
    """Return the callbacks with a memory that all ranks have."""
    return [callback for callback in callbacks_with_memory(training) if not _is_of_rank_0(callback)]


def _capture(training: Training) -> dict[str, Any]:
    """Return the state that training starts from."""
    to_numpy, state = training.network.backend.to_numpy, training.state
    resumed = bool(state.step)
    return {
        "theta": training.network.flat(),
        "slots": [np.array(to_numpy(slot)) for slot in state.slots],
        "state step": state.step,
        "memories": [callback.memory() for callback in _shared_callbacks(training)] if resumed else None,
        "history": vars(training.history),
        "generator": _generator(training),
        "training": {name: getattr(training, name) for name in ("epoch", "position", "step", "loss", "per_chunk")},
    }


def _restore(training: Training, captured: Mapping[str, Any]) -> None:
    """Set a training run and its network to the state that rank 0 starts from."""
    network, state = training.network, training.state
    if captured["memories"] is not None:
        for callback, memory in zip(_shared_callbacks(training), captured["memories"], strict=True):
            callback.remember(memory)
    network.set_flat(captured["theta"])
    write = network.backend.write
    state.slots = tuple(
        write(old, 0, network.from_host(new)) for old, new in zip(state.slots, captured["slots"], strict=True)
    )
    state.step = captured["state step"]
    vars(training.history).update(captured["history"])
    for name, value in captured["training"].items():
        setattr(training, name, value)
    rng: Any = training.rng
    if isinstance(rng, np.random.Generator):
        rng.bit_generator.state = captured["generator"]
    elif rng is not None:
        rng.state = captured["generator"]
