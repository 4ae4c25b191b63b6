"""Calibration by temperature: the best temperature, the calibrated network, and what cannot be calibrated."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_device import backend as cupy_backend

import deepnotes as dn
from deepnotes.network.calibration import as_softmax, find_temperature

with np.load(Path(__file__).parents[1] / "fixtures" / "calibration.npz") as file:
    STORED = dict(file)

BACKENDS: dict[str, Any] = {"numpy": lambda: "numpy", "numba": lambda: "numba", "cupy": cupy_backend}
RNG = np.random.default_rng(3)
X, CLASSES = RNG.normal(size=(5, 80)), RNG.integers(3, size=80)
W = RNG.uniform(0.1, 2, 80)
LABELS = (RNG.uniform(size=(3, 80)) < 0.3) * 1.0


def linear_network(activation: str, k: int, backend: Any = "numpy", dtype: str = "float64") -> dn.Network:
    """Return a network whose logits are its inputs."""
    layer = dn.Dense(k, activation)
    return dn.Network([layer], k, backend=backend, dtype=dtype, theta=np.append(np.eye(k).ravel(), np.zeros(k)), seed=0)


def overconfident(activation: str, k: int = 3, **options: Any) -> dn.Network:
    layers = [dn.Dense(8, "tanh"), dn.Residual([dn.Dense(8, "relu")]), dn.Dropout(0.5), dn.Dense(k, activation)]
    net = dn.Network(layers, inputs=5, seed=0, standardizer=dn.Standardizer.fit(X), **options)
    net.set_flat(3 * net.flat())
    return net


def mean_cross_entropy(net: dn.Network, Z: np.ndarray, Y: np.ndarray, w: np.ndarray, T: float) -> float:
    """Return the cross-entropy of logits divided by T, for a network whose logits are its inputs."""
    return net.evaluate(Z / T, Y, sample_weight=w)["loss"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("activation", "targets"), [("softmax", "y"), ("sigmoid", "Y")])
def test_the_temperature_is_that_of_pytorch(activation: str, targets: str, backend: str) -> None:
    Z, Y, w, T = (STORED[f"{activation}/{key}"] for key in ("Z", targets, "w", "temperature"))
    net = linear_network(activation, len(Z), BACKENDS[backend]()).calibrated(Z, Y, sample_weight=w)
    assert net.metadata["temperature"] == pytest.approx(float(T), rel=1e-7)  # near a minimum, L-BFGS sees no change
    np.testing.assert_allclose(net.parameters["W1"], np.eye(len(Z)) / net.metadata["temperature"], rtol=1e-15)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_temperature_is_the_minimum_of_scipy(scale: float) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    Z, y, w = scale * STORED["softmax/Z"], STORED["softmax/y"], STORED["softmax/w"]
    net = linear_network("softmax", 4)

    def slope(T: float) -> float:  # central differences of log T
        return mean_cross_entropy(net, Z, y, w, T * 1.001) - mean_cross_entropy(net, Z, y, w, T / 1.001)

    wanted = optimize.brentq(slope, 0.1 * scale, 100 * scale, rtol=1e-12)
    assert net.calibrated(Z, y, sample_weight=w).metadata["temperature"] == pytest.approx(wanted, rel=1e-5)


def test_no_temperature_nearby_is_better() -> None:
    """One sample is wrong by little, others are right by much, so Newton's steps alone would leave the interval."""
    for seed in range(50):
        rng = np.random.default_rng(seed)
        Z = rng.normal(size=(3, 40)) * 10.0 ** rng.uniform(-6, 6, 40)
        y = Z.argmax(axis=0)
        y[:3] = (y[:3] + 1) % 3
        Y = np.eye(3)[:, y]
        try:
            beta = 1 / find_temperature(Z, Y, np.ones(40))
        except dn.DataError:
            continue
        shifted = Z - Z.max(axis=0)

        def slope(beta: float, shifted: np.ndarray = shifted, Y: np.ndarray = Y) -> float:
            P = np.exp(beta * shifted)
            return float(((P / P.sum(axis=0) - Y) * shifted).sum())

        assert slope(beta * (1 - 1e-6)) < 0 < slope(beta * (1 + 1e-6))


def test_targets_may_be_probabilities_and_one_output_is_two_classes() -> None:
    Z, w = STORED["sigmoid/Z"][:1], STORED["sigmoid/w"]
    y = RNG.uniform(size=(1, 60)) * 0.2 + 0.8 * STORED["sigmoid/Y"][:1]
    one = linear_network("sigmoid", 1).calibrated(Z, y, sample_weight=w)
    two = linear_network("softmax", 2).calibrated(np.vstack([0 * Z, Z]), np.vstack([1 - y, y]), sample_weight=w)
    assert one.metadata["temperature"] == pytest.approx(two.metadata["temperature"], rel=1e-12)


@pytest.mark.parametrize(("backend", "dtype"), [*((name, "float64") for name in BACKENDS), ("numpy", "float32")])
@pytest.mark.parametrize(("activation", "Y"), [("softmax", CLASSES), ("log_softmax", CLASSES), ("sigmoid", LABELS)])
def test_the_logits_are_divided_by_the_temperature(activation: str, Y: np.ndarray, backend: str, dtype: str) -> None:
    net = overconfident(activation, dtype=dtype, backend=BACKENDS[backend]())
    before, parameters = net.predict(X), net.flat()
    calibrated = net.calibrated(X, Y, sample_weight=W)
    T = calibrated.metadata["temperature"]
    assert T > 1
    logits = dn.Network([*net.layers[:-1], dn.Dense(3)], 5, dtype="float64", backend="numpy", theta=net.flat())
    wanted = linear_network(activation, 3).predict(logits.predict(net.standardizer(X)) / T)  # type: ignore[misc]
    np.testing.assert_allclose(calibrated.predict(X), wanted, rtol=0, atol=1e-4 if dtype == "float32" else 1e-13)
    decided = [A > 0.5 if activation == "sigmoid" else A.argmax(axis=0) for A in (before, calibrated.predict(X))]
    np.testing.assert_array_equal(*decided)
    np.testing.assert_array_equal(net.flat(), parameters)
    assert (calibrated.layers, calibrated.backend, calibrated.dtype) == (net.layers, net.backend, net.dtype)


def test_calibration_improves_the_loss_and_a_second_one_changes_nothing() -> None:
    net = overconfident("softmax", dtype="float64", backend="numpy")
    calibrated = net.calibrated(X, CLASSES)
    names = ["accuracy", "expected_calibration_error"]
    before, after = (n.evaluate(X, CLASSES, metrics=names) for n in (net, calibrated))
    assert after["loss"] < before["loss"] - 0.1
    assert after["accuracy"] == before["accuracy"]
    assert after["expected_calibration_error"] < before["expected_calibration_error"] - 0.1
    assert calibrated.calibrated(X, CLASSES).metadata["temperature"] == pytest.approx(1, rel=1e-10)


def test_files_and_exports_are_calibrated(tmp_path: Path) -> None:
    net = overconfident("softmax", dtype="float64", backend="numpy")
    net.metadata = {"classes": ["a", "b", "c"]}
    calibrated = net.calibrated(X, CLASSES)
    assert net.metadata == {"classes": ["a", "b", "c"]}
    calibrated.save(tmp_path / "net.safetensors")
    loaded = dn.load(tmp_path / "net.safetensors", "numpy")
    assert loaded.metadata == {"classes": ["a", "b", "c"], "temperature": calibrated.metadata["temperature"]}
    np.testing.assert_array_equal(loaded.predict(X), calibrated.predict(X))
    calibrated.to_python(tmp_path / "net.py")
    code: dict[str, Any] = {"__name__": "net", "__file__": str(tmp_path / "net.py")}
    exec((tmp_path / "net.py").read_text(), code)
    np.testing.assert_allclose(code["predict"](X.T), calibrated.predict(X).T, atol=1e-6)


@pytest.mark.parametrize(
    "layers",
    [
        [dn.Dense(3)],
        [dn.Dense(3, "softplus")],
        [dn.Dense(3, "softmax"), dn.Dropout(0.1)],
        [dn.Dense(3), dn.LayerNorm()],
    ],
)
def test_only_logits_can_be_calibrated(layers: Any) -> None:
    net = dn.Network(layers, inputs=5, backend="numpy", seed=0)
    message = rf"^layers\[{len(layers) - 1}\]: .* cannot be calibrated: wanted a Dense with sigmoid, softmax or"
    with pytest.raises(dn.ArgumentError, match=message):
        net.calibrated(X, LABELS)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_samples_without_a_best_temperature_are_refused(activation: str) -> None:
    net = linear_network(activation, 3)
    Z = STORED["softmax/Z"][:3]
    right = np.eye(3)[:, Z.argmax(axis=0)] if activation == "softmax" else (Z > 0) * 1.0
    with pytest.raises(dn.DataError, match="all samples are predicted correctly, so the cross-entropy falls"):
        net.calibrated(Z, right)
    wrong = np.roll(right, 1, axis=0) if activation == "softmax" else 1 - right
    with pytest.raises(dn.DataError, match="no better than equal probabilities"):
        net.calibrated(Z, wrong)


def test_invalid_samples_are_refused() -> None:
    net = overconfident("softmax", dtype="float32", backend="numpy")
    with pytest.raises(dn.ShapeError, match="X has shape"):
        net.calibrated(X.T, CLASSES)
    with pytest.raises(dn.DataError, match="Y"):
        net.calibrated(X, CLASSES + 1)
    with pytest.raises(dn.ShapeError, match="sample_weight"):
        net.calibrated(X, CLASSES, sample_weight=W[1:])
    net.parameters["W3"] = np.full((3, 8), 3e38, np.float32)
    with pytest.raises(dn.DataError, match="the logits of the network for these samples are not finite"):
        net.calibrated(X, CLASSES)


def test_a_parameter_that_overflows_is_refused() -> None:
    net = linear_network("softmax", 4, dtype="float32")
    net.parameters["W1"] = 3e38 * np.eye(4)
    with pytest.raises(dn.ArgumentError, match="are too large for float32"):
        net.calibrated(STORED["softmax/Z"] / 3e39, STORED["softmax/y"])


def test_one_sigmoid_is_a_softmax_of_0_and_the_logit() -> None:
    Z, Y, w = np.array([[2.0, -1.0]]), np.array([[1.0, 0.25]]), np.array([1.0, 3.0])
    for found, wanted in zip(
        as_softmax(dn.Loss("binary_cross_entropy"), Z, Y, w),
        ([[0, 0], [2, -1]], [[0, 0.75], [1, 0.25]], [1, 3]),
        strict=True,
    ):
        np.testing.assert_array_equal(found, wanted)


def test_samples_may_be_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", np.ascontiguousarray(X.T))
    on_disk = np.load(tmp_path / "X.npy", mmap_mode="r").T
    net = overconfident("softmax", dtype="float64", backend="numpy")
    assert net.calibrated(on_disk, CLASSES).metadata == net.calibrated(X, CLASSES).metadata


def test_a_constraint_of_the_last_layer_is_refused() -> None:
    net = dn.Network([dn.Dense(3, "softmax", constraint=dn.MaxNorm(1.0))], inputs=2, seed=0)
    with pytest.raises(dn.ArgumentError, match="may break its constraint: wanted a last layer without one"):
        net.calibrated(np.ones((2, 4)), [0, 1, 2, 0])


def test_the_calibration_error_refuses_outputs_that_are_no_probabilities() -> None:
    net = dn.Network([dn.Dense(3, "log_softmax")], inputs=2, seed=0)
    with pytest.raises(dn.DataError, match=r"the calibration error needs probabilities, but an output is -"):
        net.evaluate(np.ones((2, 4)), np.eye(3)[:, [0, 1, 2, 0]], metrics=["expected_calibration_error"])
