"""``deepnotes explain``: one training step, printed beside the equations."""

import json
import re
from itertools import product

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS

FORMULAS = {
    "identity": "Z",
    "tanh": "tanh Z",
    "relu": "Z where Z >= 0, else 0",
    "elu": "Z where Z > 0, else 1 (e^Z - 1)",
    "softplus": "log(1 + e^Z)",
    "softmax": "e^Z / Σ_outputs e^Z",
}


def test_the_drawn_example(run, folder) -> None:
    """N5, step by step."""
    page, _ = run("explain", "3-4-1")
    steps = re.findall(r"^ +(\d+)  (\w+) = .*?  \((.*?)\) +│", page, re.MULTILINE)
    assert [int(number) for number, *_ in steps] == list(range(1, 15))
    assert [name for _, name, _ in steps][:4] == ["Z1", "A1", "Z2", "A2"]
    cited = set(re.findall(r"N\d+", page))
    assert cited == {f"N{i}" for i in (2, 3, 6, 7, *range(10, 17))}
    assert run("explain", "3-4-1")[0] == page
    assert 0 not in np.array(json.loads(run("explain", "3-4-1", "--json")[0])["given"]["b1"])
    assert run("explain", "3-4-1", "--seed", "1")[0] != page


def test_the_page_and_the_json_object(run, folder) -> None:
    arguments = ["4-8-3", "--activation", "tanh,softmax", "--seed", "0", "--samples", "2", "-o", "page.html", "--json"]
    out, err = run("explain", *arguments)
    content = json.loads(out)
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert (content["command"], content["page"], content["samples"]) == ("explain", "page.html", 2)
    assert page.startswith("<!doctype html>")
    assert len(page) < 100_000
    assert "Z1 = W1 A0 + b1" in err
    given = {name: np.array(value) for name, value in content["given"].items()}
    steps = {step["name"]: np.array(step["values"]) for step in content["steps"]}
    np.testing.assert_allclose(steps["Z1"], given["W1"] @ given["A0"] + given["b1"], rtol=1e-12)
    np.testing.assert_allclose(steps["dZ2"], steps["A2"] - given["Y"], rtol=1e-12)
    assert f"{steps['dW1'][0, 0]:.4f}" in page
    net = dn.Network([dn.Dense(8, "tanh"), dn.Dense(3, "softmax")], 4, backend="numpy", dtype="float64", seed=0)
    np.testing.assert_array_equal(net.parameters["W1"], given["W1"])
    for name in net.parameters:
        net.parameters[name] = given[name]
    np.testing.assert_array_equal(steps["dW1"], net.gradients(given["A0"], given["Y"])["W1"])


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("", ["tanh", "tanh", "softmax"]),
        ("relu", ["relu", "relu", "softmax"]),
        ("relu,identity", ["relu", "relu", "identity"]),
        ("relu,elu,softplus", ["relu", "elu", "softplus"]),
    ],
)
def test_names_of_activations_are_those_of_the_hidden_and_the_last_layers(activation, expected, run, folder) -> None:
    content = json.loads(run("explain", "2-3-3-2", *["--activation", activation] * bool(activation), "--json")[0])
    formulas = {step["name"]: step["formula"] for step in content["steps"]}
    for i, name in enumerate(expected, 1):
        assert formulas[f"A{i}"] == FORMULAS[name].replace("Z", f"Z{i}")


def test_every_activation_and_loss_has_targets_that_suit_it(run, folder) -> None:
    pairs = product(ACTIVATIONS, ["mean_squared_error", "huber"])
    special = [("sigmoid", "binary_cross_entropy"), ("softmax", "categorical_cross_entropy"), ("exp", "poisson")]
    for last, loss in [*pairs, *special]:
        out, _ = run("explain", "2-3-3", "--activation", f"relu,{last}", "--loss", loss, "--samples", "5", "--json")
        assert np.isfinite(next(step for step in json.loads(out)["steps"] if step["name"] == "cost")["values"])


def test_dropout_and_l2(run, folder) -> None:
    page, _ = run("explain", "3-4-1", "--dropout", "0.5", "--l2", "0.1", "--dtype", "float32")
    assert "A1_dropout = A1 * D1 / 0.5" in page
    assert "dW1 = dW1_loss + 0.1 W1" in page
    assert "float32" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["3"], "got '3', wanted at least two whole numbers above 0"),
        (["3-0-1"], "wanted at least two whole numbers above 0"),
        (["3-4-"], "wanted at least two whole numbers above 0"),
        (["3-४-1"], "wanted at least two whole numbers above 0"),
        (["3-4-1", "--activation", "tahn"], "did you mean 'tanh'"),
        (["3-4-1", "--activation", "relu,relu,relu"], "got 3 names"),
        (["3-4-1", "--activation", "relu", "--loss", "poison"], "did you mean 'poisson'"),
        (["3-4-1", "--dropout", "1"], "wanted a number from 0 to below 1"),
        (["3-4-1", "--samples", "0"], "wanted a whole number of at least 1"),
        (["3-1", "--activation", "relu,relu", "--loss", "poisson"], "got 2 names, wanted one for each layer (1)"),
    ],
)
def test_wrong_arguments(arguments, message, fails, folder) -> None:
    assert message in fails(2, "explain", *arguments, "-o", "page.html")
    assert not (folder / "page.html").exists()


def test_a_page_that_cannot_be_written_is_reported_before_anything_is_printed(fails, folder) -> None:
    assert "cannot write" in fails(1, "explain", "3-4-1", "-o", "missing/page.html")
