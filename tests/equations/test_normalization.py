"""The equations of the normalizations, PReLU and noise: values by hand, and derivatives against differences."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deepnotes import equations

xp: Any = np
X = np.array([[1.0, -2.0, 0.5], [3.0, 0.0, 0.5], [8.0, 5.0, -1.0]])


def test_by_hand() -> None:
    np.testing.assert_array_equal(equations.feature_mean(xp, X), [[4, 1, 0]])
    np.testing.assert_array_equal(equations.center(xp, X), [[-3, -3, 0.5], [-1, -1, 0.5], [4, 4, -1]])
    variances = np.array([[26 / 3, 26 / 3, 0.5]])
    found = equations.inverse_rms(xp, equations.center(xp, X), 0.25)
    np.testing.assert_allclose(found, 1 / np.sqrt(variances + 0.25), rtol=1e-15)


def test_a_sample_of_equal_features_is_finite() -> None:
    ones = np.ones((4, 2), np.float32)
    centered: Any = equations.center(xp, ones)
    assert not centered.any()
    assert np.isfinite(equations.inverse_rms(xp, centered, 1e-5)).all()


def normalized(X: np.ndarray, centered: bool) -> tuple[np.ndarray, np.ndarray]:
    C: Any = equations.center(xp, X) if centered else X
    return C, np.asarray(equations.inverse_rms(xp, C, 0.1))


@pytest.mark.parametrize(
    ("backward", "centered"), [(equations.layer_norm_backward, True), (equations.rms_norm_backward, False)]
)
def test_derivatives_match_central_differences(backward: Callable[..., Any], centered: bool) -> None:
    weights = np.random.default_rng(0).normal(size=X.shape)
    found = backward(xp, weights, *normalized(X, centered))
    h = 1e-5
    for index in np.ndindex(X.shape):
        shift = np.zeros_like(X)
        shift[index] = h
        results = (normalized(X + sign * shift, centered) for sign in (1, -1))
        higher, lower = ((weights * C * inverse).sum() for C, inverse in results)
        assert found[index] == pytest.approx((higher - lower) / (2 * h), abs=1e-8)


def test_the_statistics_of_a_batch_by_hand() -> None:
    mean = equations.sample_mean(xp, X)
    np.testing.assert_allclose(mean, [[-0.5 / 3], [3.5 / 3], [4]], rtol=1e-15)
    variance = equations.sample_variance(xp, X - mean)
    np.testing.assert_allclose(variance, X.var(axis=1, keepdims=True), rtol=1e-15)
    np.testing.assert_array_equal(equations.inverse_std(xp, np.array([[0.0], [3.75]]), 0.25), [[2], [0.5]])


def test_the_derivative_of_batch_normalization_matches_central_differences() -> None:
    def normalized(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        C: Any = X - equations.sample_mean(xp, X)
        return C, np.asarray(equations.inverse_std(xp, equations.sample_variance(xp, C), 0.1))

    weights, h = np.random.default_rng(0).normal(size=X.shape), 1e-5
    found = equations.batch_norm_backward(xp, weights, *normalized(X))
    for index in np.ndindex(X.shape):
        shift = np.zeros_like(X)
        shift[index] = h
        higher, lower = ((weights * C * r).sum() for C, r in (normalized(X + sign * shift) for sign in (1, -1)))
        assert found[index] == pytest.approx((higher - lower) / (2 * h), abs=1e-8)


def test_prelu() -> None:
    alpha = np.array([[0.5], [2.0], [0.0]])
    np.testing.assert_array_equal(equations.prelu(xp, X, alpha), [[1, -1, 0.5], [3, 0, 0.5], [8, 5, 0]])
    dA = np.full((3, 3), 2.0)
    np.testing.assert_array_equal(equations.prelu_backward(xp, dA, X, alpha), [[2, 1, 2], [2, 4, 2], [2, 2, 0]])
    assert np.isnan(equations.prelu(xp, np.array([[np.nan]]), np.ones((1, 1)))).all()


def test_noise_is_nearly_normal_and_depends_on_everything() -> None:
    def noise(step: int = 5, layer: int = 2, seed: int = 3, shape: tuple[int, int] = (40, 5000)) -> np.ndarray:
        return np.asarray(equations.noise(xp, shape, seed, xp.asarray(step), layer, np.float64))

    x = noise()
    assert abs(x.mean()) < 0.01
    assert x.std() == pytest.approx(1, abs=0.01)
    assert (x**3).mean() == pytest.approx(0, abs=0.03)
    assert (x**4).mean() == pytest.approx(3 - 1.2 / 8, abs=0.05)
    np.testing.assert_array_equal(noise(shape=(40, 10)), x[:, :10])  # it does not depend on how many samples follow
    for other in (noise(step=6), noise(layer=3), noise(seed=4)):
        assert abs(np.corrcoef(x.ravel(), other.ravel())[0, 1]) < 0.01
