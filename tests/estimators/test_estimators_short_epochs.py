"""Estimators that train several short epochs at once: the results are those of one epoch after the other."""

from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.network.training import loop

pytest.importorskip("sklearn", reason="estimators need scikit-learn")
pytest.importorskip("numba", reason="only Numba trains several epochs at once")

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
y = (X[:, 0] * X[:, 1] > 0).astype(int)


class Watch(dn.Callback):
    """Needs to be called after every epoch."""

    def on_epoch(self, training: Any) -> None:
        """Do nothing."""


@pytest.fixture(autouse=True)
def long_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let chunks grow to any length, however slow the machine is."""
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e9)


@pytest.mark.filterwarnings("ignore:training did not converge")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"n_iter_no_change": 3, "tol": 0.02},
        {"n_iter_no_change": 1, "tol": 10.0},
        {"solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 2, "tol": 0.01, "learning_rate_init": 0.1},
        {"solver": "sgd", "learning_rate": "invscaling"},
        {"early_stopping": True, "n_iter_no_change": 4},
        {"shuffle": False, "batch_size": 7},
    ],
    ids=["plain", "stops", "stops at once", "adaptive", "invscaling", "early stopping", "in order"],
)
def test_the_results_are_those_of_one_epoch_after_the_other(settings: dict[str, Any]) -> None:
    results = []
    for callbacks in ([], [Watch()]):
        model = dn.DenseClassifier(max_iter=60, random_state=0, backend="numba", callbacks=callbacks, **settings)
        model.fit(X, y)
        if not model.early_stopping:
            model.partial_fit(X, y)
        results.append(
            [model.n_iter_, model.t_, model.loss_, model.loss_curve_, model.best_loss_, model._no_improvement_count]
            + [W.tolist() for W in model.coefs_]
        )
    assert results[0] == results[1]


@pytest.mark.filterwarnings("ignore:training did not converge")
def test_short_epochs_are_trained_at_once_until_training_may_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepnotes_numba.program import NumbaProgram

    calls: list[int] = []
    train_epochs = NumbaProgram.train_epochs

    def count(program: Any, state: Any, batches: Any) -> Any:
        calls.append(len(batches.order))
        return train_epochs(program, state, batches)

    monkeypatch.setattr(NumbaProgram, "train_epochs", count)
    dn.DenseClassifier(max_iter=60, n_iter_no_change=20, random_state=0, backend="numba").fit(X, y)
    assert 10 < max(calls) <= 21


def test_a_failing_training_run_has_recorded_the_epochs_before() -> None:
    recorded = []
    for callbacks in ([], [Watch()]):
        model = dn.DenseClassifier(
            max_iter=60, random_state=0, backend="numba", solver="sgd", learning_rate_init=1e5, momentum=0.0,
            callbacks=callbacks,
        )  # fmt: skip
        with pytest.raises(dn.DataError, match="before update 4 "):
            model.fit(X * 1e3, y)
        recorded.append((model.n_iter_, model.loss_curve_))
    assert recorded[0] == recorded[1]
