"""The formulas of activations and losses as expressions, and the derivatives of those that bring none of their own."""

from collections.abc import Callable
from functools import lru_cache, partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from deepnotes.equations.ops import Ops
from deepnotes.nn.derivatives import pullback
from deepnotes.nn.expressions import FULL, NUMBER, Expression, trace
from deepnotes.nn.optimizer_base import updated_by
from deepnotes.nn.schedules import Schedule
from deepnotes.utils.errors import NotAnExpressionError

P = ParamSpec("P")
R = TypeVar("R")


def cached(function: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Decorate a function of a part, and of hashable arguments, so that it keeps its results.

    For a part that may change, they are computed at each call, see :func:`is_fixed`. The method ``cache_clear`` of the
    decorated function discards all results.
    """

    @lru_cache(maxsize=256)
    def kept(key: _Exactly, *args: Any, **kwargs: Any) -> R:
        return function(key.part, *args, **kwargs)

    @wraps(function)
    def call(part: Any, *args: Any, **kwargs: Any) -> R:
        return kept(_Exactly(part), *args, **kwargs) if is_fixed(part) else function(part, *args, **kwargs)

    call.cache_clear = kept.cache_clear  # type: ignore[attr-defined]
    return cast(Callable[Concatenate[Any, P], R], call)


class _Exactly:
    """A part as a key: equal to parts of the same class with the same attributes; 0.0 and -0.0, 1 and True differ.

    ``==`` of a part may leave out attributes. Of a schedule, only the class counts: the rates are numbers that formulas
    are called with.
    """

    def __init__(self, part: Any) -> None:
        attributes = {name: type(x) if isinstance(x, Schedule) else x for name, x in vars(part).items()}
        kinds = type(part), *map(type, vars(part).values())
        self.part, self._key = part, (kinds, repr(sorted(attributes.items())))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Exactly) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@cached
def activation(part: Any, dtype: str, outputs: int) -> Expression:
    """Return ``A = g(Z)`` of an activation for an argument Z."""
    return trace(lambda xp, Z: _full(xp, part.forward(Ops(xp, {}), Z), Z), ["Z"], dtype, outputs)


def loss(part: Any, dtype: str, outputs: int) -> Expression:
    """Return the losses, shape (1, m), of a loss for arguments A and Y."""
    return trace(
        lambda xp, A, Y: _per_sample(xp, part.value(Ops(xp, {}), A, Y), outputs),
        ["A", "Y"],
        dtype,
        outputs,
        by_output=True,
    )


@cached
def backward(part: Any, dtype: str, outputs: int) -> Expression:
    """Return ``dZ = dA * g'(Z)`` (N12) of an activation for arguments dA, Z and A, by its own method ``backward``."""

    def derivative(xp: Any, dA: Any, Z: Any, A: Any) -> Any:
        return _full(xp, part.backward(Ops(xp, {}), dA, Z, A), Z)

    return trace(derivative, ["dA", "Z", "A"], dtype, outputs)


@cached
def loss_and_derivative(part: Any, dtype: str, outputs: int) -> Expression:
    """Return the losses and ``dA = ∂L/∂A`` for arguments A and Y, by the loss's own methods."""

    def both(xp: Any, A: Any, Y: Any) -> Any:
        ops = Ops(xp, {})
        return _per_sample(xp, part.value(ops, A, Y), outputs), _full(xp, part.derivative(ops, A, Y), A)

    return trace(both, ["A", "Y"], dtype, outputs, by_output=True)


@cached
def fused_loss(part: Any, dtype: str, outputs: int) -> Expression:
    """Return the losses and ``dZ = ∂L/∂Z`` (N11) for arguments Z, A and Y, by the methods of a fused loss."""

    def both(xp: Any, Z: Any, A: Any, Y: Any) -> Any:
        ops = Ops(xp, {})
        return _per_sample(xp, part.value_of_logits(ops, Z, Y), outputs), _full(xp, part.delta(ops, A, Y), A)

    return trace(both, ["Z", "A", "Y"], dtype, outputs, by_output=True)


@cached
def loss_of_logits(part: Any, g: Any, dtype: str, outputs: int) -> Expression:
    """Return the losses, ``dZ`` and A for arguments Z and Y, by the methods of a loss that is fused with `g`."""

    def all_three(xp: Any, Z: Any, Y: Any) -> Any:
        ops = Ops(xp, {})
        A = _full(xp, g.forward(ops, Z), Z)
        return part.value_of_logits(ops, Z, Y), _full(xp, part.delta(ops, A, Y), A), A

    return trace(all_three, ["Z", "Y"], dtype, outputs, by_output=True)


@cached
def layer(part: Any, dtype: str, inputs: int) -> Expression:
    """Return ``A`` of a layer by feature for arguments A_prev and its parameters, ``parameter0``, ``parameter1``, ...

    The parameters have the shape (n, 1), and stand for arrays of the shape (n, m) with equal columns. If the layer has
    half as many outputs as inputs, the two halves of A_prev are two arguments, A_prev and A_prev_2.

    Raises
    ------
    NotAnExpressionError
        If the layer is not one by feature: it has another number of outputs, has parameters of other shapes, with
        weight decay or that are not trained, or uses its context.
    """
    names, outputs = feature_parameters(part, inputs), part.output_size(inputs)
    arrays = _halves(inputs, outputs)

    def forward(xp: Any, *values: Any) -> Any:
        A_prev, parameters = _join(values[: len(arrays)]), dict(zip(names, values[len(arrays) :], strict=True))
        A, _ = part.forward(Ops(_WithConcat(xp), {}), parameters, A_prev, _NoContext())  # type: ignore[arg-type]
        return _full(xp, A, values[0])

    return trace(forward, [*arrays, *_numbered(names)], dtype, outputs)


@cached
def layer_backward(part: Any, dtype: str, inputs: int) -> Expression:
    """Return ``dA_prev`` of a layer by feature, or its two halves, and the terms of each parameter's gradient.

    The gradient is the mean of its terms over the samples, as computed by the equation ``bias_gradient``. The arguments
    are dA and those of :func:`layer`.

    Raises
    ------
    NotAnExpressionError
        As for :func:`layer`, or if a gradient is not a result of ``ops.bias_gradient``.
    """
    names, outputs = feature_parameters(part, inputs), part.output_size(inputs)
    arrays = _halves(inputs, outputs)

    def backward(xp: Any, dA: Any, *values: Any) -> Any:
        A_prev, parameters = _join(values[: len(arrays)]), dict(zip(names, values[len(arrays) :], strict=True))
        ops = Ops(_WithConcat(xp), {"bias_gradient": _MeanOverSamples})  # type: ignore[arg-type]
        _, cache = part.forward(ops, parameters, A_prev, _NoContext())
        dA_prev, gradients = part.backward(ops, parameters, cache, dA)
        terms = [gradients[name] for name in names]
        if len(gradients) != len(names) or not all(isinstance(term, _MeanOverSamples) for term in terms):
            raise NotAnExpressionError("gradients that are not results of ops.bias_gradient")
        halves = dA_prev.halves if len(arrays) > 1 else (dA_prev,)
        return tuple(_full(xp, x, dA) for x in (*halves, *(term.terms for term in terms)))

    return trace(backward, ["dA", *arrays, *_numbered(names)], dtype, outputs)


def feature_parameters(part: Any, inputs: int) -> list[str]:
    """Return the names of the parameters of a layer by feature; errors as for :func:`layer`."""
    parameters, outputs = part.parameters(inputs), part.output_size(inputs)
    if inputs not in (outputs, 2 * outputs):
        raise NotAnExpressionError("a number of outputs that is neither that of the inputs nor half of it")
    if any(tuple(p.shape) != (outputs, 1) or p.decays or not p.trained for p in parameters.values()):
        raise NotAnExpressionError("parameters of a shape other than (n, 1), with weight decay, or not trained")
    return list(parameters)


def _halves(inputs: int, outputs: int) -> list[str]:
    return ["A_prev"] if inputs == outputs else ["A_prev", "A_prev_2"]


def _numbered(names: list[str]) -> list[str]:
    return [f"parameter{i}" for i in range(len(names))]


def _join(arrays: tuple[Any, ...]) -> Any:
    return arrays[0] if len(arrays) == 1 else _Halves(arrays)


class _Halves:
    """The two halves of an array of shape (2n, m) while tracing; only the halves are values to compute with."""

    def __init__(self, halves: tuple[Any, ...]) -> None:
        self.halves = halves
        n, m = halves[0].shape
        self.dtype, self.ndim, self.shape = halves[0].dtype, 2, (2 * int(n), m)

    def __getitem__(self, key: Any) -> Any:
        n = self.shape[0] // 2
        if isinstance(key, tuple) and key[1:] == (slice(None),):
            key = key[0]
        if key in (slice(None, n), slice(0, n)):
            return self.halves[0]
        if key in (slice(n, None), slice(n, 2 * n)):
            return self.halves[1]
        raise NotAnExpressionError("an index other than those of the two halves of the inputs")


class _WithConcat:
    """The namespace of a trace, with the concatenation of two halves."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp

    def __getattr__(self, name: str) -> Any:
        return getattr(self._xp, name)

    def concat(self, arrays: Any, /, *, axis: Any = 0) -> _Halves:
        """Return the array whose two halves are given."""
        halves = tuple(map(self._xp.symbol, arrays))
        if len(halves) != 2 or axis != 0 or any(x.kind.shape != FULL for x in halves):
            raise NotAnExpressionError("concat of other arrays than two halves")
        return _Halves(halves)


class _MeanOverSamples:
    """The result of ``ops.bias_gradient`` while tracing: only a gradient, not a value to compute with."""

    def __init__(self, xp: Any, terms: Any) -> None:
        self.terms = terms


class _NoContext:
    """The context of a layer while tracing, whose formula must not depend on it."""

    def __getattr__(self, name: str) -> Any:
        raise NotAnExpressionError(f"context.{name}")


@cached
def update(optimizer: Any, dtype: str) -> Expression:
    """Return the next θ and slots of an optimizer for arrays theta, g, slot0, slot1, ..., and numbers.

    The numbers are ``decays``, 1 for parameters that weight decay applies to and else 0, and the optimizer's scalars.
    """
    return _trace_update(partial(updated_by, optimizer), optimizer, dtype)


@cached
def update_statistics(optimizer: Any, dtype: str) -> Expression:
    """Return the next statistics and slots by ``optimizer.update_statistics``; g stands for their changes.

    The arguments are those of :func:`update`.
    """

    def next_of(ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
        return optimizer.update_statistics(ops, theta, g, slots, scalars)

    return _trace_update(next_of, optimizer, dtype)


def _trace_update(next_of: Callable[..., Any], optimizer: Any, dtype: str) -> Expression:
    count, names = len(optimizer.slots), list(optimizer.scalars(1, 1.0))

    def step(xp: Any, theta: Any, g: Any, *others: Any) -> Any:
        slots, (decays, *numbers) = others[:count], others[count:]
        scalars = dict(zip(names, numbers, strict=True))
        theta, after = next_of(Ops(xp, {}), theta, g, tuple(slots), decays, scalars)
        return theta, *after

    arrays = ["theta", "g", *(f"slot{i}" for i in range(count))]
    return trace(step, arrays, dtype, numbers=["decays", *names], dimensions=1)


def _full(xp: Any, x: Any, like: Any) -> Any:
    """Return a value of a trace, broadcast to the shape of `like` if it has fewer elements."""
    x = xp.symbol(x)
    return x if x.kind.shape == FULL else xp.apply("spread", x, like)


def _per_sample(xp: Any, x: Any, outputs: int) -> Any:
    """Return the losses of a trace; with one output, they may have the shape of the outputs."""
    x = xp.symbol(x)
    if x.kind.shape == NUMBER:
        raise NotAnExpressionError("one loss instead of one for each sample")
    if x.kind.shape != FULL:
        return x
    if outputs > 1:
        raise NotAnExpressionError("losses of shape (k, m) instead of (1, m)")
    return xp.sum(x, axis=0, keepdims=True)


def options(part: Any) -> list[float]:
    """Return the numbers among the settings of a part."""
    settings = [*vars(part).values(), *dict(getattr(part, "options", ())).values()]
    numbers = [y for x in settings for y in (x if isinstance(x, tuple) else (x,))]
    return [float(x) for x in numbers if isinstance(x, int | float) and not isinstance(x, bool)]


def is_fixed(part: Any) -> bool:
    """Return whether a part cannot change: it is a frozen dataclass, or an object without attributes of its own.

    If it contains an optimizer or an activation, as :class:`~deepnotes.nn.averaging.Averaged` and
    :class:`~deepnotes.nn.layers.Gate` do, this holds for both.
    """
    parameters: Any = getattr(type(part), "__dataclass_params__", None)
    fixed = not vars(part) if parameters is None else bool(parameters.frozen)
    inner = [vars(part)[name] for name in ("optimizer", "activation") if name in vars(part)]
    return fixed and all(is_fixed(x) for x in inner if hasattr(x, "__dict__"))


KERNEL = 500
"""The largest size of an expression that kernels are generated for; compiling one of this size takes some seconds."""


def has_formula(describe: Callable[..., Expression], part: Any, *arguments: Any) -> bool:
    """Return whether a part is fixed and has an expression, so that a kernel can be generated for it."""
    try:
        return is_fixed(part) and describe(part, *arguments).size <= KERNEL
    except NotAnExpressionError:
        return False


@cached
def activation_backward(part: Any, dtype: str, outputs: int) -> Expression:
    """Return ``dZ = dA * g'(Z)`` (N12) for arguments dA, Z and A, derived from ``forward``."""
    return _derived(part, "forward", "backward", lambda: _pullback(activation, part, dtype, outputs, "Z", "dA", "A"))


@cached
def loss_derivative(part: Any, dtype: str, outputs: int) -> Expression:
    """Return ``dA = ∂L/∂A`` for arguments A and Y, derived from ``value``."""
    return _derived(part, "value", "derivative", lambda: _pullback(loss, part, dtype, outputs, "A"))


def apply(derive: Callable[..., Expression], part: Any, xp: Any, *arrays: Any) -> Any:
    """Return a derived derivative, computed with the functions of a namespace; the last array is (k, m)."""
    like = arrays[-1]
    dtype = "float32" if like.dtype == xp.float32 else "float64"
    (result,) = derive(part, dtype, int(like.shape[0]))(xp, *arrays)
    return result


def _pullback(
    formula: Callable[[Any, str, int], Expression], part: Any, dtype: str, outputs: int, by: str, *names: str
) -> Expression:
    return pullback(formula(part, dtype, outputs), outputs, by, *names)


def _derived(part: Any, method: str, missing: str, derive: Callable[[], Expression]) -> Expression:
    try:
        return derive()
    except NotAnExpressionError as error:
        name = type(part).__name__
        raise NotAnExpressionError(
            f"{name} has no method {missing!r}, and its {method!r} cannot be differentiated, since it uses {error}; "
            f"write {name}.{missing}"
        ) from None
