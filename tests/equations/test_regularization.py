"""Regularization: dropout and the random numbers of its masks, L2, clipping by the global norm."""

import math

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import deepnotes as dn
from deepnotes import equations as eq
from deepnotes.nn.layers import Context, Dropout

U = 2.0**-53  # unit roundoff of float64
OPS = dn.get_backend("numpy").ops
MAX_WORD = 2**32 - 1


def mask(n=5, m=7, rate=0.5, seed=3, step=0, layer=1, dtype=np.float64):
    return eq.dropout_mask(np, (n, m), rate, seed, np.asarray(step, dtype=np.int64), layer, dtype)


# Random numbers


def philox(counter, key):
    """Return the words of Philox-4x32-10, in Python integers, as in the paper (Salmon et al., SC'11, section 4)."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MAX_WORD, (p0 >> 32) ^ c3 ^ k1, p0 & MAX_WORD
        k0, k1 = (k0 + 0x9E3779B9) & MAX_WORD, (k1 + 0xBB67AE85) & MAX_WORD
    return [c0, c1, c2, c3]


def words_of_equation(counter, key):
    """Return the four words that the equation `philox` computes for one counter."""
    arrays = tuple(np.array([c], dtype=np.int64) for c in counter)
    return [int(x[0]) for x in eq.philox(np, arrays, key[1] << 32 | key[0])]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([MAX_WORD] * 4, [MAX_WORD] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_matches_published_test_vectors(counter, key, expected):
    """The expected words are the test vectors of Random123, the library by the authors of Philox."""
    assert " ".join(f"{word:08x}" for word in words_of_equation(counter, key)) == expected
    assert philox(counter, key) == words_of_equation(counter, key)


@given(*[st.lists(st.integers(0, MAX_WORD), min_size=n, max_size=n) for n in (4, 2)])
def test_philox_in_int64_equals_philox_in_unbounded_integers(counter, key):
    assert words_of_equation(counter, key) == philox(counter, key)


def test_philox_broadcasts_counters():
    blocks, step = np.arange(5), np.array(7)
    arrays = eq.philox(np, (blocks, 2, step, step >> 32), 11)
    assert np.stack(arrays, axis=1).tolist() == [philox((i, 2, 7, 0), (11, 0)) for i in range(5)]


# Dropout masks


def test_a_mask_compares_philox_words_with_the_rate():
    """Element (i, j) depends on word e % 4 of block e // 4, with e = j n + i; it is dropped if word < 2^32 rate."""
    n, m, rate, seed, step, layer = 3, 5, 0.3, 2**40 + 9, 2**33 + 5, 4
    keep = mask(n, m, rate, seed, step, layer)
    for i in range(n):
        for j in range(m):
            block, word = divmod(j * n + i, 4)
            four = philox((block, layer, step & MAX_WORD, step >> 32), (seed & MAX_WORD, seed >> 32))
            assert keep[i, j] == (four[word] >= rate * 2**32)


def test_an_element_is_dropped_if_its_word_is_below_the_rate():
    """The first rate is word / 2^32, which keeps the element; the second is larger by 2^-32, which drops it."""
    word = philox((0, 1, 0, 0), (3, 0))[0]
    assert mask(rate=word / 2**32)[0, 0] == 1
    assert mask(rate=(word + 1) / 2**32)[0, 0] == 0


@given(n=st.integers(1, 9), m=st.integers(1, 9), extra=st.integers(0, 9), seed=st.integers(0, 2**64 - 1))
def test_later_samples_do_not_change_the_mask_of_a_sample(n, m, extra, seed):
    assert mask(n, m + extra, seed=seed)[:, :m].tolist() == mask(n, m, seed=seed).tolist()


@pytest.mark.parametrize("other", [{"step": 1}, {"step": 2**32}, {"layer": 2}, {"seed": 4}, {"seed": 3 + 2**32}])
def test_masks_differ_between_steps_layers_and_seeds(other):
    """Independent masks agree for half of the 1000 neurons, within 6 standard deviations."""
    agree = (mask(1000, 1) == mask(1000, 1, **other)).mean()
    assert abs(agree - 0.5) < 6 * math.sqrt(0.25 / 1000)


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.5, 0.9])
def test_the_fraction_of_dropped_elements_matches_the_rate(rate):
    """The fractions in total, per sample and per neuron are within 6 standard deviations of the rate (binomial)."""
    n = m = 1000
    dropped = 1 - mask(n, m, rate)
    assert set(np.unique(dropped).tolist()) == {0.0, 1.0}
    for fraction, size in ((dropped.mean(), n * m), (dropped.mean(axis=0), n), (dropped.mean(axis=1), m)):
        assert (abs(fraction - rate) < 6 * math.sqrt(rate * (1 - rate) / size)).all()


def test_a_rate_of_0_keeps_all_elements():
    assert mask(50, 50, rate=0.0).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_masks_are_the_same_with_another_library_and_dtype(dtype):
    xp = array_api_strict
    other = eq.dropout_mask(xp, (5, 7), 0.3, 2**63 + 1, xp.asarray(2**33, dtype=xp.int64), 2, getattr(xp, dtype))
    assert other.dtype == getattr(xp, dtype)
    assert np.from_dlpack(other).tolist() == mask(5, 7, 0.3, 2**63 + 1, 2**33, 2, np.dtype(dtype)).tolist()


# Dropout


def test_dropout_scales_the_elements_that_are_kept():
    A, keep = np.array([[1.0, -2.0], [3.0, 4.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    assert eq.dropout(np, A, keep, 0.75).tolist() == [[4.0, 0.0], [0.0, 16.0]]


def test_dropout_keeps_the_expected_value():
    """The mean of 10^6 ones stays 1 within 6 standard deviations, each sqrt(rate / (1 - rate) / 10^6)."""
    rate = 0.3
    A = np.ones((1000, 1000))
    dropped = eq.dropout(np, A, mask(1000, 1000, rate), rate)
    assert abs(dropped.mean() - 1) < 6 * math.sqrt(rate / (1 - rate) / A.size)


def test_the_backward_form_of_dropout_is_dropout():
    """Dropout multiplies by a diagonal matrix: <dropout(A), dA> = <A, dropout(dA)>; exact for integers and rate 3/4."""
    rng = np.random.default_rng(0)
    A, dA = rng.integers(-9, 10, (4, 6)).astype(float), rng.integers(-9, 10, (4, 6)).astype(float)
    layer, context = Dropout(0.75), Context(layer=4, seed=9, step=np.asarray(6))
    forward, cache = layer.forward(OPS, {}, A, context)
    backward, gradients = layer.backward(OPS, {}, cache, dA)
    assert gradients == {}
    assert (forward * dA).sum() == (A * backward).sum() != 0
    assert ((forward == 0) & (A != 0)).any()
    assert backward.tolist() == (4 * dA * mask(4, 6, 0.75, seed=9, step=6, layer=4)).tolist()


def test_dropout_is_the_identity_in_predictions_and_at_a_rate_of_0():
    A = np.ones((4, 6))
    for layer, step in ((Dropout(0.75), None), (Dropout(0.0), np.asarray(0))):
        result, cache = layer.forward(OPS, {}, A, Context(1, 3, step))
        assert result is A
        assert layer.backward(OPS, {}, cache, A) == (A, {})


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, math.nan, "half", None, True])
def test_an_invalid_rate_is_refused(rate):
    with pytest.raises(dn.ArgumentError, match="wanted at least 0 and less than 1"):
        Dropout(rate)


# L1


def test_l1_is_the_sum_of_the_absolute_values_of_the_weights_only():
    theta, decays = np.array([1.0, -2.0, 0.0, 3.0]), np.array([1.0, 1.0, 1.0, 0.0])
    assert eq.l1_penalty(np, theta, decays, 0.5) == 0.5 * (1 + 2)
    g = np.array([10.0, 20.0, 30.0, 40.0])
    assert eq.l1_gradient(np, g, theta, decays, 0.5).tolist() == [10.5, 19.5, 30.0, 40.0]


# L2


def test_l2_is_half_the_sum_of_squares_of_the_weights_only():
    theta, decays, g = np.array([1.0, -2.0, 3.0]), np.array([1.0, 1.0, 0.0]), np.array([10.0, 20.0, 30.0])
    assert eq.l2_penalty(np, theta, decays, 0.5) == 0.25 * (1 + 4)
    assert eq.l2_gradient(np, g, theta, decays, 0.5).tolist() == [10.5, 19.0, 30.0]


def test_l2_does_not_apply_to_the_biases_of_a_network():
    net = dn.Network([dn.Dense(3, "relu"), dn.Dense(2)], 2, dtype="float64", seed=0)
    net.set_flat(np.random.default_rng(0).integers(-4, 5, net.layout.size).astype(float))
    X, Y = np.ones((2, 4)), np.zeros((2, 4))
    without, with_l2 = net.gradients(X, Y), net.gradients(X, Y, l2=0.5)
    for name, p in net.parameters.items():
        assert with_l2[name].tolist() == (without[name] + (0.5 * p if name[0] == "W" else 0)).tolist()


# Clipping


def test_a_longer_gradient_is_scaled_to_the_maximum_norm():
    assert eq.clip_by_global_norm(np, np.array([3.0, -4.0]), 2.5).tolist() == [1.5, -2.0]


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.floats(1e-3, 1e3))
def test_clipping_limits_the_norm_and_keeps_the_direction(values, max_norm):
    """The norm is at most `max_norm`, the direction stays the same, and a shorter gradient does not change.

    The p squares and their sum have p roundings; the root halves this error and adds one rounding; the scale and the
    product add two.
    """
    g, norm = np.array(values), math.hypot(*values)
    clipped = eq.clip_by_global_norm(np, g, max_norm)
    slack = (len(values) / 2 + 4) * U
    assert math.hypot(*clipped.tolist()) <= min(norm, max_norm) * (1 + slack)
    if norm < max_norm * (1 - slack):
        assert clipped.tolist() == values
    elif norm > max_norm * (1 + slack):
        assert (abs(clipped - g * (max_norm / norm)) <= 2 * slack * abs(g) + 5e-324).all()  # 5e-324 is subnormal


def test_clipping_keeps_a_zero_gradient():
    assert eq.clip_by_global_norm(np, np.zeros(3), 1.0).tolist() == [0.0] * 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clipping_survives_squares_that_overflow(dtype):
    """The norm of (3e, 4e) is 5e, although (3e)² and (4e)² are larger than the largest float."""
    e = float(np.finfo(dtype).max) / 8
    clipped = dn.get_backend("numpy").ops.clip_by_global_norm(np.array([3 * e, 4 * e], dtype=dtype), 1.0)
    np.testing.assert_allclose(clipped, [0.6, 0.8], rtol=4 * np.finfo(dtype).eps)
