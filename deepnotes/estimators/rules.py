"""scikit-learn's rules between epochs: when the rate falls, when a training ends, in what order samples come."""

import sys
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.estimators.live_network import EpochRate
from deepnotes.network.training.state import Callback
from deepnotes.utils.streams import BestEffort

if TYPE_CHECKING:
    from deepnotes.network.training.state import Training

LEAST_RATE = 1e-6
"""At which the adaptive rule ends a training instead of dividing the rate by 5."""


class Order:
    """Draws the order of samples from scikit-learn's kind of generator, as its own shuffling does."""

    def __init__(self, random_state: np.random.RandomState) -> None:
        self._random_state = random_state
        self._order: np.ndarray | None = None

    def permutation(self, samples: int) -> np.ndarray:
        """Return the next order of so many samples: the last one, shuffled again."""
        drawn = np.arange(samples)
        self._random_state.shuffle(drawn)
        self._order = drawn if self._order is None else self._order[drawn]
        return self._order


class Rules(Callback):
    """What happens after an epoch, told to the attributes of the estimator.

    Parameters
    ----------
    estimator : DenseEstimator
    rate : EpochRate
        To be set for the next epoch.
    best : ndarray or None
        The parameters to start from, if it is the score on held-out samples that has to improve, and not the loss.

    Attributes
    ----------
    best : ndarray or None
        The parameters of the epoch with the best score so far.
    """

    def __init__(self, estimator: Any, rate: EpochRate, best: np.ndarray | None) -> None:
        self.estimator, self.rate, self.best = estimator, rate, best
        self.validated = best is not None

    def on_epoch(self, training: "Training") -> None:
        """Count, compare with the best, set the rate, and end the training if it is no longer getting better."""
        e = self.estimator
        e.n_iter_ += 1
        e.t_ += training.samples
        e.loss_ = training.loss
        e.loss_curve_.append(e.loss_)
        if e.verbose:
            self._say(f"Iteration {e.n_iter_}, loss = {e.loss_:.8f}")
        if self.validated:
            e.validation_loss_curve_.append(training.history.val_loss[-1])
            self._compare_score(training, training.history.last("val_score"))
        else:
            self._compare_loss()
        if e.solver == "sgd" and e.learning_rate == "invscaling":
            self._set_rate(training, float(e.learning_rate_init) / (e.t_ + 1) ** e.power_t)
        if e._no_improvement_count > e.n_iter_no_change:
            self._end_or_slow_down(training)

    def _compare_score(self, training: "Training", score: float) -> None:
        e = self.estimator
        e.validation_scores_.append(score)
        self._say(f"Validation score: {score:.6f}")
        # A score that is NaN counts as an improvement here, but never as the best one: so it is in scikit-learn.
        e._no_improvement_count = e._no_improvement_count + 1 if score < e.best_validation_score_ + e.tol else 0
        if score > e.best_validation_score_:
            e.best_validation_score_ = score
            self.best = training.network.flat()

    def _compare_loss(self) -> None:
        e = self.estimator
        e._no_improvement_count = e._no_improvement_count + 1 if e.loss_ > e.best_loss_ - e.tol else 0
        e.best_loss_ = min(e.best_loss_, e.loss_)

    def _end_or_slow_down(self, training: "Training") -> None:
        e = self.estimator
        what = "Validation score" if self.validated else "Training loss"
        said = f"{what} did not improve more than tol={e.tol:f} for {e.n_iter_no_change} consecutive epochs."
        adaptive = e.solver == "sgd" and e.learning_rate == "adaptive"
        if adaptive and self.rate.rate > LEAST_RATE:
            self._set_rate(training, self.rate.rate / 5)
            e._no_improvement_count = 0
            self._say(f"{said} Setting learning rate to {self.rate.rate:f}")
            return
        training.stop = True
        self._say(f"{said} {'Learning rate too small. ' if adaptive else ''}Stopping.")

    def _set_rate(self, training: "Training", rate: float) -> None:
        """Set the rate of the next epoch, and the velocity to the steps that were made.

        Ours is the sum of the gradients, which the rate of the day multiplies; scikit-learn's is that of the steps,
        each with the rate of its day.
        """
        ratio = self.rate.rate / rate if rate else 1.0
        self.rate.rate = rate
        if ratio != 1 and isfinite(ratio):
            state, write = training.state, training.network.backend.write
            state.slots = tuple(write(v, 0, v * ratio) for v in state.slots)

    def _say(self, what: str) -> None:
        if self.estimator.verbose:
            BestEffort(sys.stdout).write(f"{what}\n")
