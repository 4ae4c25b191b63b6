"""Kernels that the Numba backend generates from expressions: how they train, and when they are compiled."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import literature
import numpy as np
import pytest
from part_networks import PARTS, UNITS, make_data, make_network

import deepnotes as dn
from deepnotes.backends import ACTIVATIONS, LOSSES, Batches, Data, EagerProgram, State
from deepnotes.testing import check_part
from deepnotes.testing.own_parts import OWN_PARTS

pytest.importorskip("numba", reason='the extra "numba" is not installed')

from deepnotes_numba import generated, kernels
from deepnotes_numba.program import NumbaProgram


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_generated_kernels_train_and_predict_like_the_equations(part: Any, dtype: str) -> None:
    X, Y = make_data(part)
    networks = []
    for backend in ("numba", dn.Backend("eager", np)):
        net, settings = make_network(part, dtype, backend)
        history = net.fit(X, Y, epochs=3, batch_size=16, shuffle=False, **settings)
        networks.append((net, history.loss, net.evaluate(X, Y, loss=settings["loss"])["loss"]))
    (ours, loss, evaluated), (reference, expected_loss, expected) = networks
    assert type(ours._training[1]) is NumbaProgram  # type: ignore[index]
    tolerance = 2e4 * UNITS[dtype]
    np.testing.assert_allclose(loss, expected_loss, rtol=tolerance)
    assert evaluated == pytest.approx(expected, rel=tolerance)
    if isinstance(part, literature.Lion | literature.SignSGD):  # a rounding may change the sign of a gradient near 0
        return
    np.testing.assert_allclose(ours.flat(), reference.flat(), rtol=0, atol=tolerance)
    np.testing.assert_allclose(ours.predict(X[:, :1]), reference.predict(X[:, :1]), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "part", [literature.Mish(), literature.LogSoftmax(), literature.LogCosh(), literature.AMSGrad()]
)
def test_any_number_of_threads_gives_the_same_bits(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepnotes_numba import thread_count

    monkeypatch.setattr(thread_count, "WORK_PER_THREAD", 1)
    monkeypatch.setattr(thread_count, "WORK_PER_START", 1)
    X, Y = make_data(part, 200)
    results = []
    for threads in (1, 2, 3):
        for rows in (False, True):
            monkeypatch.setattr(thread_count, "rows_move_less_data", lambda *_, rows=rows: rows)
            net, settings = make_network(part, "float64", dn.get_backend("numba", threads=threads), hidden=40)
            net.fit(X, Y, epochs=2, batch_size=64, **settings)
            results.append((net.flat(), net.predict(X)))
    for flat, predictions in results[1:]:
        np.testing.assert_array_equal(flat, results[0][0])
        np.testing.assert_array_equal(predictions, results[0][1])


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        (literature.SoftShrink(0.4), {"width": 0.7}),
        (literature.Lion(0.01), {"beta1": 0.8, "beta2": 0.95}),
        (literature.AMSGrad(0.01), {"epsilon": 1e-4, "beta2": 0.6}),
    ],
)
def test_other_values_of_options_need_no_compilation(part: Any, changed: dict[str, float]) -> None:
    X, Y = make_data(part)
    results = []
    for value in (part, replace(part, **changed)):
        net, settings = make_network(value, "float64", "numba")
        before = generated._compile.cache_info().misses
        net.fit(X, Y, epochs=2, **settings)
        results.append((generated._compile.cache_info().misses - before, net.flat()))
    assert results[1][0] == 0
    assert not np.array_equal(results[0][1], results[1][1])


NOT_FINITE = np.array([[0.0, -0.0, np.nan, np.inf, -np.inf, 1e300, -1e300, 1e-300]])


@pytest.mark.parametrize("part", literature.ACTIVATIONS, ids=lambda part: type(part).__name__)
def test_special_values_pass_through_generated_kernels_as_through_the_equations(part: Any) -> None:
    layers = [dn.Dense(1, part)]
    nets = [dn.Network(layers, 1, seed=0, dtype="float64", backend=name) for name in ("numba", "numpy")]
    for net in nets:
        net.parameters["W1"], net.parameters["b1"] = np.ones((1, 1)), np.zeros((1, 1))
    theta = nets[0].theta
    with np.errstate(all="ignore"):
        found, expected = (net.inference.predict(theta, NOT_FINITE) for net in nets)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def forget_kernels() -> None:
    """Generate all kernels anew when they are needed next."""
    functions: list[Any] = [kernels.activation_kernels, kernels.loss_kernel, kernels.update_kernel]
    for function in functions:
        function.cache_clear()


@pytest.mark.parametrize(
    ("operation", "fault", "part"),
    [
        ("minimum", generated.OPERATIONS["maximum"], "hard_swish"),
        ("where", "where({0}, {2}, {1})", "soft_shrink"),
        ("sqrt", "{}", "nesterov_adam"),
    ],
)
def test_a_wrong_operation_in_generated_code_is_found(
    operation: str, fault: str, part: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    assert check_part(OWN_PARTS[part], ["numba"]).passed
    monkeypatch.setitem(generated.OPERATIONS, operation, fault)
    request.addfinalizer(forget_kernels)
    forget_kernels()
    report = check_part(OWN_PARTS[part], [dn.get_backend("numba", threads=1)])
    assert [result.verdict for result in report.results] == ["failed", "failed"]
    assert "wanted" in report.results[0].message


def test_a_condition_on_a_sample_is_joined_with_one_on_its_outputs() -> None:
    @dataclass(frozen=True)
    class Masked(dn.ActivationFunction):
        def forward(self, ops: Any, Z: Any) -> Any:
            total = ops.xp.sum(Z, axis=0, keepdims=True)
            return ops.xp.astype((total > 0) & (Z > 0), Z.dtype) * Z

    X, _ = make_data(None)
    found, expected = (
        dn.Network([dn.Dense(5, Masked())], X.shape[0], seed=0, backend=name).predict(X) for name in ("numba", "numpy")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_conditions_on_numbers_select_and_multiply() -> None:
    @dataclass(frozen=True)
    class Chosen(dn.ActivationFunction):
        few: bool

        def forward(self, ops: Any, Z: Any) -> Any:
            xp = ops.xp
            outputs = xp.asarray(Z.shape[0] * 1.0, dtype=Z.dtype)
            condition = outputs < 4.0 if self.few else outputs > 4.0
            return Z * xp.astype(condition, Z.dtype) + xp.where(condition & (Z > 0), Z, 3.0 * Z)

    X, _ = make_data(None)
    for few in (False, True):
        found, expected = (
            dn.Network([dn.Dense(5, Chosen(few))], X.shape[0], seed=0, backend=name).predict(X)
            for name in ("numba", "numpy")
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_condition_on_a_scalar_of_an_optimizer() -> None:
    @dataclass(frozen=True)
    class Stepwise(literature._Own):
        def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
            fast = ops.xp.astype(ops.xp.asarray(scalars["rate"]) > 0.05, theta.dtype)
            return theta - scalars["rate"] * g * fast, ()

    X, Y = make_data(None)
    for rate in (0.1, 0.01):
        flats = []
        for backend in ("numba", "numpy"):
            net, settings = make_network(Stepwise(rate), "float64", backend)
            net.fit(X, Y, epochs=2, **settings)
            flats.append(net.flat())
        np.testing.assert_allclose(*flats, rtol=1e-10)


def test_constants_0_and_minus_0_have_kernels_of_their_own() -> None:
    @dataclass(frozen=True)
    class Inverse(dn.ActivationFunction):
        def forward(self, ops: Any, Z: Any) -> Any:
            return 1 / ops.xp.where(Z > 1e9, Z, 0.0)

    @dataclass(frozen=True)
    class Negative(dn.ActivationFunction):
        def forward(self, ops: Any, Z: Any) -> Any:
            return 1 / ops.xp.where(Z > 1e9, Z, -0.0)

    for g, expected in ((Inverse(), np.inf), (Negative(), -np.inf)):
        net = dn.Network([dn.Dense(1, g)], 2, seed=0, backend="numba")
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(net.inference.predict(net.theta, np.ones((2, 3), np.float32)), expected)


def test_one_loss_for_all_samples_is_refused() -> None:
    @dataclass(frozen=True)
    class OnlySlope(dn.LossFunction):
        def value(self, ops: Any, A: Any, Y: Any) -> Any:
            return ops.xp.asarray(0.0, dtype=A.dtype)

        def derivative(self, ops: Any, A: Any, Y: Any) -> Any:
            return A - Y

    for backend in ("numba", "numpy"):
        net = dn.Network([dn.Dense(3)], 2, seed=0, backend=backend)
        with pytest.raises(dn.ShapeError, match=r"OnlySlope.value returned shape \(\), wanted \(1, 8\)"):
            net.fit(np.ones((2, 8)), np.ones((3, 8)), loss=OnlySlope())


def test_an_activation_whose_forward_is_no_formula_runs_eagerly() -> None:
    @dataclass(frozen=True)
    class Sorted(dn.ActivationFunction):
        def forward(self, ops: Any, Z: Any) -> Any:
            return np.sort(Z, axis=0)

        def backward(self, ops: Any, dA: Any, Z: Any, A: Any) -> Any:
            return dA

    net, settings = make_network(Sorted(), "float64", "numba")
    net.fit(*make_data(None), epochs=1, **settings)
    assert type(net._training[1]) is EagerProgram  # type: ignore[index]


def test_a_part_that_may_change_runs_eagerly() -> None:
    class Scaled(dn.ActivationFunction):
        def __init__(self, slope: float) -> None:
            self.slope = slope

        def forward(self, ops: Any, Z: Any) -> Any:
            return self.slope * Z

    net, settings = make_network(Scaled(2.0), "float64", "numba")
    net.fit(*make_data(None), epochs=1, **settings)
    assert type(net._training[1]) is EagerProgram  # type: ignore[index]


def test_an_optimizer_whose_scalars_need_single_steps_is_compiled() -> None:
    """Its ``scalars`` branch on the step, and so cannot be computed for many updates at once."""

    @dataclass(frozen=True)
    class WarmUp(literature._Own):
        def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
            return {"rate": rate * (0.1 if step < 4 else 1.0)}

        def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
            return theta - scalars["rate"] * g, ()

    X, Y = make_data(None)
    results = []
    for backend in ("numba", "numpy"):
        net, settings = make_network(WarmUp(0.1), "float64", backend)
        net.fit(X, Y, epochs=2, batch_size=16, shuffle=False, **settings)
        results.append(net.flat())
    np.testing.assert_allclose(*results, rtol=1e-10)


PROGRAM = """
import sys; sys.path.insert(0, {tests!r})
import numpy as np, deepnotes as dn, literature
net = dn.Network([dn.Dense(4, literature.Mish()), dn.Dense(1)], 2, backend="numba", seed=0)
net.fit(np.ones((2, 8)), np.ones((1, 8)), epochs=1)
from deepnotes_numba import generated
print(generated._compile.cache_info().misses, generated.KernelCache.compiled)
"""


@pytest.mark.slow
def test_a_second_process_loads_the_kernels_of_the_first(tmp_path: Path) -> None:
    program = PROGRAM.format(tests=str(Path(__file__).parents[1]))
    environment = os.environ | {"DEEPNOTES_CACHE_DIR": str(tmp_path)}
    counts = [
        subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=600
        ).stdout.split()
        for _ in range(2)
    ]
    assert counts == [["4", "4"], ["4", "0"]]  # the activation and its derivative, the loss, and the update


def test_batches_train_on_generated_kernels_up_to_an_update_that_is_not_finite() -> None:
    net, settings = make_network(literature.Mish(), "float64", "numba")
    X, Y = make_data(None)
    X[0, 20] = np.nan
    plan = net._plan(net._loss(settings["loss"]), settings["optimizer"], 0.0, None, False)
    program = net.backend.compile(plan)
    assert program is not None
    state = State(net.flat())
    chunk = program.train(state, Batches(Data(X, Y), np.arange(53), 16, np.full(4, 0.01)))
    assert chunk.steps == 1
    assert np.isfinite(state.theta).all()


# --- warming up -------------------------------------------------------------------------------------------------------


def library_networks() -> Iterator[tuple[list[dn.Layer], dict[str, Any]]]:
    """Yield networks and settings that use every activation, loss and optimizer of the library, with some options."""
    for name, activation in ACTIVATIONS.items():
        for options in ({}, dict.fromkeys(activation.options, 0.7)):
            g = dn.Activation(name, **options)
            last = dn.Dense(1, g)
            loss = "categorical_cross_entropy" if name == "softmax" else "mean_squared_error"
            yield [dn.Dense(3, g), last if name != "softmax" else dn.Dense(2, g)], {"loss": loss}
    for name, traits in LOSSES.items():
        for last_activation in {
            "softmax" if "softmax" in (traits.fused or ()) else "sigmoid",
            *(traits.fused or ())[:1],
        }:
            outputs = 2 if last_activation == "softmax" else 1
            yield [dn.Dense(outputs, last_activation)], {"loss": name}
    yield [dn.Dense(1)], {"loss": dn.Loss("huber", delta=1.5)}
    block = dn.Residual([dn.RMSNorm(0.1), dn.SwiGLU(5), dn.Dense(3)])
    layers = [
        dn.Dense(3, "relu"),
        dn.LayerNorm(),
        dn.PReLU(),
        dn.Noise(0.1),
        dn.GLU(3),
        block,
        dn.LayerNorm(),
        dn.Dense(1),
    ]
    yield layers, {"loss": "mean_squared_error"}
    for optimizer in (
        dn.SGD(), dn.SGD(momentum=0.8), dn.SGD(momentum=0.8, nesterov=True), dn.RMSProp(rho=0.8), dn.Adam(beta1=0.8),
        dn.RMSProp(epsilon_inside=True), dn.AdamW(), dn.AdamW(decay_biases=True), dn.Adam(epsilon_hat=True),
        dn.SGD(momentum=0.8, rate_in_velocity=True),
    ):  # fmt: skip
        yield [dn.Dense(1)], {"loss": "mean_squared_error", "optimizer": optimizer}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_after_a_warmup_nothing_is_compiled_for_the_parts_of_the_library(dtype: str) -> None:
    """Networks with a layer that cannot be traced run eagerly, with the same kernels."""

    class Reverse(dn.Layer):
        def forward(self, ops: Any, parameters: Any, A_prev: Any, context: Any) -> Any:
            return ops.xp.flip(A_prev, axis=0), None

        def backward(self, ops: Any, parameters: Any, cache: Any, dA: Any) -> Any:
            return ops.xp.flip(dA, axis=0), {}

    backend = dn.get_backend("numba")
    assert [item.split(",")[0] for item in backend.warmup([dtype])][:4] == [
        "activations",
        "layers",
        "losses",
        "updates",
    ]
    before = generated._compile.cache_info().misses
    rng = np.random.default_rng(0)
    for layers, settings in library_networks():
        outputs = layers[-1].units  # type: ignore[attr-defined]
        X, Y = 0.01 * rng.normal(size=(2, 20)), rng.random((outputs, 20))
        for first in ([], [Reverse()]):
            net = dn.Network([*first, *layers], inputs=2, backend=backend, dtype=dtype, seed=0)
            net.fit(X, Y / Y.sum(axis=0) if outputs > 1 else Y, epochs=1, **settings)
            net.predict(X)
        assert generated._compile.cache_info().misses == before, (layers, settings)
