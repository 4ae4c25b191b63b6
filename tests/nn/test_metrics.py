"""The metrics of classifications, checked against scikit-learn."""

import warnings

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.nn import metrics
from deepnotes.nn.metrics import ClassScores

sk = pytest.importorskip("sklearn.metrics")


def outputs(k, m, seed, ties=False):
    """Return probabilities and one-hot targets, shape (k, m), and weights, some of them 0."""
    rng = np.random.default_rng(seed)
    true = rng.permutation(np.append(np.arange(k), rng.choice(k, m - k, p=rng.dirichlet(np.ones(k)))))
    A = rng.dirichlet(np.ones(k), m).T
    A[true, np.arange(m)] += 0.3
    A = A.round(1) if ties else A / A.sum(axis=0)
    w = rng.integers(0, 4, m).astype(float)
    w[np.unique(true, return_index=True)[1]] = 1
    return A, np.eye(k)[:, true], true, w


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("k", "m"), [(2, 3), (2, 200), (3, 50), (7, 300)])
def test_metrics_are_those_of_scikit_learn(k, m, ties, weighted):
    A, Y, true, w = outputs(k, m, seed=k + m, ties=ties)
    w = w if weighted else None
    predicted = A.argmax(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert metrics.accuracy(A, Y, w) == pytest.approx(sk.accuracy_score(true, predicted, sample_weight=w))
        balanced = sk.balanced_accuracy_score(true, predicted, sample_weight=w)
        assert metrics.balanced_accuracy(A, Y, w) == pytest.approx(balanced)
        assert metrics.f1(A, Y, w) == pytest.approx(sk.f1_score(true, predicted, average="macro", sample_weight=w))
        columns = zip(A, Y, strict=True) if k > 2 else [(A[1], Y[1])]
        auc = np.mean([sk.roc_auc_score(y, a, sample_weight=w) for a, y in columns])
        assert metrics.roc_auc(A, Y, w) == pytest.approx(auc)
        precision = sk.average_precision_score(true == k - 1, A[-1], sample_weight=w)
        assert metrics.average_precision(A, Y, w) == pytest.approx(precision)
        scores = ClassScores.of(A, Y, w)
        expected = sk.precision_recall_fscore_support(
            true, predicted, labels=range(k), sample_weight=w, zero_division=0
        )
    for mine, its in zip((scores.precision, scores.recall, scores.f1, scores.samples), expected, strict=True):
        assert mine == pytest.approx(its)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("k", "m", "bins"), [(1, 200, 15), (2, 3, 10), (3, 50, 15), (7, 300, 4)])
def test_the_calibration_error_by_its_definition(k, m, bins, weighted):
    """Guo et al., equation 3, bin by bin, with copies of the samples in place of weights."""
    A, Y, _, w = outputs(max(k, 2), m, seed=k + m, ties=True)
    A, Y = A[-k:], Y[-k:]
    A = A / max(A.max(), 1)
    found = metrics.expected_calibration_error(A, Y, w if weighted else None, bins)
    if weighted:
        A, Y = np.repeat(A, w.astype(int), axis=1), np.repeat(Y, w.astype(int), axis=1)
    p = A.max(axis=0) if k > 1 else np.where(A[0] > 0.5, A[0], 1 - A[0])
    correct = metrics.classes_of(A) == metrics.classes_of(Y)
    error = 0.0
    for i in range(bins):
        inside = (p > i / bins) & (p <= (i + 1) / bins)
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - p[inside].mean())
    assert found == pytest.approx(error, abs=1e-14)


def test_the_calibration_error_by_hand():
    A, Y = np.array([[0.95, 0.94, 0.05, 0.55]]), np.array([[1.0, 0.0, 0.0, 1.0]])
    wanted = (3 * abs((0.95 + 0.94 + 0.95) / 3 - 2 / 3) + abs(0.55 - 1)) / 4
    assert metrics.expected_calibration_error(A, Y, bins=10) == pytest.approx(wanted)
    assert np.isnan(metrics.expected_calibration_error(A * np.nan, Y))


def test_one_output_stands_for_two_classes():
    A, Y, _, w = outputs(2, 40, seed=0)
    for name in ("accuracy", "balanced_accuracy", "f1", "roc_auc", "average_precision"):
        assert metrics.LIBRARY[name](A[1:], Y[1:], w) == pytest.approx(metrics.LIBRARY[name](A, Y, w))
    assert ClassScores.of(A[1:], Y[1:]).samples.tolist() == Y.sum(axis=1).tolist()


def test_scores_of_one_class_only():
    A, Y = np.array([[0.2, 0.7]]), np.zeros((1, 2))
    assert np.isnan(metrics.roc_auc(A, Y))
    assert np.isnan(metrics.average_precision(A, Y))
    assert metrics.balanced_accuracy(A, Y) == 0.5
    assert metrics.f1(A, Y) == pytest.approx((2 / 3 + 0) / 2)


def test_a_metric_of_imbalance_is_available_by_name():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(2, 60)), np.arange(60) % 10 == 0
    net = dn.Network([dn.Dense(1, "sigmoid")], 2, seed=0, backend="numpy")
    stop = dn.EarlyStopping(3, monitor="val_roc_auc")
    history = net.fit(X, y, validation=(X, y), metrics=["roc_auc", "f1"], early_stopping=stop, epochs=4)
    assert len(history.metrics["val_roc_auc"]) == history.epochs
    assert history.best_epoch == 1 + int(np.argmax(history.metrics["val_roc_auc"]))
