"""The bundled digits: what they hold, and that they are the data they claim to be."""

from importlib.resources import files

import numpy as np
import pytest

from deepnotes.datasets import load_digits


def test_shapes_types_and_range():
    digits = load_digits()
    assert digits.X.shape == (1797, 64)
    assert digits.X.dtype == np.float64
    assert digits.y.shape == (1797,)
    assert digits.y.dtype == np.int64
    assert (digits.X.min(), digits.X.max()) == (0, 16)
    assert np.array_equal(digits.X, digits.X.round())


def test_names():
    digits = load_digits()
    assert digits.classes == list("0123456789")
    assert len(set(digits.feature_names)) == 64
    assert digits.feature_names[0] == "pixel_0_0"
    assert digits.feature_names[8 * 3 + 5] == "pixel_3_5"


def test_class_counts_are_those_the_repository_publishes():
    assert np.bincount(load_digits().y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_first_image_is_a_zero_with_a_hole():
    digits = load_digits()
    image = digits.X[0].reshape(8, 8)
    assert digits.y[0] == 0
    assert image[0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert image[3:5, 3:5].sum() < image[3:5, 1:3].sum()


def test_equal_to_the_source():
    source = pytest.importorskip("sklearn.datasets").load_digits()
    digits = load_digits()
    assert np.array_equal(digits.X, source.data)
    assert np.array_equal(digits.y, source.target)
    assert digits.feature_names == source.feature_names


def test_each_call_returns_new_arrays():
    load_digits().X[:] = -1
    assert load_digits().X.min() == 0


def test_the_licence_travels_with_the_data():
    text = files("deepnotes.datasets").joinpath("digits.LICENSE").read_text("utf-8")
    for part in ("Alpaydin", "Kaynak", "UCI Machine Learning", "10.24432/C50P49", "CC BY 4.0", "Changes"):
        assert part in text
