"""The encoding of table columns as inputs: categories, missing values, and errors."""

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.datasets.encoding import Encoder
from deepnotes.datasets.tables import Table, read_table
from deepnotes.utils.errors import ArgumentError, TableError


@pytest.fixture
def flowers(csv_file):
    """Return a table with a missing number and a missing category."""
    text = "size,kind,zip\n1,rose,10\n2,tulip,20\n,rose,10\n4,,20\n9,daisy,10\n"
    return read_table(csv_file(text), missing="keep")


def test_categories_are_one_hot_encoded_and_numbers_are_kept(flowers):
    encoder = Encoder.fit(flowers, ["kind", "size"], impute="median", rows=np.array([0, 1, 4]))
    assert encoder.inputs == ["kind=daisy", "kind=rose", "kind=tulip", "size"]
    assert encoder(flowers).T.tolist() == [[0, 1, 0, 1], [0, 0, 1, 2], [0, 1, 0, 2], [1, 0, 0, 4], [1, 0, 0, 9]]
    assert encoder.text == ["kind"]


@pytest.mark.parametrize(("impute", "value"), [("mean", 4), ("median", 3), ("zero", 0), ("most_frequent", 1)])
def test_missing_values_are_filled_as_impute_says(flowers, impute, value):
    encoder = Encoder.fit(flowers, ["size", "kind"], impute=impute)
    assert [feature.fill for feature in encoder.features] == [value, "rose"]
    assert encoder(flowers)[0].tolist() == [1, 2, value, 4, 9]


def test_the_imputed_mean_of_huge_numbers_does_not_overflow():
    table = Table(["a"], {"a": np.array([1.5e308, 1.7e308, np.nan])})
    assert Encoder.fit(table, impute="mean").features[0].fill == pytest.approx(1.6e308)


def test_a_column_of_numbers_can_be_categorical(flowers):
    encoder = Encoder.fit(flowers, ["zip"], categorical=["zip"])
    assert encoder.inputs == ["zip=10", "zip=20"]
    assert encoder(flowers).tolist() == [[1, 0, 1, 0, 1], [0, 1, 0, 1, 0]]
    assert encoder.text == []


def test_a_missing_value_is_an_error_unless_imputed(flowers):
    with pytest.raises(
        TableError, match=r"data\.csv:4: column 'size' has an empty cell where a number was expected; im"
    ):
        Encoder.fit(flowers)
    imputing = Encoder.fit(flowers, ["size"], impute="mean")
    assert np.isfinite(imputing(flowers)).all()
    without_imputation = Encoder.fit(Table(["size"], {"size": np.ones(2)}))
    with pytest.raises(TableError, match=r"data\.csv:4: column 'size' has an empty cell .*trained without --impute"):
        without_imputation(flowers)


def test_an_unknown_category_is_an_error_or_encoded_as_zeros(flowers):
    encoder = Encoder.fit(flowers, ["kind"], impute="mean", rows=np.array([0, 1]))
    with pytest.raises(TableError, match=r"row 5: column 'kind' has the unknown category 'daisy'; known categories:"):
        encoder(flowers)
    assert encoder(flowers, unknown="zeros")[:, 4].tolist() == [0, 0]
    assert encoder.count_unknown(flowers) == {"kind": 1}


def test_columns_of_a_different_type_are_refused(csv_file):
    numbers, text = (read_table(csv_file(f"a\n{cell}\n")) for cell in ("1", "x"))
    with pytest.raises(TableError, match=r"column 'a' is text \(its first value is 'x'\), wanted numbers"):
        Encoder.fit(numbers)(text)
    with pytest.raises(TableError, match="column 'a' has the unknown category '1'; known categories: x"):
        Encoder.fit(text)(numbers)
    with pytest.raises(TableError, match="no column 'a'"):
        Encoder.fit(text)(Table(["b"], {"b": np.ones(1)}))


def test_a_column_without_values_can_be_imputed_but_not_fitted(csv_file):
    known = Encoder.fit(read_table(csv_file("a,b\nx,1\nx,2\n")), impute="mean")
    empty = read_table(csv_file("a,b\n,\n,\n"), missing="keep", text=["a"])
    assert known(empty).T.tolist() == [[1, 1.5], [1, 1.5]]
    with pytest.raises(TableError, match="column 'a' has no value in any of the training rows"):
        Encoder.fit(empty, impute="mean")


def test_names_of_inputs_must_be_distinct():
    columns = {"a": np.array(["x", "y"]), "a=x": np.ones(2)}
    with pytest.raises(TableError, match="two inputs would have the name 'a=x'"):
        Encoder.fit(Table(list(columns), columns))
    close = Table(["a"], {"a": np.array([0.1, 0.1 + 1e-15, 3, 1e300])})
    assert Encoder.fit(close, categorical=["a"]).inputs == ["a=0.1", "a=0.100000000000001", "a=3", "a=1e+300"]


def test_text_columns_with_many_values_are_refused_unless_categorical():
    table = Table(["id"], {"id": np.array([f"n{i}" for i in range(65)])})
    with pytest.raises(TableError, match="column 'id' is text with 65 distinct values"):
        Encoder.fit(table)
    assert len(Encoder.fit(table, categorical=["id"]).inputs) == 65


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"impute": "guess"}, ArgumentError, "impute='guess', wanted one of mean"),
        ({"names": []}, TableError, "no column is left"),
        ({"names": ["b"]}, TableError, "no column 'b'"),
        ({"categorical": ["c"]}, TableError, "no column 'c'"),
        ({"embed_above": -1}, ArgumentError, "embed_above=-1, wanted a whole number of at least 0"),
        ({"embed_above": "none"}, ArgumentError, "embed_above='none', wanted a whole number"),
    ],
)
def test_invalid_arguments_of_fit_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Encoder.fit(Table(["a"], {"a": np.ones(1)}), **arguments)


def test_an_invalid_value_of_unknown_is_refused(flowers):
    with pytest.raises(ArgumentError, match="unknown='drop', wanted 'error' or 'zeros'"):
        Encoder.fit(flowers, ["zip"])(flowers, unknown="drop")


def test_an_encoder_can_be_restored_from_metadata(flowers):
    encoder = dn.Encoder.fit(flowers, categorical=["zip"], impute="mean")
    metadata = encoder.as_metadata()
    assert metadata[1] == {"name": "kind", "categories": ["daisy", "rose", "tulip"], "fill": "rose"}
    assert Encoder.from_metadata(metadata) == encoder


def test_columns_of_many_categories_are_encoded_as_indices_from_1(flowers):
    encoder = Encoder.fit(flowers, categorical=["zip"], impute="mean", rows=np.array([0, 1, 3]), embed_above=1)
    assert encoder.inputs == ["size", "kind", "zip"]
    assert encoder.tables == {1: 3, 2: 3}
    with pytest.raises(TableError, match="row 5: column 'kind' has the unknown category 'daisy'"):
        encoder(flowers)
    assert encoder(flowers, unknown="zeros")[1:].tolist() == [[1, 2, 1, 1, 0], [1, 2, 1, 2, 1]]
    assert Encoder.from_metadata(encoder.as_metadata()) == encoder
    assert encoder.as_metadata()[2] == {"name": "zip", "categories": [10, 20], "fill": 20, "embedded": True}
    assert Encoder.fit(flowers, ["kind", "zip"], impute="mean", embed_above=2).tables == {0: 4}
    assert not Encoder.fit(flowers, impute="mean", embed_above=3).tables


@pytest.mark.parametrize(
    "metadata",
    [
        [{"name": 1}],
        [{}],
        [{"name": "a", "categories": []}],
        [{"name": "a", "categories": ["x", "x"]}],
        [{"name": "a", "categories": ["x", 1]}],
        [{"name": "a", "categories": [True]}],
        [{"name": "a", "categories": [""]}],
        [{"name": "a", "categories": [10**400]}],
        [{"name": "a", "categories": ["x"], "fill": "y"}],
        [{"name": "a", "fill": "y"}],
        [{"name": "a", "fill": True}],
        [{"name": "a", "embedded": True}],
        [{"name": "a", "categories": ["x"], "embedded": 1}],
        ["a"],
        5,
    ],
)
def test_invalid_metadata_is_refused(metadata):
    with pytest.raises((LookupError, TypeError, ValueError, OverflowError, AttributeError)):
        Encoder.from_metadata(metadata)
