"""Checkpoints: files from which training can be resumed bit for bit.

A checkpoint is a model file (:mod:`deepnotes.network.formats.model_files`) that also contains the slots of the
optimizer, the number of updates, the state of the random generator, the order of the samples and the position in that
order, the memories of callbacks, the history, fingerprints of the training settings, and versions.
:func:`deepnotes.load` reads the network from it. All data that may grow during training are in tensors, since the
size of the header is limited: each array has a tensor of its own, and the other values are JSON in the tensor
``training.json``.
"""

import json
import logging
import os
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
from deepnotes.network.training.loop import callbacks_with_memory, validate_memory
from deepnotes.network.training.state import Callback, Position, Training
from deepnotes.network.training.training_fingerprint import describe_incomparable, differences, settings, versions
from deepnotes.nn.layers import Layer
from deepnotes.nn.schedules import as_schedule
from deepnotes.utils.arguments import number, true_or_false, whole
from deepnotes.utils.errors import CheckpointError, DeepnotesError, ModelFileError
from deepnotes.utils.wording import brief, reason

log = logging.getLogger(__name__)

FORMAT = 3
"""The version of the format of the training state. In version 1 the state was in the header; in version 2, the only
schedule with a memory was ReduceOnPlateau."""

TIMESTAMP_RESOLUTION = 2.0
"""Two changes of a file within this number of seconds may get the same time stamp; FAT has a resolution of 2 s."""


class Checkpoints(Callback):
    """A callback that writes checkpoints during training, and resumes training from the latest checkpoint.

    A final checkpoint is written when training ends: after the last epoch, or because of Ctrl-C, SIGTERM or an error.

    Parameters
    ----------
    directory : path
        A directory for the checkpoints of this training run only; created if it does not exist. It is locked during
        training.
    every : int or str, default "60s"
        The number of epochs between two checkpoints, or a time such as ``"30s"``, ``"5m"`` or ``"1h"``. With a time,
        checkpoints may also be written in the middle of an epoch.
    resume : bool, default False
        Whether to resume from the latest intact checkpoint in the directory, if there is one. If False, the directory
        must not contain any checkpoints, so that none is lost.
    keep : int, default 3
        The number of intact checkpoints to keep: a file is deleted when this many intact checkpoints are newer.

    Raises
    ------
    ArgumentError
        If an argument is invalid.

    Notes
    -----
    On the same machine, with the same versions and number of threads, the results of resumed and of uninterrupted
    training are equal bit for bit. Training may be resumed on another backend; the results then differ no more than
    between training runs on the two backends. The number of epochs may be increased; if any other setting has changed,
    a :class:`~deepnotes.CheckpointError` reports the change.
    """

    saves = True

    def __init__(
        self, directory: str | PathLike[str], every: int | str = "60s", *, resume: bool = False, keep: int = 3
    ) -> None:
        self.directory = containers.as_path(directory)
        self.epochs, self.seconds = interval(every)
        self.every_epoch = self.epochs is not None
        self.resume, self.keep = true_or_false("resume", resume), whole("keep", keep)

    def on_start(self, training: Training) -> None:
        """Lock the directory, read the checkpoint to resume from, and check that the training run can be saved."""
        self._path = Path(os.path.abspath(self.directory))  # a callback may change the working directory
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            lock = Lock(self._path)
        except HeldError as error:
            raise CheckpointError(
                f"checkpoint: {self.directory} is in use by another training run, or by another Checkpoints callback "
                f"of this run: {error}; wait until the lock is released, or name another directory"
            ) from None
        except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
            path = getattr(error, "filename", None) or self.directory
            raise CheckpointError(f"checkpoint: {path} cannot be used: {reason(error)}") from None
        try:
            self._prepare(training)
        except BaseException:
            lock.release()
            raise
        self._lock = lock

    def _prepare(self, training: Training) -> None:
        """Read the checkpoint to resume from, check that the run can be saved, and delete temporary files."""
        try:
            files = list_checkpoints(self._path)
        except OSError as error:
            raise CheckpointError(f"checkpoint: {self.directory} cannot be used: {reason(error)}") from None
        if files and not self.resume:
            raise self._not_resumed_error(files)
        try:
            model_files.check(training.network, _describe_layer)
        except ModelFileError as error:
            raise CheckpointError(f"checkpoint: this training run cannot be saved: {error}") from None
        self._settings = settings(training)
        if fault := describe_incomparable(training):
            if files:
                raise CheckpointError(f"checkpoint: {self.directory} cannot be resumed: {fault}")
            log.warning("%s: this training run cannot be resumed: %s", self.directory, fault)
        self._checkpoint = read_latest(files, training, self._settings) if files else None
        self._delete_temporary_files()
        self._written: tuple[int, bool] | None = None
        self._has_failed, self._last_time = False, monotonic()
        self._intact: dict[Path, tuple[int, ...]] = {}

    def _not_resumed_error(self, files: list[Path]) -> CheckpointError:
        """Return the error for a directory with checkpoints of an earlier training run if `resume` is False."""
        intact = next(filter(containers.is_intact, files), None)
        if intact is None:
            return CheckpointError(
                f"checkpoint: {self.directory} has the damaged checkpoint {files[0].name} of an earlier training run; "
                "to start a new one, name another directory"
            )
        return CheckpointError(
            f"checkpoint: {self.directory} has {intact.name} of an earlier training run; to continue it, resume "
            "(resume=True or --resume); to start a new one, name another directory"
        )

    def _delete_temporary_files(self) -> None:
        """Delete the temporary files of a process that was killed while it wrote a checkpoint."""
        try:
            for path in self._path.glob(".step-*.tmp"):
                if path.is_symlink() or not path.is_dir():
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"checkpoint: {error.filename} cannot be deleted: {reason(error)}") from None

    def on_ready(self, training: Training) -> None:
        """Restore the training run from the checkpoint, if there is one."""
        if self._checkpoint is not None:
            self._checkpoint.restore(training)
            log.info("resumed from %s: epoch %d, update %d", self._checkpoint.path, training.epoch, training.state.step)
            if training.epoch > training.epochs:
                log.warning(
                    "%s: its latest checkpoint is of epoch %d; with epochs=%d, nothing is trained",
                    self.directory, training.epoch, training.epochs,
                )  # fmt: skip
            self._checkpoint = None
        self._written = _progress(training)

    def on_chunk(self, training: Training) -> None:
        """Write a checkpoint if the time between two checkpoints has passed."""
        if self.seconds is not None and monotonic() - self._last_time >= self.seconds and training.at_rest:
            self._write(training)

    def on_epoch(self, training: Training) -> None:
        """Write a checkpoint if the number of epochs between two checkpoints has passed."""
        if self.epochs is not None and training.epoch % self.epochs == 0 and training.at_rest:
            self._write(training)

    def on_end(self, training: Training) -> None:
        """Write a final checkpoint if there were updates since the previous checkpoint, and unlock the directory."""
        try:
            can_write = training.at_rest and not self._has_failed and not self._lock.is_inherited
            if can_write and self._written not in (None, _progress(training)):
                self._write(training)
        finally:
            self._lock.release()

    def _write(self, training: Training) -> None:
        """Write a checkpoint, and delete old ones."""
        try:
            if not self._lock.is_held:
                raise CheckpointError(
                    f"{self.directory} cannot be written to: the directory or its lock was removed or replaced during "
                    "training, or this process is a fork of the process that started the training"
                )
            path = _checkpoint_path(self._path, training.state.step)
            if path.is_symlink():  # writing would replace the file that it points to, perhaps another checkpoint
                with suppress(OSError):
                    path.unlink()
            containers.write(path, *build_content(training, self._settings))
        except (ModelFileError, CheckpointError) as error:
            self._has_failed = True
            latest = self._latest_intact(training)
            raise CheckpointError(
                f"{error}; training stopped, and the network has the parameters after update {training.state.step}; "
                f"{f'the latest checkpoint is {latest}' if latest else 'there is no checkpoint'}"
            ) from error
        except BaseException:  # raised by a callback's memory()
            self._has_failed = True
            raise
        self._written, self._last_time = _progress(training), monotonic()
        self._delete_old(training)

    def _latest_intact(self, training: Training) -> Path | None:
        """Return the path of the latest intact checkpoint, or None."""
        try:
            files = list_checkpoints(self._path)
        except OSError:
            return None
        return next((path for path in files if _is_intact(path, training, self._settings)), None)

    def _is_still_intact(self, path: Path, training: Training) -> bool:
        """Return whether a file is intact; a file known to be intact is not read again until its time stamps change.

        Time stamps have a limited resolution: a file that was read shortly after a change could change again and keep
        its time stamp. So for such a file, the result is not stored.
        """
        try:
            status = path.stat()
        except OSError:
            return False
        signature = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if self._intact.get(path) == signature:
            return True
        self._intact.pop(path, None)
        if not _is_intact(path, training, self._settings):
            return False
        if time() - max(status.st_mtime, status.st_ctime) > TIMESTAMP_RESOLUTION:
            self._intact[path] = signature
        return True

    def _delete_old(self, training: Training) -> None:
        """Delete each file that is older than at least `keep` intact checkpoints. A failure is only logged."""
        files = list_checkpoints(self._path)
        newer = 0
        for path in files if len(files) > self.keep else ():
            if newer < self.keep:
                newer += self._is_still_intact(path, training)
                continue
            self._intact.pop(path, None)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("cannot delete the old checkpoint %s: %s", path, reason(error))


@dataclass
class Checkpoint:
    """The training state in a checkpoint, after validation.

    Attributes
    ----------
    path : Path
    theta : ndarray, shape (p,)
        The parameters.
    slots : tuple of ndarray, shape (p,)
        The slots of the optimizer.
    step, epoch : int
        The number of updates made, and the current epoch, counted from 1.
    position : Position
        The position within the epoch.
    history : History
    generator : dict or None
        The state of the generator that draws the order of samples.
    memories : list of dict
        The memories of the callbacks.
    versions : dict of str to str
        The versions of deepnotes, NumPy, Python and the backend that wrote the file.
    """

    path: Path
    theta: np.ndarray
    slots: tuple[np.ndarray, ...]
    step: int
    epoch: int
    position: Position
    history: History
    generator: dict[str, Any] | None
    memories: list[dict[str, Any]]
    versions: dict[str, str]

    def restore(self, training: Training) -> None:
        """Set `training`, its network and its callbacks to the state in the checkpoint."""
        network, state = training.network, training.state
        try:
            for callback, memory in zip(callbacks_with_memory(training), self.memories, strict=True):
                callback.remember(memory)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(f"{self.path}: the memory of a callback is invalid ({brief(repr(error))})") from error
        network.set_flat(self.theta)
        write = network.backend.write
        state.slots = tuple(write(a, 0, network.from_host(b)) for a, b in zip(state.slots, self.slots, strict=True))
        state.step = training.step = self.step
        training.epoch, training.position = self.epoch, self.position
        vars(training.history).update(vars(self.history))
        loss, weight = self.position.sums
        training.loss = loss / weight if weight else (self.history.loss or [training.loss])[-1]
        if training.rng is not None:
            training.rng.bit_generator.state = self.generator or {}


def list_checkpoints(directory: Path) -> list[Path]:
    """Return the paths of the checkpoints in a directory, including damaged files, from the latest to the oldest."""
    names = re.compile(r"step-\d{9,}\.safetensors")
    files = [path for path in directory.iterdir() if names.fullmatch(path.name) and not path.is_dir()]
    return sorted(files, key=lambda path: int(path.stem.removeprefix("step-")), reverse=True)


def read_latest(files: list[Path], training: Training, expected: dict[str, str | None]) -> Checkpoint:
    """Return the first intact checkpoint among `files`.

    Parameters
    ----------
    files : list of Path
    training : Training
        The training run to resume.
    expected : dict of str to str or None
        The fingerprints of the settings of `training`.

    Raises
    ------
    CheckpointError
        If the settings in the checkpoint differ from `expected`, or if all files are damaged.
    """
    faults = []
    for path in files:
        try:
            checkpoint = _read_checkpoint(path, training, expected)
        except ModelFileError as error:
            log.warning("checkpoint skipped: %s", error)
            faults.append(str(error))
            continue
        if changes := differences(checkpoint.versions, versions(training)):
            log.warning("%s was written with other versions, so the last bits may differ: %s", path, changes)
        return checkpoint
    raise CheckpointError(f"checkpoint: no file is intact: {'; '.join(faults)}")


def build_content(
    training: Training, fingerprints: dict[str, str | None]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the tensors of a checkpoint of `training`.

    Parameters
    ----------
    training : Training
    fingerprints : dict of str to str or None
        The fingerprints of the settings of `training`.

    Raises
    ------
    CheckpointError
        If the memory of a callback contains a value that cannot be written to a file.
    """
    network, state, position, history = training.network, training.state, training.position, training.history
    header, tensors = model_files.content(network, _describe_layer)
    arrays = {f"slot{i}": network.backend.to_numpy(slot) for i, slot in enumerate(state.slots)}
    if position.order is not None:
        arrays["order"] = position.order
    if history.epochs:
        arrays |= {
            f"history.{name}": np.array(values, np.float64) for name, values in _history_columns(history).items()
        }
    memories = []
    for i, callback in enumerate(callbacks_with_memory(training)):
        memory, memory_arrays = _split_memory(callback)
        memories.append(memory)
        arrays |= {f"callback{i}.{name}": array for name, array in memory_arrays.items()}
    entries = {
        "settings": fingerprints,
        "step": state.step,
        "epoch": training.epoch,
        "done": position.done,
        "sums": position.sums,
        "seconds": position.seconds,
        "rate": position.rate,
        "schedule": dict(position.memory),
        "best_epoch": history.best_epoch,
        "generator": None if training.rng is None else training.rng.bit_generator.state,
        "memories": memories,
        "versions": versions(training),
    }
    arrays["json"] = np.frombuffer(json.dumps(entries).encode(), np.uint8)
    return header | {"training": FORMAT}, tensors | {
        model_files.TRAINING + name: array for name, array in arrays.items()
    }


def _history_columns(history: History) -> dict[str, list[float]]:
    """Return the lists in a history, which have one value per epoch, by the names of the tensors that store them."""
    columns = {"loss": history.loss, "learning_rate": history.learning_rate, "seconds": history.seconds}
    columns |= {"val_loss": history.val_loss} if history.val_loss else {}
    return columns | {f"metrics.{name}": values for name, values in history.metrics.items()}


def _split_memory(callback: Callback) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the memory of a callback, split into JSON values and arrays.

    Raises
    ------
    CheckpointError
        If a value is neither a JSON value nor an array of numbers or booleans.
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
                    raise TypeError(f"got an array of {value.dtype}")
                arrays[name] = value
            else:
                values[name] = json.loads(json.dumps(value, default=_to_python_number))
        except (TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{type(callback).__qualname__}.memory() has {brief(repr(value))} as {name!r}, wanted JSON values or a "
                f"NumPy array of numbers or booleans ({error})"
            ) from None
    return values, arrays


def _to_python_number(value: Any) -> Any:
    """Return a NumPy scalar as a Python number, as the ``default`` of ``json.dumps``."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"got an object of type {type(value).__qualname__}")


def _read_checkpoint(path: Path, training: Training, expected: dict[str, str | None]) -> Checkpoint:
    """Read a checkpoint, and check that its settings have the fingerprints `expected`.

    Raises
    ------
    ModelFileError
        If the file is damaged or renamed, or is not a checkpoint.
    CheckpointError
        If the file belongs to another training run, or was written by a version of deepnotes with another format.
    """
    with containers.open_container(path) as file:
        if "training" not in file.header:
            raise ModelFileError(f"{path} is a model file, not a checkpoint")
        if file.header["training"] != FORMAT:
            raise CheckpointError(
                f"checkpoint: {path} was written by another version of deepnotes and cannot be resumed by this one; "
                "deepnotes.load reads the network from it"
            )
        try:
            entries = json.loads(file.tensor(f"{model_files.TRAINING}json", dtype=np.dtype(np.uint8)).tobytes())
            if changes := differences(entries["settings"], expected):
                raise CheckpointError(f"checkpoint: {path} belongs to another training run: {changes}")
            checkpoint = _parse_training(file, training, entries)
        except (ModelFileError, CheckpointError):
            raise
        except (
            DeepnotesError, LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError
        ) as error:  # fmt: skip
            raise ModelFileError(f"{path}: its training state is invalid ({brief(repr(error))})") from error
    if path.name != _checkpoint_path(path.parent, checkpoint.step).name:
        raise ModelFileError(f"{path} was renamed: it is the checkpoint of step {checkpoint.step}")
    return checkpoint


def _is_intact(path: Path, training: Training, expected: dict[str, str | None]) -> bool:
    """Return whether the training run can be resumed from a file."""
    try:
        _read_checkpoint(path, training, expected)
    except (ModelFileError, CheckpointError):
        return False
    return True


def _parse_training(file: Container, training: Training, entries: dict[str, Any]) -> Checkpoint:
    """Return the training state from the tensors of a file and from `entries`, the content of ``training.json``.

    Raises
    ------
    ArgumentError, LookupError, TypeError, ValueError, ...
        If a value is missing or invalid.
    """
    layout, dtype, prefix = training.plan.layout, training.network.host_dtype, model_files.TRAINING
    generator = entries["generator"]
    if training.rng is not None:
        np.random.default_rng(0).bit_generator.state = generator  # raises an error if the state is invalid
    epoch, position = whole("epoch", entries["epoch"], 0), _read_position(file, training, entries)
    epochs = epoch - (position.order is not None)  # the number of finished epochs
    batches, batches_done = (-(-samples // training.update_size) for samples in (training.samples, position.done))
    is_between_epochs = position.order is None
    if whole("step", entries["step"], 0) != epochs * batches + batches_done or (is_between_epochs and position.done):
        raise ValueError(f"step={entries['step']} does not match epoch={epoch} and done={position.done}")
    theta = model_files.flat(file, layout, dtype)
    names = [f"{prefix}slot{i}" for i in range(len(training.plan.optimizer.slots))]
    slots = tuple(file.tensor(name, (layout.size,), dtype) for name in names)
    if not all(np.isfinite(array).all() for array in (theta, *slots)):
        raise ValueError("the parameters or slots are not finite")
    return Checkpoint(
        file.path,
        theta,
        slots,
        entries["step"],
        epoch,
        position,
        _read_history(file, training, epochs, entries["best_epoch"]),
        generator,
        _read_memories(file, entries),
        _read_versions(entries),
    )


def _read_position(file: Container, training: Training, entries: dict[str, Any]) -> Position:
    """Return the position within the epoch, or raise an error if the position in the file is invalid."""
    order, name = None, f"{model_files.TRAINING}order"
    if name in file.shapes:
        order = file.tensor(name, (training.samples,), np.dtype(np.int64))
        if len(order) and not 0 <= order.min() <= order.max() < training.samples:
            raise ValueError("the order of the samples contains indices out of range")
    done = whole("done", entries["done"], 0)
    if done > training.samples:
        raise ValueError(f"done={done} is more than the number of samples")
    loss_sum, weight_sum = (number("sums", value, signed=True) for value in entries["sums"])
    memory = validate_memory(entries["schedule"])
    as_schedule(training.plan.optimizer.learning_rate).adjust([1.0], memory)  # raises an error if it is invalid
    seconds, rate = number("seconds", entries["seconds"]), number("rate", entries["rate"])
    return Position(order, done, (loss_sum, weight_sum), seconds, rate, memory)


def _read_memories(file: Container, entries: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the memories of the callbacks: their JSON values with their arrays."""
    memories = [dict(memory) for memory in entries["memories"]]
    for name in file.shapes:
        if match := re.fullmatch(rf"{re.escape(model_files.TRAINING)}callback(\d+)\.(.*)", name, re.DOTALL):
            memories[int(match[1])][match[2]] = file.tensor(name)
    return memories


def _read_versions(entries: dict[str, Any]) -> dict[str, str]:
    """Return the versions of the libraries that wrote a file; raise ValueError if they are not strings."""
    versions = dict(entries["versions"])
    if not all(isinstance(value, str) for value in versions.values()):
        raise ValueError(f"versions={versions}, wanted strings")
    return versions


def _read_history(file: Container, training: Training, epochs: int, best_epoch: int | None) -> History:
    """Return the history of `epochs` epochs, or raise an error if the history in the file is invalid."""
    if best_epoch is not None:
        whole("best_epoch", best_epoch)
    history = History(best_epoch=best_epoch)
    if not epochs:
        return history

    def column(name: str) -> list[float]:
        tensor = file.tensor(f"{model_files.TRAINING}history.{name}", (epochs,), np.dtype(np.float64))
        values: list[float] = tensor.tolist()
        return values

    history.loss, history.learning_rate, history.seconds = map(column, ("loss", "learning_rate", "seconds"))
    _, *watched = training.watched
    history.val_loss = column("val_loss") if "val_loss" in watched else []
    history.metrics = {name: column(f"metrics.{name}") for name in watched if name != "val_loss"}
    return history


def _describe_layer(layer: Layer, dtype: str) -> dict[str, Any]:
    """Return the description of a layer for the file; ``deepnotes.load`` cannot load a user-defined layer."""
    try:
        return model_files.describe(layer, dtype)
    except ModelFileError:
        return {"type": type(layer).__qualname__}


def _progress(training: Training) -> tuple[int, bool]:
    """Return the number of updates made, and whether training is between two epochs."""
    return training.state.step, training.position.order is None


def _checkpoint_path(directory: Path, step: int) -> Path:
    """Return the path of the checkpoint after a number of updates."""
    return directory / f"step-{step:09d}.safetensors"
