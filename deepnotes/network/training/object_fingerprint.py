"""Fingerprints: strings that describe objects completely enough to compare them across processes.

The ``repr`` of an object may omit values, shorten arrays, or contain an address. A fingerprint contains numbers in
full, digests of arrays, all attributes of objects, and the code of functions with every value that the code refers to.
Functions and classes of a library are identified by their names alone.
"""

import copyreg
import dis
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, ClassVar, TypeAlias

import numpy as np

MAX_LENGTH = 4000
"""A description of a value with more characters than this is replaced by a digest."""

REPR_TYPES = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented), range)
"""The types of values that are described by their ``repr``."""

IGNORED_ATTRIBUTES = {
    "__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__annotate_func__",
    "__annotations_cache__", "__qualname__", "__firstlineno__", "__static_attributes__", "__slots__",
    "__match_args__", "__parameters__", "__orig_bases__", "__classcell__", "__abstractmethods__", "_abc_impl",
    "__dataclass_fields__", "__dataclass_params__", "__init__", "__post_init__", "__new__", "__repr__", "__str__",
    "__eq__", "__hash__", "__lt__", "__le__", "__gt__", "__ge__", "__setattr__", "__delattr__", "__getstate__",
    "__setstate__", "__reduce__", "__reduce_ex__", "__copy__", "__deepcopy__", "__replace__", "__init_subclass__",
    "__set_name__", "__getnewargs__",
}  # fmt: skip
"""Attributes of a class that are not part of its fingerprint, because they do not affect its computations."""


class NoFingerprintError(TypeError):
    """An object cannot be compared by its content; the message names the object."""


def fingerprint(value: Any) -> str:
    """Return a string that describes `value`; it is the same in every process, and differs if the value differs.

    If an object has a method ``fingerprint()``, the result of that method is described instead of the object.

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
        return _Describer().describe(value)
    except RecursionError:
        raise NoFingerprintError(f"{type(value).__qualname__} is nested too deeply") from None


def fingerprint_settings(callback: Any) -> str:
    """Return the fingerprint of the settings of a callback, without the state that changes during training.

    The settings are the arguments of its constructor, the fields of a dataclass, and the attributes of its class. The
    callback must store each argument in an attribute of the same name, or of that name with a leading underscore.

    Raises
    ------
    NoFingerprintError
        If an argument is not stored, or if a setting has no fingerprint, see :func:`fingerprint`.
    """
    kind = type(callback)
    if callable(getattr(kind, "fingerprint", None)):
        return fingerprint(callback)
    settings = _class_attributes(kind)
    if is_dataclass(callback):
        settings |= {field.name: getattr(callback, field.name) for field in fields(callback) if field.init}
    if kind.__init__ is not object.__init__:
        for name in list(inspect.signature(kind.__init__).parameters)[1:]:
            stored = [attribute for attribute in (name, f"_{name}") if hasattr(callback, attribute)]
            if not stored:
                raise NoFingerprintError(f"{kind.__qualname__} does not keep the argument {name!r} of its constructor")
            settings[name] = getattr(callback, stored[0])
    return f"{kind.__qualname__}({_Describer().describe_items(settings.items())})"


def _field_names(value: Any) -> list[str]:
    """Return the names of the fields of a dataclass, without those that older checkpoints lack and that are unused."""
    return [
        field.name
        for field in fields(value)
        if not (field.metadata.get("added") and getattr(value, field.name) == field.default)
    ]


def _class_attributes(kind: type) -> dict[str, Any]:
    """Return the attributes of a class and of its user-defined bases, without methods."""
    attributes: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if not _is_library(base.__module__):
            attributes |= {name: value for name, value in vars(base).items() if name not in IGNORED_ATTRIBUTES}
    return {
        name: value
        for name, value in attributes.items()
        if not callable(value) and not hasattr(type(value), "__get__") and not name.startswith("__")
    }


class _Describer:
    """Describes values; each value is described only once, even if it occurs several times.

    Attributes
    ----------
    descriptions : dict of int to str
        The descriptions so far, by the id of the value.
    path : list of int
        The ids of the value that is being described and of the values that contain it, from the outermost on.
    alive : list
        All values described so far: while they are referenced, their ids cannot be reused.
    """

    def __init__(self) -> None:
        self.descriptions: dict[int, str] = {}
        self.path: list[int] = []
        self.alive: list[Any] = []

    def describe(self, value: Any) -> str:
        """Return the description of a value."""
        if type(value) in REPR_TYPES:
            return repr(value)
        if id(value) in self.descriptions:
            return self.descriptions[id(value)]
        if id(value) in self.path:  # the value contains itself: refer to it by the number of levels above
            return f"<{len(self.path) - self.path.index(id(value))} up>"
        self.path.append(id(value))
        self.alive.append(value)
        try:
            text = self._dispatch(value)
        except NoFingerprintError as error:
            if type(value) in {list, tuple, dict, set, frozenset}:
                raise
            holder = getattr(value, "__qualname__", type(value).__qualname__)
            raise NoFingerprintError(f"{error} in {holder}") from None
        if len(text) > MAX_LENGTH:
            text = f"{text[:60]}... sha256:{_digest(text.encode())}"
        self.path.pop()
        self.descriptions[id(value)] = text
        return text

    def describe_items(self, items: Iterable[tuple[str, Any]]) -> str:
        """Return ``name=value, ...``, or only the value for an item whose name is empty."""
        return ", ".join(f"{name}={self.describe(value)}" if name else self.describe(value) for name, value in items)

    def _dispatch(self, value: Any) -> str:
        """Return the description of a value, computed by the method for its type."""
        kind = type(value)
        if isinstance(value, type):
            return self._class(value)
        if callable(getattr(kind, "fingerprint", None)):
            return f"{kind.__qualname__}({self.describe(value.fingerprint())})"
        if kind in self._BUILTIN_CONTAINERS:
            return self._BUILTIN_CONTAINERS[kind](self, value)
        for base, method in self._METHODS.items():
            if isinstance(value, base):
                return method(self, value)
        if _is_library(kind.__module__):
            if is_dataclass(kind):
                items = ((name, getattr(value, name)) for name in _field_names(value))
                return f"{kind.__qualname__}({self.describe_items(items)})"
            if callable(value) and hasattr(value, "__wrapped__"):  # a cached or compiled function
                return f"{kind.__qualname__} of {self.describe(value.__wrapped__)}"
        return self._object(value)

    def _list(self, values: list[Any]) -> str:
        return f"[{', '.join(map(self.describe, values))}]"

    def _tuple(self, values: tuple[Any, ...]) -> str:
        return f"({', '.join(map(self.describe, values))})"

    def _set(self, values: set[Any] | frozenset[Any]) -> str:
        return f"{{{', '.join(sorted(map(self.describe, values)))}}}"

    def _dict(self, values: dict[Any, Any]) -> str:
        items = sorted(f"{self.describe(key)}: {self.describe(value)}" for key, value in values.items())
        return f"{{{', '.join(items)}}}"

    def _array(self, array: np.ndarray) -> str:
        if array.dtype.hasobject:
            return f"array of shape {array.shape} {self.describe(array.tolist())}"
        return f"array({array.dtype.str}, shape={array.shape}, sha256:{_digest(np.ascontiguousarray(array).tobytes())})"

    def _numpy_scalar(self, value: np.generic) -> str:
        return f"{value.dtype.str}({value.item()!r})"

    def _function(self, function: FunctionType) -> str:
        if _is_library(function.__module__) and "<" not in function.__qualname__:  # not <lambda> or <locals>
            return f"{function.__module__}.{function.__qualname__}"
        code = function.__code__
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        values: dict[str, Any] = {"defaults": (function.__defaults__, function.__kwdefaults__)}
        values |= {name: _cell_contents(cell) for name, cell in cells}
        names = sorted(_global_names(code) & function.__globals__.keys())
        values |= {name: function.__globals__[name] for name in names}
        values |= {f".{name}": value for name, value in vars(function).items() if name != "__wrapped__"}
        description = self._code(code, function.__doc__)
        return f"{function.__qualname__} {description} {self.describe_items(values.items())}"

    def _method(self, method: MethodType) -> str:
        return f"{method.__func__.__qualname__} of {self.describe(method.__self__)} {self.describe(method.__func__)}"

    def _module(self, module: ModuleType) -> str:
        return f"module {module.__name__}"

    def _builtin_function(self, function: BuiltinFunctionType) -> str:
        owner = function.__self__
        of_owner = "" if owner is None or isinstance(owner, ModuleType) else f" of {self.describe(owner)}"
        return f"{function.__module__ or ''}.{function.__qualname__}{of_owner}"

    def _code(self, code: CodeType, doc: str | None = None) -> str:
        constants = tuple(None if doc is not None and constant == doc else constant for constant in code.co_consts)
        signature = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        description = self.describe((code.co_code, code.co_names, constants, signature, code.co_exceptiontable))
        return f"code:{_digest(description.encode())[:12]}"

    def _static_or_class_method(self, method: Any) -> str:
        return f"{type(method).__name__} {self.describe(method.__func__)}"

    def _property(self, value: property) -> str:
        return f"property {self.describe((value.fget, value.fset))}"

    def _cached_property(self, value: "cached_property[Any]") -> str:
        return f"cached property {self.describe(value.func)}"

    def _class(self, kind: type) -> str:
        if _is_library(kind.__module__):
            return f"{kind.__module__}.{kind.__qualname__}"
        attributes = [(k, v) for k, v in sorted(vars(kind).items()) if k not in IGNORED_ATTRIBUTES]
        content = [(k, v) for k, v in attributes if not inspect.isdatadescriptor(v)]
        content += [(k, v) for k, v in attributes if isinstance(v, property | cached_property)]
        bases = ", ".join(map(self.describe, kind.__bases__))
        return f"class {kind.__qualname__}({bases}): {self.describe_items(content)}"

    def _class_name(self, kind: type) -> str:
        """Return the name of a class, with a digest of its code if it is user-defined."""
        code = "" if _is_library(kind.__module__) else f" <{_digest(self.describe(kind).encode())[:12]}>"
        return kind.__qualname__ + code

    def _object(self, value: Any) -> str:
        """Return the description of an object of any other type, from the values by which ``copy`` reconstructs it."""
        kind = type(value)
        if hasattr(value, "__array__"):
            with suppress(TypeError, ValueError):  # an array on a device may refuse implicit conversion to NumPy
                return f"{self._class_name(kind)} {self._array(np.asarray(value))}"
        try:
            reduce = copyreg.dispatch_table.get(kind)
            reduced = value.__reduce_ex__(2) if reduce is None else reduce(value)
        except Exception as error:
            raise NoFingerprintError(str(error)) from None
        if isinstance(reduced, str):
            return f"{kind.__module__}.{reduced}"
        constructor, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        values = [("", x) for x in arguments if x is not kind and x is not object and x is not None]
        for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):
            if isinstance(part, dict):  # without cached properties, which may or may not have been computed yet
                values += [(name, x) for name, x in part.items() if not _is_cached_property(kind, name)]
            elif part is not None:
                values.append(("", part))
        values += [("", list(items))] if items is not None else []
        values += [("", dict(pairs))] if pairs is not None else []
        description = f"{self._class_name(kind)}({self.describe_items(values)})"
        if constructor is kind or getattr(constructor, "__name__", "") in {"__newobj__", "_reconstructor"}:
            return description
        return f"{description} by {self.describe(constructor)}"

    _Method: TypeAlias = Callable[["_Describer", Any], str]
    _BUILTIN_CONTAINERS: ClassVar[dict[type, _Method]] = {
        list: _list,
        tuple: _tuple,
        set: _set,
        frozenset: _set,
        dict: _dict,
    }
    """The methods for values of exactly these types; instances of derived classes are described as objects."""
    _METHODS: ClassVar[dict[type, _Method]] = {
        np.ndarray: _array,
        np.generic: _numpy_scalar,
        FunctionType: _function,
        MethodType: _method,
        ModuleType: _module,
        BuiltinFunctionType: _builtin_function,
        CodeType: _code,
        staticmethod: _static_or_class_method,
        classmethod: _static_or_class_method,
        property: _property,
        cached_property: _cached_property,
    }
    """The methods for values of these types and of classes derived from them."""


def _is_cached_property(kind: type, name: Any) -> bool:
    return isinstance(name, str) and isinstance(inspect.getattr_static(kind, name, None), cached_property)


def _cell_contents(cell: Any) -> Any:
    """Return the value of a closure variable, or NotImplemented if none has been assigned yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return NotImplemented


def _global_names(code: CodeType) -> set[str]:
    """Return the global names that `code` and the code nested in it look up."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in {"LOAD_GLOBAL", "LOAD_NAME"}}
    nested = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return names | set(chain.from_iterable(map(_global_names, nested)))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@cache
def _is_library(module: str | None) -> bool:
    """Return whether a module belongs to Python, deepnotes or an installed package, as opposed to the user's code."""
    root = (module or "").partition(".")[0]
    if root in {"builtins", "deepnotes"} or root in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    if file is None:
        return root != "__main__" and root in sys.modules
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    path = Path(file).resolve()
    return "site-packages" in path.parts or any(path.is_relative_to(Path(x).resolve()) for x in folders if x)
