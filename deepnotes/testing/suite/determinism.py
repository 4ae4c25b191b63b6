"""The same seed, the same bits."""

import numpy as np

from deepnotes.layers import Dense, Dropout, Layer
from deepnotes.optimizers import Adam
from deepnotes.program import Data, State
from deepnotes.testing.checks import DTYPES, Trial, check
from deepnotes.testing.suite.programs import small
from deepnotes.testing.training import Training, inference, placed, program, trained


@check("determinism.training")
def determinism(trial: Trial) -> None:
    """The same training twice gives the same bits; with another seed it does not."""
    layers: list[Layer] = [Dense(7, "tanh"), Dropout(0.3), Dense(3)]
    for dtype in DTYPES:
        results = [trained(trial, Training(layers, dtype, optimizer=Adam(), seed=seed)) for seed in (0, 0, 1)]
        first, again, other = (trial.host(state.theta) for state, _ in results)
        trial.same(again, first, f"{dtype}: θ the second time")
        trial.that(results[0][1] == results[1][1], f"{dtype}: the same losses the second time")
        trial.that(np.any(other != first), f"{dtype}: other parameters with another seed")


@check("determinism.predictions")
def determinism_of_predictions(trial: Trial) -> None:
    """The same prediction twice gives the same bits."""
    for dtype in DTYPES:
        training = Training(small(), dtype, samples=300)
        made = inference(trial.backend, training)
        state, data = placed(trial.backend, training)
        first = trial.host(made.predict(state.theta, data.X)).copy()
        trial.same(made.predict(state.theta, data.X), first, f"{dtype}: outputs the second time")


@check("determinism.programs")
def determinism_of_programs(trial: Trial) -> None:
    """Two Programs of one plan do not share what they keep."""
    for dtype in DTYPES:
        training = Training(small(), dtype, optimizer=Adam())
        alone, _ = trained(trial, training)
        both = [program(trial.backend, training.plan) for _ in range(2)]
        pairs: list[tuple[State, Data]] = [placed(trial.backend, training) for _ in both]
        for order in training.orders():
            for made, (state, data) in zip(both, pairs, strict=True):
                made.train(state, data, order, training.batch, training.rates(order))
        for state, _ in pairs:
            trial.same(state.theta, trial.host(alone.theta), f"{dtype}: θ of two trainings that take turns")
