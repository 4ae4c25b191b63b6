"""Fingerprints: texts that describe what objects compute, so that objects can be compared across processes.

A ``repr`` is not enough: it may leave out values, shorten arrays, or contain an address. A fingerprint has numbers in
full, arrays as digests, objects with all their attributes, and functions with their code and every value that the code
refers to. Functions and classes that a library defines are identified by name alone.
"""

import copyreg
import dis
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

LONGEST = 4000
"""The number of characters beyond which a part of a fingerprint is replaced by its digest."""

SCALARS = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented), range)
UNSEEN = {
    "__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__annotate_func__",
    "__annotations_cache__", "__qualname__", "__firstlineno__", "__static_attributes__", "__slots__",
    "__match_args__", "__parameters__", "__orig_bases__", "__classcell__", "__abstractmethods__", "_abc_impl",
    "__dataclass_fields__", "__dataclass_params__", "__init__", "__post_init__", "__new__", "__repr__", "__str__",
    "__eq__", "__hash__", "__lt__", "__le__", "__gt__", "__ge__", "__setattr__", "__delattr__", "__getstate__",
    "__setstate__", "__reduce__", "__reduce_ex__", "__copy__", "__deepcopy__", "__replace__", "__init_subclass__",
    "__set_name__", "__getnewargs__",
}  # fmt: skip
"""Attributes of a class that do not affect what it computes: bookkeeping, and how its objects are made and shown."""


class NoFingerprintError(TypeError):
    """The content of an object cannot be compared; the message says which object."""


def fingerprint(value: Any) -> str:
    """Return a text that describes `value`: the same in every process, and different if the value computes otherwise.

    An object may have a method ``fingerprint()``, which returns a value to describe instead of the object.

    Raises
    ------
    NoFingerprintError
        If `value` refers to something that cannot be compared, such as a lock, an open file or a generator.

    Examples
    --------
    >>> from deepnotes import Adam
    >>> fingerprint(Adam(0.01))
    'Adam(learning_rate=0.01, beta1=0.9, beta2=0.999, epsilon=1e-08, epsilon_hat=False)'
    >>> fingerprint(lambda x: 2 * x) == fingerprint(lambda x: 3 * x)
    False
    """
    try:
        return _Reader().words(value)
    except RecursionError:
        raise NoFingerprintError(f"{type(value).__qualname__} is nested too deeply") from None


def settings_of(watcher: Any) -> str:
    """Return the fingerprint of an object's settings, without the state that it has gathered since it was made.

    The settings are the arguments of its constructor, which it must keep under the same names (a leading underscore is
    allowed), the fields of a dataclass, and the attributes of its class.

    Raises
    ------
    NoFingerprintError
        If an argument is not kept, or for the reasons of :func:`fingerprint`.
    """
    kind = type(watcher)
    if callable(getattr(kind, "fingerprint", None)):
        return fingerprint(watcher)
    found = _values_of_class(kind)
    if is_dataclass(watcher):
        found |= {field.name: getattr(watcher, field.name) for field in fields(watcher) if field.init}
    if kind.__init__ is not object.__init__:
        for name in list(inspect.signature(kind.__init__).parameters)[1:]:
            kept = [kept for kept in (name, f"_{name}") if hasattr(watcher, kept)]
            if not kept:
                raise NoFingerprintError(f"{kind.__qualname__} does not keep the argument {name!r} of its constructor")
            found[name] = getattr(watcher, kept[0])
    return f"{kind.__qualname__}({_Reader().listed(found.items())})"


def _values_of_class(kind: type) -> dict[str, Any]:
    """Return the attributes of a class and of its user-defined bases, without methods."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if not _is_library(base.__module__):
            found |= {name: value for name, value in vars(base).items() if name not in UNSEEN}
    return {
        name: value
        for name, value in found.items()
        if not callable(value) and not hasattr(type(value), "__get__") and not name.startswith("__")
    }


class _Reader:
    """Describes values, each only once, and remembers those that it has described."""

    def __init__(self) -> None:
        self.seen: dict[int, str] = {}
        self.path: list[int] = []
        self.alive: list[Any] = []

    def words(self, value: Any) -> str:
        """Return the description of a value."""
        if type(value) in SCALARS:
            return repr(value)
        if id(value) in self.seen:
            return self.seen[id(value)]
        if id(value) in self.path:  # it contains itself: write the number of levels up
            return f"<{len(self.path) - self.path.index(id(value))} up>"
        self.path.append(id(value))
        self.alive.append(value)  # so that no other object can get its id
        try:
            text = self._read(value)
        except NoFingerprintError as error:
            if type(value) in {list, tuple, dict, set, frozenset}:
                raise
            holder = getattr(value, "__qualname__", type(value).__qualname__)
            raise NoFingerprintError(f"{error} in {holder}") from None
        if len(text) > LONGEST:
            text = f"{text[:60]}... sha256:{_digest(text.encode())}"
        self.path.pop()
        self.seen[id(value)] = text
        return text

    def listed(self, items: Iterable[tuple[str, Any]]) -> str:
        """Return ``name=value, ...``."""
        return ", ".join(f"{name}={self.words(value)}" for name, value in items)

    def _read(self, value: Any) -> str:
        kind = type(value)
        if isinstance(value, type):
            return self._class(value)
        own = getattr(kind, "fingerprint", None)
        if callable(own):
            return f"{kind.__qualname__}({self.words(value.fingerprint())})"
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, np.generic):
            return f"{value.dtype.str}({value.item()!r})"
        if kind in {list, tuple}:
            return f"{'[' if kind is list else '('}{', '.join(map(self.words, value))}{']' if kind is list else ')'}"
        if kind in {set, frozenset}:
            return f"{{{', '.join(sorted(map(self.words, value)))}}}"
        if kind is dict:
            return f"{{{', '.join(sorted(f'{self.words(k)}: {self.words(v)}' for k, v in value.items()))}}}"
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            return f"{value.__func__.__qualname__} of {self.words(value.__self__)} {self.words(value.__func__)}"
        if isinstance(value, ModuleType):
            return f"module {value.__name__}"
        if isinstance(value, BuiltinFunctionType):
            owner = value.__self__
            of = "" if owner is None or isinstance(owner, ModuleType) else f" of {self.words(owner)}"
            return f"{value.__module__ or ''}.{value.__qualname__}{of}"
        if isinstance(value, CodeType):
            return self._code(value)
        if isinstance(value, staticmethod | classmethod):
            return f"{kind.__name__} {self.words(value.__func__)}"
        if isinstance(value, property):
            return f"property {self.words((value.fget, value.fset))}"
        if isinstance(value, cached_property):
            return f"cached property {self.words(value.func)}"
        if is_dataclass(kind) and _is_library(kind.__module__):
            return f"{kind.__qualname__}({self.listed((f.name, getattr(value, f.name)) for f in fields(value))})"
        if callable(value) and hasattr(value, "__wrapped__") and _is_library(kind.__module__):  # cached or compiled
            return f"{kind.__qualname__} of {self.words(value.__wrapped__)}"
        return self._object(value)

    def _object(self, value: Any) -> str:
        """Return the description of any other object, by what a copy of it would be made from."""
        kind = type(value)
        if hasattr(value, "__array__"):
            with suppress(TypeError, ValueError):  # an array on a device may refuse implicit conversion to NumPy
                return f"{self._name(kind)} {self._array(np.asarray(value))}"
        try:
            reduced = copyreg.dispatch_table.get(kind)
            made = value.__reduce_ex__(2) if reduced is None else reduced(value)
        except Exception as error:
            raise NoFingerprintError(str(error)) from None
        if isinstance(made, str):
            return f"{kind.__module__}.{made}"
        make, arguments, state, items, pairs = (*made, None, None, None)[:5]
        parts = [("", part) for part in arguments if part is not kind and part is not object and part is not None]
        for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):
            if isinstance(part, dict):  # without cached properties, which may or may not have been computed yet
                parts += [(name, held) for name, held in part.items() if not _is_computed(kind, name)]
            elif part is not None:
                parts.append(("", part))
        parts += [("", list(items))] if items is not None else []
        parts += [("", dict(pairs))] if pairs is not None else []
        told = ", ".join(f"{name}={self.words(part)}" if name else self.words(part) for name, part in parts)
        by = "" if getattr(make, "__name__", "") in {"__newobj__", "_reconstructor"} or make is kind else (
            f" by {self.words(make)}"
        )  # fmt: skip
        return f"{self._name(kind)}({told}){by}"

    def _array(self, array: np.ndarray) -> str:
        if array.dtype.hasobject:
            return f"array of shape {array.shape} {self.words(array.tolist())}"
        return f"array({array.dtype.str}, shape={array.shape}, sha256:{_digest(np.ascontiguousarray(array).tobytes())})"

    def _name(self, kind: type) -> str:
        """Return the name of a class, with a digest of its code if it is user-defined."""
        code = "" if _is_library(kind.__module__) else f" <{_digest(self.words(kind).encode())[:12]}>"
        return kind.__qualname__ + code

    def _class(self, kind: type) -> str:
        if _is_library(kind.__module__):
            return f"{kind.__module__}.{kind.__qualname__}"
        content = sorted((k, v) for k, v in vars(kind).items() if k not in UNSEEN and not inspect.isdatadescriptor(v))
        content += [(k, v) for k, v in sorted(vars(kind).items()) if isinstance(v, property | cached_property)]
        bases = ", ".join(map(self.words, kind.__bases__))
        return f"class {kind.__qualname__}({bases}): {self.listed(content)}"

    def _function(self, function: FunctionType) -> str:
        if _is_library(function.__module__) and "<" not in function.__qualname__:  # not <lambda> or <locals>
            return f"{function.__module__}.{function.__qualname__}"
        code = function.__code__
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        held = {name: _content(cell) for name, cell in cells}
        names = sorted(_global_names(code) & function.__globals__.keys())
        parts: dict[str, Any] = {"defaults": (function.__defaults__, function.__kwdefaults__)} | held
        parts |= {name: function.__globals__[name] for name in names}
        parts |= {f".{name}": value for name, value in vars(function).items() if name != "__wrapped__"}
        said = function.__doc__
        return f"{function.__qualname__} {self._code(code, said)} {self.listed(parts.items())}"

    def _code(self, code: CodeType, doc: str | None = None) -> str:
        constants = tuple(None if doc is not None and constant == doc else constant for constant in code.co_consts)
        shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        told = self.words((code.co_code, code.co_names, constants, shape, code.co_exceptiontable))
        return f"code:{_digest(told.encode())[:12]}"


def _is_computed(kind: type, name: Any) -> bool:
    return isinstance(name, str) and isinstance(inspect.getattr_static(kind, name, None), cached_property)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the variable has not been assigned yet
        return NotImplemented


def _global_names(code: CodeType) -> set[str]:
    """Return the global names that code, and code nested in it, looks up."""
    found = {i.argval for i in dis.get_instructions(code) if i.opname in {"LOAD_GLOBAL", "LOAD_NAME"}}
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return found | set(chain.from_iterable(map(_global_names, inner)))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@cache
def _is_library(module: str | None) -> bool:
    """Return whether a module belongs to Python, to deepnotes or to an installed package, not to the user."""
    root = (module or "").partition(".")[0]
    if root in {"builtins", "deepnotes"} or root in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    if file is None:
        return root != "__main__" and root in sys.modules
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    path = Path(file).resolve()
    return any(path.is_relative_to(Path(place).resolve()) for place in places if place) or "site-packages" in path.parts
