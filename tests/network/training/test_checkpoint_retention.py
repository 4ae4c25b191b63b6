"""Retention of checkpoints: damaged files are not counted, and old files are deleted."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoint_directories import SIMPLE, AtEpoch, epochs_in, fail, memory_folder
from checkpointed import fit, network, outcome

import deepnotes as dn
from deepnotes.network.training import checkpoints
from deepnotes.network.training.checkpoints import list_checkpoints


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """Yield the path of a checkpoint directory that does not exist yet."""
    with memory_folder(tmp_path) as folder:
        yield folder / "run"


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-60] ^= 4
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def clear(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_a_model(path: Path) -> None:
    network().save(path)


def replace_by_an_older_checkpoint(path: Path) -> None:
    path.write_bytes(list_checkpoints(path.parent)[-1].read_bytes())


@pytest.mark.thinned(3)
@pytest.mark.parametrize("damage", [flip_a_bit, truncate, clear, replace_by_a_model, replace_by_an_older_checkpoint])
def test_damaged_checkpoints_are_not_counted_as_kept(run: Path, damage: Callable[[Path], None]) -> None:
    uninterrupted, resumed = network(), network()
    expected = outcome(uninterrupted, fit(uninterrupted, early_stopping=None))
    fit(network(), None, 8, early_stopping=None, callbacks=[dn.Checkpoints(run, 2, keep=4)])
    assert epochs_in(run) == [8, 6, 4, 2]
    for path in list_checkpoints(run)[:3]:
        damage(path)
    with pytest.raises(RuntimeError, match="stopped"):
        fit(network(), run, every=1, early_stopping=None, resume=True, callbacks=[AtEpoch(3, fail)])
    assert epochs_in(run) == [8, 6, 4, 3, 2]  # epoch 2 was resumed, epoch 3 is new
    with pytest.raises(RuntimeError, match="stopped"):
        fit(network(), run, every=3, early_stopping=None, resume=True, callbacks=[AtEpoch(4, fail)])
    assert epochs_in(run) == [8, 6, 4, 3, 2]
    assert outcome(resumed, fit(resumed, run, every=1, early_stopping=None, resume=True)) == expected
    assert epochs_in(run) == [12, 11, 10]


@pytest.mark.parametrize("keep", [2, 3])
def test_an_intact_checkpoint_older_than_all_damaged_ones_is_kept(run: Path, keep: int) -> None:
    class DamageLatest(dn.Callback):
        saves = True  # called after the callback that writes the checkpoints

        def on_epoch(self, training: Any) -> None:
            if training.epoch > 1:
                flip_a_bit(list_checkpoints(run)[0])

    uninterrupted, resumed = network(), network()
    fit(network(), None, 6, **SIMPLE, callbacks=[dn.Checkpoints(run, 1, keep=keep), DamageLatest()])
    assert 1 in epochs_in(run)
    history = fit(resumed, run, **SIMPLE, resume=True)
    assert outcome(resumed, history) == outcome(uninterrupted, fit(uninterrupted, **SIMPLE))


def test_an_unchanged_checkpoint_is_verified_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    read = checkpoints._read_checkpoint

    def read_and_count(path: Path, *arguments: Any) -> Any:
        reads.append(path.name)
        return read(path, *arguments)

    monkeypatch.setattr(checkpoints, "_read_checkpoint", read_and_count)
    monkeypatch.setattr(checkpoints, "TIMESTAMP_RESOLUTION", -1)  # trust the time stamps of new files
    fit(network(), run, 10, every=1, **SIMPLE)
    assert len(reads) == len(set(reads))
    assert len(reads) > 5


def test_errors_name_the_latest_intact_checkpoint(run: Path) -> None:
    fit(network(), run, 3, every=1, **SIMPLE)
    truncate(list_checkpoints(run)[0])
    with pytest.raises(dn.CheckpointError, match=r"has step-000000020\.safetensors of an earlier training run"):
        fit(network(), run, **SIMPLE)
    latest = run / "step-000000030.safetensors"
    with pytest.raises(dn.CheckpointError, match=r"cannot write .*; the latest checkpoint is .*step-000000020"):
        fit(
            network(),
            run,
            every=1,
            **SIMPLE,
            resume=True,
            callbacks=[AtEpoch(3, latest.unlink), AtEpoch(3, latest.mkdir)],
        )


def test_resuming_is_not_suggested_if_all_checkpoints_are_damaged(run: Path) -> None:
    fit(network(), run, 1, **SIMPLE)
    truncate(list_checkpoints(run)[0])
    with pytest.raises(dn.CheckpointError, match=r"has the damaged checkpoint step-000000010.* another dir"):
        fit(network(), run, **SIMPLE)


def test_an_old_file_that_cannot_be_deleted_does_not_stop_training(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unlink = Path.unlink

    def refuse_checkpoints(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith("step-"):
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse_checkpoints)
    history = fit(network(), run, 5, every=1, **SIMPLE)
    assert history.epochs == 5
    assert "cannot delete the old checkpoint" in caplog.text
