"""The start of ranks that exchange messages by TCP: they find each other, and each connects to each other one.

Rank 0 listens at an address that all know. The others listen at ports of their own, and connect to rank 0, which sends
them the list of these. Then each connects to those of lower ranks. A connection begins with a proof, in both
directions, that the other side knows the secret of the run, since the ranks exchange pickled objects, which could
otherwise be made by anybody to run code.
"""

import hmac
import json
import os
import socket
import struct
import time
from contextlib import ExitStack, suppress
from typing import Any

from deepnotes.utils.errors import RankError
from deepnotes.utils.wording import brief

PROTOCOL = b"deepnotes ranks 1"
NONCE = 16
"""The number of random bytes that each side has the other one sign."""
HANDSHAKE = 10.0
"""The number of seconds for one handshake: a stranger that connects, and is silent, does not block the ranks."""
RETRY = 0.05
"""The number of seconds between two attempts to connect."""
LOCAL = ("localhost", "127.0.0.1", "::1")


def connect(
    rank: int, size: int, address: str, port: int, secret: str, time_limit: float
) -> tuple[dict[int, socket.socket], list[str]]:
    """Return a connection to each other rank, and the names of the machines of all ranks.

    Raises
    ------
    RankError
        If the ranks do not find each other within the time limit, or do not agree on their numbers.
    """
    deadline = time.monotonic() + time_limit
    key = hmac.new(secret.encode(), PROTOCOL, "sha256").digest()
    own = {"rank": rank, "size": size, "machine": socket.gethostname()}
    with ExitStack() as opened:
        server = opened.enter_context(_listen(address, port if rank == 0 else 0, rank))
        if rank == 0:
            found = _accept(server, key, own, range(1, size), deadline, opened)
            machines = [own["machine"], *(found[other][1]["machine"] for other in range(1, size))]
            ports = {
                other: (_seen_at(peer, address), introduced["port"]) for other, (peer, introduced) in found.items()
            }
            for peer, _ in found.values():
                _write(peer, {"machines": machines, "ports": ports}, deadline)
        else:
            own["port"] = server.getsockname()[1]
            first = _reach(0, address, port, key, own, deadline, opened)
            try:
                table = _read(first, deadline)
            except (OSError, ValueError) as error:
                raise RankError(f"rank 0, at {address}:{port}, has ended before all ranks were there", 0) from error
            machines, found = table["machines"], {0: (first, {})}
            for other in range(1, rank):
                host, other_port = table["ports"][str(other)]
                found[other] = _reach(other, host, other_port, key, own, deadline, opened), {}
            found |= _accept(server, key, own, range(rank + 1, size), deadline, opened)
        server.close()
        opened.pop_all()
    return {other: peer for other, (peer, _) in found.items()}, machines


def _listen(address: str, port: int, rank: int) -> socket.socket:
    """Return a socket that listens, on all interfaces unless the ranks are all on this machine."""
    try:
        if address in LOCAL:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            return socket.create_server(("::1" if ":" in address else "127.0.0.1", port), family=family, backlog=64)
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
        return socket.create_server(("", port), backlog=64)
    except OSError as error:
        raise RankError(
            f"rank {rank} cannot listen at port {port}: {brief(error)}; choose another port", rank
        ) from error


def _accept(
    server: socket.socket, key: bytes, own: dict[str, Any], expected: range, deadline: float, opened: ExitStack
) -> dict[int, tuple[socket.socket, dict[str, Any]]]:
    """Return the connections of other ranks, and what each says about itself."""
    found: dict[int, tuple[socket.socket, dict[str, Any]]] = {}
    while len(found) < len(expected):
        missing = [f"rank {rank}" for rank in expected if rank not in found]
        try:
            server.settimeout(max(1e-3, deadline - time.monotonic()))
            peer, _ = server.accept()
        except TimeoutError:
            raise RankError(
                f"{' and '.join(missing)} did not connect to rank {own['rank']} within the time limit", expected[0]
            ) from None
        introduced = None
        with suppress(OSError, ValueError):  # a stranger, or a rank that has ended again
            until = min(deadline, time.monotonic() + HANDSHAKE)
            _prove(peer, key, b"server", b"client", until)
            introduced = _read(peer, until)
        if not isinstance(introduced, dict):
            peer.close()
            continue
        opened.enter_context(peer)
        other = introduced.get("rank")
        if introduced.get("size") != own["size"]:
            raise RankError(
                f"rank {other} was started as one of {introduced.get('size')} ranks, rank {own['rank']} as one of "
                f"{own['size']}",
                other,
            )
        if not isinstance(other, int) or other not in expected or other in found:
            raise RankError(f"two processes were started as rank {other}")
        found[other] = peer, introduced
    return found


def _reach(
    other: int, host: str, port: int, key: bytes, own: dict[str, Any], deadline: float, opened: ExitStack
) -> socket.socket:
    """Return a connection to a rank, which may not have started yet."""
    cause = "it did not listen"
    while time.monotonic() < deadline:
        try:
            peer = socket.create_connection((host, port), max(1e-3, deadline - time.monotonic()))
        except OSError as error:
            cause = brief(error)
            time.sleep(RETRY)
            continue
        opened.enter_context(peer)
        try:
            _prove(peer, key, b"client", b"server", deadline)
            _write(peer, own, deadline)
        except ValueError as error:
            raise RankError(
                f"rank {other}, at {host}:{port}, has another secret, or is another program", other
            ) from error
        except OSError as error:
            cause = brief(error)
            time.sleep(RETRY)
            continue
        return peer
    raise RankError(
        f"rank {own['rank']} did not reach rank {other} at {host}:{port} within the time limit ({cause})", other
    )


def _prove(peer: socket.socket, key: bytes, side: bytes, other_side: bytes, deadline: float) -> None:
    """Prove to the other side that this one knows the key, and check that it does, too.

    Raises
    ------
    ValueError
        If the other side does not know the key.
    """
    nonce = os.urandom(NONCE)
    _send(peer, nonce, deadline)
    theirs = _receive(peer, NONCE, deadline)
    _send(peer, hmac.digest(key, side + theirs + nonce, "sha256"), deadline)
    if not hmac.compare_digest(_receive(peer, 32, deadline), hmac.digest(key, other_side + nonce + theirs, "sha256")):
        raise ValueError("the other side does not know the secret")


def _seen_at(peer: socket.socket, address: str) -> str:
    """Return where others reach a rank: a rank on the machine of rank 0 is reached at the address of rank 0."""
    host: str = peer.getpeername()[0].removeprefix("::ffff:")
    return address if host.startswith("127.") or host == "::1" else host


def _send(peer: socket.socket, data: bytes, deadline: float) -> None:
    peer.settimeout(max(1e-3, deadline - time.monotonic()))
    peer.sendall(data)


def _receive(peer: socket.socket, size: int, deadline: float) -> bytes:
    data = b""
    while len(data) < size:
        peer.settimeout(max(1e-3, deadline - time.monotonic()))
        part = peer.recv(size - len(data))
        if not part:
            raise ConnectionResetError("the other side has closed the connection")
        data += part
    return data


def _write(peer: socket.socket, value: object, deadline: float) -> None:
    """Send an object as JSON."""
    data = json.dumps(value).encode()
    _send(peer, struct.pack("!I", len(data)) + data, deadline)


def _read(peer: socket.socket, deadline: float) -> Any:
    """Receive an object as JSON."""
    (size,) = struct.unpack("!I", _receive(peer, 4, deadline))
    if size > 1 << 24:
        raise ValueError("too long")
    return json.loads(_receive(peer, size, deadline))
