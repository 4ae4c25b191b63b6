"""Models that the command line trained, used from Python: ``dn.load(path).predict(table)``."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import main
from deepnotes.network.model import values_of

pytest.importorskip("pyarrow")

TOWNS = ["Aub", "Ulm", "Hof"]


def train(*arguments: str) -> None:
    """Train a small network with the command line."""
    quick = ["--layers", "8", "--epochs", "20", "--backend", "numpy", "--quiet"]
    assert main(["train", *arguments, *quick]) == 0


@pytest.fixture
def flats(tmp_path, monkeypatch) -> dict[str, Any]:
    """Return a table with a category, missing values, a date, a code, and a quantity and a class to predict."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    area = rng.uniform(30, 200, 90).round(1).tolist()
    town = rng.choice(TOWNS, 90).tolist()
    flats = {
        "area": [None, *area[1:]],
        "town": town,
        "zone": rng.choice([1, 2], 90).tolist(),
        "day": [f"2024-01-{1 + i % 28:02}" for i in range(90)],
        "price": [500 + 5 * a + 100 * (t == "Ulm") for a, t in zip(area, town, strict=True)],
        "floor": rng.integers(0, 3, 90).tolist(),
    }
    lines = [",".join("" if v is None else str(v) for v in row) for row in zip(*flats.values(), strict=True)]
    Path("flats.csv").write_text("\n".join([",".join(flats), *lines]) + "\n", encoding="utf-8")
    return flats


@pytest.fixture
def price(flats) -> dn.Model:
    """Return a model of the price."""
    options = ["--categorical", "zone", "--dates", "day", "--impute", "mean"]
    train("flats.csv", "--target", "price", "--exclude", "floor", "-o", "price", *options)
    model: dn.Model = dn.load("price", backend="numpy")
    return model


def predictions(model: str, capsys) -> list[Any]:
    """Return the predictions of the command line."""
    capsys.readouterr()
    assert main(["predict", model, "flats.csv", "--json"]) == 0
    found: list[Any] = json.loads(capsys.readouterr().out)["predictions"]["prediction"]
    return found


def frames(flats: dict[str, Any]) -> dict[str, Any]:
    """Return the same table as each type of table in memory."""
    pandas, polars, pa = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))
    frame = pandas.DataFrame(flats)
    return {
        "dict": flats,
        "pandas": frame,
        "pandas with an index and dates": frame.assign(day=pandas.to_datetime(frame.day)).set_index(frame.area.values),
        "pandas with categories": frame.astype({"town": "category", "zone": "category"}),
        "pandas with nullable dtypes": frame.convert_dtypes(),
        "polars": polars.DataFrame(flats),
        "polars with categories": polars.DataFrame(flats).with_columns(polars.col("town").cast(polars.Categorical)),
        "arrow": pa.table(flats),
        "columns in another order": frame[list(frame)[::-1]],
        "array": frame[["area", "town", "zone", "day"]].to_numpy(),
    }


def test_predictions_for_a_frame_are_those_of_the_command_line(flats, price, capsys):
    expected = predictions("price", capsys)
    assert max(expected) > 600  # in the units of the target
    for name, frame in frames(flats).items():
        np.testing.assert_array_equal(price.predict(frame), expected, err_msg=name)
    np.testing.assert_array_equal(price.predict("flats.csv"), expected)
    np.testing.assert_array_equal(price.predict(dn.read_table("flats.csv", missing="keep", dates=["day"])), expected)


def test_classes_are_predicted_as_they_are_in_the_data(flats, capsys):
    columns = ["--exclude", "day,price", "--impute", "mean"]
    train("flats.csv", "--target", "floor", "-o", "floor", *columns)
    model = dn.load("floor", backend="numpy")
    predicted = model.predict(flats)
    assert predicted.dtype.kind == "i"
    assert [str(label) for label in predicted] == predictions("floor", capsys)
    P = model.predict_proba(flats)
    assert P.shape == (90, 3)
    np.testing.assert_array_equal(model.classes[P.argmax(axis=1)], predicted)
    assert model.score(flats) == np.mean(predicted == flats["floor"])
    assert model.score(flats, np.array(flats["floor"], float)) == model.score(flats)

    train("flats.csv", "--target", "town", "-o", "town", *columns)
    assert set(dn.load("town", backend="numpy").predict(flats)) <= set(TOWNS)


def test_the_score_is_that_of_evaluate(flats, price, capsys):
    capsys.readouterr()
    assert main(["evaluate", "price", "flats.csv", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["metrics"]["r2"]
    assert price.score(flats) == pytest.approx(expected)
    assert price.score("flats.csv", flats["price"]) == pytest.approx(expected)


def test_an_ensemble_is_a_model(flats, capsys):
    train("flats.csv", "--target", "price", "--exclude", "floor,day", "--impute", "mean", "--members", "2", "-o", "two")
    model = dn.load("two", backend="numpy")
    assert isinstance(model.network, dn.Ensemble)
    np.testing.assert_array_equal(model.predict(flats), predictions("two", capsys))


def test_the_network_of_a_model_predicts_numbers(flats, price):
    A = price.network.predict(price.encode(flats))
    assert A.shape == (1, 90)
    assert abs(A).max() < 10


def test_what_a_network_has_is_found_by_its_error(price):
    with pytest.raises(AttributeError, match="no attribute 'layers'; use model"):
        _ = price.layers
    with pytest.raises(AttributeError, match=r"no attribute 'laers'$"):
        _ = price.laers
    assert not hasattr(price, "fit")


def test_a_model_can_be_copied_and_pickled(flats, price):
    for again in (copy.deepcopy(price), pickle.loads(pickle.dumps(price))):
        np.testing.assert_array_equal(again.predict(flats), price.predict(flats))


def test_a_model_can_be_saved_and_loaded_again(flats, price):
    price.metadata["note"] = "checked"
    price.save("again")
    again = dn.load("again", backend="numpy")
    assert again.metadata["note"] == "checked"
    np.testing.assert_array_equal(again.predict(flats), price.predict(flats))


def test_other_files_hold_networks(tmp_path):
    net = dn.Network([dn.Dense(1)], inputs=1, seed=0)
    net.metadata = {"features": ["a"], "target": "b"}
    net.save(tmp_path / "net")
    assert isinstance(dn.load(tmp_path / "net"), dn.Network)


def test_a_model_with_an_invalid_description_is_refused(flats, price):
    price.metadata |= {"target_mean": None}
    price.save("changed")
    with pytest.raises(dn.ModelFileError, match="changed has no valid description of its inputs and outputs"):
        dn.load("changed")


def test_unsuitable_tables_are_refused(flats, price):
    without = {name: column for name, column in flats.items() if name != "zone"}
    text = flats | {"area": ["large"] * 90}
    with pytest.raises(dn.TableError, match="dict: no column 'zone'"):
        price.predict(without)
    with pytest.raises(dn.TableError, match="dict: row 1: column 'area' has 'large' where a number was expected"):
        price.predict(text)
    with pytest.raises(dn.TableError, match=r"unknown category 'Ems'.*unknown='zeros'"):
        price.predict(flats | {"town": ["Ems"] * 90})
    assert price.predict(flats | {"town": ["Ems"] * 90}, unknown="zeros").shape == (90,)
    with pytest.raises(dn.ShapeError, match="here, rows are samples, unlike in Network"):
        price.predict(np.ones((4, 90)))
    with pytest.raises(dn.ArgumentError, match="wanted a path, a DataFrame"):
        price.predict(3)


def test_requests_that_do_not_suit_the_task_are_refused(flats, price):
    with pytest.raises(dn.ArgumentError, match="predict_proba: the model predicts the quantity 'price'"):
        price.predict_proba(flats)
    with pytest.raises(dn.DataError, match=r"y has shape \(5,\), wanted \(90,\)"):
        price.score(flats, flats["price"][:5])
    with pytest.raises(dn.DataError, match="y has the dtype <U3, wanted numbers"):
        price.score(flats, flats["town"])


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["0", "1", "10"], "i"),
        (["-1", "1"], "i"),
        (["0.5", "1.5"], "f"),
        (["1.0", "2.0"], "f"),
        (["007", "8"], "U"),
        (["1", "1.0"], "U"),
        (["a", "1"], "U"),
        (["9007199254740993", "1"], "U"),
        (["nan", "1.0"], "U"),
        (["True", "False"], "U"),
    ],
)
def test_classes_are_numbers_if_all_are_written_as_python_writes_them(labels, kind):
    values = values_of(labels)
    assert values.dtype.kind == kind
    assert [str(value) for value in values.tolist()] == labels
