"""A backend that trains fewer networks or epochs than it was asked to is reported, instead of a wrong history."""

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.backends import EagerProgram
from deepnotes.testing import run

X = np.random.default_rng(0).normal(size=(3, 20))


class Skipping(dn.Backend):
    """A backend that leaves out the last of several tasks."""

    determinism = "same threads"

    def run_each(self, tasks):
        super().run_each(tasks[:-1])


class OneEpoch(EagerProgram):
    """A Program that trains for the first of several epochs."""

    def train_epochs(self, state, batches):
        return [self.train(state, batches._replace(order=batches.order[0], rates=batches.rates[0]))]


class Short(dn.Backend):
    """A backend with this Program."""

    determinism = "same threads"

    def compile(self, plan):
        return OneEpoch(self, plan)


def network(backend: dn.Backend) -> dn.Network:
    """Return a small network."""
    return dn.Network([dn.Dense(2, "tanh"), dn.Dense(1)], inputs=3, seed=0, backend=backend)


def failure(backend: dn.Backend, check: str) -> str:
    """Return the message of a check that fails."""
    (result,) = run(backend, checks=[check], quick=True).results
    assert result.verdict == "failed"
    return result.message


def test_a_network_that_the_backend_does_not_train_is_an_error() -> None:
    backend = Skipping("skipping", np)
    networks = [network(backend) for _ in range(3)]
    with pytest.raises(
        dn.DeepnotesError, match=r"backend 'skipping': run_each returned without training networks\[2\]"
    ):
        dn.fit_many(networks, X, X[:1], epochs=2)
    assert "run_each runs 4 tasks, got 3" in failure(backend, "determinism.tasks")


def test_epochs_that_the_program_does_not_train_are_an_error() -> None:
    backend = Short("short", np)
    with pytest.raises(dn.DeepnotesError, match=r"backend 'short': train_epochs returned 1 Chunks for \d+ epochs"):
        network(backend).fit(X, X[:1], epochs=40)
    assert "4 Chunks, got 1" in failure(backend, "determinism.epochs")
