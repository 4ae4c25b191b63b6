"""Checkpoint directories that are removed, replaced, moved or read-only, or that contain unusual files."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from checkpoint_directories import SIMPLE, UPDATES_PER_EPOCH, AtEpoch, epochs_in, memory_folder
from checkpointed import EPOCHS, fit, network, outcome
from watchdog import run_python

import deepnotes as dn
from deepnotes.network.training.checkpoints import list_checkpoints


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """Yield the path of a checkpoint directory that does not exist yet."""
    with memory_folder(tmp_path) as folder:
        yield folder / "run"


def remove(run: Path) -> None:
    for path in run.iterdir():
        path.unlink()
    run.rmdir()


def move(run: Path) -> None:
    run.rename(run.with_name("moved"))


def replace_by_a_file(run: Path) -> None:
    move(run)
    run.write_text("x")


def replace_by_a_new_directory(run: Path) -> None:
    move(run)
    run.mkdir()


def replace_by_a_link_to_another_directory(run: Path) -> None:
    move(run)
    run.with_name("other").mkdir()
    run.symlink_to(run.with_name("other"))


def replace_by_a_dangling_link(run: Path) -> None:
    move(run)
    run.symlink_to(run.with_name("nowhere"))


@pytest.mark.parametrize(
    "change",
    [
        remove,
        move,
        replace_by_a_file,
        replace_by_a_new_directory,
        replace_by_a_link_to_another_directory,
        replace_by_a_dangling_link,
    ],
)
def test_a_directory_that_is_removed_or_replaced_is_an_error(run: Path, change: Callable[[Path], None]) -> None:
    net = network()
    with pytest.raises(dn.CheckpointError, match=r"run cannot be written to: .*removed or replaced .* after update 30"):
        fit(net, run, every=1, **SIMPLE, callbacks=[AtEpoch(3, lambda: change(run))])
    assert np.isfinite(net.flat()).all()
    other = run.with_name("other")
    assert not other.exists() or not list(other.iterdir())


def test_a_moved_directory_with_a_link_in_its_place_is_still_used(run: Path) -> None:
    def move_and_link() -> None:
        move(run)
        run.symlink_to(run.with_name("moved"))

    fit(network(), run, 5, every=1, **SIMPLE, callbacks=[AtEpoch(3, move_and_link)])
    assert epochs_in(run) == [5, 4, 3]


@pytest.mark.parametrize("resume", [False, True])
def test_directories_named_like_checkpoints_are_ignored(run: Path, resume: bool) -> None:
    fit(network(), run, 2, every=1, **SIMPLE) if resume else run.mkdir()
    (run / ".step-000000007.safetensors.0123456789ab.tmp").mkdir()
    (run / "step-9223372036854775806.safetensors").mkdir()
    (run / "step-000000015.safetensors").mkdir()
    (run / ".step-dangling.tmp").symlink_to("nowhere")
    fit(network(), run, 6, every=1, **SIMPLE, resume=resume)
    assert epochs_in(run) == [6, 5, 4]
    assert not (run / ".step-dangling.tmp").is_symlink()


def test_a_checkpoint_renamed_to_a_huge_step_is_skipped(run: Path) -> None:
    fit(network(), run, 2, every=1, **SIMPLE)
    renamed = run / f"step-{2**63 - 2}.safetensors"
    renamed.write_bytes(list_checkpoints(run)[0].read_bytes())
    uninterrupted, resumed = network(), network()
    history = fit(resumed, run, every=1, **SIMPLE, resume=True)
    assert outcome(resumed, history) == outcome(uninterrupted, fit(uninterrupted, **SIMPLE))
    latest = [f"step-{epoch * UPDATES_PER_EPOCH:09d}.safetensors" for epoch in (12, 11, 10)]
    assert [path.name for path in list_checkpoints(run)] == [renamed.name, *latest]


AS_NOBODY = """
import os
from pathlib import Path
from checkpointed import fit, network
import deepnotes as dn
run = Path({run!r})
fit(network(), run.with_name("first"), 4, every=1)  # import all modules while their files can be read
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
class MakeReadOnly(dn.Callback):
    def on_epoch(self, training):
        if training.epoch == {epoch}:
            run.chmod(0o555)
{before}
try:
    fit(network(), run, 4, every=1, early_stopping=None, callbacks=[MakeReadOnly()])
except dn.CheckpointError as error:
    print(error)
"""
"""A script that trains as an unprivileged user, who loses permissions for the directory before or during training."""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX file modes")
@pytest.mark.parametrize(
    ("epoch", "before", "message"),
    [
        (3, "", "cannot write"),
        (9, "run.chmod(0o555)", ".lock cannot be used: Permission denied"),
        (9, "run.chmod(0o000)", "cannot be used: Permission denied"),
    ],
)
def test_a_directory_without_permissions_is_an_error(epoch: int, before: str, message: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        run = Path(folder) / "run"
        run.mkdir()
        if os.getuid() == 0:
            os.chown(run, 65534, 65534)
        output = run_python(AS_NOBODY.format(run=str(run), epoch=epoch, before=before), seconds=60)
        run.chmod(0o777)
    assert message in output
    assert ("the latest checkpoint is" in output) == (epoch == 3)


def test_a_relative_directory_does_not_follow_the_working_directory(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    change_directory = AtEpoch(2, lambda: os.chdir(tmp_path))
    fit(network(), callbacks=[dn.Checkpoints("run", every=1), change_directory], **SIMPLE)
    assert epochs_in(run)[0] == EPOCHS
    assert not list(tmp_path.glob("**/step-*"))


def test_a_link_to_another_checkpoint_is_replaced_not_followed(run: Path) -> None:
    fit(network(), epochs=2, callbacks=[dn.Checkpoints(run, every=1, keep=9)], **SIMPLE)
    latest = list_checkpoints(run)[0]
    before = latest.read_bytes()
    link = latest.with_name(f"step-{3 * UPDATES_PER_EPOCH:09d}.safetensors")
    link.symlink_to(latest.name)
    fit(network(), epochs=3, callbacks=[dn.Checkpoints(run, every=1, keep=9, resume=True)], **SIMPLE)
    assert latest.read_bytes() == before
    assert not link.is_symlink()
