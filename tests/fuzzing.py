"""Helpers for fuzzing file readers: targets, limits on time and memory, and functions that damage files.

The modules ``fuzz_*.py`` in this directory define targets with :func:`target`. ``test_fuzz.py`` runs each of them for a
second or two, and ``fuzz.py`` runs them for a given time.
"""

import json
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from deepnotes import DeepnotesError

SECONDS = 60
"""The time after which a reader of a small file is considered to hang, even on a busy machine."""

MEMORY = 8 << 20, 256
"""The bytes of memory that a reader may use, and the additional bytes that it may use for each byte of the file."""


class Hang(AssertionError):
    """A reader took more than ``SECONDS`` seconds."""


@dataclass(frozen=True)
class Target:
    """A file reader to fuzz.

    Attributes
    ----------
    name : str
    files : strategy of bytes
        Damaged, malicious and valid files.
    read : callable
        Reads the file at a path and checks the result; raises a DeepnotesError if the file cannot be read.
    suffix : str
        The suffix of the file's name.
    """

    name: str
    files: st.SearchStrategy[bytes]
    read: Callable[[Path], None]
    suffix: str = ""

    def check(self, content: bytes, folder: Path) -> bool:
        """Return whether a file can be read.

        Raises
        ------
        Exception
            If the reader raises anything but a DeepnotesError, its result fails a check, it uses too much memory, or
            its error message is too long.
        """
        path = folder / f"fuzzed{self.suffix}"
        path.write_bytes(content)
        with bounded(len(content)):
            try:
                self.read(path)
            except DeepnotesError as error:
                message = str(error)
            else:
                return True
        assert len(message) < 2000 + 2 * len(str(path)), f"a message of {len(message):,} characters"
        return False


TARGETS: dict[str, Target] = {}


def target(name: str, files: st.SearchStrategy[bytes], suffix: str = "") -> Callable[[Callable[[Path], None]], Target]:
    """Return a decorator that turns a function that reads a file into a target."""

    def register(read: Callable[[Path], None]) -> Target:
        TARGETS[name] = Target(name, files, read, suffix)
        return TARGETS[name]

    return register


def load_targets() -> dict[str, Target]:
    """Import all modules ``fuzz_*.py`` and return their targets."""
    for path in sorted(Path(__file__).parent.glob("fuzz_*.py")):
        import_module(path.stem)
    return TARGETS


@contextmanager
def bounded(size: int) -> Iterator[None]:
    """Fail if the block uses more memory than allowed for a file of this size, or hangs (if alarm signals exist)."""

    def raise_hang(number: int, frame: Any) -> None:
        raise Hang(f"the reader is still running after {SECONDS} seconds")

    has_alarm = hasattr(signal, "setitimer")
    if has_alarm:
        before = signal.signal(signal.SIGALRM, raise_hang)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        if has_alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    allowed = MEMORY[0] + MEMORY[1] * size
    assert peak <= allowed, f"reading {size:,} bytes took {peak:,}, more than {allowed:,}"


# --- damage to files --------------------------------------------------------------------------------------------------

NUMBERS = [0, 1, -1, 2, 7, 255, 256, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, -(2**62), 10**400]
WORDS = [
    "", "a", "W1", "b1", "\0", "\x1b[2J", "\ud800", "é", "os.system", "__import__", "../../etc/passwd", "float32",
    "F32", "BF16", "F8_E4M3", "relu", "softmax", "dense", "dropout", "zeros", "__class__", "%s%n{0}", "a" * 300,
    "training.theta",
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Return `content` truncated, with bits flipped, or with bytes replaced, inserted, removed or repeated."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        damage = draw(st.sampled_from(["truncate", "flip", "set", "replace", "repeat"]))
        start = draw(st.integers(0, len(data)))
        if damage == "truncate":
            del data[start:]
        elif damage in {"flip", "set"} and start < len(data):
            data[start] = data[start] ^ 1 << draw(st.integers(0, 7)) if damage == "flip" else draw(st.integers(0, 255))
        elif damage == "replace":
            data[start : start + draw(st.integers(0, 40))] = draw(st.binary(max_size=40))
        elif damage == "repeat":
            end = min(len(data), start + draw(st.integers(0, 200)))
            target_position = draw(st.integers(0, len(data)))
            data[target_position:target_position] = data[start:end]
    return bytes(data)


def hostile_values() -> st.SearchStrategy[Any]:
    """Return a strategy of JSON values, including those that only Python accepts, such as NaN."""
    leaf = st.one_of(
        st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(WORDS), st.floats(), st.integers(-3, 70),
        st.text(max_size=10),
    )  # fmt: skip
    return st.recursive(
        leaf,
        lambda values: st.one_of(
            st.lists(values, max_size=4), st.dictionaries(st.sampled_from(WORDS) | st.text(), values, max_size=3)
        ),
        max_leaves=8,
    )


def paths(tree: Any) -> list[list[Any]]:
    """Return the path (keys and indices) to each value in a tree of dicts and lists; the first path is empty."""
    result: list[list[Any]] = [[]]
    steps = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in steps:
        result += [[key, *path] for path in paths(child)]
    return result


@st.composite
def altered(draw: st.DrawFn, tree: Any) -> Any:
    """Return a copy of a JSON tree with a few values replaced, removed, inserted or copied from elsewhere."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 3))):
        known_paths = paths(tree)[1:]
        if not known_paths:
            return draw(hostile_values())
        *path, last = draw(st.sampled_from(known_paths))
        parent = tree
        for step in path:
            parent = parent[step]
        change = draw(st.sampled_from(["replace", "replace", "increment", "remove", "insert", "copy"]))
        if change == "remove":
            del parent[last]
        elif change == "insert":
            value = draw(hostile_values())
            if isinstance(parent, dict):
                parent[draw(st.sampled_from(WORDS) | st.text(max_size=5))] = value
            else:
                parent.insert(draw(st.integers(0, len(parent))), value)
        elif change == "increment" and type(parent[last]) is int:
            parent[last] += draw(st.integers(-2, 2))
        elif change == "copy":
            source: Any = tree
            for step in draw(st.sampled_from(known_paths)):
                source = source[step]
            parent[last] = json.loads(json.dumps(source))
        else:
            parent[last] = draw(hostile_values())
    return tree
