"""The NumPy backend trains with one BLAS thread if products are small, and restores the number."""

import threading
import time

import numpy as np
import pytest

import deepnotes as dn
from deepnotes_numpy import blas_threads
from deepnotes_numpy.blas_threads import SMALL, BlasThreads

pytestmark = pytest.mark.usefixtures("plain_environment")


@pytest.fixture
def plain_environment(monkeypatch):
    """Unset the variables that set the number of threads."""
    for name in blas_threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)


class FakeBlas(BlasThreads):
    """A BLAS with four threads, which records the numbers that are set."""

    def __init__(self):
        self.number, self.changes = 4, []
        super().__init__(lambda: self.number, self.change)

    def change(self, number):
        self.number = number
        self.changes.append(number)


@pytest.fixture
def blas(monkeypatch):
    blas = FakeBlas()
    monkeypatch.setattr(blas_threads, "openblas", lambda: blas)
    return blas


def fit(width, batch_size):
    X = np.random.default_rng(0).normal(size=(width, batch_size)).astype("float32")
    net = dn.Network([dn.Dense(width)], inputs=width, seed=0, backend="numpy")
    return net.fit(X, X, epochs=2, batch_size=batch_size)


def test_small_products_are_computed_by_one_thread(blas):
    fit(8, 16)
    assert blas.changes[:2] == [1, 4]
    assert blas.number == 4


def test_large_products_keep_the_number(blas):
    fit(256, SMALL // 256**2 + 1)
    assert blas.changes == []


def test_an_explicit_number_is_kept(blas, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    fit(8, 16)
    assert blas.changes == []


def test_the_number_is_restored_after_an_error(blas):
    with pytest.raises(ZeroDivisionError), blas.using(True):
        blas.number /= 0
    assert blas.changes == [1, 4]


def test_trainings_with_different_numbers_take_turns(blas):
    seen, stop = [], time.monotonic() + 0.4

    def use(one):
        while time.monotonic() < stop:
            with blas.using(one):
                before = blas.number
                time.sleep(0.001)
                seen.append((one, before, blas.number))

    threads = [threading.Thread(target=use, args=(one,)) for one in (True, True, False, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert set(seen) == {(True, 1, 1), (False, 4, 4)}
    assert blas.number == 4


def test_the_number_of_the_installed_blas_can_be_read_and_set():
    blas = blas_threads.openblas()
    if blas is None:
        pytest.skip("NumPy uses another BLAS, or one thread")
    number = blas._get()
    with blas.using(True):
        assert blas._get() == 1
    assert blas._get() == number
