"""scikit-learn's rules for the learning rate, the end of training, and the order of samples in each epoch."""

import sys
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.estimators.live_network import EpochRate
from deepnotes.network.training.state import Callback
from deepnotes.utils.streams import BestEffort

if TYPE_CHECKING:
    from deepnotes.network.training.state import Training

MIN_RATE = 1e-6
"""At this rate or below, the adaptive rule ends training instead of dividing the rate by 5."""


class Order:
    """Random orders of samples, drawn from a RandomState in the same way as in scikit-learn."""

    def __init__(self, random_state: np.random.RandomState) -> None:
        self._random_state = random_state
        self._order: np.ndarray | None = None

    @property
    def state(self) -> tuple[Any, np.ndarray | None]:
        """What the next orders depend on: the state of the RandomState, and the last order."""
        return self._random_state.get_state(), self._order

    @state.setter
    def state(self, state: tuple[Any, np.ndarray | None]) -> None:
        random_state, self._order = state
        self._random_state.set_state(random_state)

    def permutation(self, samples: int) -> np.ndarray:
        """Return the order of the samples for the next epoch: the order of the last epoch, shuffled again."""
        shuffled = np.arange(samples)
        self._random_state.shuffle(shuffled)
        self._order = shuffled if self._order is None else self._order[shuffled]
        return self._order


class Rules(Callback):
    """A callback that applies the rules after each epoch, and sets the attributes of the estimator.

    Parameters
    ----------
    estimator : DenseEstimator
    rate : EpochRate
        The learning rate, which the rules change.
    best : ndarray or None
        The initial parameters if there are held-out samples, otherwise None. With held-out samples, the rules use their
        score instead of the loss.

    Attributes
    ----------
    best : ndarray or None
        The parameters of the epoch with the best score so far.
    """

    def __init__(self, estimator: Any, rate: EpochRate, best: np.ndarray | None) -> None:
        self.estimator, self.rate, self.best = estimator, rate, best
        self.validated = best is not None
        self._seen = 0

    def on_ready(self, training: "Training") -> None:
        """Leave out the epochs of a training run that is resumed."""
        self._seen = len(training.history.loss)

    def next_epoch(self, training: "Training") -> float:
        """Return the number of epochs after which training may end, or 1 if the rate changes before, for example."""
        e = self.estimator
        if self.validated or e.verbose or (e.solver == "sgd" and e.learning_rate == "invscaling"):
            return 1
        return float(max(1, e.n_iter_no_change + 1 - e._no_improvement_count))

    def on_epoch(self, training: "Training") -> None:
        """Record the loss and score of each epoch, set the learning rate, and end training if nothing improves."""
        for loss in training.history.loss[self._seen :]:
            self._apply(training, loss)

    def on_end(self, training: "Training") -> None:
        """Record the epochs before the one in which training has failed."""
        self.on_epoch(training)

    def _apply(self, training: "Training", loss: float) -> None:
        """Apply the rules after an epoch with this loss."""
        e = self.estimator
        self._seen += 1
        e.n_iter_ += 1
        e.t_ += training.samples
        e.loss_ = loss
        e.loss_curve_.append(e.loss_)
        if e.verbose:
            self._report(f"Iteration {e.n_iter_}, loss = {e.loss_:.8f}")
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
        self._report(f"Validation score: {score:.6f}")
        # As in scikit-learn, a score of NaN resets the count, but is never the best score.
        e._no_improvement_count = e._no_improvement_count + 1 if score < e.best_validation_score_ + e.tol else 0
        if score > e.best_validation_score_:
            e.best_validation_score_ = score
            self.best = training.flat()

    def _compare_loss(self) -> None:
        e = self.estimator
        e._no_improvement_count = e._no_improvement_count + 1 if e.loss_ > e.best_loss_ - e.tol else 0
        e.best_loss_ = min(e.best_loss_, e.loss_)

    def _end_or_slow_down(self, training: "Training") -> None:
        e = self.estimator
        quantity = "Validation score" if self.validated else "Training loss"
        message = f"{quantity} did not improve more than tol={e.tol:f} for {e.n_iter_no_change} consecutive epochs."
        adaptive = e.solver == "sgd" and e.learning_rate == "adaptive"
        if adaptive and self.rate.rate > MIN_RATE:
            self._set_rate(training, self.rate.rate / 5)
            e._no_improvement_count = 0
            self._report(f"{message} Setting learning rate to {self.rate.rate:f}")
            return
        training.stop = True
        self._report(f"{message} {'Learning rate too small. ' if adaptive else ''}Stopping.")

    def _set_rate(self, training: "Training", rate: float) -> None:
        """Set the rate of the next epoch, and rescale the velocity so that past gradients keep their rates.

        Our velocity is a sum of gradients, which each step multiplies by the current rate. scikit-learn's velocity is a
        sum of steps, each of which was multiplied by the rate at its time.
        """
        ratio = self.rate.rate / rate if rate else 1.0
        self.rate.rate = rate
        if ratio != 1 and isfinite(ratio):
            state, write = training.state, training.network.backend.write
            state.slots = tuple(write(v, 0, v * ratio) for v in state.slots)

    def _report(self, message: str) -> None:
        if self.estimator.verbose:
            BestEffort(sys.stdout).write(f"{message}\n")
