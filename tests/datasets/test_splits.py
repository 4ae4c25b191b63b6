"""Splits into training and validation sets: disjoint, complete, reproducible, proportional and never empty."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepnotes.datasets.splits import train_validation_split
from deepnotes.utils.errors import ArgumentError


def rng(seed=0):
    return np.random.default_rng(seed)


def assert_partition(train, validation, m):
    for part in (train, validation):
        assert part.dtype == np.int64
        assert part.size > 0
        assert (np.diff(part) > 0).all()
    assert sorted([*train, *validation]) == list(range(m))


@pytest.mark.parametrize(
    ("m", "share", "size"), [(2, 0.5, 1), (10, 0.2, 2), (10, 0.25, 2), (11, 0.9, 10), (999, 0.1, 100)]
)
def test_the_validation_set_has_the_requested_share(m, share, size):
    train, validation = train_validation_split(m, share, rng())
    assert_partition(train, validation, m)
    assert validation.size == size


def test_the_split_depends_only_on_the_seed():
    first, repeated, other = (train_validation_split(100, 0.3, rng(seed))[1].tolist() for seed in (1, 1, 2))
    assert first == repeated
    assert first != other


def test_every_sample_is_equally_likely_to_be_chosen():
    generator = rng()
    counts = np.zeros(10)
    for _ in range(2000):
        counts[train_validation_split(10, 0.3, generator)[1]] += 1
    assert abs(counts - 600).max() < 120  # six standard deviations


def test_stratified_and_plain_splits_draw_a_single_permutation():
    generators = [rng(), rng(), rng()]
    train_validation_split(20, 0.5, generators[0])
    train_validation_split(20, 0.5, generators[1], stratify=np.arange(20) % 3)
    generators[2].permutation(20)
    assert len({generator.integers(2**60) for generator in generators}) == 1


def test_numpy_scalars_are_accepted():
    assert train_validation_split(np.int32(4), np.float32(0.5), rng())[1].size == 2


def test_a_stratified_split_is_proportional():
    labels = np.repeat([7, -3, 5], [60, 30, 10])
    order = rng(3).permutation(100)
    train, validation = train_validation_split(100, 0.2, rng(), stratify=labels[order])
    assert_partition(train, validation, 100)
    assert {k: int((labels[order][validation] == k).sum()) for k in (7, -3, 5)} == {7: 12, -3: 6, 5: 2}


def test_the_size_of_a_stratified_validation_set_is_the_share_of_all_samples():
    labels = np.arange(30) % 10  # 0.75 samples of each class: only the total can be exact
    _, validation = train_validation_split(30, 0.25, rng(), stratify=labels)
    assert validation.size == round(30 * 0.25)
    assert np.bincount(labels[validation]).max() == 1


def test_members_of_a_class_are_drawn_at_random():
    labels = np.repeat([0, 1], 50)
    first, other = (train_validation_split(100, 0.5, rng(seed), stratify=labels)[1].tolist() for seed in (1, 2))
    assert first != other


def test_each_class_has_a_sample_in_the_training_set():
    labels = np.array([0] * 20 + [1] * 2 + [2])
    for seed in range(20):
        train, _ = train_validation_split(23, 0.9, rng(seed), stratify=labels)
        assert set(labels[train]) == {0, 1, 2}


@given(st.lists(st.integers(-2, 4), min_size=2, max_size=60), st.floats(0.01, 0.99), st.integers(0, 5))
def test_stratified_splits_of_random_labels_are_valid(labels, share, seed):
    m, labels = len(labels), np.array(labels)
    sizes = np.unique(labels, return_counts=True)[1]
    if round(m * share) in (0, m) or sizes.max() == 1:
        with pytest.raises(ArgumentError, match=r"set (is )?empty"):
            train_validation_split(m, share, rng(seed), stratify=labels)
        return
    train, validation = train_validation_split(m, share, rng(seed), stratify=labels)
    assert_partition(train, validation, m)
    assert validation.size <= round(m * share)
    for label in set(labels.tolist()):
        size = (labels == label).sum()
        assert (labels[train] == label).any()
        assert abs((labels[validation] == label).sum() - size * share) < 1 + 1e-9


@pytest.mark.parametrize("m", [1, 0, -5, 2.0, "9", None, True])
def test_an_invalid_number_of_samples_is_refused(m):
    with pytest.raises(ArgumentError, match=r"^m=.*, wanted an integer of at least 2"):
        train_validation_split(m, 0.5, rng())


@pytest.mark.parametrize("share", [0, 1, 0.0, 1.0, -0.1, 1.5, float("nan"), float("inf"), "0.5", None, True, 0.5j])
def test_an_invalid_share_is_refused(share):
    with pytest.raises(ArgumentError, match=r"^share=.*, wanted a number strictly between 0 and 1"):
        train_validation_split(10, share, rng())


@pytest.mark.parametrize("value", [0, None, np.random, np.random.RandomState(0)])
def test_an_invalid_rng_is_refused(value):
    with pytest.raises(ArgumentError, match=r"^rng=.*, wanted a numpy\.random\.Generator"):
        train_validation_split(10, 0.5, value)


@pytest.mark.parametrize(
    ("stratify", "message"),
    [
        ([0, 1, 0], r"stratify has shape \(3,\), wanted \(4,\)"),
        ([[0, 1, 0, 1]], r"stratify has shape \(1, 4\), wanted \(4,\)"),
        ([0.0, 1.0, 0.0, 1.0], "stratify has dtype float64, wanted integer labels"),
        (["a", "b", "a", "b"], "stratify has dtype <U1, wanted integer labels"),
        ([[0], [0, 1]], "stratify is not an array"),
    ],
)
def test_invalid_labels_are_refused(stratify, message):
    with pytest.raises(ArgumentError, match=message):
        train_validation_split(4, 0.5, rng(), stratify=stratify)


@pytest.mark.parametrize(("share", "part"), [(0.1, "validation"), (0.9, "training")])
def test_an_empty_set_is_refused(share, part):
    with pytest.raises(ArgumentError, match=f"share {share} of 3 samples leaves the {part} set empty"):
        train_validation_split(3, share, rng())


def test_splitting_classes_of_one_sample_each_is_refused():
    with pytest.raises(ArgumentError, match=r"stratify has 6 classes .* the validation set is empty"):
        train_validation_split(6, 0.5, rng(), stratify=np.arange(6))


def test_an_error_leaves_the_generator_unchanged():
    generator = rng()
    with pytest.raises(ArgumentError):
        train_validation_split(6, 0.5, generator, stratify=np.arange(6))
    assert generator.integers(2**60) == rng().integers(2**60)
