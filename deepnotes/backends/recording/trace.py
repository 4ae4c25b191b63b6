"""Tracing: a namespace that records the operations of a function of arrays instead of computing them.

An equation that is called with a :class:`Recorder` as its namespace adds an :class:`Instruction` to the recorder for
each operation. An operation that occurs several times is recorded only the first time, and operations on constants are
computed immediately.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import numpy as np

BINARY = {
    "add", "subtract", "multiply", "divide", "equal", "less", "less_equal", "greater", "greater_equal", "maximum",
    "minimum", "bitwise_and", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift",
}  # fmt: skip
UNARY = {"negative", "abs", "exp", "expm1", "log", "log1p", "sqrt", "tanh", "sign"}
ELEMENTWISE = BINARY | UNARY | {"where", "astype"}


class Symbol:
    """A stand-in for an array during recording: it has a shape, dtype and strides, but values only if it is a constant.

    Attributes
    ----------
    model : numpy.ndarray
        An array of the same shape, dtype and strides; only the values of inputs and constants are meaningful.
    source : Instruction or None
        The instruction whose result it is; None for inputs, constants and views.
    root : Symbol
        The symbol whose memory it shares: itself, unless it is a view.
    view : callable
        The function that, given the array of `root`, returns the array of this symbol.
    is_constant : bool
        Whether it is a constant, whose values are in `model`.
    """

    __array_priority__ = 1000

    def __init__(self, recorder: "Recorder", model: np.ndarray, is_constant: bool = False) -> None:
        self.recorder, self.model, self.is_constant = recorder, model, is_constant
        self.source: Instruction | None = None
        self.root: Symbol = self
        self.view: Callable[[Any], Any] = _identity
        self.array: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.model.shape

    @property
    def ndim(self) -> int:
        return self.model.ndim

    @property
    def dtype(self) -> Any:
        return self.model.dtype

    @property
    def T(self) -> "Symbol":
        return self.recorder.view_of(self, lambda a: a.T, ("T",))

    def __getitem__(self, key: Any) -> "Symbol":
        return self.recorder.view_of(self, lambda a: a[key], ("getitem", repr(key)))

    def __bool__(self) -> NoReturn:
        raise TypeError("a recorded function cannot branch on the values of an array")

    __float__ = __int__ = __index__ = __iter__ = __bool__


def _operator(name: str, swapped: bool = False) -> Callable[..., Symbol]:
    def apply(self: Symbol, *other: Any) -> Symbol:
        return self.recorder.apply(name, *(*other, self) if swapped else (self, *other))

    return apply


for _symbol, _name in {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "matmul": "matmul", "lt": "less",
    "le": "less_equal", "gt": "greater", "ge": "greater_equal", "and": "bitwise_and", "xor": "bitwise_xor",
    "lshift": "bitwise_left_shift", "rshift": "bitwise_right_shift", "neg": "negative", "abs": "abs",
}.items():  # fmt: skip
    setattr(Symbol, f"__{_symbol}__", _operator(_name))
    if _symbol in {"add", "sub", "mul", "truediv"}:
        setattr(Symbol, f"__r{_symbol}__", _operator(_name, swapped=True))


class Instruction:
    """One operation: its name, operands (symbols and numbers), options and result."""

    def __init__(self, name: str, operands: tuple[Any, ...], options: dict[str, Any], result: Symbol) -> None:
        self.name, self.operands, self.options, self.result = name, operands, options, result
        self.elementwise = name in ELEMENTWISE and all(
            s.shape == () or (s.shape == result.shape and s.model.flags.c_contiguous) for s in self.symbols
        )

    @property
    def symbols(self) -> list[Symbol]:
        return [s for s in self.operands if isinstance(s, Symbol)]


class Recorder:
    """A namespace that records operations instead of computing them.

    Parameters
    ----------
    xp : module
        The namespace to replay on.
    """

    bool, int64, float32, float64 = np.dtype(np.bool), np.dtype(np.int64), np.dtype(np.float32), np.dtype(np.float64)
    finfo = staticmethod(np.finfo)

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.instructions: list[Instruction] = []
        self._seen: dict[Any, Symbol] = {}

    def __getattr__(self, name: str) -> Callable[..., Symbol]:
        if name not in ELEMENTWISE:
            raise NotImplementedError(f"{name} cannot be recorded")
        return partial(self.apply, name)

    def constant(self, value: Any) -> Symbol:
        return Symbol(self, value, is_constant=True)

    def asarray(self, obj: Any, *, dtype: Any = None) -> Symbol:
        if isinstance(obj, Symbol):
            return self.astype(obj, dtype or obj.dtype)
        value = np.asarray(obj, dtype)
        return self._once(("asarray", value.dtype, value.shape, value.tobytes()), lambda: value)

    def arange(self, *bounds: int, dtype: Any = None) -> Symbol:
        return self._once(("arange", bounds, dtype), lambda: np.arange(*bounds, dtype=dtype))

    def zeros(self, shape: tuple[int, ...], *, dtype: Any = None) -> Symbol:
        return self._once(("zeros", shape, dtype), lambda: np.zeros(shape, dtype))

    def zeros_like(self, x: Symbol) -> Symbol:
        return self.zeros(x.shape, dtype=x.dtype)

    def ones_like(self, x: Symbol) -> Symbol:
        return self._once(("ones", x.shape, x.dtype), lambda: np.ones(x.shape, x.dtype))

    def astype(self, x: Symbol, dtype: Any) -> Symbol:
        return x if x.dtype == dtype else self.apply("astype", x, dtype=np.dtype(dtype))

    def reshape(self, x: Symbol, shape: tuple[int, ...]) -> Symbol:
        view = x.model.reshape(shape)
        if np.may_share_memory(view, x.model) or x.is_constant:
            return self.view_of(x, lambda a: a.reshape(shape), ("reshape", shape))
        return self.apply("reshape", x, shape=view.shape)

    def concat(self, arrays: Sequence[Symbol], *, axis: int = 0) -> Symbol:
        return self.apply("concat", *arrays, axis=axis)

    def take(self, x: Symbol, indices: Symbol, *, axis: int) -> Symbol:
        return self.apply("take", x, indices, axis=axis % x.ndim)

    def sum(self, x: Symbol, *, axis: int | None = None, keepdims: "np.bool | Any" = False) -> Symbol:
        if axis is None and not keepdims and x.source and x.source.name == "multiply":
            a, b = x.source.operands
            if a is b and a.model.flags.c_contiguous:
                return self.apply("square_sum", a)
        return self.apply("sum", x, axis=axis, keepdims=keepdims)

    def max(self, x: Symbol, *, axis: int | None = None, keepdims: "np.bool | Any" = False) -> Symbol:
        return self.apply("max", x, axis=axis, keepdims=keepdims)

    def view_of(self, x: Symbol, view: Callable[[Any], Any], key: tuple[Any, ...]) -> Symbol:
        key = (*key, id(x))
        if key not in self._seen:
            result = Symbol(self, view(x.model), x.is_constant)
            if not x.is_constant:
                result.root, result.view = x.root, lambda a: view(x.view(a))
            self._seen[key] = result
        return self._seen[key]

    def apply(self, name: str, *operands: Any, **options: Any) -> Symbol:
        """Return the result of an operation.

        If all operands are constants, the result is a constant, which is computed now. Otherwise the operation is
        recorded, unless it has been recorded before.
        """
        key = (name, *(id(s) if isinstance(s, Symbol) else (type(s), s) for s in operands), *options.items())
        if key not in self._seen:
            symbols = [s for s in operands if isinstance(s, Symbol)]
            if all(s.is_constant for s in symbols):
                values = [s.model if isinstance(s, Symbol) else s for s in operands]
                self._seen[key] = self.constant(_evaluate(name, values, options))
            else:
                result = Symbol(self, _model(name, operands, options))
                result.source = Instruction(name, operands, options, result)
                self.instructions.append(result.source)
                self._seen[key] = result
        return self._seen[key]

    def _once(self, key: Any, make: Callable[[], np.ndarray]) -> Symbol:
        if key not in self._seen:
            self._seen[key] = self.constant(make())
        return self._seen[key]


def _model(name: str, operands: tuple[Any, ...], options: dict[str, Any]) -> np.ndarray:
    """Return an uninitialized array of the shape and dtype that the result of an operation has."""
    models = [s.model if isinstance(s, Symbol) else s for s in operands]
    if name == "reshape":
        return np.empty(options["shape"], models[0].dtype)
    if name == "square_sum":
        return np.empty((), models[0].dtype)
    if name == "take":
        x, indices, axis = *models, options["axis"]
        return np.empty((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype)
    if name == "matmul":
        return np.empty((models[0].shape[0], models[1].shape[1]), np.result_type(*models))
    if name == "concat" or name in {"sum", "max"}:
        # With zero strides, all elements are the same number in memory, so these arrays take hardly any space.
        models = [np.broadcast_to(np.zeros((), m.dtype), m.shape) for m in models]
        if name == "concat":
            axis = options["axis"]
            shape = list(models[0].shape)
            shape[axis] = sum(m.shape[axis] for m in models)
            return np.empty(shape, models[0].dtype)
        first = models[0]
        axes = range(first.ndim) if options["axis"] is None else [options["axis"] % first.ndim]
        reduced = [1 if a in axes else n for a, n in enumerate(first.shape) if options["keepdims"] or a not in axes]
        return np.empty(reduced, first.dtype)
    if name == "astype":
        return np.empty(models[0].shape, options["dtype"])
    ones = [np.ones((), m.dtype) if isinstance(m, np.ndarray) else m for m in models]
    shape_ = np.broadcast_shapes(*(np.shape(m) for m in models))
    return np.empty(shape_, np.asarray(getattr(np, name)(*ones)).dtype)


def _evaluate(name: str, values: list[Any], options: dict[str, Any]) -> np.ndarray:
    """Return the result of an operation on constants."""
    if name == "astype":
        return np.asarray(values[0]).astype(options["dtype"])
    if name == "concat":
        return np.concat(values, **options)
    return np.asarray(getattr(np, name)(*values, **options))


def _identity(a: Any) -> Any:
    return a
