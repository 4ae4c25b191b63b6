"""Ranks that exchange messages by TCP, without MPI: torchrun, Slurm, Dask, Ray or a shell starts the processes.

Each two ranks have a connection. Its messages are preceded by a header: the kind of the message, the number of the call
to which it belongs, and its length. Nothing blocks, so that a rank that waits also sees the report of a rank that has
failed, or that a process has ended, and gives up after the time limit.
"""

import atexit
import os
import selectors
import socket
import struct
import sys
import time
from collections import deque

from deepnotes.network.distributed.connected import ConnectedRanks, Messages
from deepnotes.network.distributed.rendezvous import connect
from deepnotes.utils.errors import RankError
from deepnotes.utils.wording import brief

HEADER = struct.Struct("!BQQ")
DATA, REPORT, ENDED = range(3)
"""The kinds of messages."""
GRACE = 1.0
"""The number of seconds to wait for messages of other ranks after one has failed: they may be on their way."""
FLUSHING = 2.0
"""The number of seconds to try to send a report."""
SMALL = 4096
"""Messages of up to this many bytes are sent together with their header."""
WAKING = 0.2
"""The number of seconds after which a rank that waits looks at the clock."""


class TCPRanks(ConnectedRanks):
    """Ranks that exchange messages by TCP; :func:`deepnotes.network.distributed.tcp` makes one.

    Parameters
    ----------
    rank, size, address, port, secret, shards, time_limit : object
        As for :func:`deepnotes.network.distributed.tcp`.
    """

    def __init__(
        self, rank: int, size: int, address: str, port: int, secret: str, shards: int, time_limit: float
    ) -> None:
        super().__init__(rank, size, shards, time_limit)
        sockets, machines = connect(rank, size, address, port, secret, self.time_limit) if size > 1 else ({}, [""])
        self.local_rank = machines[:rank].count(machines[rank])
        self._peers = {other: _Peer(other, connection) for other, connection in sockets.items()}
        self._selector = selectors.DefaultSelector()
        for peer in self._peers.values():
            self._selector.register(peer.socket, selectors.EVENT_READ, peer)
        self._process = os.getpid()
        if size > 1:
            atexit.register(self.close)

    def transfer(self, sends: Messages, receives: Messages) -> None:
        """Send and receive messages; see :meth:`ConnectedRanks.transfer`."""
        for rank, buffer in sends:
            self._peers[rank].put(DATA, self.call, buffer.data.cast("B"))
        for rank, buffer in receives:
            self._peers[rank].expect(self.call, buffer.data.cast("B"))
        start, seen = time.monotonic(), None
        try:
            while True:
                waiting = {rank for rank, _ in (*sends, *receives) if self._peers[rank].is_busy}
                if not waiting:
                    return
                self._progress(WAKING)
                now = time.monotonic()
                if (failure := self._failure(waiting)) is not None:
                    seen = now if seen is None else seen
                    failed, error = failure
                    if now - seen > GRACE or self._peers[failed].is_busy:  # what it sent before has arrived
                        raise error
                if now - start > self.time_limit:
                    raise self.lost({rank for rank in waiting if self._peers[rank].is_busy})
        except BaseException:
            for peer in self._peers.values():
                peer.release()
            raise

    def report(self, text: str) -> None:
        """Send the report to all other ranks."""
        self._tell(REPORT, self.call, text)

    def close(self, error: BaseException | None = None) -> None:
        """Tell the other ranks that this one takes no further part, and close the connections.

        This is called at the end of the process, and at the end of a ``with`` statement.
        """
        atexit.unregister(self.close)
        if not self._peers or os.getpid() != self._process:  # a forked process shares the connections
            return
        error = getattr(sys, "last_value", None) if error is None else error
        self._tell(ENDED, 0, "its process has ended" if error is None else f"{type(error).__name__}: {brief(error)}")
        for peer in self._peers.values():
            peer.socket.close()
        self._selector.close()
        self._peers = {}

    def __enter__(self) -> "TCPRanks":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.close(error)

    def _tell(self, kind: int, call: int, text: str) -> None:
        """Send a text to all other ranks, if they receive it within a moment."""
        for peer in self._peers.values():
            peer.put(kind, call, memoryview(text.encode()))
        deadline = time.monotonic() + FLUSHING
        while any(peer.is_sending for peer in self._peers.values()) and time.monotonic() < deadline:
            self._progress(0.01)
        for peer in self._peers.values():
            peer.release()

    def _progress(self, seconds: float) -> None:
        """Send and receive what is possible now, or wait until something is."""
        for peer in self._peers.values():
            events = selectors.EVENT_READ if not peer.has_ended else 0
            events |= selectors.EVENT_WRITE if peer.is_sending else 0
            registered = peer.socket in self._selector.get_map()
            if not events and registered:
                self._selector.unregister(peer.socket)
            elif events and not registered:
                self._selector.register(peer.socket, events, peer)
            elif events and self._selector.get_key(peer.socket).events != events:
                self._selector.modify(peer.socket, events, peer)
        if not self._selector.get_map():
            return
        for key, events in self._selector.select(seconds):
            if events & selectors.EVENT_WRITE:
                key.data.send()
            if events & selectors.EVENT_READ:
                key.data.receive(self.call)

    def _failure(self, waiting: set[int]) -> tuple[int, RankError] | None:
        """Return the rank that has failed, if one has, and the error, given the ranks that this one waits for."""
        for rank, peer in self._peers.items():
            if peer.report is not None and peer.report[0] == self.call:
                return rank, RankError(f"rank {rank}: {peer.report[1]}", rank, is_reported=True)
        for rank in sorted(waiting):
            peer = self._peers[rank]
            if peer.has_ended and peer.is_busy:
                return rank, RankError(f"rank {rank}: {peer.farewell}", rank)
        return None


class _Peer:
    """The connection to another rank: what is to be sent, what is expected, and what has arrived too early."""

    def __init__(self, rank: int, connection: socket.socket) -> None:
        self.rank, self.socket = rank, connection
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a machine that is lost is noticed
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.has_ended, self.farewell = False, "its process has ended"
        self.report: tuple[int, str] | None = None
        self._sending: deque[memoryview] = deque()
        self._expected: deque[tuple[int, memoryview]] = deque()
        self._early: deque[tuple[int, bytes]] = deque()
        self._header = memoryview(bytearray(HEADER.size))
        self._kind = self._call = 0
        self._rest = self._header  # the part of the header or of the message that has not arrived
        self._message: memoryview | None = None
        self._is_direct = False

    @property
    def is_sending(self) -> bool:
        """Whether something is still to be sent."""
        return bool(self._sending) and not self.has_ended

    @property
    def is_busy(self) -> bool:
        """Whether something is to be sent, or is expected."""
        return bool(self._sending or self._expected)

    def put(self, kind: int, call: int, data: memoryview) -> None:
        """Send a message, or begin to."""
        header = HEADER.pack(kind, call, len(data))
        self._sending += [memoryview(header + data)] if len(data) <= SMALL else [memoryview(header), data]
        self.send()

    def expect(self, call: int, buffer: memoryview) -> None:
        """Receive the next message of a call into a buffer."""
        while self._early and self._early[0][0] < call:
            self._early.popleft()
        if self._early and self._early[0][0] == call:
            _copy(self._early.popleft()[1], buffer)
        else:
            self._expected.append((call, buffer))

    def release(self) -> None:
        """Stop to use the buffers of messages, after an error; what has begun to be sent or received still is."""
        self._sending = deque(memoryview(bytes(part)) for part in self._sending)
        self._expected.clear()
        if self._is_direct and self._message is not None:
            self._is_direct, done = False, len(self._message) - len(self._rest)
            self._message = memoryview(bytearray(self._message))
            self._rest = self._message[done:]

    def send(self) -> None:
        """Send as much as the connection takes."""
        try:
            while self._sending:
                sent = self.socket.send(self._sending[0])
                if sent < len(self._sending[0]):
                    self._sending[0] = self._sending[0][sent:]
                else:
                    self._sending.popleft()
        except BlockingIOError:
            return
        except OSError:
            self.has_ended = True

    def receive(self, current: int) -> None:
        """Receive what has arrived, in a call."""
        try:
            while True:
                count = self.socket.recv_into(self._rest)
                if count == 0:
                    self.has_ended = True
                    return
                self._rest = self._rest[count:]
                if not len(self._rest):
                    if self._message is None:
                        self._begin()
                    if self._message is not None and not len(self._rest):
                        self._end(current)
        except BlockingIOError:
            return
        except OSError:
            self.has_ended = True

    def _begin(self) -> None:
        """Read a header: choose where the message goes."""
        self._kind, self._call, size = HEADER.unpack(self._header)
        expected = self._expected[0] if self._kind == DATA and self._expected else None
        self._is_direct = expected is not None and expected[0] == self._call and len(expected[1]) == size
        self._message = expected[1] if expected is not None and self._is_direct else memoryview(bytearray(size))
        self._rest = self._message

    def _end(self, current: int) -> None:
        """Deal with a message that has arrived."""
        message, self._message, self._rest = self._message, None, self._header
        assert message is not None
        if self._kind == REPORT:
            self.report = self._call, bytes(message).decode(errors="replace")
        elif self._kind == ENDED:
            self.has_ended, self.farewell = True, bytes(message).decode(errors="replace")
        elif self._is_direct:
            self._expected.popleft()
        elif self._call >= current:
            if self._expected and self._expected[0][0] == self._call:
                _copy(bytes(message), self._expected.popleft()[1])
            else:
                self._early.append((self._call, bytes(message)))


def _copy(message: bytes, buffer: memoryview) -> None:
    """Copy a message to the buffer for it.

    Raises
    ------
    RankError
        If it has another size.
    """
    if len(message) != len(buffer):
        raise RankError(
            f"another rank sent {len(message)} bytes instead of {len(buffer)}: the ranks do different things"
        )
    buffer[:] = message
