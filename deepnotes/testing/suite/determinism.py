"""Determinism: the same seed gives the same bits."""

from functools import partial
from itertools import pairwise

import numpy as np

from deepnotes.backends.program import Batches, Chunk, Data, EpochProgram, State
from deepnotes.nn.layers import Dense, Dropout, Layer
from deepnotes.nn.optimizers import Adam
from deepnotes.testing.checks import Trial, check
from deepnotes.testing.suite.programs import small
from deepnotes.testing.training_cases import (
    TrainingCase,
    compile_inference,
    compile_program,
    place_on,
    train_by_epoch,
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


@check("determinism.epochs")
def determinism_of_epochs(trial: Trial) -> None:
    """If a Program can train several epochs in one call, the bits are those of one call for each epoch."""
    for dtype in trial.dtypes:
        layers: list[Layer] = [Dense(7, "tanh"), Dropout(0.3), Dense(3)]
        training = TrainingCase(
            layers, dtype, optimizer=Adam(), clip=0.5, weighted=True, samples=61, call_sizes=(61,) * 4
        )
        order = np.stack(training.orders())
        _, data = place_on(trial.backend, training)
        _compare_epochs(trial, training, data, order, dtype)
        # NaN occurs first in the second batch of the third epoch.
        X, last = training.data()[0].copy(), order[2, 8]
        X[:, last] = np.nan
        order[:2][order[:2] == last] = order[2, 0]
        _compare_epochs(trial, training, data._replace(X=trial.backend.from_numpy(X)), order, f"{dtype} NaN")


def _compare_epochs(trial: Trial, case: TrainingCase, data: Data, order: np.ndarray, where: str) -> None:
    """Train on the rows of `order` with two Programs: row by row, and in one call if the Program can."""
    (state, _), (expected, _) = (place_on(trial.backend, case) for _ in range(2))
    batches = Batches(data, order, case.batch, np.stack([case.rates(row) for row in order]))
    program = compile_program(trial.backend, case.plan)
    with np.errstate(all="ignore"):
        chunks = train_by_epoch(compile_program(trial.backend, case.plan), expected, batches)
        if isinstance(program, EpochProgram):
            together = program.train_epochs(state, batches)
        else:
            together = train_by_epoch(program, state, batches)
    trial.that(len(together) == len(chunks), f"{where}: {len(chunks)} Chunks, got {len(together)}")
    for epoch, (result, wanted) in enumerate(zip(together, chunks, strict=True)):
        trial.that(repr(result) == repr(wanted), f"{where}, row {epoch} of the batches: {wanted}, got {result}")
    trial.that(state.step == expected.step, f"{where}: {expected.step} updates, got {state.step}")
    trial.same(state.theta, trial.host(expected.theta), f"{where}: θ")
    for i, (slot, expected_slot) in enumerate(zip(state.slots, expected.slots, strict=True)):
        trial.same(slot, trial.host(expected_slot), f"{where}: slot {i}")


@check("determinism.tasks")
def determinism_of_tasks(trial: Trial) -> None:
    """Training runs that the backend runs as tasks have the bits that each of them has alone."""
    for dtype in trial.dtypes:
        cases = [TrainingCase([Dense(n, "tanh"), Dropout(0.3), Dense(3)], dtype, seed=n) for n in (3, 9, 5, 7)]
        results: dict[int, tuple[State, list[Chunk]]] = {}

        def task(i: int, case: TrainingCase, results: dict[int, tuple[State, list[Chunk]]] = results) -> None:
            results[i] = train_on_backend(trial, case)

        trial.backend.run_each([partial(task, i, case) for i, case in enumerate(cases)])
        trial.that(len(results) == len(cases), f"{dtype}: run_each runs {len(cases)} tasks, got {len(results)}")
        for i, case in enumerate(cases):
            state, chunks = train_on_backend(trial, case)
            trial.same(results[i][0].theta, trial.host(state.theta), f"{dtype}, task {i}: θ")
            trial.that(results[i][1] == chunks, f"{dtype}, task {i}: {chunks}, got {results[i][1]}")


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
