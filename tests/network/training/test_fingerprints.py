"""Fingerprints: different objects have different fingerprints, and equal objects have the same one in any process."""

import functools
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from checkpointed import fit, network
from watchdog import python

import deepnotes as dn
from deepnotes.network.training.object_fingerprint import NoFingerprintError, fingerprint, fingerprint_settings

SCALE = 2.0


class Plain:
    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


class Slotted:
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


def closure(a: Any) -> Callable[[], Any]:
    return lambda: a


def default(a: Any) -> Callable[..., Any]:
    def with_default(x: Any, y: Any = a, *, z: Any = a) -> Any:
        return x, y, z

    return with_default


def by_class_attribute(a: Any) -> Any:
    return type("Own", (Plain,), {"a": a})()


def by_inherited_attribute(a: Any) -> Any:
    return type("Child", (type("Parent", (Plain,), {"a": a}),), {})()


def by_method(a: Any) -> Any:
    class Own:
        def value(self) -> Any:
            return a

    return Own()


def cyclic(a: Any) -> Any:
    others: list[Any] = []
    value = Plain(a=a, others=others)
    others += [value, {"self": value}, closure(value)]
    return value


HOLDERS: dict[str, Callable[[Any], Any]] = {
    "itself": lambda a: a,
    "vars": lambda a: Plain(a=a),
    "slots": Slotted,
    "dataclass": Pair,
    "dataclass with slots": Record,
    "nested": lambda a: Plain(deep=[(Slotted({"x": Pair(a)}),)]),
    "closure": closure,
    "defaults": default,
    "partial": lambda a: functools.partial(max, a, key=a),
    "partial of a closure": lambda a: functools.partial(closure(a)),
    "bound method": lambda a: Plain(a=a).__init__,  # type: ignore[misc]
    "class attribute": by_class_attribute,
    "inherited attribute": by_inherited_attribute,
    "method": by_method,
    "property": lambda a: type("Own", (), {"p": property(closure(a))})(),
    "cached": lambda a: functools.lru_cache(closure(a)),
    "namespace": lambda a: SimpleNamespace(a=a),
    "cycle": cyclic,
    "layer": lambda a: dn.Dense(2, "tanh", closure(a)),
}


def large(index: int, dtype: str = "f8") -> np.ndarray:
    """Return an array with a 1 at `index`, which the repr of NumPy does not show."""
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
    (large(2500), large(2501)),
    (large(2500), large(2500, "f4")),
    (large(2500), large(2500).reshape(50, 100)),
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


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{type(pair[0]).__name__}-{type(pair[1]).__name__}")
def test_different_values_have_different_fingerprints(holder: str, pair: tuple[Any, Any]) -> None:
    one, other = (fingerprint(HOLDERS[holder](value)) for value in pair)
    assert one != other
    assert fingerprint(HOLDERS[holder](pair[0])) == one


def test_equal_objects_have_the_same_fingerprint_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import functools, numpy as np, deepnotes as dn\n"
        "SCALE = 3\n"
        "def helper(x): return SCALE * x in {'a', 'b', 'c'}\n"
        "class Own(dn.LossFunction):\n"
        "    kinds = {'x', 'y', 'z'}\n"
        "    def __init__(self): self.weights, self.me, self.f = np.arange(3000.), self, functools.partial(helper, 2)\n"
        "    def value(self, ops, A, Y): return helper(A) * super().value(ops, A, Y)\n"
        "print(__import__('importlib').import_module('deepnotes.network.training.object_fingerprint').fingerprint(Own()))\n"
    )
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import own"
    fingerprints = {python(program, PYTHONHASHSEED=str(seed)) for seed in range(2)}
    assert len(fingerprints) == 1
    (text,) = fingerprints
    assert "0x" not in text


class Times:
    """A decorated function with a setting."""

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
        fingerprints |= {fingerprint(scale), fingerprint(Times(abs, rate))}
    assert len(fingerprints) == 4


class Computed:
    """An object that caches a computed value."""

    def __init__(self, base: float) -> None:
        self.base = base

    @functools.cached_property
    def twice(self) -> float:
        return 2 * self.base


def test_cached_properties_are_not_included() -> None:
    value = Computed(2.0)
    before = fingerprint(value)
    assert value.twice == 4
    assert fingerprint(value) == before != fingerprint(Computed(3.0))


def test_values_of_global_variables_are_included(monkeypatch: pytest.MonkeyPatch) -> None:
    def scaled(x: float) -> float:
        return max(SCALE * y for y in [x])

    before = fingerprint(scaled)
    monkeypatch.setitem(globals(), "SCALE", 2000.0)
    assert fingerprint(scaled) != before


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


def test_a_method_fingerprint_replaces_the_description_of_an_object() -> None:
    class Own:
        lock = threading.Lock()

        def __init__(self, a: float) -> None:
            self.a, self.calls = a, object()

        def fingerprint(self) -> Any:
            return {"a": np.array([self.a])}

    assert fingerprint(Own(1.0)) == fingerprint(Own(1.0)) != fingerprint(Own(2.0))


# --- callbacks: settings without the state that they have gathered ----------------------------------------------------


class Averages(dn.Callback):
    def __init__(self, decay: float, every: int = 1) -> None:
        self.decay, self._every, self.gathered = decay, every, [0.0]


def test_the_settings_of_a_callback_are_compared_without_its_state() -> None:
    used = Averages(0.9)
    used.gathered.append(1.0)
    used.lock = threading.Lock()  # type: ignore[attr-defined]
    assert fingerprint_settings(used) == fingerprint_settings(Averages(0.9)) != fingerprint_settings(Averages(0.99))
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


# --- trainings --------------------------------------------------------------------------------------------------------


class Scaled(dn.LossFunction):
    targets = "simplex"

    def __init__(self, scale: Any) -> None:
        self.scale = scale

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        return self.scale * ops.mean_squared_error(A, Y)

    def derivative(self, ops: Any, A: Any, Y: Any) -> Any:
        return self.scale * ops.mean_squared_error_derivative(A, Y)


class Table(dn.Schedule):
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


class Remembers(Averages):
    def memory(self) -> dict[str, Any]:
        return {"gathered": self.gathered}


RATES, OTHER_RATES = np.full(5000, 0.01), np.full(5000, 0.01)
OTHER_RATES[2500] = 0.02


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("loss", {"loss": Scaled(1.0)}, {"loss": Scaled(1000.0)}),
        ("optimizer", {"optimizer": dn.SGD(Table(RATES))}, {"optimizer": dn.SGD(Table(OTHER_RATES))}),
        ("optimizer", {"optimizer": scaled_sgd(0.5)}, {"optimizer": scaled_sgd(0.25)}),
        ("callbacks", {"callbacks": [Remembers(0.5)]}, {"callbacks": [Remembers(0.6)]}),
    ],
)
def test_a_training_with_another_user_defined_object_is_not_resumed(
    tmp_path: Path, name: str, one: dict[str, Any], other: dict[str, Any]
) -> None:
    fit(network(), tmp_path, 1, **one)
    net = network()
    before = net.flat()
    with pytest.raises(dn.CheckpointError, match=f"belongs to another training run: {name} was .* and is "):
        fit(net, tmp_path, 2, resume=True, **other)
    np.testing.assert_array_equal(net.flat(), before)
    assert fit(network(), tmp_path, 2, resume=True, **one).epochs == 2


def test_a_training_with_another_initializer_is_not_resumed(tmp_path: Path) -> None:
    def normal(scale: float) -> Any:
        return lambda rng, shape: rng.normal(0, scale, shape)

    def create_network(scale: float) -> dn.Network:
        return dn.Network([dn.Dense(3, "softmax", normal(scale))], 4, seed=0, backend="numpy")

    fit(create_network(0.5), tmp_path, 1)
    with pytest.raises(dn.CheckpointError, match=r"layers was .*scale=0\.5.* and is .*scale=0\.25"):
        fit(create_network(0.25), tmp_path, 2, resume=True)
    assert fit(create_network(0.5), tmp_path, 2, resume=True).epochs == 2


def test_a_training_with_an_object_without_a_fingerprint_is_not_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loss = Scaled(1.0)
    loss.lock = threading.Lock()  # type: ignore[attr-defined]
    fit(network(), tmp_path, 1, loss=loss)
    assert "this training cannot be resumed: loss contains a user-defined object" in caplog.text
    with pytest.raises(dn.CheckpointError, match=r"cannot be resumed: loss .*lock.* in Scaled; give it a method"):
        fit(network(), tmp_path, 2, loss=loss, resume=True)
