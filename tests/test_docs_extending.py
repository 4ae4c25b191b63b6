"""The examples of docs/extending.md run on every backend and give the results stated there."""

import importlib.util
import pickle
import re
import sys
from collections.abc import Iterator
from math import cos, pi
from pathlib import Path
from types import ModuleType
from typing import Any

import array_api_strict
import numpy as np
import pytest

import deepnotes as dn
from deepnotes import nn
from deepnotes.testing import check_part, run

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")
BACKENDS = ["numpy", "numba", dn.Backend("strict", array_api_strict)]
on_each_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: getattr(backend, "name", backend))


def require_backend(backend: Any) -> Any:
    """Return the backend, or skip the test if it is not available."""
    if isinstance(backend, str) and backend not in dn.available_backends():
        pytest.skip(f"the backend {backend} is not available")
    return backend


def import_page(folder: Path) -> ModuleType:
    """Write the examples to a module, and run them by importing it."""
    path = folder / "extending_examples.py"
    path.write_text("\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("extending_examples", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["extending_examples"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return the module with the page's examples."""
    yield import_page(tmp_path_factory.mktemp("page"))
    del sys.modules["extending_examples"]


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(1).normal(size=(3, 24))
    return X, X[:2] * X[1:] + 0.5


def test_the_page_runs_on_numba(examples: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixture `examples` runs the page on NumPy."""
    monkeypatch.setitem(sys.modules, "extending_examples", examples)  # restored afterwards
    with dn.use_backend(require_backend("numba")):
        import_page(tmp_path)


def test_types_for_user_defined_classes_are_exported() -> None:
    for name in ("Context", "Ops", "Parameter"):
        assert getattr(dn, name) is getattr(nn, name)
        assert name in dn.__all__


def test_the_page_imports_only_public_packages_and_links_to_existing_files() -> None:
    imports = set(re.findall(r"^(?:from|import) ([\w.]+)", PAGE, flags=re.MULTILINE))
    assert {name for name in imports if name.startswith("deepnotes")} <= {
        "deepnotes", "deepnotes.nn", "deepnotes.backends", "deepnotes.testing",
    }  # fmt: skip
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGE):
        assert (Path(__file__).parent.parent / "docs" / target).exists(), target


def test_the_three_parts_of_the_first_section_have_ten_lines() -> None:
    section = PAGE.partition("in ten lines\n")[2].partition("\n## ")[0]
    parts = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)[0]
    assert len(parts.splitlines()) == 10
    assert re.findall(r"^class (\w+)", parts, flags=re.MULTILINE) == ["SoftSign", "LogCosh", "SignDescent"]


@pytest.mark.parametrize("part", ["SoftSign", "LogCosh", "SignDescent"])
@on_each_backend
def test_the_parts_of_ten_lines_are_within_bounds_and_train(backend: Any, part: str, examples: Any, data: Any) -> None:
    backend = require_backend(backend)
    report = check_part(getattr(examples, part)(), [backend])
    assert report.passed, str(report)
    net = dn.Network([dn.Dense(8, examples.SoftSign()), dn.Dense(2)], inputs=3, backend=backend, seed=0)
    history = net.fit(*data, loss=examples.LogCosh(), optimizer=examples.SignDescent(), epochs=30)
    assert history.loss[-1] < 0.9 * history.loss[0]


def numeric_gradient(net: dn.Network, name: str, X: Any, Y: Any, loss: Any, h: float = 1e-6) -> np.ndarray:
    """Return the gradient of the cost with respect to one parameter, by central differences."""
    start = np.array(net.backend.to_numpy(net.parameters[name]))
    gradient = np.empty_like(start)
    for i in np.ndindex(start.shape):
        costs = []
        for shift in (h, -h):
            shifted = start.copy()
            shifted[i] += shift
            net.parameters[name] = shifted
            costs.append(net.evaluate(X, Y, loss=loss)["loss"])
        gradient[i] = (costs[0] - costs[1]) / (2 * h)
    net.parameters[name] = start
    return gradient


@pytest.mark.parametrize("part", ["layer", "activation", "loss"])
@on_each_backend
def test_gradients_match_central_differences(part: str, backend: Any, examples: Any, data: Any) -> None:
    X, Y = data
    layers, loss = {
        "layer": ([dn.Dense(4, "tanh"), examples.LayerNorm(), dn.Dense(2)], None),
        "activation": ([dn.Dense(4, examples.Mish()), dn.Dense(2)], None),
        "loss": ([dn.Dense(4, "tanh"), dn.Dense(2)], examples.Quantile(0.8)),
    }[part]
    net = dn.Network(layers, inputs=3, backend=require_backend(backend), dtype="float64", seed=3)
    for name, gradient in net.gradients(X, Y, loss=loss).items():
        actual = net.backend.to_numpy(gradient)
        assert np.abs(actual).max() > 1e-3, name
        np.testing.assert_allclose(
            actual, numeric_gradient(net, name, X, Y, loss), rtol=1e-5, atol=1e-8, err_msg=f"{part}: {name}"
        )


def test_the_gradient_check_of_the_page_detects_a_wrong_gradient(examples: Any, data: Any) -> None:
    class Wrong(examples.Mish):
        def backward(self, ops: Any, dA: Any, Z: Any, A: Any) -> Any:
            return super().backward(ops, dA, Z, A) * 1.001

    net = dn.Network([dn.Dense(4, Wrong()), dn.Dense(2)], inputs=3, dtype="float64", seed=3)
    assert examples.gradient_error(net, *data) > 1e-5


@on_each_backend
def test_the_layer_activation_and_loss_compute_their_formulas(backend: Any, examples: Any, data: Any) -> None:
    X, Y = data
    net = dn.Network([examples.LayerNorm(0.0)], inputs=3, backend=require_backend(backend), dtype="float64")
    A = net.predict(X)
    np.testing.assert_allclose(A, (X - X.mean(axis=0)) / X.std(axis=0), rtol=1e-9)

    net = dn.Network([dn.Dense(3, examples.Mish())], inputs=3, backend=backend, dtype="float64")
    net.parameters["W1"] = np.eye(3)
    np.testing.assert_allclose(net.predict(X), X * np.tanh(np.log(1 + np.exp(X))), rtol=1e-12)

    net = dn.Network([dn.Dense(2)], inputs=3, backend=backend, dtype="float64", seed=0)
    E = Y - net.predict(X)
    expected = np.where(E > 0, 0.8 * E, -0.2 * E).mean()
    assert net.evaluate(X, Y, loss=examples.Quantile(0.8))["loss"] == pytest.approx(expected, rel=1e-12)


def test_minimizing_the_loss_gives_the_quantile(examples: Any) -> None:
    """For inputs of 0, only the bias is learned: nine tenths of the targets must lie below it."""
    y = np.random.default_rng(0).normal(size=(1, 2000))
    net = dn.Network([dn.Dense(1)], inputs=1, seed=0)
    net.fit(np.zeros_like(y), y, loss=examples.Quantile(0.9), optimizer=dn.Adam(0.05), epochs=150, batch_size=2000)
    assert float(np.mean(y < net.predict(np.zeros((1, 1))))) == pytest.approx(0.9, abs=0.01)


@on_each_backend
def test_the_optimizer_matches_a_loop_in_numpy(backend: Any, examples: Any, data: Any) -> None:
    """Both minimize the squared error with all samples in one batch, at the rates of the page's schedule."""
    X, Y = data
    net = dn.Network([dn.Dense(2)], inputs=3, backend=require_backend(backend), dtype="float64", seed=0)
    W, b = (np.array(net.backend.to_numpy(net.parameters[name])) for name in ("W1", "b1"))
    history = net.fit(
        X, Y, optimizer=examples.Lion(examples.WarmRestarts(0.05, every=4), weight_decay=0.1), epochs=11, batch_size=24
    )
    m_W, m_b, rates = np.zeros_like(W), np.zeros_like(b), []
    for step in range(11):
        rate = 0.05 * 0.5 * (1 + cos(pi * (step % 4) / 4))
        rates.append(rate)
        E = W @ X + b - Y
        g_W, g_b = E @ X.T / E.shape[1], E.mean(axis=1, keepdims=True)  # of E², averaged over the two outputs
        W = W - rate * (np.sign(0.9 * m_W + 0.1 * g_W) + 0.1 * W)
        b = b - rate * np.sign(0.9 * m_b + 0.1 * g_b)
        m_W, m_b = 0.99 * m_W + 0.01 * g_W, 0.99 * m_b + 0.01 * g_b
    assert history.learning_rate == pytest.approx(rates)
    np.testing.assert_allclose(net.backend.to_numpy(net.parameters["W1"]), W, rtol=1e-9)
    np.testing.assert_allclose(net.backend.to_numpy(net.parameters["b1"]), b, rtol=1e-9)


class ParameterRecorder(dn.Callback):
    """A callback that records the parameters after each epoch."""

    def on_start(self, training: Any) -> None:
        self.parameters: list[np.ndarray] = []

    def on_epoch(self, training: Any) -> None:
        self.parameters.append(training.network.flat())


@on_each_backend
def test_the_callback_averages_parameters_and_can_be_resumed(
    backend: Any, examples: Any, data: Any, tmp_path: Path
) -> None:
    def make_net() -> dn.Network:
        return dn.Network([dn.Dense(4, "tanh"), dn.Dense(2)], inputs=3, backend=backend, dtype="float64", seed=0)

    require_backend(backend)
    uninterrupted, recorder = make_net(), ParameterRecorder()
    uninterrupted.fit(*data, epochs=6, callbacks=[recorder, examples.Averaging(first=3)])
    np.testing.assert_allclose(uninterrupted.flat(), np.mean(recorder.parameters[2:], axis=0), rtol=1e-12)

    make_net().fit(*data, epochs=4, callbacks=[examples.Averaging(first=3)], checkpoint=tmp_path)
    resumed = make_net()
    resumed.fit(*data, epochs=6, callbacks=[examples.Averaging(first=3)], checkpoint=tmp_path, resume=True)
    np.testing.assert_array_equal(resumed.flat(), uninterrupted.flat())


def test_the_backend_computes_its_products_in_double_precision(examples: Any) -> None:
    rng = np.random.default_rng(0)
    W, X, b = (rng.normal(size=shape).astype(np.float32) for shape in ((1, 4000), (4000, 50), (1, 1)))
    exact = W.astype(np.float64) @ X.astype(np.float64) + b
    precise = examples.create()
    np.testing.assert_array_equal(precise.ops.linear(W, X, b), exact.astype(np.float32))
    assert np.any(dn.Backend("plain", np).ops.linear(W, X, b) != exact.astype(np.float32))
    report = run(precise, checks=["equations.linear", "transfers.*"], quick=True)
    assert report.passed, [result for result in report.results if result.verdict != "passed"]


def test_partial_fit_continues_if_the_loss_and_optimizer_are_equal(examples: Any, data: Any) -> None:
    shared, recreated = (dn.Network([dn.Dense(2)], inputs=3, seed=0) for _ in range(2))
    loss, optimizer = examples.Quantile(0.8), examples.Lion(0.01)
    for _ in range(3):
        shared.partial_fit(*data, loss=loss, optimizer=optimizer)
        recreated.partial_fit(*data, loss=examples.Quantile(0.8), optimizer=examples.Lion(0.01))
    np.testing.assert_array_equal(shared.flat(), recreated.flat())
    assert shared._training[2].step == recreated._training[2].step == 3  # type: ignore[index]


def test_user_defined_objects_are_compiled_and_saved_as_the_page_says(examples: Any, data: Any, tmp_path: Path) -> None:
    from deepnotes.backends import EagerInference, EagerProgram, RecordedProgram

    def make_net(*layers: dn.Layer) -> dn.Network:
        return dn.Network([*layers, dn.Dense(2)], inputs=3, seed=0, backend="numpy")

    class Numbered(examples.LayerNorm):
        def forward(self, ops: Any, parameters: Any, A_prev: Any, context: Any) -> Any:
            return super().forward(ops, parameters, context.layer * A_prev, context)

    numbered = make_net(Numbered())
    numbered.fit(*data, epochs=1)
    assert type(numbered._training[1]) is EagerProgram  # type: ignore[index]
    assert type(numbered.inference) is EagerInference

    layered = make_net(examples.LayerNorm())
    layered.fit(*data, epochs=1, checkpoint=tmp_path / "run")
    assert isinstance(layered._training[1], RecordedProgram)  # type: ignore[index]
    with pytest.raises(dn.ModelFileError, match="user-defined"):
        layered.save(tmp_path / "file")
    (checkpoint,) = (tmp_path / "run").glob("*.safetensors")
    with pytest.raises(dn.ModelFileError):
        dn.load(checkpoint)
    again = make_net(examples.LayerNorm())
    again.set_flat(layered.flat())
    for copy in (again, pickle.loads(pickle.dumps(layered))):
        np.testing.assert_array_equal(copy.predict(data[0]), layered.predict(data[0]))

    mish = make_net(dn.Dense(3, examples.Mish()))
    for format in ("onnx", "python"):
        with pytest.raises(dn.ModelFileError, match="user-defined"):
            getattr(layered, f"to_{format}")(tmp_path / "file")
        getattr(mish, f"to_{format}")(tmp_path / format)
    mish.save(tmp_path / "mish.safetensors")
    loaded = dn.load(tmp_path / "mish.safetensors", backend="numpy")
    assert isinstance(loaded.layers[0].g, nn.FormulaActivation)
    np.testing.assert_array_equal(loaded.predict(data[0]), mish.predict(data[0]))

    plain = make_net(dn.Dense(4, examples.Mish()))
    plain.fit(*data, epochs=1, loss=examples.Quantile(0.8), optimizer=examples.Lion(0.01))
    assert isinstance(plain._training[1], RecordedProgram)  # type: ignore[index]
    plain.fit(*data, epochs=1, optimizer=dn.Adam(examples.WarmRestarts(0.01, 5)), callbacks=[examples.Averaging()])
    assert type(plain._training[1]) is not EagerProgram  # type: ignore[index]


def test_predictions_are_compiled_after_training_with_a_user_defined_loss(examples: Any, data: Any) -> None:
    from deepnotes.backends import EagerInference

    net = dn.Network([dn.Dense(2)], inputs=3, backend=require_backend("numba"), seed=0)
    net.fit(*data, epochs=1, loss=examples.Quantile(0.8))
    assert type(net.inference) is not EagerInference
