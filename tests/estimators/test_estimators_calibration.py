"""scikit-learn's calibration of DenseClassifier, and that of its network, which finds the same temperature."""

import numpy as np
import pytest

import deepnotes as dn

pytest.importorskip("sklearn", reason='needs scikit-learn: pip install "deepnotes[sklearn]"')

from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

METHODS = CalibratedClassifierCV._parameter_constraints["method"][0].options
LABELS = np.array(["ant", "bee", "cat"])


def samples(m: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return samples of classes that overlap, so that a network that is trained for long is too confident."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(classes, size=m)
    return np.eye(3)[codes] + 0.7 * rng.normal(size=(m, 3)), codes


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("classes", [2, 3])
def test_scikit_learn_calibrates_a_classifier(method: str, classes: int) -> None:
    (X, codes), (X_test, codes_test) = samples(300, classes), samples(1000, classes, 1)
    y, y_test = LABELS[codes], LABELS[codes_test]
    model = dn.DenseClassifier(30, max_iter=200, learning_rate_init=0.02, alpha=0, random_state=0, backend="numpy")
    calibrated = CalibratedClassifierCV(model, method=method, cv=3).fit(X, y)
    assert calibrated.classes_.tolist() == LABELS[:classes].tolist()
    assert calibrated.score(X_test, y_test) > 0.6
    np.testing.assert_allclose(calibrated.predict_proba(X_test).sum(axis=1), 1)
    if method != "isotonic":  # which has probabilities of exactly 0
        assert log_loss(y_test, calibrated.predict_proba(X_test)) < 0.7 * np.log(classes)


@pytest.mark.filterwarnings("ignore:Since FrozenEstimator does not appear to accept sample_weight")
@pytest.mark.skipif("temperature" not in METHODS, reason="scikit-learn calibrates by temperature from 1.8 on")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_temperature_is_that_of_scikit_learn(classes: int, weighted: bool) -> None:
    (X, y), (X_val, y_val) = samples(150, classes), samples(200, classes, 1)
    w = np.linspace(0.2, 2, 200) if weighted else None
    model = dn.DenseClassifier(30, max_iter=100, learning_rate_init=0.02, alpha=0, random_state=0, backend="numpy")
    model.fit(X, y)
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method="temperature").fit(X_val, y_val, sample_weight=w)
    net = model.to_network().calibrated(X_val.T, y_val, sample_weight=w)
    beta = np.mean([one.calibrators[0].beta_ for one in theirs.calibrated_classifiers_])
    assert net.metadata["temperature"] > 1.1
    assert net.metadata["temperature"] == pytest.approx(1 / beta, rel=1e-3)  # it adds a number to small probabilities
    A = net.predict(X_val.T).T
    wanted = theirs.predict_proba(X_val)
    np.testing.assert_allclose(A, wanted if classes > 2 else wanted[:, 1:], rtol=0, atol=1e-3)
