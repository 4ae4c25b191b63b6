"""The disk cache of compiled code: one file for each combination of function, argument types and processor.

Numba's own cache is not used, for three reasons. It cannot read from a folder that it cannot write to; it unpickles and
runs files without checking them, so that a damaged file can crash the process; and processes that save at the same time
can lose each other's entries.

A file of this cache consists of a pickle, preceded by the SHA-256 digest of its key and content. The pickle is loaded
only if the digest is correct. If a file is damaged or cannot be read, the function is compiled again and, if possible,
the file is replaced. Files are replaced atomically, so any number of processes may read and write at the same time.

The digest protects against damage, not against an attacker: **anyone who can write to the folder can run code as any
user who reads it**, as with Python's own ``__pycache__``. So the folder should be writable only by its user or, in a
container image, only by the installer. The owner of the folder is not checked, since an image is often built by one
user and run by another.

The folder is named after a digest of everything that determines the code: the contents of the source files, not their
dates, and the versions of Python and of the libraries. If any of them changes, a new folder is used; a copy of the same
files in another place uses the same folder.
"""

import hashlib
import logging
import os
import pickle
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import import_module
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
from numba.core.caching import _Cache

from deepnotes.backends import cache_folder, replacing
from deepnotes_numba.progress import CompileProgress

numba: Any = import_module("numba")  # imported in this way since its type stubs are incomplete

DIGEST = 32
"""The number of bytes in a digest."""
SETTINGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "DISABLE_INTEL_SVML")
"""Settings of Numba that change the generated code."""

_log = logging.getLogger("deepnotes")
_progress = CompileProgress()
_announced: set[str] = set()
_warned: set[str] = set()


class CodeCache(_Cache):
    """The cache of one compiled function, with the interface of Numba's own caches.

    Parameters
    ----------
    function : callable
        The Python function.
    description : str
        A short description of the function, shown to the user while it is compiled.
    """

    def __init__(self, function: Callable[..., Any], description: str) -> None:
        self._name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
        self._description = description
        self._enabled = True
        # Determined now: the source files may be replaced later, but this process runs the code that it has imported.
        self._folder = code_folder()

    @property
    def cache_path(self) -> str | None:
        """The folder of the compiled code, or None if there is none."""
        return None if self._folder is None else str(self._folder)

    def enable(self) -> None:
        """Enable loading and saving."""
        self._enabled = True

    def disable(self) -> None:
        """Disable loading and saving."""
        self._enabled = False

    def flush(self) -> None:
        """Do nothing: the next save replaces the file."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled code for a signature; if it has to be compiled, announce that and return None."""
        target_context.refresh()
        folder, description = self._folder, _describe(self._description, sig)
        if not self._enabled:
            return None
        if folder is None:
            return _announce(description, None)
        key, path = self._place(folder, sig, target_context.codegen())
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                return _announce(description, folder, f"{path} is not a file")
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            for_other_processors = any(folder.glob(f"{path.name.rpartition('-')[0]}-*.nbc"))
            return _announce(f"{description} for this processor" if for_other_processors else description, folder)
        except OSError as error:
            searchable = os.access(folder, os.X_OK)  # if not, the announcement gives the folder as the cause
            return _announce(description, folder, f"{path} cannot be read ({error.strerror})" if searchable else None)
        if _digest(key, data[DIGEST:]) != data[:DIGEST]:
            return _announce(description, folder, f"{path} is damaged")
        try:
            return numba.core.compiler.CompileResult._rebuild(target_context, *pickle.loads(data[DIGEST:]))
        except Exception as error:  # unexpected, since the digest is correct
            return _announce(description, folder, f"{path} cannot be loaded ({type(error).__name__}: {error})")

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save compiled code for a signature, if possible."""
        _progress.withdraw()
        folder = self._folder
        # Without optimization, Numba's code contains addresses of this process, so other processes cannot use it.
        if not self._enabled or folder is None or data.library.has_dynamic_globals:
            return
        key, path = self._place(folder, sig, data.codegen)
        content = numba.core.serialize.dumps(data._reduce())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file():
                path.rename(path.with_name(f"{path.name}.{os.urandom(4).hex()}.aside"))
            with replacing(path) as file:
                file.write(_digest(key, content) + content)
        except OSError as error:
            if _obstacle(folder) is None:  # if there is one, the announcement has named it
                _warn_once(
                    "save", f"numba: compiled code cannot be kept in {folder} ({error.strerror}): the next process "
                    "compiles it again",
                )  # fmt: skip

    def _place(self, folder: Path, sig: Any, codegen: Any) -> tuple[bytes, Path]:
        """Return the key and the path of the file for the argument types `sig` and the current processor."""
        types, target = repr(sig).encode(), repr(codegen.magic_tuple()).encode()
        name = "-".join([self._name, *(hashlib.sha256(part).hexdigest()[:12] for part in (types, target))])
        return b"\0".join([self._name.encode(), types, target]), folder / f"{name}.nbc"


@cache  # the working directory may change before a function is compiled
def code_folder() -> Path | None:
    """Return the folder for the code of the current sources, or None if there is none to keep it in."""
    folder = cache_folder()
    return None if folder is None else folder / folder_name(files(__package__))


def folder_name(sources: Traversable) -> str:
    """Return the name of the folder for the code of a package: a digest of everything that determines the code."""
    digest = hashlib.sha256()
    modules = [source for source in sources.iterdir() if source.name.endswith((".py", ".pyc"))]
    for source in sorted(modules, key=lambda source: source.name):
        if source.is_file():
            content = source.read_bytes()
            digest.update(f"{source.name} {len(content)}\0".encode() + content)
    versions = numba.__version__, import_module("llvmlite").__version__, np.__version__, sys.version
    for value in (*versions, *(getattr(numba.config, name, None) for name in SETTINGS)):
        digest.update(f"{value!r}\0".encode())
    return f"numba-{digest.hexdigest()[:16]}"


def _digest(key: bytes, content: bytes) -> bytes:
    digest = hashlib.sha256(b"%d\0" % len(key) + key)
    digest.update(content)
    return digest.digest()


def _describe(description: str, sig: Any) -> str:
    """Return the description, with the dtype of the first array of floats among the arguments if there is one."""
    dtype = next(_float_dtypes(sig), None)
    return description if dtype is None else f"{description} for {dtype}"


def _float_dtypes(types: Iterable[Any]) -> Iterator[Any]:
    """Yield the dtype of each array of floats in `types`, including those within tuples."""
    for kind in types:
        if isinstance(kind, numba.types.BaseTuple):
            yield from _float_dtypes(kind.types)
        elif isinstance(kind, numba.types.Array) and isinstance(kind.dtype, numba.types.Float):
            yield kind.dtype


def _announce(description: str, folder: Path | None, fault: str | None = None) -> None:
    """Log that a function is being compiled, once for each description.

    If the cause is a fault of a file, this is always logged, but only the first fault is logged as a warning.
    """
    _progress.announce(description)
    if fault is not None:
        fault, level = f"{fault}; ", logging.INFO if "fault" in _warned else logging.WARNING
        _warned.add("fault")
    elif description in _announced:
        return
    else:
        fault, level = "", logging.WARNING
    _announced.add(description)
    _log.log(
        level,
        "numba: %scompiling %s takes %s, %s",
        fault,
        description,
        _duration(description),
        _describe_folder(folder),
    )


def _duration(description: str) -> str:
    """Return how long a compilation takes, in words: training is one large function."""
    return "half a minute or more" if description.startswith("training") else "a few seconds"


def _describe_folder(folder: Path | None) -> str:
    """Return the end of the announcement: where the compiled code is kept, or why it cannot be kept."""
    if folder is None:
        obstacle = "there is no home directory to keep the result in; DEEPNOTES_CACHE_DIR can name another folder"
    else:
        reason = _obstacle(folder)
        if reason is None:
            return f"once: the result is kept in {folder}"
        obstacle = f"nothing can be kept in {folder} ({reason}); DEEPNOTES_CACHE_DIR can name another folder"
    return f"in every process, since {obstacle}"


def _obstacle(folder: Path) -> str | None:
    """Create a folder if it does not exist; return the reason why it cannot be written to, or None."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return error.strerror or str(error)
    return None if os.access(folder, os.W_OK | os.X_OK) else "it cannot be written to"


def _warn_once(kind: str, message: str) -> None:
    if kind not in _warned:
        _warned.add(kind)
        _log.warning(message)
