"""The same seed, the same bits."""

from itertools import pairwise

import numpy as np

from deepnotes.backends.program import Batches, Data, State
from deepnotes.nn.layers import Dense, Dropout, Layer
from deepnotes.nn.optimizers import Adam
from deepnotes.testing.checks import DTYPES, Trial, check
from deepnotes.testing.suite.programs import small
from deepnotes.testing.training_cases import TrainingCase, inference, placed, program, trained


@check("determinism.training")
def determinism(trial: Trial) -> None:
    """The same training twice gives the same bits; with another seed it does not."""
    layers: list[Layer] = [Dense(7, "tanh"), Dropout(0.3), Dense(3)]
    for dtype in DTYPES:
        results = [trained(trial, TrainingCase(layers, dtype, optimizer=Adam(), seed=seed)) for seed in (0, 0, 1)]
        first, again, other = (trial.host(state.theta) for state, _ in results)
        trial.same(again, first, f"{dtype}: θ the second time")
        trial.that(results[0][1] == results[1][1], f"{dtype}: the same losses the second time")
        trial.that(np.any(other != first), f"{dtype}: other parameters with another seed")


@check("determinism.predictions")
def determinism_of_predictions(trial: Trial) -> None:
    """The same prediction twice gives the same bits."""
    for dtype in DTYPES:
        training = TrainingCase(small(), dtype, samples=300)
        made = inference(trial.backend, training)
        state, data = placed(trial.backend, training)
        first = trial.host(made.predict(state.theta, data.X)).copy()
        trial.same(made.predict(state.theta, data.X), first, f"{dtype}: outputs the second time")


@check("determinism.chunks")
def determinism_of_chunks(trial: Trial) -> None:
    """Wherever a training is cut into calls, parameters, slots and sums of losses have the same bits."""
    for dtype in DTYPES:
        training = TrainingCase(small(), dtype, optimizer=Adam(), samples=61, updates=(61,), weighted=True)
        (order,) = training.orders()
        rates, batch = training.rates(order), training.batch
        whole, (chunk,) = trained(trial, training)
        for cuts in [(0, 1, 3, 8), (0, 7, 8)]:
            made = program(trial.backend, training.plan)
            state, data = placed(trial.backend, training)
            sums = (0.0, 0.0)
            for a, b in pairwise(cuts):
                part = made.train(state, Batches(data, order[a * batch : b * batch], batch, rates[a:b], sums))
                sums = part.loss_sum, part.weight_sum
            where = f"{dtype} cut before update {', '.join(map(str, cuts[1:-1]))}"
            trial.same(state.theta, trial.host(whole.theta), f"{where}: θ")
            for i, (slot, wanted) in enumerate(zip(state.slots, whole.slots, strict=True)):
                trial.same(slot, trial.host(wanted), f"{where}: slot {i}")
            trial.that(sums == (chunk.loss_sum, chunk.weight_sum), f"{where}: the sums of a training that was not cut")


@check("determinism.programs")
def determinism_of_programs(trial: Trial) -> None:
    """Two Programs of one plan do not share what they keep."""
    for dtype in DTYPES:
        training = TrainingCase(small(), dtype, optimizer=Adam())
        alone, _ = trained(trial, training)
        both = [program(trial.backend, training.plan) for _ in range(2)]
        pairs: list[tuple[State, Data]] = [placed(trial.backend, training) for _ in both]
        for order in training.orders():
            for made, (state, data) in zip(both, pairs, strict=True):
                made.train(state, Batches(data, order, training.batch, training.rates(order)))
        for state, _ in pairs:
            trial.same(state.theta, trial.host(alone.theta), f"{dtype}: θ of two trainings that take turns")
