"""Losses whose outputs describe a distribution of the targets: quantiles, or a mean and a variance."""

from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_device import backend as cupy_backend
from literature_cases import DATA, by_name

import deepnotes as dn
from deepnotes.nn import formulas
from deepnotes.testing.parts import check_part

with np.load(Path(__file__).parents[1] / "fixtures" / "uncertainty.npz") as file:
    STORED = dict(file)

BACKENDS: dict[str, Any] = {"numpy": lambda: "numpy", "numba": lambda: "numba", "cupy": cupy_backend}
PROGRAMS = {"numpy": "NumpyProgram", "numba": "NumbaProgram", "cupy": "CupyProgram"}
CASES: dict[str, tuple[dn.LossFunction, int, int]] = {
    "quantiles": (dn.QuantileLoss([0.05, 0.5, 0.95]), 1, 3),
    "quantiles_2_targets": (dn.QuantileLoss([0.2, 0.9]), 2, 4),
    "gaussian_nll": (dn.GaussianNLL(), 1, 2),
    "gaussian_nll_2_targets": (dn.GaussianNLL(), 2, 4),
}
"""The loss, the number of targets, and the number of outputs."""
QUANTILES = CASES["quantiles"][0]
OPS = dn.Ops(np, {})
X = DATA["X"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_training_matches_that_of_pytorch(name: str, backend: str) -> None:
    loss, targets, outputs = CASES[name]
    layers = [dn.Dense(7, "tanh"), dn.Dense(outputs)]
    net = dn.Network(layers, inputs=5, backend=BACKENDS[backend](), dtype="float64", seed=0)
    net.parameters.update(by_name(net, STORED[f"{name}/start"]))
    losses = []
    for step in range(50):
        batch = slice(step * 8 % 40, step * 8 % 40 + 8)
        Y = DATA["real"][:targets, batch]
        losses.append(net.partial_fit(X[:, batch], Y, loss=loss, optimizer=dn.Adam(0.01)))
    np.testing.assert_allclose(losses, STORED[f"{name}/losses"], rtol=1e-10)
    # A formula of several means and variances would pair rows, which an expression cannot.
    eager = "SectionedProgram" if backend == "cupy" else "EagerProgram"
    program = eager if name == "gaussian_nll_2_targets" else PROGRAMS[backend]
    assert type(net._training[1]).__name__ == program  # type: ignore[index]
    for key, wanted in by_name(net, STORED[f"{name}/parameters"]).items():
        found = net.backend.to_numpy(net.parameters[key])
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 * abs(wanted).max())


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("loss", [QUANTILES, dn.GaussianNLL(0.01)], ids=str)
def test_every_backend_is_within_the_error_bounds_of_the_formula(loss: dn.LossFunction, backend: str) -> None:
    report = check_part(loss, [backend])
    assert report.passed, report


@pytest.mark.parametrize("loss", [QUANTILES, dn.GaussianNLL()], ids=str)
def test_the_derivative_is_that_of_the_loss(loss: dn.LossFunction) -> None:
    assert dn.check(loss).largest_error < 1e-6


def test_the_quantile_loss_is_the_mean_of_pinball_losses() -> None:
    loss = dn.QuantileLoss((0.1, 0.7))
    A, Y = np.random.default_rng(0).normal(size=(2, 4, 6))
    Y[2:] = Y[:2]
    pinballs = [dn.Loss("pinball", quantile=q).value(OPS, A[i : i + 2], Y[:2]) for i, q in ((0, 0.1), (2, 0.7))]
    np.testing.assert_allclose(loss.value(OPS, A, Y), (pinballs[0] + pinballs[1]) / 2, rtol=1e-14)


def test_the_gaussian_nll_by_hand() -> None:
    A, Y = np.array([[1.0], [log(4.0)]]), np.array([[4.0], [4.0]])
    np.testing.assert_allclose(dn.GaussianNLL().value(OPS, A, Y), [[(log(4.0) + 9 / 4) / 2]], rtol=1e-15)
    np.testing.assert_allclose(dn.GaussianNLL().derivative(OPS, A, Y), [[-3 / 4], [(1 - 9 / 4) / 2]], rtol=1e-15)


def test_the_gaussian_nll_of_tiny_variances_is_that_of_epsilon() -> None:
    loss, A, Y = dn.GaussianNLL(0.01), np.array([[0.0], [-1000.0]]), np.full((2, 1), 0.1)
    np.testing.assert_allclose(loss.value(OPS, A, Y), [[(log(0.01) + 1) / 2]], rtol=1e-14)
    np.testing.assert_allclose(loss.derivative(OPS, A, Y), [[-10.0], [0.0]], atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["quantiles", "quantiles_2_targets", "gaussian_nll"])
def test_the_traced_losses_compute_the_same_numbers(name: str, dtype: str) -> None:
    loss, _, outputs = CASES[name]
    A, Y = np.random.default_rng(0).normal(size=(2, outputs, 9)).astype(dtype)
    L, dA = formulas.loss_and_derivative(loss, dtype, outputs)(np, A, Y)
    np.testing.assert_array_equal(L, loss.value(OPS, A, Y))
    np.testing.assert_array_equal(dA, loss.derivative(OPS, A, Y))
    derived = formulas.loss_derivative(loss, dtype, outputs)(np, A, Y)[0]
    np.testing.assert_allclose(derived, dA, rtol=1e-5 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize(
    ("quantiles", "expected"),
    [
        ([0.05, 0.5, 0.95], 1.0),
        ([0.1, 0.3, 0.9], 1.0 + 0.2 / 0.6),
        ([0.6, 0.8], 0.0),
        ([0.1, 0.2], 1.0),
        ([0.5], 0.0),
    ],
)
def test_the_point_prediction_is_the_median(quantiles: list[float], expected: float) -> None:
    A = np.arange(len(quantiles))[:, None] * np.ones((1, 4))
    np.testing.assert_allclose(dn.QuantileLoss(quantiles).point_prediction(A), np.full((1, 4), expected))


@pytest.mark.parametrize(("name", "row"), [("quantiles", 1), ("gaussian_nll", 0)])
def test_metrics_compare_the_point_prediction(name: str, row: int) -> None:
    loss, _, outputs = CASES[name]
    net = dn.Network([dn.Dense(outputs)], inputs=5, backend="numpy", dtype="float64", seed=0)
    Y = DATA["real"][:1]
    found = net.evaluate(X, Y, loss=loss, metrics=["mean_absolute_error", "r2"])
    assert found["mean_absolute_error"] == pytest.approx(abs(net.predict(X)[row] - Y).mean(), rel=1e-12)
    history = net.fit(X, Y, loss=loss, epochs=1, metrics="r2")
    assert history.metrics["r2"] == [pytest.approx(net.evaluate(X, Y, loss=loss, metrics="r2")["r2"])]
    pair = dn.Ensemble([net, dn.Network([dn.Dense(outputs)], inputs=5, backend="numpy", dtype="float64", seed=1)])
    found = pair.evaluate(X, Y, loss=loss, metrics="mean_absolute_error")
    assert found["mean_absolute_error"] == pytest.approx(abs(pair.predict(X)[row] - Y).mean(), rel=1e-12)


def test_targets_of_one_output_each_have_shape_m_too() -> None:
    nets = [dn.Network([dn.Dense(2)], inputs=5, backend="numpy", seed=0) for _ in range(2)]
    for net, Y in zip(nets, (DATA["real"][:1], DATA["real"][0]), strict=True):
        net.fit(X, Y, loss=dn.GaussianNLL(), epochs=2)
    np.testing.assert_array_equal(nets[0].flat(), nets[1].flat())


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "message"),
    [
        (
            QUANTILES,
            4,
            1,
            "'quantile_loss' needs 3 outputs for each target, but the last layer has 4: use Dense(3) for",
        ),
        (QUANTILES, 3, 3, "Y has shape (3, 37), wanted (1, 37): 1 target, 37 samples"),
        (dn.GaussianNLL(), 4, 1, "Y has shape (1, 37), wanted (2, 37): 2 targets, 37 samples"),
    ],
)
def test_wrong_shapes_are_refused(loss: dn.LossFunction, outputs: int, targets: int, message: str) -> None:
    net = dn.Network([dn.Dense(outputs)], inputs=5, backend="numpy", seed=0)
    before = net.flat()
    with pytest.raises((dn.ArgumentError, dn.ShapeError)) as error:
        net.fit(X, DATA["real"][:targets], loss=loss)
    assert message in str(error.value)
    np.testing.assert_array_equal(net.flat(), before)


def test_a_log_variance_needs_outputs_that_can_be_any_number() -> None:
    net = dn.Network([dn.Dense(2, "softplus")], inputs=5, backend="numpy", seed=0)
    with pytest.raises(
        dn.ArgumentError, match=r"'gaussian_nll' needs outputs in the range 'real'.*'positive': use none"
    ):
        net.fit(X, DATA["real"][:1], loss=dn.GaussianNLL())


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: dn.QuantileLoss([]), "quantiles=[], wanted a list of numbers between 0 and 1"),
        (lambda: dn.QuantileLoss("0.5"), "quantiles='0.5', wanted a list"),
        (lambda: dn.QuantileLoss(0.5), "quantiles=0.5, wanted a list"),
        (lambda: dn.QuantileLoss([0.5, 1.0]), "quantiles[1]=1.0, wanted above 0 and less than 1"),
        (lambda: dn.QuantileLoss([0.5, 0.5]), "quantiles[1]=0.5, wanted more than quantiles[0]=0.5"),
        (lambda: dn.GaussianNLL(0.0), "epsilon=0.0, wanted a finite number above 0"),
    ],
)
def test_bad_settings_are_refused(create: Any, message: str) -> None:
    with pytest.raises(dn.ArgumentError) as error:
        create()
    assert message in str(error.value)


@pytest.mark.parametrize("name", CASES)
def test_training_is_resumed_from_a_checkpoint(name: str, tmp_path: Path) -> None:
    loss, targets, outputs = CASES[name]
    nets = [dn.Network([dn.Dense(outputs)], inputs=5, backend="numpy", seed=0) for _ in range(3)]
    settings: dict[str, Any] = {"loss": loss, "checkpoint": tmp_path, "every": 1}
    nets[0].fit(X, DATA["real"][:targets], loss=loss, epochs=4)
    nets[1].fit(X, DATA["real"][:targets], epochs=2, **settings)
    nets[2].fit(X, DATA["real"][:targets], epochs=4, resume=True, **settings)
    np.testing.assert_array_equal(nets[2].flat(), nets[0].flat())
    other = dn.GaussianNLL(0.1) if outputs == 2 * targets else dn.QuantileLoss([0.3, 0.6, 0.7])
    with pytest.raises(dn.CheckpointError, match="loss was"):
        nets[2].fit(X, DATA["real"][:targets], epochs=6, resume=True, **(settings | {"loss": other}))


def test_a_trace_says_that_the_targets_are_repeated() -> None:
    net = dn.Network([dn.Dense(2)], inputs=5, backend="numpy", seed=0)
    page = str(net.trace(X, DATA["real"][:1], loss=dn.GaussianNLL()))
    assert "Y has the targets 2 times, one for each output" in page


def test_the_predicted_distribution_is_that_of_the_targets() -> None:
    """Of targets whose standard deviation is 0.1 + 0.4 x, about 90% are in an interval of 90%, everywhere."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(1, 3000))
    y = x + (0.1 + 0.4 * x) * rng.normal(size=x.shape)
    nets = {k: dn.Network([dn.Dense(16, "tanh"), dn.Dense(k)], inputs=1, backend="numpy", seed=0) for k in (2, 3)}
    nets[2].fit(x, y, loss=dn.GaussianNLL(), optimizer=dn.Adam(0.01), epochs=30)
    nets[3].fit(x, y, loss=QUANTILES, optimizer=dn.Adam(0.01), epochs=30)
    mean, log_variance = nets[2].predict(x)
    lower, median, upper = nets[3].predict(x)
    assert abs(np.exp(log_variance / 2) - (0.1 + 0.4 * x[0])).max() < 0.05
    for part in (x[0] < 0.3, x[0] > 0.7):
        inside = abs(y[0] - mean) < 1.645 * np.exp(log_variance / 2)
        assert inside[part].mean() == pytest.approx(0.9, abs=0.04)
        assert ((lower < y[0]) & (y[0] < upper))[part].mean() == pytest.approx(0.9, abs=0.04)
    assert (y[0] < median).mean() == pytest.approx(0.5, abs=0.1)


@dataclass(frozen=True)
class Laplace(dn.LossFunction):
    """The negative log-likelihood of a Laplace distribution, from its location and the logarithm of its scale."""

    outputs_per_target = 2
    name = "laplace"

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        return A[1:2] + abs(A[:1] - Y[:1]) * ops.xp.exp(-A[1:, :])


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_loss_of_ones_own_may_read_rows(backend: str) -> None:
    """Its derivative is derived, and backends compile it."""
    assert dn.check(Laplace()).kinks == (0.0,)
    net = dn.Network([dn.Dense(4, "tanh"), dn.Dense(2)], inputs=5, backend=backend, dtype="float64", seed=0)
    assert dn.check_gradients(net, X, DATA["real"][:1], loss=Laplace()).passed
    net.fit(X, DATA["real"][:1], loss=Laplace(), epochs=1)
    assert type(net._training[1]).__name__ == PROGRAMS[backend]  # type: ignore[index]
    A, Y = np.array([[2.0], [0.5]]), np.full((2, 1), 3.0)
    np.testing.assert_allclose(Laplace().value(OPS, A, Y), [[0.5 + exp(-0.5)]])
