"""Normalizations, trained slopes, gates and residual blocks: their names, training, files, traces and exports."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_device import backend as cupy_backend
from literature_cases import DATA, by_name

import deepnotes as dn
from deepnotes.network.formats import c_writing, containers, model_files, onnx_writing, python_writing
from deepnotes.network.formats.chain import Chain, Target
from deepnotes.network.formats.check_vectors import vectors_of, worst

with np.load(Path(__file__).parents[1] / "fixtures" / "layers.npz") as file:
    STORED = dict(file)

BACKENDS: dict[str, Any] = {"numpy": lambda: "numpy", "numba": lambda: "numba", "cupy": cupy_backend}
PROGRAMS = {"numpy": "NumpyProgram", "numba": "NumbaProgram", "cupy": "CupyProgram"}
NETWORKS: dict[str, list[dn.Layer]] = {
    "layer_norm": [dn.LayerNorm(), dn.Dense(7, "tanh"), dn.LayerNorm(0.01), dn.Dense(3)],
    "rms_norm": [dn.RMSNorm(), dn.Dense(7, "tanh"), dn.RMSNorm(0.01), dn.Dense(3)],
    "prelu": [dn.Dense(7), dn.PReLU(), dn.Dense(6), dn.PReLU(), dn.Dense(3)],
    "residual": [
        dn.Residual([dn.Dense(7, "tanh"), dn.Dense(5)]),
        dn.Dense(6, "silu"),
        dn.Residual([dn.LayerNorm(), dn.Dense(6, "relu"), dn.Residual([dn.Dense(6, "tanh")])]),
        dn.Dense(3),
    ],
    "glu": [dn.GLU(7), dn.Dense(3)],
    "swiglu": [dn.SwiGLU(7), dn.SwiGLU(3)],
}
X, Y = DATA["X"], DATA["real"]


def network(name: str, backend: Any = "numpy", dtype: str = "float64") -> dn.Network:
    net = dn.Network(NETWORKS[name], inputs=5, backend=backend, dtype=dtype, seed=0)
    net.parameters.update(by_name(net, STORED[f"{name}/start"]))
    return net


def all_kinds(dtype: str = "float64", **settings: Any) -> dn.Network:
    """Return a network with layers of each kind, whose parameters are not their initial values."""
    layers = [
        dn.RMSNorm(),
        dn.Noise(0.1),
        dn.Dense(6, "tanh"),
        dn.Residual([dn.LayerNorm(), dn.Residual([dn.SwiGLU(6)]), dn.Dropout(0.2), dn.Dense(6), dn.PReLU()]),
        dn.GLU(3),
    ]
    net = dn.Network(layers, inputs=5, dtype=dtype, seed=0, **settings)
    net.set_flat(net.flat() + np.random.default_rng(1).normal(0, 0.2, net.layout.size))
    return net


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_training_matches_that_of_pytorch(name: str, backend: str) -> None:
    net = network(name, BACKENDS[backend]())
    losses = []
    for step in range(50):
        batch = slice(step * 8 % 40, step * 8 % 40 + 8)
        losses.append(net.partial_fit(X[:, batch], Y[:, batch], optimizer=dn.Adam(0.01)))
    np.testing.assert_allclose(losses, STORED[f"{name}/losses"], rtol=1e-10)
    assert type(net._training[1]).__name__ == PROGRAMS[backend]  # type: ignore[index]
    for key, wanted in by_name(net, STORED[f"{name}/parameters"]).items():
        found = net.backend.to_numpy(net.parameters[key])
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 * abs(wanted).max())


def test_parameters_are_named_as_in_a_network_without_blocks() -> None:
    assert list(all_kinds(backend="numpy").parameters) == [
        "gamma1", "W2", "b2", "gamma3", "beta3", "W4", "b4", "W5", "b5", "alpha6", "W7", "b7",
    ]  # fmt: skip
    flat = dn.Network([dn.Dense(5, "tanh"), dn.Shortcut(1), dn.Dense(1)], inputs=5, backend="numpy", seed=0)
    block = dn.Network([dn.Residual([dn.Dense(5, "tanh")]), dn.Dense(1)], inputs=5, backend="numpy", seed=0)
    assert block.layers == flat.layers
    np.testing.assert_array_equal(block.flat(), flat.flat())


def test_only_weights_decay() -> None:
    entries = all_kinds(backend="numpy").layout.entries.values()
    assert {entry.key for entry in entries if entry.parameter.decays} == {"W"}


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_gradients_agree_with_central_differences(backend: str) -> None:
    report = dn.check_gradients(all_kinds(backend=backend), X, Y)
    assert report.passed, report


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numba_trains_wide_networks_as_the_equations_do(dtype: str, threads: int) -> None:
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(70, 1300)).astype(dtype), rng.normal(size=(3, 1300)).astype(dtype)
    layers = [
        dn.LayerNorm(), dn.Residual([dn.SwiGLU(67), dn.RMSNorm(), dn.Dense(70)]), dn.PReLU(), dn.Dense(3),
        dn.Residual([dn.Residual([dn.Dense(3)]), dn.PReLU()]),
    ]  # fmt: skip
    flats = []
    for backend in (dn.get_backend("numba", threads=threads), "numpy"):
        net = dn.Network(layers, inputs=70, backend=backend, dtype=dtype, seed=0)
        net.fit(X, Y, epochs=2, batch_size=600, optimizer=dn.SGD(0.05), l2=0.1, shuffle=False)
        flats.append(net.flat())
    np.testing.assert_allclose(*flats, rtol=0, atol=1e-4 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_predictions_for_one_sample_are_those_for_many(backend: str) -> None:
    net = all_kinds(backend=backend)
    together = net.predict(X)
    np.testing.assert_allclose(np.hstack([net.predict(X[:, [i]]) for i in range(37)]), together, rtol=1e-12, atol=1e-13)


def test_files_hold_all_kinds_of_layers(tmp_path: Path) -> None:
    net = all_kinds(backend="numpy")
    net.save(tmp_path / "net.dn")
    loaded = dn.load(tmp_path / "net.dn", backend="numpy")
    assert loaded.layers == net.layers
    np.testing.assert_array_equal(loaded.predict(X), net.predict(X))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_resumed_training_is_the_same(backend: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"optimizer": dn.Adam(0.01), "batch_size": 8, "checkpoint": tmp_path, "every": 1}
    whole, half, resumed = (all_kinds(backend=backend) for _ in range(3))
    whole.fit(X, Y, epochs=6, optimizer=dn.Adam(0.01), batch_size=8)
    half.fit(X, Y, epochs=3, **settings)
    resumed.fit(X, Y, epochs=6, resume=True, **settings)
    np.testing.assert_array_equal(resumed.flat(), whole.flat())


def test_a_file_with_an_impossible_residual_block_is_refused(tmp_path: Path) -> None:
    net = dn.Network([dn.Dense(5), dn.Dense(5), dn.Shortcut(1), dn.Dense(5)], inputs=5, backend="numpy", seed=0)
    header, tensors = model_files.content(net)
    header["network"]["layers"][2]["layers"] = 9
    containers.write(tmp_path / "net.dn", header, tensors)
    with pytest.raises(dn.ModelFileError, match=r"net\.dn: its header is invalid .*Shortcut\(9\)"):
        dn.load(tmp_path / "net.dn", backend="numpy")


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_the_trace_names_the_arrays(backend: str) -> None:
    layers = [dn.Dense(4, "tanh"), dn.Residual([dn.LayerNorm(), dn.Dense(4)]), dn.PReLU(), dn.Dense(6), dn.Gate("silu")]
    net = dn.Network(layers, inputs=5, backend=backend, dtype="float64", seed=0)
    trace = net.trace(X, Y)
    C, A1, A5 = trace["C2"], trace["A1"], trace["A5_gate"]
    np.testing.assert_allclose(C, A1 - A1.mean(axis=0), atol=1e-15)
    np.testing.assert_allclose(trace["r2"], 1 / np.sqrt((C * C).mean(axis=0, keepdims=True) + 1e-5), rtol=1e-12)
    np.testing.assert_allclose(trace["A2"], trace["gamma2"] * C * trace["r2"] + trace["beta2"], atol=1e-14)
    np.testing.assert_allclose(trace["A3_shortcut"], trace["A3"] + A1, atol=1e-15)
    np.testing.assert_allclose(trace["dbeta2"], trace["dA2"].mean(axis=1, keepdims=True), atol=1e-15)
    np.testing.assert_allclose(A5, net.predict(X), atol=1e-14)
    formulas = {event.name: event.formula for event in trace}
    assert formulas["A3_shortcut"] == "A3 + A1"
    assert formulas["A2"] == "gamma2 * C2 * r2 + beta2"
    assert formulas["dA1"].endswith("+ dA3_shortcut")
    assert formulas["dalpha4"] == "(1/m) Σ_samples dA4 * min(A3_shortcut, 0)"
    assert str(trace).startswith("One training step of a 5-4-4-6 network")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exports_compute_the_same_outputs(dtype: str) -> None:
    chains = [Chain.of(all_kinds(dtype, backend="numpy"))]
    for layers in (
        [dn.LayerNorm(), dn.Residual([dn.Residual([dn.Dense(5)]), dn.Dense(5)]), dn.PReLU()],
        [dn.RMSNorm()],
        [dn.Dense(6), dn.LayerNorm(), dn.Gate("softmax")],
    ):
        chains.append(Chain.of(dn.Network(layers, inputs=5, backend="numpy", dtype=dtype, seed=0), Target(2.0, 3.0)))
    for chain in chains:
        vectors = vectors_of(chain)
        outputs, _ = onnx_writing.run(onnx_writing.to_onnx(chain), vectors)
        assert worst(outputs, vectors) <= 1
        python_writing.check(python_writing.to_python(chain))
        for weights in ("exact", "int8"):
            c_writing.check(c_writing.to_c(chain, "model", weights))


def test_wrong_arguments_are_refused_before_a_network_exists() -> None:
    for layer in (dn.LayerNorm, dn.RMSNorm):
        with pytest.raises(dn.ArgumentError, match="epsilon"):
            layer(0)
    with pytest.raises(dn.ArgumentError, match="slope"):
        dn.PReLU(float("nan"))
    for layers in ([], None, [3]):
        with pytest.raises(dn.ArgumentError, match="layers"):
            dn.Residual(layers)
    with pytest.raises(dn.ArgumentError, match="units"):
        dn.GLU(0)
    with pytest.raises(dn.UnknownNameError, match="sigmoid"):
        dn.Gate("sigmiod")
    for wrong, message in (
        (dn.Residual([dn.Dense(4)]), "5 inputs and 4 outputs"),
        (dn.Shortcut(1), "only 0 layers"),
        (dn.Gate(), "an even number"),
    ):
        with pytest.raises(dn.ArgumentError, match=message):
            dn.Network([wrong, dn.Dense(3)], inputs=5, backend="numpy")


@dataclass(frozen=True)
class Scale(dn.Layer):
    """A user-defined layer by feature: one learned factor for each."""

    def parameters(self, inputs: int) -> dict[str, dn.Parameter]:
        return {"s": dn.Parameter((inputs, 1), lambda rng, shape: rng.uniform(0.5, 1.5, shape), decays=False)}

    def forward(self, ops: Any, parameters: Any, A_prev: Any, context: Any) -> tuple[Any, Any]:
        return parameters["s"] * A_prev, A_prev

    def backward(self, ops: Any, parameters: Any, cache: Any, dA: Any) -> tuple[Any, dict[str, Any]]:
        return parameters["s"] * dA, {"s": ops.bias_gradient(cache * dA)}


class Decaying(Scale):
    """The same, with weight decay, which layers by feature cannot have."""

    def parameters(self, inputs: int) -> dict[str, dn.Parameter]:
        return {name: parameter._replace(decays=True) for name, parameter in super().parameters(inputs).items()}


class Noisy(Scale):
    """The same, but it depends on the number of the update."""

    def forward(self, ops: Any, parameters: Any, A_prev: Any, context: Any) -> tuple[Any, Any]:
        return super().forward(ops, parameters, A_prev if context.step is None else 2 * A_prev, context)


class OwnSum(Scale):
    """The same, but its gradient is not a result of ``ops.bias_gradient``."""

    def backward(self, ops: Any, parameters: Any, cache: Any, dA: Any) -> tuple[Any, dict[str, Any]]:
        gradient = ops.xp.sum(cache * dA, axis=1, keepdims=True) / dA.shape[1]
        return parameters["s"] * dA, {"s": gradient}


@pytest.mark.parametrize(("kind", "compiled"), [(Scale, True), (Decaying, False), (Noisy, False), (OwnSum, False)])
def test_numba_compiles_user_defined_layers_by_feature(kind: type[Scale], compiled: bool) -> None:
    flats = []
    for backend in ("numba", "numpy"):
        net = dn.Network([dn.Dense(6, "tanh"), kind(), dn.Dense(3)], inputs=5, backend=backend, dtype="float64", seed=0)
        net.fit(X, Y, epochs=3, batch_size=8, l2=0.1)
        name = type(net._training[1]).__name__  # type: ignore[index]
        assert (name == {"numba": "NumbaProgram", "numpy": "NumpyProgram"}[backend]) == compiled
        flats.append(net.flat())
    np.testing.assert_allclose(*flats, rtol=0, atol=1e-13)
