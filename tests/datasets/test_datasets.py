"""The bundled digits, compared with published facts about them and with scikit-learn's copy, and synthetic data."""

from importlib.resources import files

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.datasets import load_digits, make_blobs, make_moons, make_spirals, make_teacher
from deepnotes.utils.errors import ArgumentError


def test_shapes_dtypes_and_range_of_the_digits():
    digits = load_digits()
    assert digits.X.shape == (1797, 64)
    assert digits.X.dtype == np.float64
    assert digits.y.shape == (1797,)
    assert digits.y.dtype == np.int64
    assert (digits.X.min(), digits.X.max()) == (0, 16)
    assert np.array_equal(digits.X, digits.X.round())


def test_feature_and_class_names_of_the_digits():
    digits = load_digits()
    assert digits.classes == list("0123456789")
    assert len(set(digits.feature_names)) == 64
    assert digits.feature_names[0] == "pixel_0_0"
    assert digits.feature_names[8 * 3 + 5] == "pixel_3_5"


def test_class_counts_match_the_uci_repository():
    assert np.bincount(load_digits().y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_first_image_shows_a_zero():
    digits = load_digits()
    image = digits.X[0].reshape(8, 8)
    assert digits.y[0] == 0
    assert image[0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert image[3:5, 3:5].sum() < image[3:5, 1:3].sum()


def test_digits_match_scikit_learn():
    source = pytest.importorskip("sklearn.datasets").load_digits()
    digits = load_digits()
    assert np.array_equal(digits.X, source.data)
    assert np.array_equal(digits.y, source.target)
    assert digits.feature_names == source.feature_names


def test_each_call_returns_new_arrays():
    load_digits().X[:] = -1
    assert load_digits().X.min() == 0


def test_the_licence_is_packaged_with_the_data():
    text = files("deepnotes.datasets").joinpath("digits.LICENSE").read_text("utf-8")
    for part in ("Alpaydin", "Kaynak", "UCI Machine Learning", "10.24432/C50P49", "CC BY 4.0", "Changes"):
        assert part in text


# --- synthetic data ---------------------------------------------------------------------------------------------------

CLASSIFICATION = [(make_moons, 2), (make_spirals, 2), (make_blobs, 3)]


@pytest.mark.parametrize(("make", "classes"), CLASSIFICATION)
def test_classes_are_balanced_and_in_random_order(make, classes):
    samples = make(31)
    assert (samples.X.shape, samples.X.dtype, samples.y.shape, samples.y.dtype) == (
        (31, 2),
        np.float64,
        (31,),
        np.int64,
    )
    assert np.ptp(np.bincount(samples.y, minlength=classes)) <= 1
    assert (samples.feature_names, samples.classes) == (["x0", "x1"], [str(i) for i in range(classes)])
    assert not np.array_equal(samples.y, np.sort(samples.y))


@pytest.mark.parametrize("make", [make_moons, make_spirals, make_blobs, make_teacher])
def test_the_seed_determines_the_data_and_invalid_arguments_are_refused(make):
    for default, same_seed, other_seed in zip(make(50), make(50, seed=0), make(50, seed=1), strict=True):
        assert np.array_equal(default, same_seed)
        assert isinstance(default, list) or not np.array_equal(default, other_seed)
    make(50).X[:] = np.nan
    assert np.isfinite(make(50).X).all()
    for invalid in ({"samples": 0}, {"samples": 1.5}, {"samples": True}, {"seed": -1}):
        with pytest.raises(ArgumentError, match=f"{next(iter(invalid))}="):
            make(**invalid)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [(make_moons, {"noise": -1}), (make_spirals, {"noise": np.nan}), (make_spirals, {"turns": 0}),
     (make_spirals, {"classes": 1}), (make_blobs, {"features": 0}), (make_blobs, {"spread": "x"}),
     (make_blobs, {"samples": 2}), (make_teacher, {"hidden": 0}), (make_teacher, {"noise": -0.1})],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(make, arguments):
    with pytest.raises(ArgumentError, match=f"{next(iter(arguments))}="):
        make(**arguments)


def test_moons_are_two_half_circles():
    moons = make_moons(500, noise=0)
    upper, lower = moons.X[moons.y == 0], moons.X[moons.y == 1]
    assert np.hypot(*upper.T) == pytest.approx(1)
    assert np.hypot(*(lower - [1, 0.5]).T) == pytest.approx(1)
    assert upper[:, 1].min() >= 0
    assert lower[:, 1].max() <= 0.5


def test_spirals_are_arms_around_the_origin():
    spirals = make_spirals(600, classes=3, turns=2, noise=0)
    angle = np.arctan2(*spirals.X.T[::-1])
    radius = np.hypot(*spirals.X.T)
    assert radius.max() <= 4 * np.pi
    deviation = (radius + 2 * np.pi * spirals.y / 3 - angle + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(deviation).max() < 1e-6


def test_blobs_are_round_clouds():
    blobs = make_blobs(3000, features=5, spread=0.5)
    for i in range(3):
        cloud = blobs.X[blobs.y == i]
        assert np.abs(cloud.mean(axis=0)).max() < 10.1
        assert cloud.std(axis=0) == pytest.approx(0.5, rel=0.1)  # 1000 samples: the standard error is 0.011


def test_a_network_learns_the_function_of_the_teacher():
    samples = make_teacher(400, features=3, hidden=2)
    net = dn.Network([dn.Dense(6, "tanh"), dn.Dense(1)], inputs=3, seed=0)
    before = net.evaluate(samples.X.T, samples.y)["loss"]
    net.fit(samples.X.T, samples.y, epochs=60, optimizer=dn.Adam(0.01))
    assert net.evaluate(samples.X.T, samples.y)["loss"] < 0.02 * before
    noisy = make_teacher(400, features=3, hidden=2, noise=0.5)
    assert np.std(noisy.y - samples.y) == pytest.approx(0.5, rel=0.15)


def test_two_layers_separate_the_moons():
    moons = make_moons(400, noise=0.05)
    net = dn.Network([dn.Dense(16, "tanh"), dn.Dense(1, "sigmoid")], inputs=2, seed=0)
    history = net.fit(moons.X.T, moons.y, epochs=60, optimizer=dn.Adam(0.02), metrics="accuracy")
    assert history.metrics["accuracy"][-1] == 1
