"""Checkpoints: a training in a file, from which it goes on to the last bit.

A checkpoint is a model file (:mod:`deepnotes.files`) that has in it besides: the optimizer's slots, the number of
updates, the generator's state, the order of the samples and how many of them are done, what callbacks remember, the
history, the settings that the training was started with, and versions. :func:`deepnotes.load` reads the network out of
it.
"""

import json
import logging
import platform
import re
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

import deepnotes
from deepnotes import containers, files
from deepnotes.arguments import number, whole
from deepnotes.callbacks import Callback
from deepnotes.containers import Container
from deepnotes.errors import CheckpointError, DeepnotesError, ModelFileError
from deepnotes.intervals import interval
from deepnotes.layers import Layer
from deepnotes.schedules import Plateau
from deepnotes.settings import differences, remembering, settings
from deepnotes.training import History, Position, Training
from deepnotes.wording import brief, reason

log = logging.getLogger(__name__)


class Checkpoints(Callback):
    """Writes a training to files while it runs, and goes on from the latest of them.

    Whatever ends a training writes a last one: the last epoch, Ctrl-C, SIGTERM, an error.

    Parameters
    ----------
    directory : path
        Of this training alone; made if it is not there.
    every : int or str, default "60s"
        Epochs from one to the next, or a time: ``"30s"``, ``"5m"``, ``"1h"``. A time does not wait for an epoch's end.
    resume : bool, default False
        Whether to go on from the latest whole checkpoint in `directory`, if there is one. Without it, a directory
        without checkpoints is wanted, so that none is lost.
    keep : int, default 3
        How many files are kept; the oldest go.

    Raises
    ------
    ArgumentError

    Notes
    -----
    With the same machine, versions and number of threads, a training that was resumed ends with the same bits as one
    that was never interrupted; on another backend, within what the two differ by anyway. It may be resumed with more
    epochs than before, but all else has to be as it was: a :class:`~deepnotes.CheckpointError` says what is not.
    """

    saves = True

    def __init__(
        self, directory: str | PathLike[str], every: int | str = "60s", *, resume: bool = False, keep: int = 3
    ) -> None:
        self.directory = containers.as_path(directory)
        self.epochs, self.seconds = interval(every)
        self.resume, self.keep = bool(resume), whole("keep", keep)

    def on_start(self, training: Training) -> None:
        """Find what is to be gone on from, and see that it can be."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            present = latest_first(self.directory)
        except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
            raise CheckpointError(f"checkpoint: {self.directory} cannot be used: {reason(error)}") from None
        if present and not self.resume:
            raise CheckpointError(
                f"checkpoint: {self.directory} has {present[0].name} of an earlier training; to go on from it, "
                "resume (resume=True or --resume); to start afresh, name another directory"
            )
        self._settings = settings(training)
        self._found = latest(present, training, self._settings) if present else None
        for path in self.directory.glob(".step-*.tmp"):  # of a process that was killed while it wrote
            path.unlink(missing_ok=True)
        self._written: tuple[int, bool] | None = None
        self._failed, self._last = False, monotonic()

    def on_ready(self, training: Training) -> None:
        """Put the training where the checkpoint has it, if there is one."""
        if self._found is not None:
            self._found.restore(training)
            log.info("resumed from %s: epoch %d, update %d", self._found.path, training.epoch, training.state.step)
            self._written, self._found = _moment(training), None

    def on_chunk(self, training: Training) -> None:
        """Write, if it is time."""
        if self.seconds is not None and monotonic() - self._last >= self.seconds:
            self._write(training)

    def on_epoch(self, training: Training) -> None:
        """Write, if it is time."""
        if self.epochs is not None and training.epoch % self.epochs == 0:
            self._write(training)

    def on_end(self, training: Training) -> None:
        """Write what was trained since the last checkpoint."""
        if training.at_rest and not self._failed and self._written != _moment(training):
            self._write(training)

    def _write(self, training: Training) -> None:
        path = self.directory / f"step-{training.state.step:09d}.safetensors"
        try:
            containers.write(path, *content(training, self._settings))
            for old in latest_first(self.directory)[self.keep :]:
                old.unlink()
        except (ModelFileError, OSError) as error:
            self._failed = True
            kept = latest_first(self.directory)
            raise CheckpointError(
                f"{error}; the training stopped after update {training.state.step}, whose parameters the network has; "
                f"{f'the latest checkpoint is {kept[0]}' if kept else 'there is no checkpoint'}"
            ) from error
        self._written, self._last = _moment(training), monotonic()


@dataclass
class Checkpoint:
    """What a checkpoint has of a training, all of it checked.

    Attributes
    ----------
    path : Path
    theta : ndarray, shape (p,)
    slots : tuple of ndarray, shape (p,)
    step, epoch : int
    at : Position
    stop : bool
    history : History
    generator : dict or None
        The state of the one that draws the order of samples.
    memories : list of dict
        What callbacks remember.
    """

    path: Path
    theta: np.ndarray
    slots: tuple[np.ndarray, ...]
    step: int
    epoch: int
    at: Position
    stop: bool
    history: History
    generator: dict[str, Any] | None
    memories: list[dict[str, Any]]

    def restore(self, training: Training) -> None:
        """Put `training` where it was."""
        network, state = training.network, training.state
        try:
            for callback, memory in zip(remembering(training), self.memories, strict=True):
                callback.remember(memory)
        except (LookupError, TypeError, ValueError) as error:
            raise ModelFileError(
                f"{self.path}: what callbacks remember makes no sense ({brief(repr(error))})"
            ) from error
        network.set_flat(self.theta)
        write = network.backend.write
        state.slots = tuple(write(a, 0, network.from_host(b)) for a, b in zip(state.slots, self.slots, strict=True))
        state.step = training.step = self.step
        training.epoch, training.at, training.stop = self.epoch, self.at, self.stop
        vars(training.history).update(vars(self.history))
        loss, weight = self.at.sums
        training.loss = loss / weight if weight else (self.history.loss or [training.loss])[-1]
        if training.rng is not None:
            training.rng.bit_generator.state = self.generator or {}


def latest_first(directory: Path) -> list[Path]:
    """Return the checkpoints in a directory, whole or not."""
    names = re.compile(r"step-\d{9,}\.safetensors")
    found = [path for path in directory.iterdir() if names.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem.removeprefix("step-")), reverse=True)


def latest(present: list[Path], training: Training, wanted: dict[str, str]) -> Checkpoint:
    """Return the first checkpoint of `present` that is whole.

    Raises
    ------
    CheckpointError
        If it is of a training with other settings than `wanted`, or if none is whole.
    """
    faults = []
    for path in present:
        try:
            with containers.opened(path) as file:
                return _read(file, training, wanted)
        except ModelFileError as error:
            log.warning("checkpoint passed over: %s", error)
            faults.append(str(error))
    raise CheckpointError(f"checkpoint: none is whole: {'; '.join(faults)}")


def content(training: Training, words: dict[str, str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the tensors of a checkpoint."""
    network, state, at = training.network, training.state, training.at
    header, tensors = files.content(network, _described)
    arrays = {f"slot{i}": network.backend.to_numpy(slot) for i, slot in enumerate(state.slots)}
    if at.order is not None:
        arrays["order"] = at.order
    memories = [dict(callback.memory()) for callback in remembering(training)]
    for i, memory in enumerate(memories):
        for name in [name for name, value in memory.items() if isinstance(value, np.ndarray)]:
            arrays[f"callback{i}.{name}"] = memory.pop(name)
    entries = {
        "settings": words,
        "step": state.step,
        "epoch": training.epoch,
        "stop": training.stop,
        "done": at.done,
        "sums": at.sums,
        "seconds": at.seconds,
        "rate": at.rate,
        "plateau": asdict(at.plateau),
        "history": training.history.as_dict(),
        "generator": None if training.rng is None else training.rng.bit_generator.state,
        "memories": memories,
        "versions": _versions(training),
    }
    text = json.dumps(entries)  # text within the header, since infinities are welcome here
    return header | {"training": text}, tensors | {files.TRAINING + name: array for name, array in arrays.items()}


def _versions(training: Training) -> dict[str, str]:
    return {
        "deepnotes": deepnotes.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "backend": training.network.backend.describe(),
    }


def _read(file: Container, training: Training, wanted: dict[str, str]) -> Checkpoint:
    if "training" not in file.header:
        raise ModelFileError(f"{file.path} is a model file and no checkpoint")
    try:
        entries = json.loads(file.header["training"])
        if told := differences(entries["settings"], wanted):
            raise CheckpointError(f"checkpoint: {file.path} is of another training: {told}")
        checkpoint = _checked(file, training, entries)
        if told := differences(entries["versions"], _versions(training)):
            log.warning("%s was written with other versions, so the last bits may differ: %s", file.path, told)
        return checkpoint
    except (ModelFileError, CheckpointError):
        raise
    except (DeepnotesError, LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ModelFileError(
            f"{file.path}: what it has of the training makes no sense ({brief(repr(error))})"
        ) from error


def _checked(file: Container, training: Training, entries: dict[str, Any]) -> Checkpoint:
    layout, dtype, prefix = training.plan.layout, training.network.host_dtype, files.TRAINING
    slots = [f"{prefix}slot{i}" for i in range(len(training.plan.optimizer.slots))]
    order = None
    if f"{prefix}order" in file.shapes:
        order = file.tensor(f"{prefix}order", (training.samples,), np.dtype(np.int64))
        if len(order) and not 0 <= order.min() <= order.max() < training.samples:
            raise ValueError("its order holds indices of no sample")
    memories = [dict(memory) for memory in entries["memories"]]
    for name in file.shapes:
        if found := re.fullmatch(rf"{re.escape(prefix)}callback(\d+)\.(.+)", name):
            memories[int(found[1])][found[2]] = file.tensor(name)
    generator = entries["generator"]
    if training.rng is not None:
        np.random.default_rng(0).bit_generator.state = generator  # or an error says what is wrong with it
    epoch = whole("epoch", entries["epoch"], 0)
    history = _history(entries["history"], epoch - (order is not None))
    loss_sum, weight_sum = (number("sums", value, signed=True) for value in entries["sums"])
    done = whole("done", entries["done"], 0)
    if done > training.samples:
        raise ValueError("it is further than the data go")
    plateau = Plateau(**entries["plateau"])
    if not _are_numbers([plateau.best, plateau.scale]):
        raise ValueError("its plateau has other than numbers")
    whole("waited", plateau.waited, 0)
    seconds, rate = number("seconds", entries["seconds"]), number("rate", entries["rate"])
    at = Position(order, done, (loss_sum, weight_sum), seconds, rate, plateau)
    return Checkpoint(
        file.path,
        files.flat(file, layout, dtype),
        tuple(file.tensor(name, (layout.size,), dtype) for name in slots),
        whole("step", entries["step"], 0),
        epoch,
        at,
        bool(entries["stop"]),
        history,
        generator,
        memories,
    )


def _history(content: dict[str, Any], epochs: int) -> History:
    """Return the history of that many epochs, or raise ValueError for what is none."""
    history = History(**content)
    lists = [history.loss, history.seconds, history.learning_rate, *history.metrics.values()]
    if not all(map(_are_numbers, [*lists, history.val_loss])):
        raise ValueError("its history has other than numbers")
    if any(len(values) != epochs for values in lists) or len(history.val_loss) not in {0, epochs}:
        raise ValueError("its history has not as many epochs as were trained")
    if history.best_epoch is not None:
        whole("best_epoch", history.best_epoch)
    return history


def _are_numbers(values: Any) -> bool:
    """Return whether it is a list of numbers; they may be infinite, as a loss on other data may be."""
    return isinstance(values, list) and all(type(value) in (int, float) for value in values)


def _described(layer: Layer) -> dict[str, Any]:
    """Return what a file says of a layer; one with parts of the user's own is only named, and nobody can load it."""
    try:
        return files.describe(layer)
    except ModelFileError:
        return {"type": type(layer).__qualname__}


def _moment(training: Training) -> tuple[int, bool]:
    return training.state.step, training.at.order is None
