"""Checkpoints: a training stored in a file, from which it can be resumed bit for bit.

A checkpoint is a model file (:mod:`deepnotes.network.formats.model_files`) that also holds the optimizer's slots, the
number of updates, the generator's state, the order of the samples and the number of them that are done, the memories of
callbacks, the history, a fingerprint of the training's settings, and versions. :func:`deepnotes.load` reads the network
from it. Everything that may grow with the training is in tensors, since the size of a header is limited: arrays as they
are, the rest as JSON in the tensor ``training.json``.
"""

import json
import logging
import os
import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from time import monotonic, time
from typing import Any

import numpy as np

from deepnotes.network.formats import containers, model_files
from deepnotes.network.formats.containers import Container
from deepnotes.network.training.history import History
from deepnotes.network.training.intervals import interval
from deepnotes.network.training.locks import HeldError, Lock
from deepnotes.network.training.loop import checked_memory, remembering
from deepnotes.network.training.state import Callback, Position, Training
from deepnotes.network.training.training_fingerprint import differences, incomparable, settings
from deepnotes.nn.layers import Layer
from deepnotes.nn.schedules import as_schedule
from deepnotes.utils.arguments import number, whole
from deepnotes.utils.errors import CheckpointError, DeepnotesError, ModelFileError
from deepnotes.utils.version import __version__
from deepnotes.utils.wording import brief, reason

log = logging.getLogger(__name__)

FORMAT = 3
"""The version of the training's part of a checkpoint. Version 1 kept it all in the header, 2 a plateau."""

SOON = 2.0
"""Seconds after a change within which another change may get the same time stamp: the resolution of FAT."""


class Checkpoints(Callback):
    """Writes checkpoints of a training while it runs, and resumes it from the latest one.

    A last checkpoint is written when the training ends, whether by its last epoch, Ctrl-C, SIGTERM or an error.

    Parameters
    ----------
    directory : path
        For this training alone; created if it does not exist. It is locked while the training runs.
    every : int or str, default "60s"
        The number of epochs between two checkpoints, or a time such as ``"30s"``, ``"5m"`` or ``"1h"``. With a time,
        checkpoints are also written within an epoch.
    resume : bool, default False
        Whether to resume from the latest undamaged checkpoint in `directory`, if there is one. If False, the directory
        must not hold any checkpoints, so that none is lost.
    keep : int, default 3
        The number of undamaged checkpoints to keep: a file is deleted once there are this many newer ones. Damaged
        files do not count.

    Raises
    ------
    ArgumentError

    Notes
    -----
    With the same machine, versions and number of threads, a resumed training ends with the same bits as one that was
    never interrupted. On another backend it differs no more than the two backends differ anyway. The number of epochs
    may be larger than before; if anything else has changed, a :class:`~deepnotes.CheckpointError` says what.
    """

    saves = True

    def __init__(
        self, directory: str | PathLike[str], every: int | str = "60s", *, resume: bool = False, keep: int = 3
    ) -> None:
        self.directory = containers.as_path(directory)
        self.epochs, self.seconds = interval(every)
        self.resume, self.keep = bool(resume), whole("keep", keep)

    def on_start(self, training: Training) -> None:
        """Lock the directory, find and check the checkpoint to resume from, and check that files can be written."""
        self._at = Path(os.path.abspath(self.directory))  # a callback may change the working directory
        try:
            self._at.mkdir(parents=True, exist_ok=True)
            lock = Lock(self._at)
        except HeldError as error:
            raise CheckpointError(
                f"checkpoint: {self.directory} is in use by another training, or by other Checkpoints of this one: "
                f"{error}; wait for its end, or name another directory"
            ) from None
        except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
            place = getattr(error, "filename", None) or self.directory
            raise CheckpointError(f"checkpoint: {place} cannot be used: {reason(error)}") from None
        try:
            self._find(training)
        except BaseException:
            lock.release()
            raise
        self._lock = lock

    def _find(self, training: Training) -> None:
        try:
            present = latest_first(self._at)
        except OSError as error:
            raise CheckpointError(f"checkpoint: {self.directory} cannot be used: {reason(error)}") from None
        if present and not self.resume:
            found = next(filter(containers.is_whole, present), None)
            had = f"has {found.name}" if found else f"has {present[0].name}, which is damaged,"
            raise CheckpointError(
                f"checkpoint: {self.directory} {had} of an earlier training; "
                + ("to go on from it, resume (resume=True or --resume); " if found else "")
                + "to start afresh, name another directory"
            )
        try:
            model_files.check(training.network, _described)
        except ModelFileError as error:
            raise CheckpointError(f"checkpoint: no file of this training could be written: {error}") from None
        self._settings = settings(training)
        if fault := incomparable(training):
            if present:
                raise CheckpointError(f"checkpoint: {self.directory} cannot be resumed: {fault}")
            log.warning("%s: this training cannot be resumed: %s", self.directory, fault)
        self._found = latest(present, training, self._settings) if present else None
        try:
            for path in self._at.glob(".step-*.tmp"):  # left by a process that was killed while writing
                if path.is_symlink() or not path.is_dir():
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"checkpoint: {error.filename} cannot be deleted: {reason(error)}") from None
        self._written: tuple[int, bool] | None = None
        self._failed, self._last = False, monotonic()
        self._whole: dict[Path, tuple[int, ...]] = {}

    def on_ready(self, training: Training) -> None:
        """Restore the training from the checkpoint, if there is one."""
        if self._found is not None:
            self._found.restore(training)
            log.info("resumed from %s: epoch %d, update %d", self._found.path, training.epoch, training.state.step)
            self._found = None
        self._written = _moment(training)

    def on_chunk(self, training: Training) -> None:
        """Write a checkpoint if the time between two has passed."""
        if self.seconds is not None and monotonic() - self._last >= self.seconds and training.at_rest:
            self._write(training)

    def on_epoch(self, training: Training) -> None:
        """Write a checkpoint if the number of epochs between two has passed."""
        if self.epochs is not None and training.epoch % self.epochs == 0 and training.at_rest:
            self._write(training)

    def on_end(self, training: Training) -> None:
        """Write a last checkpoint if there were updates since the previous one, and unlock the directory."""
        try:
            ready = self._written is not None and training.at_rest and not self._failed and not self._lock.is_inherited
            if ready and self._written != _moment(training):
                self._write(training)
        finally:
            self._lock.release()

    def _write(self, training: Training) -> None:
        try:
            if not self._lock.is_held:
                raise CheckpointError(
                    f"{self.directory} cannot be written to: it or its lock was removed or replaced during the "
                    "training, or this process is a fork of the one that trains"
                )
            path = _place(self._at, training.state.step)
            if path.is_symlink():  # it may point to another checkpoint, which would be replaced
                with suppress(OSError):
                    path.unlink()
            containers.write(path, *content(training, self._settings))
        except (ModelFileError, CheckpointError) as error:
            self._failed = True
            kept = self._latest_whole(training)
            raise CheckpointError(
                f"{error}; the training stopped after update {training.state.step}, whose parameters the network has; "
                f"{f'the latest checkpoint is {kept}' if kept else 'there is no checkpoint'}"
            ) from error
        except BaseException:  # raised by a callback's memory()
            self._failed = True
            raise
        self._written, self._last = _moment(training), monotonic()
        self._delete_old(training)

    def _latest_whole(self, training: Training) -> Path | None:
        try:
            present = latest_first(self._at)
        except OSError:
            return None
        return next((path for path in present if _is_whole(path, training, self._settings)), None)

    def _is_still_whole(self, path: Path, training: Training) -> bool:
        """Return whether a file is undamaged; one that was, and has not changed since, is not read again.

        Time stamps have a limited resolution, so a file that was changed only just before it was read might change
        again without a visible trace; such a file is read again next time.
        """
        try:
            state = path.stat()
        except OSError:
            return False
        mark = (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        if self._whole.get(path) == mark:
            return True
        self._whole.pop(path, None)
        if not _is_whole(path, training, self._settings):
            return False
        if time() - max(state.st_mtime, state.st_ctime) > SOON:
            self._whole[path] = mark
        return True

    def _delete_old(self, training: Training) -> None:
        """Delete files that have at least `keep` newer undamaged ones; failing to do so is only logged."""
        present = latest_first(self._at)
        whole_ones = 0
        for path in present if len(present) > self.keep else ():
            if whole_ones < self.keep:
                whole_ones += self._is_still_whole(path, training)
                continue
            self._whole.pop(path, None)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("cannot delete the old checkpoint %s: %s", path, reason(error))


@dataclass
class Checkpoint:
    """The training's part of a checkpoint, after all checks.

    Attributes
    ----------
    path : Path
    theta : ndarray, shape (p,)
    slots : tuple of ndarray, shape (p,)
    step, epoch : int
    at : Position
    history : History
    generator : dict or None
        The state of the generator that draws the order of samples.
    memories : list of dict
        The memories of the callbacks.
    versions : dict of str to str
        The versions of deepnotes, NumPy, Python and the backend that it was written with.
    """

    path: Path
    theta: np.ndarray
    slots: tuple[np.ndarray, ...]
    step: int
    epoch: int
    at: Position
    history: History
    generator: dict[str, Any] | None
    memories: list[dict[str, Any]]
    versions: dict[str, str]

    def restore(self, training: Training) -> None:
        """Restore `training` to the state of the checkpoint."""
        network, state = training.network, training.state
        try:
            for callback, memory in zip(remembering(training), self.memories, strict=True):
                callback.remember(memory)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(
                f"{self.path}: what callbacks remember makes no sense ({brief(repr(error))})"
            ) from error
        network.set_flat(self.theta)
        write = network.backend.write
        state.slots = tuple(write(a, 0, network.from_host(b)) for a, b in zip(state.slots, self.slots, strict=True))
        state.step = training.step = self.step
        training.epoch, training.position = self.epoch, self.at
        vars(training.history).update(vars(self.history))
        loss, weight = self.at.sums
        training.loss = loss / weight if weight else (self.history.loss or [training.loss])[-1]
        if training.rng is not None:
            training.rng.bit_generator.state = self.generator or {}


def latest_first(directory: Path) -> list[Path]:
    """Return the checkpoints in a directory, the latest first, damaged ones included."""
    names = re.compile(r"step-\d{9,}\.safetensors")
    found = [path for path in directory.iterdir() if names.fullmatch(path.name) and not path.is_dir()]
    return sorted(found, key=lambda path: int(path.stem.removeprefix("step-")), reverse=True)


def latest(present: list[Path], training: Training, wanted: dict[str, str | None]) -> Checkpoint:
    """Return the first checkpoint of `present` that is undamaged.

    Raises
    ------
    CheckpointError
        If its training had settings that differ from `wanted`, or if all files are damaged.
    """
    faults = []
    for path in present:
        try:
            checkpoint = _read(path, training, wanted)
        except ModelFileError as error:
            log.warning("checkpoint passed over: %s", error)
            faults.append(str(error))
            continue
        if told := differences(checkpoint.versions, _versions(training)):
            log.warning("%s was written with other versions, so the last bits may differ: %s", path, told)
        return checkpoint
    raise CheckpointError(f"checkpoint: none is whole: {'; '.join(faults)}")


def content(training: Training, words: dict[str, str | None]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the tensors of a checkpoint.

    Raises
    ------
    CheckpointError
        If a callback's memory holds something that cannot be written to a file.
    """
    network, state, at, history = training.network, training.state, training.position, training.history
    header, tensors = model_files.content(network, _described)
    arrays = {f"slot{i}": network.backend.to_numpy(slot) for i, slot in enumerate(state.slots)}
    if at.order is not None:
        arrays["order"] = at.order
    if history.epochs:
        arrays |= {f"history.{name}": np.array(values, np.float64) for name, values in _figures(history).items()}
    memories = []
    for i, callback in enumerate(remembering(training)):
        memory, found = _memory(callback)
        memories.append(memory)
        arrays |= {f"callback{i}.{name}": array for name, array in found.items()}
    entries = {
        "settings": words,
        "step": state.step,
        "epoch": training.epoch,
        "done": at.done,
        "sums": at.sums,
        "seconds": at.seconds,
        "rate": at.rate,
        "schedule": dict(at.memory),
        "best_epoch": history.best_epoch,
        "generator": None if training.rng is None else training.rng.bit_generator.state,
        "memories": memories,
        "versions": _versions(training),
    }
    arrays["json"] = np.frombuffer(json.dumps(entries).encode(), np.uint8)
    return header | {"training": FORMAT}, tensors | {
        model_files.TRAINING + name: array for name, array in arrays.items()
    }


def _figures(history: History) -> dict[str, list[float]]:
    """Return the figures of a history, by their names in the file."""
    found = {"loss": history.loss, "learning_rate": history.learning_rate, "seconds": history.seconds}
    found |= {"val_loss": history.val_loss} if history.val_loss else {}
    return found | {f"metrics.{name}": values for name, values in history.metrics.items()}


def _memory(callback: Callback) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the memory of a callback, split into JSON values and arrays.

    Raises
    ------
    CheckpointError
        If a value is neither.
    """
    values: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    memory: Any = callback.memory()
    if not isinstance(memory, Mapping):
        raise CheckpointError(f"{type(callback).__qualname__}.memory() returned {brief(repr(memory))}, wanted a dict")
    for name, value in memory.items():
        try:
            if isinstance(value, np.ndarray):
                if value.dtype.name not in containers.DTYPES.values():
                    raise TypeError(f"an array of {value.dtype} is neither")
                arrays[name] = value
            else:
                values[name] = json.loads(json.dumps(value, default=_python_number))
        except (TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{type(callback).__qualname__}.memory() has {brief(repr(value))} as {name!r}, wanted JSON values or a "
                f"NumPy array of numbers or booleans ({error})"
            ) from None
    return values, arrays


def _python_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__qualname__} is neither")


def _versions(training: Training) -> dict[str, str]:
    return {
        "deepnotes": __version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "backend": training.network.backend.describe(),
    }


def _read(path: Path, training: Training, wanted: dict[str, str | None]) -> Checkpoint:
    """Return a checkpoint of this training.

    Raises
    ------
    ModelFileError
        If the file is damaged.
    CheckpointError
        If it belongs to another training, or was written by a version of deepnotes with another format.
    """
    with containers.open_container(path) as file:
        if "training" not in file.header:
            raise ModelFileError(f"{path} is a model file and no checkpoint")
        if file.header["training"] != FORMAT:
            raise CheckpointError(
                f"checkpoint: {path} was written by another version of deepnotes and cannot be resumed by this one; "
                "deepnotes.load reads the network out of it"
            )
        try:
            entries = json.loads(file.tensor(f"{model_files.TRAINING}json", dtype=np.dtype(np.uint8)).tobytes())
            if told := differences(entries["settings"], wanted):
                raise CheckpointError(f"checkpoint: {path} is of another training: {told}")
            checkpoint = _checked(file, training, entries)
        except (ModelFileError, CheckpointError):
            raise
        except (
            DeepnotesError, LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError
        ) as error:  # fmt: skip
            raise ModelFileError(
                f"{path}: what it has of the training makes no sense ({brief(repr(error))})"
            ) from error
    if path.name != _place(path.parent, checkpoint.step).name:
        raise ModelFileError(f"{path} is of step {checkpoint.step}: it was renamed after it was written")
    return checkpoint


def _is_whole(path: Path, training: Training, wanted: dict[str, str | None]) -> bool:
    """Return whether a training can be resumed from a file."""
    try:
        _read(path, training, wanted)
    except (ModelFileError, CheckpointError):
        return False
    return True


def _checked(file: Container, training: Training, entries: dict[str, Any]) -> Checkpoint:
    layout, dtype, prefix = training.plan.layout, training.network.host_dtype, model_files.TRAINING
    slots = [f"{prefix}slot{i}" for i in range(len(training.plan.optimizer.slots))]
    order = None
    if f"{prefix}order" in file.shapes:
        order = file.tensor(f"{prefix}order", (training.samples,), np.dtype(np.int64))
        if len(order) and not 0 <= order.min() <= order.max() < training.samples:
            raise ValueError("its order holds indices of no sample")
    memories = [dict(memory) for memory in entries["memories"]]
    for name in file.shapes:
        if found := re.fullmatch(rf"{re.escape(prefix)}callback(\d+)\.(.*)", name, re.DOTALL):
            memories[int(found[1])][found[2]] = file.tensor(name)
    generator = entries["generator"]
    if training.rng is not None:
        np.random.default_rng(0).bit_generator.state = generator  # raises an error if the state is invalid
    epoch, done = whole("epoch", entries["epoch"], 0), whole("done", entries["done"], 0)
    if done > training.samples:
        raise ValueError("it is further than the data go")
    epochs = epoch - (order is not None)
    batches, part = -(-training.samples // training.batch_size), -(-done // training.batch_size)
    if whole("step", entries["step"], 0) != epochs * batches + part or (order is None and done):
        raise ValueError(f"step={entries['step']} is not where epoch {epoch} and {done} samples of it are")
    history = _history(file, training, epochs, entries["best_epoch"])
    loss_sum, weight_sum = (number("sums", value, signed=True) for value in entries["sums"])
    memory = checked_memory(entries["schedule"])
    as_schedule(training.plan.optimizer.learning_rate).adjust([1.0], memory)  # or an error says what is wrong with it
    seconds, rate = number("seconds", entries["seconds"]), number("rate", entries["rate"])
    at = Position(order, done, (loss_sum, weight_sum), seconds, rate, memory)
    theta = model_files.flat(file, layout, dtype)
    values = tuple(file.tensor(name, (layout.size,), dtype) for name in slots)
    if not all(np.isfinite(array).all() for array in (theta, *values)):
        raise ValueError("its parameters or slots are not finite")
    return Checkpoint(
        file.path,
        theta,
        values,
        entries["step"],
        epoch,
        at,
        history,
        generator,
        memories,
        _versions_of(entries),
    )


def _versions_of(entries: dict[str, Any]) -> dict[str, str]:
    """Return the versions that a file was written with, or raise ValueError if they are not text."""
    versions = dict(entries["versions"])
    if not all(isinstance(value, str) for value in versions.values()):
        raise ValueError("its versions are other than text")
    return versions


def _history(file: Container, training: Training, epochs: int, best_epoch: int | None) -> History:
    """Return the history of `epochs` epochs, or raise an error if the file does not hold a valid one."""
    if best_epoch is not None:
        whole("best_epoch", best_epoch)
    history = History(best_epoch=best_epoch)
    if not epochs:
        return history

    def figures(name: str) -> list[float]:
        found: list[float] = file.tensor(
            f"{model_files.TRAINING}history.{name}", (epochs,), np.dtype(np.float64)
        ).tolist()
        return found

    history.loss, history.learning_rate, history.seconds = map(figures, ("loss", "learning_rate", "seconds"))
    _, *watched = training.watched
    history.val_loss = figures("val_loss") if "val_loss" in watched else []
    history.metrics = {name: figures(f"metrics.{name}") for name in watched if name != "val_loss"}
    return history


def _described(layer: Layer) -> dict[str, Any]:
    """Return the description of a layer for the file; a layer with user-defined parts is only named, not loadable."""
    try:
        return model_files.describe(layer)
    except ModelFileError:
        return {"type": type(layer).__qualname__}


def _moment(training: Training) -> tuple[int, bool]:
    return training.state.step, training.position.order is None


def _place(directory: Path, step: int) -> Path:
    return directory / f"step-{step:09d}.safetensors"
