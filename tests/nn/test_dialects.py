"""The defaults of PyTorch, Keras and scikit-learn, compared with results stored by tests/fixtures/make_dialects.py."""

import asyncio
import copy
import json
import math
import pickle
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.network.formats import containers
from deepnotes.network.formats.model_files import content
from deepnotes.nn.optimizers import LIBRARY as OPTIMIZERS
from deepnotes.nn.optimizers import as_optimizer
from deepnotes.nn.presets import DIALECTS, NOTES, current_dialect

with np.load(Path(__file__).parents[1] / "fixtures" / "dialects.npz") as file:
    STORED = dict(file)

SETTINGS: dict[str, dict[str, Any]] = json.loads(str(STORED["settings"]))
TOLERANCE = 1e-10
"""The allowed error of a parameter after up to 30 updates, relative to the largest parameter."""

CASES = {
    "torch_sgd": ("leaky_relu", "sgd"),
    "torch_rmsprop": ("leaky_relu", "rmsprop"),
    "torch_adam": ("elu", "adam"),
    "torch_adamw": ("leaky_relu", "adamw"),
    "keras_sgd": ("leaky_relu", "sgd"),
    "keras_rmsprop": ("leaky_relu", "rmsprop"),
    "keras_adam": ("elu", "adam"),
    "keras_adamw": ("leaky_relu", "adamw"),
    "sklearn_sgd": ("relu", "sgd"),
    "sklearn_adam": ("tanh", "adam"),
}
every_case = pytest.mark.parametrize("name", CASES)
every_library = pytest.mark.parametrize("dialect", ["torch", "keras", "sklearn"])


def layers(hidden: str) -> list[dn.Layer]:
    return [dn.Dense(7, hidden), dn.Dense(6, hidden), dn.Dense(3, "softmax")]


def train(net: dn.Network, optimizer: Any, library: str) -> tuple[np.ndarray, np.ndarray]:
    """Train from the stored parameters; return the parameters (W1, b1, W2, ...) after 1 and after 30 updates."""
    start = 0
    for name, parameter in net.parameters.items():
        shape = parameter.shape
        net.parameters[name] = STORED["start"][start : start + math.prod(shape)].reshape(shape)
        start += math.prod(shape)
    l2 = 1e-4 / 37 if library == "sklearn" else 0.0  # scikit-learn's default alpha, divided by the number of samples
    parameters = []
    for _ in range(30):
        net.partial_fit(STORED["X"], STORED["labels"], optimizer=optimizer, l2=l2)
        parameters.append(np.concatenate([np.ravel(net.parameters[name]) for name in net.parameters]))
    return parameters[0], parameters[-1]


def relative_error(result: np.ndarray, expected: np.ndarray) -> float:
    return float(abs(result - expected).max() / abs(expected).max())


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@every_case
def test_training_with_the_defaults_of_a_library_reproduces_its_results(name: str, backend: str) -> None:
    """The network is created within ``dn.defaults``; the optimizer is passed by name after the block."""
    if backend == "numba":
        pytest.importorskip("numba", reason="the Numba backend needs deepnotes[numba]")
    library, (hidden, optimizer) = name.partition("_")[0], CASES[name]
    with dn.defaults(library):
        net = dn.Network(layers(hidden), inputs=5, dtype="float64", backend=backend)
    for parameters, update in zip(train(net, optimizer, library), ("first", "last"), strict=True):
        assert relative_error(parameters, STORED[f"{name}/{update}"]) < TOLERANCE


@every_case
def test_training_with_the_defaults_of_the_notes_differs(name: str) -> None:
    """If it did not differ, the previous test would pass with any defaults."""
    library, (hidden, optimizer) = name.partition("_")[0], CASES[name]
    net = dn.Network(layers(hidden), inputs=5, dtype="float64")
    is_same = name == "torch_adam"  # both PyTorch and the notes have the defaults of the paper
    _, last = train(net, optimizer, library)
    assert (relative_error(last, STORED[f"{name}/last"]) < TOLERANCE) is is_same


@every_library
def test_settings_match_the_constructors_of_the_library(dialect: str) -> None:
    expected = SETTINGS[dialect]
    assert {key: DIALECTS[dialect][key] for key in expected} == expected


def test_every_dialect_has_all_settings() -> None:
    for dialect, table in DIALECTS.items():
        assert table.keys() == NOTES.keys(), dialect
    optimizer_settings = {key for key in NOTES if key[0].isupper() and not key.startswith("Dense")}
    fields = {
        f"{kind.__name__}.{field}"
        for kind in OPTIMIZERS.values()
        for field in kind.__annotations__  # without the fields of the base class
    }
    assert optimizer_settings == fields


INITIAL = {  # the squares of the limits of W and b, for a layer with 300 inputs and 200 neurons
    "torch_relu": (1 / 300, 1 / 300),
    "torch_sigmoid": (1 / 300, 1 / 300),
    "keras_relu": (6 / 500, 0),
    "keras_sigmoid": (6 / 500, 0),
    "sklearn_relu": (6 / 500, 6 / 500),
    "sklearn_sigmoid": (2 / 500, 2 / 500),
}


def is_uniform(largest: float, mean_square: float, square: float, n: int) -> bool:
    """Return whether n numbers with these statistics can be uniform within ±sqrt(square), as in test_optimizers.py."""
    if square == 0:
        return largest == mean_square == 0
    limit, variance = math.sqrt(square), square / 3
    spread = 6 * variance * math.sqrt(0.8 / n)
    return limit * (1 - 40 / n) < largest <= limit and abs(mean_square - variance) < spread


@pytest.mark.parametrize("name", INITIAL)
def test_initial_weights_and_biases_have_the_distribution_of_the_library(name: str) -> None:
    """The values of the library and of deepnotes lie within the limits, come close to them, and have their variance."""
    library, activation = name.split("_")
    with dn.defaults(library):
        # in scikit-learn, the activation of the hidden layers determines the distribution
        last = "identity" if library == "sklearn" else activation
        net = dn.Network([dn.Dense(300, activation), dn.Dense(200, last)], inputs=4, seed=0, dtype="float64")
    W, b = np.asarray(net.parameters["W2"]), np.asarray(net.parameters["b2"])
    network_statistics = (abs(W).max(), (W**2).mean(), abs(b).max(), (b**2).mean())
    for statistics in (network_statistics, STORED[f"initial/{name}"]):
        assert is_uniform(statistics[0], statistics[1], INITIAL[name][0], 60_000)
        assert is_uniform(statistics[2], statistics[3], INITIAL[name][1], 200)


def test_hidden_layers_determine_the_initializer_of_scikit_learn_even_for_a_sigmoid_output() -> None:
    with dn.defaults("sklearn"):
        single = dn.Network([dn.Dense(1, "sigmoid")], inputs=3)
        relu = dn.Network([dn.Dense(4, "relu"), dn.Dropout(0.1), dn.Dense(1, "sigmoid")], inputs=3)
        sigmoid = dn.Network([dn.Dense(4, "sigmoid"), dn.Dense(2)], inputs=3)
    assert [layer.initializer for layer in (*single.layers, relu.layers[0], relu.layers[2])] == ["sklearn_uniform"] * 3
    assert [layer.bias_initializer for layer in sigmoid.layers] == ["sklearn_sigmoid_uniform"] * 2


def test_named_initializers_of_biases_have_the_variance_of_the_weights() -> None:
    net = dn.Network([dn.Dense(5_000, bias_initializer="lecun_normal")], inputs=16, seed=0, dtype="float64")
    six_deviations = 6 * math.sqrt(2 / 5_000)
    assert np.var(net.parameters["b1"]) == pytest.approx(1 / 16, rel=six_deviations)
    with pytest.raises(dn.UnknownNameError, match="did you mean 'lecun_normal'"):
        dn.Dense(3, bias_initializer="lecun_norml")


@every_library
def test_explicit_arguments_take_precedence(dialect: str) -> None:
    layer = dn.Dense(3, dn.Activation("leaky_relu", slope=0.5), "he_normal", "zeros")
    optimizers = {
        "sgd": {"learning_rate": 0.5, "momentum": 0.0, "nesterov": False},
        "rmsprop": {"learning_rate": 0.5, "rho": 0.5, "epsilon": 0.5, "epsilon_inside": False},
        "adam": {"learning_rate": 0.5, "beta1": 0.5, "beta2": 0.5, "epsilon": 0.5, "epsilon_hat": False},
    }
    with dn.defaults(dialect):
        net = dn.Network([layer], inputs=2)
        assert dn.Activation("leaky_relu", slope=0.5).options == (("slope", 0.5),)
        for name, options in optimizers.items():
            optimizer = as_optimizer(name, **options)
            assert {key: getattr(optimizer, key) for key in options} == options
        assert as_optimizer(dn.SGD(0.25, 0.5, nesterov=True)) == dn.SGD(0.25, 0.5, nesterov=True)
    assert net.layers == (layer,)


def test_only_an_explicit_nesterov_without_momentum_is_an_error() -> None:
    with dn.defaults("sklearn"):
        assert dn.SGD().nesterov is True
        assert dn.SGD(momentum=0).nesterov is False
        with pytest.raises(dn.ArgumentError, match="nesterov=True needs momentum"):
            dn.SGD(momentum=0, nesterov=True)


def test_user_defined_layers_and_activations_keep_their_type_and_initializer() -> None:
    class Square(dn.ActivationFunction):
        initializer = "lecun_normal"

    class UserDense(dn.Dense):
        pass

    with dn.defaults("torch"):
        net = dn.Network([UserDense(3), dn.Dense(3, Square()), dn.Dropout(0.5)], inputs=2)
    assert type(net.layers[0]) is UserDense
    assert [layer.initializer for layer in net.layers[:2]] == ["torch_uniform", None]
    assert net.layers[1].bias_initializer == "torch_uniform"


# The scope of a dialect


def test_blocks_can_be_nested_and_end_after_an_error() -> None:
    assert current_dialect() == "notes"
    with dn.defaults("torch") as outer:
        assert repr(outer) == "defaults('torch')"
        with dn.defaults("keras"):
            assert current_dialect() == "keras"
            with outer:
                assert current_dialect() == "torch"
            assert current_dialect() == "keras"
        assert current_dialect() == "torch"
        with outer:
            assert current_dialect() == "torch"
        assert current_dialect() == "torch"
    assert current_dialect() == "notes"
    with dn.defaults("sklearn"):
        with pytest.raises(ValueError, match="boom"), dn.defaults("torch"):
            raise ValueError("boom")
        assert current_dialect() == "sklearn"
    assert current_dialect() == "notes"


def test_creating_a_preset_changes_nothing() -> None:
    before = dn.RMSProp()
    preset = dn.defaults("torch")
    assert current_dialect() == "notes"
    assert dn.RMSProp() == before
    with dn.defaults("keras"):
        dn.defaults("sklearn")
        assert current_dialect() == "keras"
        with preset:
            assert dn.RMSProp() == dn.RMSProp(0.01, rho=0.99, epsilon=1e-8) != before
        assert current_dialect() == "keras"
    assert current_dialect() == "notes"


@pytest.mark.parametrize("name", ["pytorch", "", None, 3, ["torch"]])
def test_an_unknown_dialect_changes_nothing(name: Any) -> None:
    with pytest.raises(dn.UnknownNameError, match=r"unknown dialect .*known: keras, notes, sklearn, torch"):
        dn.defaults(name)
    assert current_dialect() == "notes"


def test_a_dialect_applies_only_to_its_thread() -> None:
    slopes: dict[str, list[float]] = {"torch": [], "keras": [], "": []}
    barrier = threading.Barrier(3)

    def create_activations(dialect: str) -> None:
        with dn.defaults(dialect) if dialect else nullcontext():
            barrier.wait(10)
            for _ in range(100):
                slopes[dialect].append(dict(dn.Activation("leaky_relu").options)["slope"])

    with dn.defaults("sklearn"):
        threads = [threading.Thread(target=create_activations, args=(dialect,)) for dialect in slopes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert current_dialect() == "sklearn"
    assert {dialect: set(values) for dialect, values in slopes.items()} == {
        "torch": {0.01},
        "keras": {0.2},
        "": {0.001},
    }


def test_a_dialect_applies_only_to_its_asyncio_task() -> None:
    async def create_optimizers(dialect: str) -> list[float]:
        epsilons = []
        with dn.defaults(dialect):
            for _ in range(5):
                await asyncio.sleep(0)
                epsilons.append(dn.Adam().epsilon)
        return epsilons

    async def run_both() -> list[list[float]]:
        return list(await asyncio.gather(create_optimizers("keras"), create_optimizers("torch")))

    assert asyncio.run(run_both()) == [[1e-7] * 5, [1e-8] * 5]
    assert current_dialect() == "notes"


# The dialect of a network


@every_library
def test_a_network_shows_and_saves_its_dialect(dialect: str, tmp_path: Path) -> None:
    with dn.defaults(dialect):
        net = dn.Network(layers("leaky_relu"), inputs=5, seed=1)
    assert f", defaults of {dialect}" in net.summary()
    assert f"dialect={dialect!r}" in repr(net)
    path = tmp_path / "net.safetensors"
    net.save(path)
    with dn.defaults("notes" if dialect == "torch" else "torch"):
        loaded = dn.load(path)
        assert current_dialect() != dialect
    settings: dict[str, Any] = {"optimizer": "rmsprop", "epochs": 2, "shuffle": False}
    expected = copy.deepcopy(net).fit(STORED["X"], STORED["labels"], **settings)
    for duplicate in (loaded, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert duplicate.dialect == dialect
        assert duplicate.layers == net.layers
        assert np.array_equal(duplicate.flat(), net.flat())
        assert duplicate.fit(STORED["X"], STORED["labels"], **settings).loss == expected.loss


def test_the_dialect_of_the_notes_is_saved_but_not_shown(tmp_path: Path) -> None:
    net = dn.Network(layers("leaky_relu"), inputs=5, seed=1)
    assert "defaults" not in net.summary()
    assert "dialect" not in repr(net)
    net.save(tmp_path / "net.safetensors")
    with dn.defaults("torch"):
        loaded = dn.load(tmp_path / "net.safetensors")
    assert loaded.dialect == "notes"
    assert loaded.layers == net.layers
    assert loaded.layers[0].initializer is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dialect": "esperanto"}, "unknown dialect 'esperanto'"),
        ({"dialect": ["torch"]}, r"unknown dialect \['torch'\]"),
        ({"layers": [{"bias_initializer": "ones"}]}, "unknown initializer 'ones'"),
    ],
)
def test_a_file_with_an_unknown_dialect_or_initializer_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    header, tensors = content(dn.Network([dn.Dense(2)], inputs=3))
    layer = header["network"]["layers"][0]
    if "layers" in change:
        change = {"layers": [layer | change["layers"][0]]}
    header["network"] |= change
    containers.write(tmp_path / "net.safetensors", header, tensors)
    with pytest.raises(dn.ModelFileError, match=message):
        dn.load(tmp_path / "net.safetensors")


def test_a_file_without_a_dialect_can_be_read(tmp_path: Path) -> None:
    header, tensors = content(dn.Network([dn.Dense(2)], inputs=3))
    del header["network"]["dialect"], header["network"]["layers"][0]["bias_initializer"]
    containers.write(tmp_path / "net.safetensors", header, tensors)
    assert dn.load(tmp_path / "net.safetensors").dialect == "notes"


# Variants of the optimizers


def test_epsilon_inside_the_root() -> None:
    g = np.array([3.0])
    optimizer, ops = dn.RMSProp(0.1, 0.5, 0.25, epsilon_inside=True), dn.get_backend("numpy").ops
    theta, s = optimizer.update(ops, np.array([1.0]), g, (np.zeros(1),), np.ones(1), optimizer.scalars(1, 0.1))
    assert s[0].tolist() == [4.5]
    assert theta.tolist() == [1.0 - 0.1 * (3.0 / math.sqrt(4.75))]


def test_epsilon_hat_is_added_before_the_bias_correction() -> None:
    """The expected values are from the formula at the end of section 2 of the paper, for gradients near epsilon."""
    adam, expected, m, v = dn.Adam(0.1, epsilon=1e-3, epsilon_hat=True), 1.0, 0.0, 0.0
    slots: tuple[Any, ...] = (np.zeros(1), np.zeros(1))
    theta: Any = np.array([1.0])
    for t, g in enumerate([1e-3, -2e-3, 5e-4], start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        expected -= 0.1 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (math.sqrt(v) + 1e-3)
        ops = dn.get_backend("numpy").ops
        theta, slots = adam.update(ops, theta, np.array([g]), slots, np.ones(1), adam.scalars(t, 0.1))
        assert theta[0] == pytest.approx(expected, rel=1e-13)
    scalars = adam.scalars(np.arange(1, 4), np.full(3, 0.1))
    assert np.broadcast_to(scalars["epsilon"], 3).tolist() == [adam.scalars(t, 0.1)["epsilon"] for t in (1, 2, 3)]


VARIANTS = ("epsilon_inside", "epsilon_hat", "decay_biases")


@pytest.mark.parametrize(
    "optimizer", [dn.RMSProp(epsilon_inside=True), dn.Adam(epsilon_hat=True), dn.AdamW(decay_biases=True)], ids=repr
)
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_backends_do_not_ignore_variants_of_optimizers(optimizer: dn.Optimizer, backend: str) -> None:
    """A backend computes the variant or leaves it to the eager Program, but never uses the kernel of the default."""
    if backend == "numba":
        pytest.importorskip("numba", reason="the Numba backend needs deepnotes[numba]")
    settings = {"optimizer": optimizer, "epochs": 3, "shuffle": False, "clip_norm": 0.5, "l2": 0.01}
    default = replace(optimizer, **{name: False for name in VARIANTS if hasattr(optimizer, name)})  # type: ignore[type-var]
    parameters = []
    for backend_or_name, variant in ((backend, optimizer), (dn.Backend("eager", np), optimizer), (backend, default)):
        net = dn.Network(layers("tanh"), inputs=5, seed=3, dtype="float64", backend=backend_or_name)
        net.fit(STORED["X"], STORED["labels"], **settings | {"optimizer": variant})
        parameters.append(net.flat())
    compiled, eager, other = parameters
    assert relative_error(compiled, eager) < TOLERANCE < relative_error(compiled, other)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("dialect", ["keras", "sklearn"])
def test_momentum_with_a_changing_rate_follows_the_dialect(dialect: str, nesterov: bool, backend: str) -> None:
    """``v = m v - rate g``, ``w += v`` (Nesterov: ``w += m v - rate g``): each gradient keeps its own learning rate."""
    if backend == "numba":
        pytest.importorskip("numba", reason="the Numba backend needs deepnotes[numba]")
    X = np.random.default_rng(0).normal(size=(3, 12))
    target = X.sum(axis=0)
    schedule = dn.ExponentialDecay(0.5, every=1, factor=0.8)
    with dn.defaults(dialect):
        optimizer = dn.SGD(schedule, 0.9, nesterov)
        net = dn.Network([dn.Dense(1)], 3, backend=backend, dtype="float64", seed=0)
    reference = dn.Network([dn.Dense(1)], 3, backend="numpy", dtype="float64", theta=net.flat())
    v = np.zeros(4)
    for step in range(40):
        gradients = reference.gradients(X, target)
        g = np.concatenate([np.ravel(gradients["W1"]), np.ravel(gradients["b1"])])
        rate = schedule(step)
        v = 0.9 * v - rate * g
        reference.set_flat(reference.flat() + (0.9 * v - rate * g if nesterov else v))
    net.fit(X, target, optimizer=optimizer, epochs=40, batch_size=12, shuffle=False)
    np.testing.assert_allclose(net.flat(), reference.flat(), rtol=1e-10)
    plain = dn.Network([dn.Dense(1)], 3, dtype="float64", seed=0)
    plain.fit(X, target, optimizer=dn.SGD(schedule, 0.9, nesterov), epochs=40, batch_size=12, shuffle=False)
    assert abs(plain.flat() - net.flat()).max() > 1e-3
