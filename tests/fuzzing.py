"""What the fuzzers of files share: targets, the bounds that every reading is held to, and ways to damage a file.

A module ``fuzz_*.py`` beside this one makes targets with :func:`target`; ``test_fuzz.py`` tries each for a second or
two, the same examples every time where ``CI`` is set, and ``fuzz.py`` for as long as one likes.
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
"""What no reading of a small file takes, on however busy a machine: it hangs."""

MEMORY = 8 << 20, 256
"""Bytes that a reading may take, and how many more for each byte of the file."""


class Hang(AssertionError):
    """A reading took more than ``SECONDS``."""


@dataclass(frozen=True)
class Target:
    """A reader of files.

    Attributes
    ----------
    name : str
    files : strategy of bytes
        Damaged, hostile and good ones.
    read : callable
        Reads the file at a path, and asserts what must be so if it can be read; raises a DeepnotesError if it cannot.
    suffix : str
        Of the file's name.
    """

    name: str
    files: st.SearchStrategy[bytes]
    read: Callable[[Path], None]
    suffix: str = ""

    def hold(self, content: bytes, folder: Path) -> bool:
        """Return whether the file could be read.

        Raises
        ------
        Exception
            If there is a fault: any exception but a DeepnotesError, too much memory, a message of no readable length.
        """
        path = folder / f"fuzzed{self.suffix}"
        path.write_bytes(content)
        with bounded(len(content)):
            try:
                self.read(path)
            except DeepnotesError as error:
                told = str(error)
            else:
                return True
        assert len(told) < 2000 + 2 * len(str(path)), f"a message of {len(told):,} characters"
        return False


TARGETS: dict[str, Target] = {}


def target(name: str, files: st.SearchStrategy[bytes], suffix: str = "") -> Callable[[Callable[[Path], None]], Target]:
    """Return a decorator that makes a target of a function that reads a file."""

    def made(read: Callable[[Path], None]) -> Target:
        TARGETS[name] = Target(name, files, read, suffix)
        return TARGETS[name]

    return made


def load_targets() -> dict[str, Target]:
    """Return the targets of all modules ``fuzz_*.py``."""
    for path in sorted(Path(__file__).parent.glob("fuzz_*.py")):
        import_module(path.stem)
    return TARGETS


@contextmanager
def bounded(size: int) -> Iterator[None]:
    """Fail if the block hangs (where there are alarms), or takes more memory than a file of that size may."""

    def rung(number: int, frame: Any) -> None:
        raise Hang(f"it still runs after {SECONDS} seconds")

    alarm = hasattr(signal, "setitimer")
    if alarm:
        before = signal.signal(signal.SIGALRM, rung)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    allowed = MEMORY[0] + MEMORY[1] * size
    assert peak <= allowed, f"reading {size:,} bytes took {peak:,}, more than {allowed:,}"


# --- ways to damage a file --------------------------------------------------------------------------------------------

NUMBERS = [0, 1, -1, 2, 7, 255, 256, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, -(2**62), 10**400]
WORDS = [
    "", "a", "W1", "b1", "\0", "\x1b[2J", "\ud800", "é", "os.system", "__import__", "../../etc/passwd", "float32",
    "F32", "BF16", "F8_E4M3", "relu", "softmax", "dense", "dropout", "zeros", "__class__", "%s%n{0}", "a" * 300,
    "training.theta",
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Return `content` cut, with some bits turned, or with some pieces put in, taken out or repeated."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        way = draw(st.sampled_from(["cut", "turn", "set", "replace", "repeat"]))
        at = draw(st.integers(0, len(found)))
        if way == "cut":
            del found[at:]
        elif way in {"turn", "set"} and at < len(found):
            found[at] = found[at] ^ 1 << draw(st.integers(0, 7)) if way == "turn" else draw(st.integers(0, 255))
        elif way == "replace":
            found[at : at + draw(st.integers(0, 40))] = draw(st.binary(max_size=40))
        elif way == "repeat":
            end = min(len(found), at + draw(st.integers(0, 200)))
            to = draw(st.integers(0, len(found)))
            found[to:to] = found[at:end]
    return bytes(found)


def hostile_values() -> st.SearchStrategy[Any]:
    """Return a strategy of JSON values, and of what Python takes for JSON."""
    leaf = st.one_of(
        st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(WORDS), st.floats(), st.integers(-3, 70),
        st.text(max_size=10),
    )  # fmt: skip
    return st.recursive(
        leaf,
        lambda of: st.one_of(
            st.lists(of, max_size=4), st.dictionaries(st.sampled_from(WORDS) | st.text(), of, max_size=3)
        ),
        max_leaves=8,
    )


def places(tree: Any) -> list[list[Any]]:
    """Return the way to each value in a tree of dicts and lists, by keys and indices; the first is to itself."""
    found: list[list[Any]] = [[]]
    steps = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, below in steps:
        found += [[key, *way] for way in places(below)]
    return found


@st.composite
def altered(draw: st.DrawFn, tree: Any) -> Any:
    """Return a copy of a JSON tree in which a few values are others, gone, doubled or elsewhere."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 3))):
        ways = places(tree)[1:]
        if not ways:
            return draw(hostile_values())
        *way, last = draw(st.sampled_from(ways))
        above = tree
        for step in way:
            above = above[step]
        do = draw(st.sampled_from(["other", "other", "near", "gone", "new", "moved"]))
        if do == "gone":
            del above[last]
        elif do == "new":
            value = draw(hostile_values())
            if isinstance(above, dict):
                above[draw(st.sampled_from(WORDS) | st.text(max_size=5))] = value
            else:
                above.insert(draw(st.integers(0, len(above))), value)
        elif do == "near" and type(above[last]) is int:
            above[last] += draw(st.integers(-2, 2))
        elif do == "moved":
            source: Any = tree
            for step in draw(st.sampled_from(ways)):
                source = source[step]
            above[last] = json.loads(json.dumps(source))
        else:
            above[last] = draw(hostile_values())
    return tree
