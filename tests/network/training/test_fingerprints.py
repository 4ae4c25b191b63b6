"""Different objects have different fingerprints; equal objects have the same fingerprint in every process."""

import functools
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import literature
import numpy as np
import pytest
from checkpointed import fit, network
from watchdog import run_python

import deepnotes as dn
from deepnotes.network.training.object_fingerprint import NoFingerprintError, fingerprint, fingerprint_settings

SCALE = 2.0


class Plain:
    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


class WithSlots:
    __slots__ = ("a", "b")

    def __init__(self, a: Any) -> None:
        self.a = a


@dataclass(frozen=True, slots=True)
class Record:
    a: Any


@dataclass
class Pair(Plain):
    a: Any
    b: int = 0


def make_closure(a: Any) -> Callable[[], Any]:
    return lambda: a


def function_with_defaults(a: Any) -> Callable[..., Any]:
    def with_default(x: Any, y: Any = a, *, z: Any = a) -> Any:
        return x, y, z

    return with_default


def object_with_class_attribute(a: Any) -> Any:
    return type("Custom", (Plain,), {"a": a})()


def object_with_inherited_attribute(a: Any) -> Any:
    return type("Child", (type("Parent", (Plain,), {"a": a}),), {})()


def object_with_method(a: Any) -> Any:
    class Custom:
        def value(self) -> Any:
            return a

    return Custom()


def object_with_cycle(a: Any) -> Any:
    others: list[Any] = []
    value = Plain(a=a, others=others)
    others += [value, {"self": value}, make_closure(value)]
    return value


HOLDERS: dict[str, Callable[[Any], Any]] = {
    "itself": lambda a: a,
    "vars": lambda a: Plain(a=a),
    "slots": WithSlots,
    "dataclass": Pair,
    "dataclass with slots": Record,
    "nested": lambda a: Plain(deep=[(WithSlots({"x": Pair(a)}),)]),
    "closure": make_closure,
    "defaults": function_with_defaults,
    "partial": lambda a: functools.partial(max, a, key=a),
    "partial of a closure": lambda a: functools.partial(make_closure(a)),
    "bound method": lambda a: Plain(a=a).__init__,  # type: ignore[misc]
    "class attribute": object_with_class_attribute,
    "inherited attribute": object_with_inherited_attribute,
    "method": object_with_method,
    "property": lambda a: type("Custom", (), {"p": property(make_closure(a))})(),
    "cached": lambda a: functools.lru_cache(make_closure(a)),
    "namespace": lambda a: SimpleNamespace(a=a),
    "cycle": object_with_cycle,
    "layer": lambda a: dn.Dense(2, "tanh", make_closure(a)),
}
"""Functions that return an object which contains, or refers to, their argument."""


def large_array(index: int, dtype: str = "f8") -> np.ndarray:
    """Return an array with a 1 at `index`; NumPy's repr abbreviates the array and does not show this element."""
    array = np.zeros(5000, dtype)
    array[index] = 1
    return array


PAIRS: list[tuple[Any, Any]] = [
    (1.0, 1000.0),
    (0.1, np.nextafter(0.1, 1)),
    (0.0, -0.0),
    (1, 1.0),
    (1, True),
    ("1", 1),
    (np.float32(0.5), 0.5),
    (large_array(2500), large_array(2501)),
    (large_array(2500), large_array(2500, "f4")),
    (large_array(2500), large_array(2500).reshape(50, 100)),
    (np.array([1, "a"], object), np.array([1, "b"], object)),
    ([1, 2], (1, 2)),
    ([1, 2], [2, 1]),
    ({1, 2}, {1, 3}),
    ({"a": 1}, {"a": 2}),
    ({"a": 1}, {"b": 1}),
    (range(3), range(4)),
    (np.random.default_rng(1), np.random.default_rng(2)),
    (re.compile("a"), re.compile("b")),
    (np.sin, np.cos),
    (lambda x: 2 * x, lambda x: 3 * x),
    (lambda x: x.a, lambda x: x.b),
]
"""Pairs of values that must have different fingerprints."""


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{type(pair[0]).__name__}-{type(pair[1]).__name__}")
def test_different_values_have_different_fingerprints(holder: str, pair: tuple[Any, Any]) -> None:
    one, other = (fingerprint(HOLDERS[holder](value)) for value in pair)
    assert one != other
    assert fingerprint(HOLDERS[holder](pair[0])) == one


def test_equal_objects_have_the_same_fingerprint_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "custom.py").write_text(
        "import functools, numpy as np, deepnotes as dn\n"
        "SCALE = 3\n"
        "def helper(x): return SCALE * x in {'a', 'b', 'c'}\n"
        "class Custom(dn.LossFunction):\n"
        "    kinds = {'x', 'y', 'z'}\n"
        "    def __init__(self): self.weights, self.me, self.f = np.arange(3000.), self, functools.partial(helper, 2)\n"
        "    def value(self, ops, A, Y): return helper(A) * super().value(ops, A, Y)\n"
        "print(__import__('importlib').import_module('deepnotes.network.training.object_fingerprint').fingerprint(Custom()))\n"
    )
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import custom"
    fingerprints = {run_python(program, PYTHONHASHSEED=str(seed)) for seed in range(2)}
    assert len(fingerprints) == 1
    (text,) = fingerprints
    assert "0x" not in text


class ScaledFunction:
    """A function whose result is multiplied by a factor."""

    def __init__(self, function: Any, factor: float) -> None:
        functools.update_wrapper(self, function)
        self.factor = factor

    def __call__(self, x: float) -> float:
        return self.factor * self.__wrapped__(x)  # type: ignore[attr-defined]


def test_settings_of_decorators_and_functions_are_included() -> None:
    def scale(x: float) -> float:
        return x * scale.rate  # type: ignore[attr-defined]

    fingerprints = set()
    for rate in (1.0, 2.0):
        scale.rate = rate  # type: ignore[attr-defined]
        fingerprints |= {fingerprint(scale), fingerprint(ScaledFunction(abs, rate))}
    assert len(fingerprints) == 4


class WithCachedProperty:
    """An object that caches a computed value."""

    def __init__(self, base: float) -> None:
        self.base = base

    @functools.cached_property
    def twice(self) -> float:
        return 2 * self.base


def test_cached_properties_are_not_included() -> None:
    value = WithCachedProperty(2.0)
    before = fingerprint(value)
    assert value.twice == 4
    assert fingerprint(value) == before != fingerprint(WithCachedProperty(3.0))


def test_values_of_global_variables_are_included(monkeypatch: pytest.MonkeyPatch) -> None:
    def scale(x: float) -> float:
        return max(SCALE * y for y in [x])

    before = fingerprint(scale)
    monkeypatch.setitem(globals(), "SCALE", 2000.0)
    assert fingerprint(scale) != before


def test_docstrings_and_line_numbers_are_not_included() -> None:
    one, other = {}, {}  # type: ignore[var-annotated]
    exec('def f(x):\n    "One."\n    return 2 * x', one)
    exec('\n\n# a comment\ndef f(x):\n    "Another."\n\n    return 2 * x', other)
    assert fingerprint(one["f"]) == fingerprint(other["f"])


def test_values_that_occur_several_times_are_described_once() -> None:
    nested: list[Any] = [0]
    for _ in range(200):
        nested = [nested, nested]
    assert len(fingerprint(nested)) < 10_000


@pytest.mark.parametrize("kind", ["lock", "generator", "file"])
def test_the_error_names_the_object_that_cannot_be_compared(kind: str, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        values: dict[str, Any] = {"lock": threading.Lock(), "generator": (i for i in [0]), "file": file}
        with pytest.raises(NoFingerprintError, match="in Plain in Pair"):
            fingerprint(Pair([Plain(a=values[kind])]))


def test_very_deep_nesting_is_an_error() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(NoFingerprintError, match="too deeply"):
        fingerprint(nested)


def test_an_object_may_define_its_own_fingerprint() -> None:
    class Custom:
        lock = threading.Lock()

        def __init__(self, a: float) -> None:
            self.a, self.calls = a, object()

        def fingerprint(self) -> Any:
            return {"a": np.array([self.a])}

    assert fingerprint(Custom(1.0)) == fingerprint(Custom(1.0)) != fingerprint(Custom(2.0))


# --- callbacks: settings without state --------------------------------------------------------------------------------


class Averages(dn.Callback):
    def __init__(self, decay: float, every: int = 1) -> None:
        self.decay, self._every, self.values = decay, every, [0.0]


def test_the_settings_of_a_callback_are_compared_without_its_state() -> None:
    callback = Averages(0.9)
    callback.values.append(1.0)
    callback.lock = threading.Lock()  # type: ignore[attr-defined]
    assert fingerprint_settings(callback) == fingerprint_settings(Averages(0.9)) != fingerprint_settings(Averages(0.99))
    assert fingerprint_settings(Averages(0.9)) != fingerprint_settings(Averages(0.9, 2))
    assert fingerprint_settings(dn.EarlyStopping(3)) != fingerprint_settings(dn.EarlyStopping(3, min_delta=0.1))

    class Other(dn.EarlyStopping):
        factor = 2

    other = fingerprint_settings(Other())
    Other.factor = 3
    assert fingerprint_settings(Other()) != other

    class DropsArgument(dn.Callback):
        def __init__(self, decay: float) -> None:
            self.rate = 1 - decay

    with pytest.raises(NoFingerprintError, match="DropsArgument does not keep the argument 'decay'"):
        fingerprint_settings(DropsArgument(0.5))


# --- resuming training ------------------------------------------------------------------------------------------------


class ScaledLoss(dn.LossFunction):
    targets = "simplex"

    def __init__(self, scale: Any) -> None:
        self.scale = scale

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        return self.scale * ops.mean_squared_error(A, Y)

    def derivative(self, ops: Any, A: Any, Y: Any) -> Any:
        return self.scale * ops.mean_squared_error_derivative(A, Y)


class RateTable(dn.Schedule):
    def __init__(self, table: np.ndarray) -> None:
        self.table = table

    def __call__(self, step: int) -> float:
        return float(self.table[step])


class ScaledSGD(dn.SGD):
    def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
        return super().update(ops, theta, self.factor * g, slots, decays, scalars)  # type: ignore[attr-defined]


def scaled_sgd(factor: float) -> dn.Optimizer:
    optimizer = ScaledSGD(0.01)
    object.__setattr__(optimizer, "factor", factor)
    return optimizer


class AveragesWithMemory(Averages):
    def memory(self) -> dict[str, Any]:
        return {"values": self.values}


RATES, OTHER_RATES = np.full(5000, 0.01), np.full(5000, 0.01)
OTHER_RATES[2500] = 0.02


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("loss", {"loss": ScaledLoss(1.0)}, {"loss": ScaledLoss(1000.0)}),
        ("optimizer", {"optimizer": dn.SGD(RateTable(RATES))}, {"optimizer": dn.SGD(RateTable(OTHER_RATES))}),
        ("optimizer", {"optimizer": scaled_sgd(0.5)}, {"optimizer": scaled_sgd(0.25)}),
        ("callbacks", {"callbacks": [AveragesWithMemory(0.5)]}, {"callbacks": [AveragesWithMemory(0.6)]}),
    ],
)
def test_training_with_another_user_defined_object_is_not_resumed(
    tmp_path: Path, name: str, one: dict[str, Any], other: dict[str, Any]
) -> None:
    fit(network(), tmp_path, 1, **one)
    net = network()
    before = net.flat()
    with pytest.raises(dn.CheckpointError, match=f"belongs to another training run: {name} was .* and is "):
        fit(net, tmp_path, 2, resume=True, **other)
    np.testing.assert_array_equal(net.flat(), before)
    assert fit(network(), tmp_path, 2, resume=True, **one).epochs == 2


SOURCE = Path(literature.__file__).read_text(encoding="utf-8")
EDITS = {
    "layers": ("return Z - clipped(ops.xp, Z, -self.width, self.width)", "return -clipped(ops.xp, Z, -0.4, 0.4) + Z"),
    "loss": ("Y * (xp.log(safe) - xp.log(A))", "Y * xp.log(safe) - Y * xp.log(A)"),
    "optimizer": ("step = ops.xp.sign(self.beta1 * m", "step = ops.xp.sign(0.8 * m"),
}
"""For each part of :func:`fit_own_parts`, code in literature.py, and code with another formula."""


def fit_own_parts(folder: Path, epochs: int, **edits: tuple[str, str]) -> None:
    """Train, or resume, with parts of literature.py, which has been edited before it is imported."""
    module = ModuleType("edited")
    sys.modules["edited"] = module  # where dataclasses look for it
    source = SOURCE
    for old, new in edits.values():
        assert source.count(old) == 1
        source = source.replace(old, new)
    exec(compile(source, "edited.py", "exec"), module.__dict__)
    net = dn.Network([dn.Dense(5, module.SoftShrink()), dn.Dense(3, "softmax")], 4, seed=0, backend="numpy")
    fit(net, folder, epochs, loss=module.KLDivergence(), optimizer=module.Lion(), resume=True)


@pytest.mark.parametrize("part", EDITS)
def test_training_with_another_formula_is_not_resumed(tmp_path: Path, part: str) -> None:
    fit_own_parts(tmp_path, 1)
    with pytest.raises(dn.CheckpointError, match=f"belongs to another training run: {part} was .* and is "):
        fit_own_parts(tmp_path, 2, edit=EDITS[part])


def test_the_error_for_another_option_of_a_formula_names_its_values(tmp_path: Path) -> None:
    def fit_with(q: float) -> None:
        net = dn.Network([dn.Dense(1)], 2, seed=0, backend="numpy")
        X = np.ones((2, 8))
        net.fit(X, X[:1], epochs=1, loss=literature.Pinball(q), checkpoint=tmp_path, resume=True)

    fit_with(0.8)
    with pytest.raises(dn.CheckpointError, match=r"loss was .*'constant', 0\.8\].* and is .*'constant', 0\.9\]"):
        fit_with(0.9)


def test_training_with_other_code_for_the_same_formulas_is_resumed(tmp_path: Path) -> None:
    fit_own_parts(tmp_path, 1)
    fit_own_parts(
        tmp_path,
        2,
        layers=(EDITS["layers"][0], "C = clipped(ops.xp, Z, -self.width, self.width)\n        return Z - C"),
        loss=("xp.where(Y > 0, Y, xp.ones_like(Y))", "xp.where(0 < Y, Y, xp.ones_like(Y))"),
        optimizer=("(m,) = slots\n        step = ops", "m = slots[0]\n        step = ops"),
    )


def test_a_loaded_formula_continues_the_training_of_its_class(tmp_path: Path) -> None:
    net = dn.Network([dn.Dense(5, literature.Mish()), dn.Dense(3, "softmax")], 4, seed=0, backend="numpy")
    fit(net, tmp_path, 1)
    net.save(tmp_path / "model")
    assert fit(dn.load(tmp_path / "model", backend="numpy"), tmp_path, 2, resume=True).epochs == 2


def test_the_fingerprint_of_a_part_is_used_instead_of_its_formula(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Versioned(literature.KLDivergence):
        version: int = 1

        def fingerprint(self) -> int:
            return self.version

    def fit_with(version: int, epochs: int) -> dn.History:
        net = dn.Network([dn.Dense(3, "softmax")], 4, seed=0, backend="numpy")
        return fit(net, tmp_path, epochs, loss=Versioned(version=version), resume=True)

    fit_with(1, 1)
    assert fit_with(1, 2).epochs == 2
    with pytest.raises(dn.CheckpointError, match=r"loss was .*Versioned\(1\) and is .*Versioned\(2\)"):
        fit_with(2, 3)


def test_training_with_another_initializer_is_not_resumed(tmp_path: Path) -> None:
    def normal(scale: float) -> Any:
        return lambda rng, shape: rng.normal(0, scale, shape)

    def create_network(scale: float) -> dn.Network:
        return dn.Network([dn.Dense(3, "softmax", normal(scale))], 4, seed=0, backend="numpy")

    fit(create_network(0.5), tmp_path, 1)
    with pytest.raises(dn.CheckpointError, match=r"layers was .*scale=0\.5.* and is .*scale=0\.25"):
        fit(create_network(0.25), tmp_path, 2, resume=True)
    assert fit(create_network(0.5), tmp_path, 2, resume=True).epochs == 2


def test_training_with_an_object_without_a_fingerprint_is_not_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loss = ScaledLoss(1.0)
    loss.lock = threading.Lock()  # type: ignore[attr-defined]
    fit(network(), tmp_path, 1, loss=loss)
    assert "this training run cannot be resumed: loss contains a user-defined object" in caplog.text
    with pytest.raises(dn.CheckpointError, match=r"cannot be resumed: loss .*lock.* in ScaledLoss; give it a method"):
        fit(network(), tmp_path, 2, loss=loss, resume=True)
