"""Defaults of PyTorch, Keras and scikit-learn, against what these do: tests/fixtures/make_dialects.py ran them."""

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
"""Of an element of the parameters, relative to the largest one, after up to 30 updates: as in test_pytorch.py."""

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
others = pytest.mark.parametrize("dialect", ["torch", "keras", "sklearn"])


def layers(hidden: str) -> list[dn.Layer]:
    return [dn.Dense(7, hidden), dn.Dense(6, hidden), dn.Dense(3, "softmax")]


def trained(net: dn.Network, optimizer: Any, system: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the parameters, in the order W1, b1, W2, ..., after one update and after 30, from the fixture's start."""
    at = 0
    for name, parameter in net.parameters.items():
        shape = parameter.shape
        net.parameters[name] = STORED["start"][at : at + math.prod(shape)].reshape(shape)
        at += math.prod(shape)
    l2 = 1e-4 / 37 if system == "sklearn" else 0.0  # its alpha, by the number of samples
    found = []
    for _ in range(30):
        net.partial_fit(STORED["X"], STORED["labels"], optimizer=optimizer, l2=l2)
        found.append(np.concatenate([np.ravel(net.parameters[name]) for name in net.parameters]))
    return found[0], found[-1]


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(abs(found - wanted).max() / abs(wanted).max())


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@every_case
def test_a_training_by_default_is_that_of_the_system(name: str, backend: str) -> None:
    """The network is made under the dialect; the optimizer is only named to it, later."""
    if backend == "numba":
        pytest.importorskip("numba", reason="the Numba backend needs deepnotes[numba]")
    system, (hidden, optimizer) = name.partition("_")[0], CASES[name]
    with dn.defaults(system):
        net = dn.Network(layers(hidden), inputs=5, dtype="float64", backend=backend)
    for found, when in zip(trained(net, optimizer, system), ("first", "last"), strict=True):
        assert distance(found, STORED[f"{name}/{when}"]) < TOLERANCE


@every_case
def test_the_notes_defaults_give_another_training(name: str) -> None:
    """So the test above can fail."""
    system, (hidden, optimizer) = name.partition("_")[0], CASES[name]
    net = dn.Network(layers(hidden), inputs=5, dtype="float64")
    is_same = name == "torch_adam"  # PyTorch's Adam is the paper's, and so are the notes'
    _, last = trained(net, optimizer, system)
    assert (distance(last, STORED[f"{name}/last"]) < TOLERANCE) is is_same


@others
def test_settings_are_those_of_the_constructors(dialect: str) -> None:
    theirs = SETTINGS[dialect]
    assert {key: DIALECTS[dialect][key] for key in theirs} == theirs


def test_no_setting_is_left_out() -> None:
    for dialect, table in DIALECTS.items():
        assert table.keys() == NOTES.keys(), dialect
    of_optimizers = {key for key in NOTES if key[0].isupper() and not key.startswith("Dense")}
    fields = {
        f"{kind.__name__}.{field}"
        for kind in OPTIMIZERS.values()
        for field in kind.__annotations__  # its own, without those of its base
    }
    assert of_optimizers == fields


INITIAL = {  # of a layer from 300 to 200: the limits of W and of b, squared
    "torch_relu": (1 / 300, 1 / 300),
    "torch_sigmoid": (1 / 300, 1 / 300),
    "keras_relu": (6 / 500, 0),
    "keras_sigmoid": (6 / 500, 0),
    "sklearn_relu": (6 / 500, 6 / 500),
    "sklearn_sigmoid": (2 / 500, 2 / 500),
}


def is_uniform(greatest: float, mean_square: float, square: float, n: int) -> bool:
    """Return whether n draws look uniform within ±sqrt(square): as in test_optimizers.py."""
    if square == 0:
        return greatest == mean_square == 0
    limit, variance = math.sqrt(square), square / 3
    spread = 6 * variance * math.sqrt(0.8 / n)
    return limit * (1 - 40 / n) < greatest <= limit and abs(mean_square - variance) < spread


@pytest.mark.parametrize("name", INITIAL)
def test_weights_and_biases_start_as_the_systems_do(name: str) -> None:
    """Both theirs and ours lie within the limits of the formula, come close to them, and have its variance."""
    system, activation = name.split("_")
    with dn.defaults(system):
        # scikit-learn goes by the activation of the hidden layers alone
        last = "identity" if system == "sklearn" else activation
        net = dn.Network([dn.Dense(300, activation), dn.Dense(200, last)], inputs=4, seed=0, dtype="float64")
    W, b = np.asarray(net.parameters["W2"]), np.asarray(net.parameters["b2"])
    ours = (abs(W).max(), (W**2).mean(), abs(b).max(), (b**2).mean())
    for found in (ours, STORED[f"initial/{name}"]):
        assert is_uniform(found[0], found[1], INITIAL[name][0], 60_000)
        assert is_uniform(found[2], found[3], INITIAL[name][1], 200)


def test_scikit_learn_goes_by_the_hidden_layers_even_for_a_sigmoid_output() -> None:
    with dn.defaults("sklearn"):
        one = dn.Network([dn.Dense(1, "sigmoid")], inputs=3)
        two = dn.Network([dn.Dense(4, "relu"), dn.Dropout(0.1), dn.Dense(1, "sigmoid")], inputs=3)
        three = dn.Network([dn.Dense(4, "sigmoid"), dn.Dense(2)], inputs=3)
    assert [layer.initializer for layer in (*one.layers, two.layers[0], two.layers[2])] == ["sklearn_uniform"] * 3
    assert [layer.bias_initializer for layer in three.layers] == ["sklearn_sigmoid_uniform"] * 2


def test_named_initializers_of_biases_have_the_variance_of_the_weights() -> None:
    net = dn.Network([dn.Dense(5_000, bias_initializer="lecun_normal")], inputs=16, seed=0, dtype="float64")
    assert np.var(net.parameters["b1"]) == pytest.approx(1 / 16, rel=6 * math.sqrt(2 / 5_000))  # six deviations
    with pytest.raises(dn.UnknownNameError, match="did you mean 'lecun_normal'"):
        dn.Dense(3, bias_initializer="lecun_norml")


@others
def test_what_is_said_wins(dialect: str) -> None:
    said = dn.Dense(3, dn.Activation("leaky_relu", slope=0.5), "he_normal", "zeros")
    optimizers = {
        "sgd": {"learning_rate": 0.5, "momentum": 0.0, "nesterov": False},
        "rmsprop": {"learning_rate": 0.5, "rho": 0.5, "epsilon": 0.5, "epsilon_inside": False},
        "adam": {"learning_rate": 0.5, "beta1": 0.5, "beta2": 0.5, "epsilon": 0.5, "epsilon_hat": False},
    }
    with dn.defaults(dialect):
        net = dn.Network([said], inputs=2)
        assert dn.Activation("leaky_relu", slope=0.5).options == (("slope", 0.5),)
        for name, options in optimizers.items():
            made = as_optimizer(name, **options)
            assert {key: getattr(made, key) for key in options} == options
        assert as_optimizer(dn.SGD(0.25, 0.5, nesterov=True)) == dn.SGD(0.25, 0.5, nesterov=True)
    assert net.layers == (said,)


def test_nesterov_without_momentum_is_an_error_only_where_it_is_said() -> None:
    with dn.defaults("sklearn"):
        assert dn.SGD().nesterov is True
        assert dn.SGD(momentum=0).nesterov is False
        with pytest.raises(dn.ArgumentError, match="nesterov=True needs momentum"):
            dn.SGD(momentum=0, nesterov=True)


def test_layers_and_activations_of_ones_own_keep_what_they_say() -> None:
    class Square(dn.ActivationFunction):
        initializer = "lecun_normal"

    class Mine(dn.Dense):
        pass

    with dn.defaults("torch"):
        net = dn.Network([Mine(3), dn.Dense(3, Square()), dn.Dropout(0.5)], inputs=2)
    assert type(net.layers[0]) is Mine
    assert [layer.initializer for layer in net.layers[:2]] == ["torch_uniform", None]
    assert net.layers[1].bias_initializer == "torch_uniform"


# Where a dialect is in force


def test_blocks_nest_and_end_with_an_error_too() -> None:
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


def test_making_a_preset_changes_nothing() -> None:
    usual = dn.RMSProp()
    preset = dn.defaults("torch")
    assert current_dialect() == "notes"
    assert dn.RMSProp() == usual
    with dn.defaults("keras"):
        dn.defaults("sklearn")
        assert current_dialect() == "keras"
        with preset:
            assert dn.RMSProp() == dn.RMSProp(0.01, rho=0.99, epsilon=1e-8) != usual
        assert current_dialect() == "keras"
    assert current_dialect() == "notes"


@pytest.mark.parametrize("name", ["pytorch", "", None, 3, ["torch"]])
def test_an_unknown_dialect_changes_nothing(name: Any) -> None:
    with pytest.raises(dn.UnknownNameError, match=r"unknown dialect .*known: keras, notes, sklearn, torch"):
        dn.defaults(name)
    assert current_dialect() == "notes"


def test_threads_do_not_hear_each_other() -> None:
    heard: dict[str, list[float]] = {"torch": [], "keras": [], "": []}
    together = threading.Barrier(3)

    def work(dialect: str) -> None:
        with dn.defaults(dialect) if dialect else nullcontext():
            together.wait(10)
            for _ in range(100):
                heard[dialect].append(dict(dn.Activation("leaky_relu").options)["slope"])

    with dn.defaults("sklearn"):
        threads = [threading.Thread(target=work, args=(dialect,)) for dialect in heard]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert current_dialect() == "sklearn"
    assert {dialect: set(slopes) for dialect, slopes in heard.items()} == {"torch": {0.01}, "keras": {0.2}, "": {0.001}}


def test_tasks_do_not_hear_each_other() -> None:
    async def work(dialect: str) -> list[float]:
        found = []
        with dn.defaults(dialect):
            for _ in range(5):
                await asyncio.sleep(0)
                found.append(dn.Adam().epsilon)
        return found

    async def both() -> list[list[float]]:
        return list(await asyncio.gather(work("keras"), work("torch")))

    assert asyncio.run(both()) == [[1e-7] * 5, [1e-8] * 5]
    assert current_dialect() == "notes"


# What a network remembers


@others
def test_a_network_says_and_keeps_its_dialect(dialect: str, tmp_path: Path) -> None:
    with dn.defaults(dialect):
        net = dn.Network(layers("leaky_relu"), inputs=5, seed=1)
    assert f", defaults of {dialect}" in net.summary()
    assert f"dialect={dialect!r}" in repr(net)
    path = tmp_path / "net.safetensors"
    net.save(path)
    with dn.defaults("notes" if dialect == "torch" else "torch"):
        loaded = dn.load(path)
        assert current_dialect() != dialect
    for like in (loaded, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert like.dialect == dialect
        assert like.layers == net.layers
        assert np.array_equal(like.flat(), net.flat())
        assert like.fit(STORED["X"], STORED["labels"], optimizer="rmsprop", epochs=2, shuffle=False).loss == (
            copy.deepcopy(net).fit(STORED["X"], STORED["labels"], optimizer="rmsprop", epochs=2, shuffle=False).loss
        )


def test_the_notes_are_not_mentioned_and_not_changed(tmp_path: Path) -> None:
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
        ({"dialect": "esperanto"}, "unknown defaults 'esperanto'"),
        ({"dialect": ["torch"]}, r"unknown defaults \['torch'\]"),
        ({"layers": [{"bias_initializer": "ones"}]}, "unknown initializer 'ones'"),
    ],
)
def test_files_that_name_what_is_not_there(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    header, tensors = content(dn.Network([dn.Dense(2)], inputs=3))
    layer = header["network"]["layers"][0]
    if "layers" in change:
        change = {"layers": [layer | change["layers"][0]]}
    header["network"] |= change
    containers.write(tmp_path / "net.safetensors", header, tensors)
    with pytest.raises(dn.ModelFileError, match=message):
        dn.load(tmp_path / "net.safetensors")


def test_a_file_from_before_there_were_dialects_is_read(tmp_path: Path) -> None:
    header, tensors = content(dn.Network([dn.Dense(2)], inputs=3))
    del header["network"]["dialect"], header["network"]["layers"][0]["bias_initializer"]
    containers.write(tmp_path / "net.safetensors", header, tensors)
    assert dn.load(tmp_path / "net.safetensors").dialect == "notes"


# The forms that are not the notes'


def test_epsilon_inside_the_root() -> None:
    g = np.array([3.0])
    optimizer, ops = dn.RMSProp(0.1, 0.5, 0.25, epsilon_inside=True), dn.get_backend("numpy").ops
    found, s = optimizer.update(ops, np.array([1.0]), g, (np.zeros(1),), np.ones(1), optimizer.scalars(1, 0.1))
    assert s[0].tolist() == [4.5]
    assert found.tolist() == [1.0 - 0.1 * (3.0 / math.sqrt(4.75))]


def test_epsilon_hat_is_added_before_the_correction() -> None:
    """Against the formula before section 2.1 of the paper, from a gradient so small that epsilon matters."""
    adam, theta, m, v = dn.Adam(0.1, epsilon=1e-3, epsilon_hat=True), 1.0, 0.0, 0.0
    state: tuple[Any, ...] = (np.zeros(1), np.zeros(1))
    found: Any = np.array([1.0])
    for t, g in enumerate([1e-3, -2e-3, 5e-4], start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        theta -= 0.1 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (math.sqrt(v) + 1e-3)
        ops = dn.get_backend("numpy").ops
        found, state = adam.update(ops, found, np.array([g]), state, np.ones(1), adam.scalars(t, 0.1))
        assert found[0] == pytest.approx(theta, rel=1e-13)
    many = adam.scalars(np.arange(1, 4), np.full(3, 0.1))
    assert np.broadcast_to(many["epsilon"], 3).tolist() == [adam.scalars(t, 0.1)["epsilon"] for t in (1, 2, 3)]


ODD = ("epsilon_inside", "epsilon_hat", "decay_biases")


@pytest.mark.parametrize(
    "optimizer", [dn.RMSProp(epsilon_inside=True), dn.Adam(epsilon_hat=True), dn.AdamW(decay_biases=True)], ids=repr
)
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_backends_that_compile_know_what_they_do_not_know(optimizer: dn.Optimizer, backend: str) -> None:
    """They compute it, or leave it to the eager Program; they never take it for the usual form."""
    if backend == "numba":
        pytest.importorskip("numba", reason="the Numba backend needs deepnotes[numba]")
    settings = {"optimizer": optimizer, "epochs": 3, "shuffle": False, "clip_norm": 0.5, "l2": 0.01}
    usual = replace(optimizer, **{name: False for name in ODD if hasattr(optimizer, name)})  # type: ignore[type-var]
    found = []
    for chosen, like in ((backend, optimizer), (dn.Backend("eager", np), optimizer), (backend, usual)):
        net = dn.Network(layers("tanh"), inputs=5, seed=3, dtype="float64", backend=chosen)
        net.fit(STORED["X"], STORED["labels"], **settings | {"optimizer": like})
        found.append(net.flat())
    assert distance(found[0], found[1]) < TOLERANCE < distance(found[0], found[2])
