"""One-cycle and cyclic schedules, compared with PyTorch's rates, which tests/fixtures/make_schedules.py stored."""

from pathlib import Path

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.nn import Cyclic, OneCycle

with np.load(Path(__file__).parents[1] / "fixtures" / "schedules.npz") as file:
    STORED = dict(file)

SCHEDULES: dict[str, dn.Schedule] = {
    "one_cycle": OneCycle(0.3, steps=60),
    "one_cycle_linear": OneCycle(0.2, steps=60, rise=0.45, initial_factor=0.1, final_factor=1e-5, linear=True),
    "triangular": Cyclic(0.1, 0.01, up=7, down=4),
    "triangular2": Cyclic(0.1, 0.01, up=6, factor=0.5),
    "exp_range": Cyclic(0.1, 0.01, up=6, decay=0.97),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_match_those_of_pytorch(name: str) -> None:
    """The rates agree to a few roundings of the highest rate."""
    found = SCHEDULES[name].rates(0, 60)
    np.testing.assert_allclose(found, STORED[name], rtol=0, atol=1e-15)


def test_a_one_cycle_ends_at_its_last_rate() -> None:
    schedule = OneCycle(0.5, steps=10, final_factor=0.01)
    assert schedule(9) == schedule(10) == schedule(1000) == 0.005


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("schedule", [OneCycle(0.1, steps=40), Cyclic(0.1, 0.01, up=3)], ids=repr)
def test_training_uses_the_rates_and_resumes_with_them(backend: str, schedule: dn.Schedule, tmp_path: Path) -> None:
    if backend == "numba":
        pytest.importorskip("numba", reason="the Numba backend needs deepnotes[numba]")
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(3, 20)), rng.normal(size=(1, 20))

    def train(epochs: int, **checkpoint: object) -> tuple[dn.History, np.ndarray]:
        net = dn.Network([dn.Dense(4, "tanh"), dn.Dense(1)], 3, backend=backend, dtype="float64", seed=0)
        settings = {"optimizer": dn.SGD(schedule), "batch_size": 5, "epochs": epochs}
        return net.fit(X, Y, **settings, **checkpoint), net.flat()

    history, flat = train(10)
    assert history.learning_rate == schedule.rates(0, 40)[3::4]
    train(4, checkpoint=tmp_path, every=1)
    _, resumed = train(10, checkpoint=tmp_path, every=1, resume=True)
    np.testing.assert_array_equal(resumed, flat)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rise": 1.0}, "rise"), ({"rise": 0.01}, "rise"), ({"steps": 2}, "rise"), ({"initial_factor": 0.0}, "initial"),
        ({"final_factor": 1.5}, "final_factor"),
    ],
)  # fmt: skip
def test_invalid_one_cycles_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(dn.ArgumentError, match=message):
        OneCycle(0.1, **{"steps": 50} | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lowest": 0.2}, "lowest"), ({"up": 0}, "up"), ({"down": 0}, "down"), ({"factor": 0.0}, "factor"),
        ({"decay": 1.1}, "decay"),
    ],
)  # fmt: skip
def test_invalid_cycles_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(dn.ArgumentError, match=message):
        Cyclic(0.1, **{"lowest": 0.01} | arguments)
