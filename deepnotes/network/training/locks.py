"""A lock on a directory; the operating system releases the lock when the process ends, even if it is killed."""

import logging
import os
import socket
import sys
from contextlib import suppress
from datetime import UTC, datetime
from errno import EAGAIN, EWOULDBLOCK
from pathlib import Path

from deepnotes.utils.wording import brief, reason

log = logging.getLogger(__name__)

if sys.platform == "win32":
    import msvcrt

    def _try_to_lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # beyond the text, since other processes cannot read a locked range
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            raise BlockingIOError from None
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _try_to_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class HeldError(Exception):
    """Another training run holds the lock; the message describes its process."""


class Lock:
    """The kernel's advisory lock (flock) on the file ``.lock`` in a directory.

    The lock excludes other processes and other threads of this process. It belongs to the process that took it: a
    forked child does not hold the lock, and does not keep the file locked after its parent has ended. The file
    describes the process that holds the lock, and is removed when the lock is released. If that process is killed, the
    file stays, but is no longer locked.

    Parameters
    ----------
    directory : Path

    Raises
    ------
    HeldError
        If another training run holds the lock.
    OSError
        If the file cannot be created.

    Notes
    -----
    On a file system without locks, such as NFS without its lock daemon, a warning is logged and nothing is locked.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / ".lock"
        self._process = os.getpid()
        while True:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            _open.add(self._descriptor)
            try:
                self._lock()
                if self.is_held:
                    started = datetime.now(UTC).isoformat(" ", "seconds")
                    os.truncate(self._descriptor, 0)
                    os.write(
                        self._descriptor,
                        f"process {self._process} on {socket.gethostname()}, since {started}\n".encode(),
                    )
                    return
            except BaseException:
                self._close()
                raise
            self._close()  # the previous holder has just removed the file; another process may have locked a new one

    def _lock(self) -> None:
        """Lock the open file; if the file system has no locks, log a warning instead."""
        try:
            _try_to_lock(self._descriptor)
        except OSError as error:
            if isinstance(error, BlockingIOError) or error.errno in {EAGAIN, EWOULDBLOCK}:
                holder = os.read(self._descriptor, 300).decode(errors="replace").strip()
                raise HeldError(brief(holder or "a process that has just started")) from None
            log.warning(
                "%s cannot be locked (%s): make sure that no other training run uses this directory",
                self.path,
                reason(error),
            )

    @property
    def is_inherited(self) -> bool:
        """Whether this process is a fork of the process that took the lock."""
        return os.getpid() != self._process

    @property
    def is_held(self) -> bool:
        """Whether this process holds the lock, and the file has not been moved or replaced."""
        if self.is_inherited:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.lstat(self.path))
        except OSError:
            return False

    def release(self) -> None:
        """Remove the file and release the lock; in a forked child, do nothing."""
        if self.is_inherited:
            return
        if self.is_held:
            with suppress(OSError):  # Windows cannot remove an open file; a file that is not locked does no harm
                os.unlink(self.path)
        self._close()

    def _close(self) -> None:
        _open.discard(self._descriptor)
        os.close(self._descriptor)


_open: set[int] = set()
"""The descriptors of the files that this process has locked."""


def _close_in_child() -> None:
    """Close the inherited descriptors in a forked child: they would keep the lock after the parent has ended."""
    while _open:
        os.close(_open.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
