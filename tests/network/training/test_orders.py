"""Orders of samples that are drawn in a thread: the same as without, and the generator is where it belongs."""

import subprocess
import sys

import numpy as np
import pytest

from deepnotes.network.training.orders import WORTH_A_THREAD, Orders


def test_orders_drawn_ahead_are_the_same_as_those_drawn_when_needed() -> None:
    rngs = [np.random.default_rng(7) for _ in range(2)]
    ahead, plain = (Orders(rng, WORTH_A_THREAD, ahead=a) for rng, a in zip(rngs, (True, False), strict=True))
    remaining = 20
    for epochs in (1, 1, 3, 5, 2, 1, 4, 3):
        remaining -= epochs
        order = ahead.draw(epochs, remaining)
        assert order.shape == (epochs, WORTH_A_THREAD)
        np.testing.assert_array_equal(order, plain.draw(epochs, remaining))
        assert rngs[0].bit_generator.state == rngs[1].bit_generator.state
    assert remaining == 0
    assert ahead._future is None
    assert not ahead._ready


@pytest.mark.parametrize("epochs", [1, 3])
def test_an_order_drawn_ahead_is_discarded_if_the_generator_was_changed(epochs: int) -> None:
    rng = np.random.default_rng(7)
    orders = Orders(rng, WORTH_A_THREAD, ahead=True)
    orders.draw(epochs, 9)
    rng.bit_generator.state = np.random.default_rng(8).bit_generator.state
    other = np.random.default_rng(8)
    expected = [other.permutation(WORTH_A_THREAD) for _ in range(epochs)]
    np.testing.assert_array_equal(orders.draw(epochs, 0), expected)


def test_orders_of_several_short_epochs_are_drawn_in_a_thread_together() -> None:
    orders = Orders(np.random.default_rng(7), WORTH_A_THREAD // 8, ahead=True)
    orders.draw(1, 99)
    assert orders._future is None
    orders.draw(20, 99)
    assert orders._future is not None
    assert len(orders._future.result()) == 20


def test_a_thread_draws_orders_after_the_main_thread_has_ended() -> None:
    code = f"""
import threading, time, numpy as np
from deepnotes.network.training.orders import Orders
def draw():
    orders = Orders(np.random.default_rng(0), {WORTH_A_THREAD}, ahead=True)
    time.sleep(0.5)
    for _ in range(3): orders.draw(1, 9)
    print("done", flush=True)
threading.Thread(target=draw).start()
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.stdout == "done\n", process.stderr
