"""Orders of samples that are drawn in a thread: the same as without, and the generator is where it belongs."""

import subprocess
import sys

import numpy as np

from deepnotes.network.training.orders import WORTH_A_THREAD, Orders


def test_orders_drawn_ahead_are_the_same_as_those_drawn_when_needed() -> None:
    rngs = [np.random.default_rng(7) for _ in range(2)]
    ahead, plain = (Orders(rng, WORTH_A_THREAD, ahead=a) for rng, a in zip(rngs, (True, False), strict=True))
    for epoch in range(5):
        np.testing.assert_array_equal(ahead.draw(another=epoch < 4), plain.draw(another=epoch < 4))
        assert rngs[0].bit_generator.state == rngs[1].bit_generator.state


def test_an_order_drawn_ahead_is_discarded_if_the_generator_was_changed() -> None:
    rng = np.random.default_rng(7)
    orders = Orders(rng, WORTH_A_THREAD, ahead=True)
    orders.draw(another=True)
    rng.bit_generator.state = np.random.default_rng(8).bit_generator.state
    expected = np.random.default_rng(8).permutation(WORTH_A_THREAD)
    np.testing.assert_array_equal(orders.draw(another=False), expected)


def test_a_thread_draws_orders_after_the_main_thread_has_ended() -> None:
    code = f"""
import threading, time, numpy as np
from deepnotes.network.training.orders import Orders
def draw():
    orders = Orders(np.random.default_rng(0), {WORTH_A_THREAD}, ahead=True)
    time.sleep(0.5)
    for _ in range(3): orders.draw(another=True)
    print("done", flush=True)
threading.Thread(target=draw).start()
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.stdout == "done\n", process.stderr
