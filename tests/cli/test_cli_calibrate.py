"""deepnotes train --calibrate: the temperature, its effect, and what cannot be calibrated."""

import json
from pathlib import Path

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.datasets.tables import write_table

QUICK = ("--target", "kind", "--layers", "32", "--epochs", "40", "--l2", "0", "--dropout", "0", "--backend", "numpy")

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def overlapping():
    """Write blobs.csv, 400 rows of three classes that overlap; return its name."""
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=400)
    write_table(
        "blobs.csv",
        ["a", "b", "c", "kind"],
        [*(np.eye(3)[y] + rng.normal(size=(400, 3))).T, np.array(["x", "y", "z"])[y]],
    )
    return "blobs.csv"


def test_the_model_is_that_without_the_option_divided_by_the_temperature(run, overlapping):
    run("train", overlapping, *QUICK, "-o", "plain.st", "--quiet")
    out, _ = run("train", overlapping, *QUICK, "-o", "calibrated.st", "--calibrate")
    plain, calibrated = dn.load("plain.st", "numpy"), dn.load("calibrated.st", "numpy")
    saved = calibrated.metadata["calibration"]
    T = saved["temperature"]
    np.testing.assert_allclose(calibrated.network.parameters["W2"], plain.network.parameters["W2"] / T, rtol=1e-6)
    np.testing.assert_array_equal(calibrated.network.parameters["W1"], plain.network.parameters["W1"])
    assert T > 1
    assert saved["after"]["log_loss"] < saved["before"]["log_loss"]
    assert saved["before"]["log_loss"] == pytest.approx(plain.metadata["validation"]["loss"])
    assert saved["after"]["log_loss"] == pytest.approx(calibrated.metadata["validation"]["loss"])
    assert f"temperature  {T:.4f}, chosen with 80 held-out rows\n" in out
    assert "on the same rows" in out


def test_early_stopping_rows_choose_the_temperature(run, overlapping):
    args = ("train", overlapping, *QUICK, "--early-stopping", "5", "--calibrate")
    assert "chosen with 32 early-stopping rows" in (out := run(*args, "-o", "a.st")[0])
    assert "on 80 held-out rows" in out
    trained = json.loads(run(*args, "-o", "b.st", "--json")[0])["calibration"]
    assert trained["rows"] == 32
    assert trained == dn.load("b.st", "numpy").metadata["calibration"]
    assert set(trained["before"]) == set(trained["after"]) == {"log_loss", "expected_calibration_error"}
    only = run(*args, "--validation", "0", "-o", "c.st")[0]
    assert "chosen with 40 early-stopping rows" in only
    assert "on the same rows" in only


def test_a_network_that_is_always_right_is_left_as_it_is(run):
    write_table("easy.csv", ["a", "kind"], [np.arange(100.0), np.where(np.arange(100) < 50, "low", "high")])
    run("train", "easy.csv", *QUICK, "-o", "plain.st", "--quiet")
    _, err = run("train", "easy.csv", *QUICK, "-o", "model.st", "--calibrate")
    assert "note: --calibrate left the network as it is: all samples are predicted correctly" in err
    np.testing.assert_array_equal(*(dn.load(name, "numpy").network.flat() for name in ("plain.st", "model.st")))
    result = json.loads(run("train", "easy.csv", *QUICK, "-o", "json.st", "--calibrate", "--json")[0])
    assert result["calibration"] is None
    assert any("--calibrate" in note for note in result["notes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--members", "2"), "--calibrate cannot be combined with --members: it calibrates a single network"),
        (("--folds", "2"), "--calibrate cannot be combined with --folds"),
        (("--validation", "0"), "--calibrate needs rows that the network is not trained on"),
        (("--target", "a"), "--calibrate is for the probabilities of classes, but the task is a regression"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_before_training(fails, overlapping, options, message):
    assert message in fails(2, "train", overlapping, *QUICK, "--calibrate", *options, "-o", "model.st")
    assert not Path("model.st").exists()
