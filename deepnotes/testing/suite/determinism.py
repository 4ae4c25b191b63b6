"""Determinism: the same seed gives the same bits."""

from itertools import pairwise

import numpy as np

from deepnotes.backends.program import Batches, Data, State
from deepnotes.nn.layers import Dense, Dropout, Layer
from deepnotes.nn.optimizers import Adam
from deepnotes.testing.checks import Trial, check
from deepnotes.testing.suite.programs import small
from deepnotes.testing.training_cases import (
    TrainingCase,
    compile_inference,
    compile_program,
    place_on,
    train_on_backend,
)


@check("determinism.training")
def determinism(trial: Trial) -> None:
    """Training twice gives the same bits; a different seed gives different bits."""
    layers: list[Layer] = [Dense(7, "tanh"), Dropout(0.3), Dense(3)]
    for dtype in trial.dtypes:
        results = [
            train_on_backend(trial, TrainingCase(layers, dtype, optimizer=Adam(), seed=seed)) for seed in (0, 0, 1)
        ]
        first, second, reseeded = (trial.host(state.theta) for state, _ in results)
        trial.same(second, first, f"{dtype}: θ the second time")
        trial.that(results[0][1] == results[1][1], f"{dtype}: the same losses the second time")
        trial.that(np.any(reseeded != first), f"{dtype}: different parameters with a different seed")


@check("determinism.predictions")
def determinism_of_predictions(trial: Trial) -> None:
    """Predicting twice gives the same bits."""
    for dtype in trial.dtypes:
        training = TrainingCase(small(), dtype, samples=300)
        inference = compile_inference(trial.backend, training.plan)
        state, data = place_on(trial.backend, training)
        first = trial.host(inference.predict(state.theta, data.X)).copy()
        trial.same(inference.predict(state.theta, data.X), first, f"{dtype}: outputs the second time")


@check("determinism.chunks")
def determinism_of_chunks(trial: Trial) -> None:
    """Parameters, slots and sums of losses have the same bits, however a training run is split into calls."""
    for dtype in trial.dtypes:
        training = TrainingCase(small(), dtype, optimizer=Adam(), samples=61, call_sizes=(61,), weighted=True)
        (order,) = training.orders()
        rates, batch = training.rates(order), training.batch
        whole, (chunk,) = train_on_backend(trial, training)
        for splits in [(0, 1, 3, 8), (0, 7, 8)]:
            program = compile_program(trial.backend, training.plan)
            state, data = place_on(trial.backend, training)
            sums = (0.0, 0.0)
            for a, b in pairwise(splits):
                batches = Batches(data, order[a * batch : b * batch], batch, rates[a:b], sums)
                result = program.train(state, batches)
                sums = result.loss_sum, result.weight_sum
            where = f"{dtype} split before update {', '.join(map(str, splits[1:-1]))}"
            trial.same(state.theta, trial.host(whole.theta), f"{where}: θ")
            for i, (slot, expected) in enumerate(zip(state.slots, whole.slots, strict=True)):
                trial.same(slot, trial.host(expected), f"{where}: slot {i}")
            trial.that(sums == (chunk.loss_sum, chunk.weight_sum), f"{where}: the same sums as in one call")


@check("determinism.programs")
def determinism_of_programs(trial: Trial) -> None:
    """Two Programs compiled from one plan do not share state or buffers."""
    for dtype in trial.dtypes:
        training = TrainingCase(small(), dtype, optimizer=Adam())
        expected, _ = train_on_backend(trial, training)
        programs = [compile_program(trial.backend, training.plan) for _ in range(2)]
        pairs: list[tuple[State, Data]] = [place_on(trial.backend, training) for _ in programs]
        for order in training.orders():
            for program, (state, data) in zip(programs, pairs, strict=True):
                program.train(state, Batches(data, order, training.batch, training.rates(order)))
        for state, _ in pairs:
            trial.same(state.theta, trial.host(expected.theta), f"{dtype}: θ of two training runs that take turns")
