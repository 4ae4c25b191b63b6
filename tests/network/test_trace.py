"""The trace of a training step: its arrays are those of training, and its formulas give the numbers beside them."""

import html.parser
import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from printed_formulas import evaluate

import deepnotes as dn
from deepnotes.backends.eager import EagerProgram
from deepnotes.backends.program import Data, State
from deepnotes.network.inspection.matrices import cells
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.losses import LIBRARY as LOSSES

STRANGER = Path(__file__).parents[1] / "stranger" / "deepnotes_torch.py"
X = np.array([[0.5, -1.0, 0.25, 2.0], [1.5, 0.125, -0.5, -1.0], [-0.75, 1.0, 1.25, 0.5]])
Y = np.array([[0.0, 1.0, 1.0, 0.0]])
N5 = ["Z1", "A1", "Z2", "A2", "L", "cost", "dZ2", "dW2", "db2", "dA1", "dZ1", "dW1", "db1", "dA0"]


def network(*layers, inputs=3, backend="numpy", dtype="float64", **options):
    """Return a network with random biases, too."""
    net = dn.Network(layers, inputs, backend=backend, dtype=dtype, seed=3, **options)
    net.set_flat(np.random.default_rng(1).normal(size=net.layout.size))
    return net


def drawn(hidden="tanh", **options):
    """Return the drawn example, N5."""
    return network(dn.Dense(4, hidden), dn.Dense(1, "sigmoid"), **options)


def check_formulas(trace):
    """Check that each formula that can be computed gives the numbers beside it; return how many could not."""
    arrays = {name: trace[name] for name in trace.names} | {"m": trace["A0"].shape[1]}
    skipped = 0
    for event in trace:
        if re.search(r"∂|backward|probability|'\(|Square\(", event.formula):
            skipped += 1
            continue
        if "log(Y / " in event.formula:  # where Y is 0, so is Y * log(Y / A)
            arrays["Y"] = np.maximum(trace["Y"], 1e-300)
        result = np.broadcast_to(evaluate(event.formula, arrays), event.shape or (1, 1))
        np.testing.assert_allclose(result.reshape(event.shape), event.value, rtol=1e-9, atol=1e-12, err_msg=str(event))
    return skipped


def test_the_drawn_example_has_every_array_of_the_notes() -> None:
    """N5, with N2, N3, N6, N7 and N10 to N15 at its steps."""
    trace = drawn().trace(X, Y)
    assert [event.name for event in trace] == N5
    assert [event.number for event in trace] == list(range(1, 15))
    equations = {event.name: " ".join(event.equations) for event in trace}
    assert equations == {
        "Z1": "N2", "A1": "N3 N7", "Z2": "N2", "A2": "N3 N6", "L": "N10", "cost": "N10", "dZ2": "N11", "dW2": "N13",
        "db2": "N14", "dA1": "N15", "dZ1": "N12 N7", "dW1": "N13", "db1": "N14", "dA0": "N15",
    }  # fmt: skip
    assert trace["dA1"].shape == trace["Z1"].shape == (4, 4)
    assert trace["X"] is trace["A0"]
    np.testing.assert_array_equal(trace["A0"], X)
    assert check_formulas(trace) == 0
    events = {event.name: event for event in trace}
    assert events["Z1"].shapes == "(4, 3) (3, 4) + (4, 1) = (4, 4)"
    assert events["dW2"].shapes == "(1, 4) (4, 4) = (1, 4)"
    assert "N16" in trace.notes[0]


def test_n16_is_the_note_on_the_page() -> None:
    """The note on N16 gives dW1."""
    trace = drawn().trace(X, Y)
    assert "dW1 = (1/m) (W2ᵀ (A2 - Y) * (1 - A1²)) A0ᵀ, composed" in trace.notes[0]
    a = {name: trace[name] for name in trace.names}
    expected = (a["W2"].T @ (a["A2"] - a["Y"]) * (1 - a["A1"] ** 2)) @ a["A0"].T / 4
    np.testing.assert_allclose(trace["dW1"], expected, rtol=1e-12)
    assert not any("N16" in note for note in drawn("softmax").trace(X, Y).notes), "softmax is not elementwise"


@pytest.mark.parametrize("rate", [0.0, 0.4])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize(
    ("hidden", "last", "outputs", "loss"),
    [
        ("tanh", "sigmoid", 1, None),
        ("relu", "softmax", 3, None),
        ("leaky_relu", "identity", 2, "mean_squared_error"),
        ("sigmoid", "tanh", 1, "mean_absolute_error"),
        ("gelu", "softplus", 2, "poisson"),
        ("identity", "softmax", 3, "binary_cross_entropy"),
        ("elu", "exp", 1, "half_poisson_deviance"),
    ],
)
def test_the_arrays_are_those_of_training(hidden, last, outputs, loss, l2, weighted, rate) -> None:
    dropout = [dn.Dropout(rate)] if rate else []
    net = network(dn.Dense(5, hidden), *dropout, dn.Dense(4, "tanh"), *dropout, dn.Dense(outputs, last))
    targets = np.eye(outputs)[:, np.arange(4) % outputs] if outputs > 1 else Y
    options = {"loss": loss, "sample_weight": [1, 2, 3, 4] if weighted else None, "l2": l2}
    trace = net.trace(X, targets, **options)
    for name, gradient in net.gradients(X, targets, **options).items():
        np.testing.assert_array_equal(trace[f"d{name}"], gradient, err_msg=name)
    plan = net._plan(net._loss(loss), "sgd", l2, None, False)
    w = None if not weighted else trace["w"]
    program = net.backend.compile(plan)
    data = Data(X, targets, w)
    eager, compiled = (p.gradients(State(net.theta.copy()), data) for p in (EagerProgram(net.backend, plan), program))
    np.testing.assert_array_equal(trace["cost"], eager.cost)
    np.testing.assert_allclose(trace["cost"], compiled.cost, rtol=1e-12)
    flat = np.concatenate([trace[f"d{name}"].ravel() for name in net.layout.entries])
    np.testing.assert_allclose(flat, np.asarray(compiled.flat), rtol=1e-9, atol=1e-12)
    if rate:
        assert set(np.unique(trace["D1"])) <= {0.0, 1.0}
        np.testing.assert_allclose(trace["A1_dropout"], trace["A1"] * trace["D1"] / 0.6)
    assert check_formulas(trace) == 2 * bool(rate)  # the masks, which are random


OPTIONS = {
    "categorical_cross_entropy": ("label_smoothing", 0.2),
    "huber": ("delta", 0.25),
    "focal": ("gamma", 1.5),
    "pinball": ("quantile", 0.9),
}
PAIRS = [
    (name, last, outputs)
    for name, loss in LOSSES.items()
    for last, outputs in (("sigmoid", 1), ("sigmoid", 3), ("softmax", 2), ("exp", 1), ("exp", 2), ("identity", 3))
    if ACTIVATIONS[last].range in loss.outputs
]


@pytest.mark.parametrize("weights", [None, [1, 2, 3, 4]])
@pytest.mark.parametrize("options", [False, True])
@pytest.mark.parametrize(("name", "last", "outputs"), PAIRS)
def test_the_formulas_of_every_loss_give_its_numbers(name, last, outputs, options, weights) -> None:
    loss = dn.Loss(name, **dict([OPTIONS[name]] if options and name in OPTIONS else []))
    net = network(dn.Dense(4, "tanh"), dn.Dense(outputs, last))
    targets = np.random.default_rng(2).uniform(0.1, 1, size=(outputs, 4))
    targets = targets / targets.sum(axis=0) if LOSSES[name].targets == "simplex" else targets
    trace = net.trace(X, targets, loss=loss, sample_weight=weights)
    assert check_formulas(trace) == 0
    tagged = [event for event in trace if "N11" in event.equations]
    assert all("- Y" in event.formula or "- (0.8 Y" in event.formula for event in tagged)
    assert any("N16" in note for note in trace.notes) == (bool(tagged) and weights is None)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_formulas_of_every_activation_give_its_numbers(name) -> None:
    defaults = ACTIVATIONS[name].options
    for options in ({}, dict.fromkeys(defaults, 0.7)):
        trace = network(dn.Dense(4, dn.Activation(name, **options)), dn.Dense(1, "sigmoid")).trace(X, Y)
        assert check_formulas(trace) == 0
        text = " ".join(event.formula for event in trace)
        meanings = [note for note in trace.notes if note.startswith(tuple("σΦλ"))]
        assert len(meanings) == sum(symbol in text for symbol in "σΦλ")
        note = next((note for note in trace.notes if "N16" in note), "")
        assert bool(note) == (name not in ("softmax", "log_softmax", "mish", "gelu_tanh"))
        if note:
            chain = note[note.index("(1/m)") : note.index(", composed")]
            arrays = {each: trace[each] for each in trace.names} | {"m": 4}
            np.testing.assert_allclose(evaluate(chain, arrays), trace["dW1"], rtol=1e-9, atol=1e-12)


def test_a_loss_of_ones_own_goes_by_its_class() -> None:
    class Squares(dn.LossFunction):
        def value(self, ops, A, Y):
            return ops.xp.sum((A - Y) * (A - Y), axis=0, keepdims=True)

    events = {event.name: event.formula for event in drawn().trace(X, Y, loss=Squares())}
    assert (events["L"], events["dA2"]) == ("Squares(A2, Y)", "∂L/∂A2")


def test_a_long_formula_continues_in_the_next_line() -> None:
    net = network(dn.Dense(4, "gelu_tanh"), dn.Dense(2, "sigmoid"))
    for options in ({}, {"loss": dn.Loss("focal", gamma=1.5), "sample_weight": [1, 2, 3, 4]}):
        page = str(net.trace(X, np.vstack([Y, 1 - Y]), **options)).splitlines()
        assert len({row.index("│") for row in page if "│" in row}) == 1, "the numbers are aligned"
    html_page = net.trace(X, np.vstack([Y, 1 - Y]), **options).to_html()
    assert "<i>B</i><sup> 1.5</sup>" in html_page
    assert '<td class="f l">d<i>Z</i><sup>[2]</sup> = ' in html_page, "it may wrap there, too"
    assert "^1.5" not in html_page


def test_derivatives_agree_with_central_differences() -> None:
    net = drawn("sigmoid")
    trace = net.trace(X, Y)
    h = 1e-6
    for name in ("W1", "b1", "W2", "b2"):
        start = net.parameters[name].copy()
        differences = np.empty_like(start)
        for index in np.ndindex(start.shape):
            costs = []
            for sign in (1, -1):
                moved = start.copy()
                moved[index] += sign * h
                net.parameters[name] = moved
                costs.append(float(net.trace(X, Y)["cost"]))
            differences[index] = (costs[0] - costs[1]) / (2 * h)
        net.parameters[name] = start
        np.testing.assert_allclose(trace[f"d{name}"], differences, atol=1e-9)


@pytest.mark.parametrize("backend", ["numba", "strict", "torch"])
def test_every_backend_reports_the_same_arrays(backend) -> None:
    if backend == "strict":
        backend = dn.Backend("strict", pytest.importorskip("array_api_strict"))
    elif backend == "torch":
        pytest.importorskip("torch")
        pytest.importorskip("array_api_compat")
        backend = runpy.run_path(str(STRANGER))["create"]()
    else:
        pytest.importorskip("numba")
    layers = dn.Dense(4, "tanh"), dn.Dropout(0.3), dn.Dense(3, "softmax")
    options = {"sample_weight": [1.0, 2.0, 3.0, 4.0], "l2": 0.1}
    expected = network(*layers).trace(X, [0, 1, 2, 1], **options)
    trace = network(*layers, backend=backend).trace(X, [0, 1, 2, 1], **options)
    assert trace.names == expected.names
    for name in trace.names:
        np.testing.assert_allclose(trace[name], expected[name], rtol=1e-12, atol=1e-14, err_msg=name)


class Scale(dn.Layer):
    """A user-defined layer with one parameter."""

    def parameters(self, inputs):
        return {"s": dn.Parameter((inputs, 1), lambda rng, shape: np.ones(shape), True)}

    def forward(self, ops, parameters, A_prev, context):
        return A_prev * parameters["s"], A_prev

    def backward(self, ops, parameters, cache, dA):
        return dA * parameters["s"], {"s": ops.bias_gradient(dA * cache)}


class Twice(dn.Dense):
    """A class derived from Dense, which computes 2 g(Z)."""

    def forward(self, ops, parameters, A_prev, context):
        A, cache = super().forward(ops, parameters, A_prev, context)
        return 2 * A, cache

    def backward(self, ops, parameters, cache, dA):
        return super().backward(ops, parameters, cache, 2 * dA)


class Half(dn.Layer):
    """A layer without parameters."""

    def forward(self, ops, parameters, A_prev, context):
        return A_prev / 2, None

    def backward(self, ops, parameters, cache, dA):
        return dA / 2, {}


class Square(dn.ActivationFunction):
    """A user-defined activation, computed without the library's equations."""

    def forward(self, ops, Z):
        return Z * Z


def test_user_defined_parts_have_their_arrays_too() -> None:
    net = network(Half(), dn.Dense(3, Square()), Scale(), Half(), Half(), Twice(2, "tanh"))
    trace = net.trace(X, X[:2], l2=0.1)
    names = [event.name for event in trace]
    assert names[:8] == ["A0_half", "Z1", "A1", "A2", "A2_half", "A2_half2", "Z3", "A3"]
    for name, gradient in net.gradients(X, X[:2], l2=0.1).items():
        np.testing.assert_array_equal(trace[f"d{name}"], gradient)
    events = {event.name: event for event in trace}
    assert events["A1"].formula == "Square(Z1)"
    assert events["dZ1"].formula == "dA1 * Square'(Z1)"
    assert events["A2"].formula == "Scale(A1)"
    assert events["A3"].formula == "Twice(A2_half2)"
    assert events["ds2"].formula == "ds2_loss + 0.1 s2"
    assert len(names) == len(set(names))
    assert str(trace)
    assert trace.to_html()


def test_a_standardizer_acts_before_the_first_layer() -> None:
    standardizer = dn.Standardizer(np.array([[1.0], [2.0], [3.0]]), np.array([[2.0], [2.0], [4.0]]))
    trace = drawn(standardizer=standardizer).trace(X, Y)
    np.testing.assert_allclose(trace["A0"], (X - [[1], [2], [3]]) / [[2], [2], [4]])


def test_a_trace_changes_nothing_and_refuses_what_fit_refuses() -> None:
    net = drawn()
    before = net.flat()
    net.trace(X, Y)
    np.testing.assert_array_equal(net.flat(), before)
    with pytest.raises(dn.ShapeError, match="X"):
        net.trace(X[:2], Y)
    with pytest.raises(dn.ArgumentError, match="l2"):
        net.trace(X, Y, l2=-1)
    with pytest.raises(dn.UnknownNameError, match="dW1"):
        net.trace(X, Y)["dw1"]


def test_steps_yields_the_events_in_order() -> None:
    net = drawn()
    assert [event.name for event in net.steps(X, Y)] == N5
    first = next(net.steps(X, Y))
    assert str(first).splitlines()[0].startswith("Z1 = W1 A0 + b1  (N2) ")


def test_the_page_has_the_numbers_beside_the_formulas() -> None:
    trace = drawn().trace(X[:, :2], Y[:, :2])
    page = str(trace).splitlines()
    line = next(i for i, line in enumerate(page) if line.startswith("  1  Z1 = W1 A0 + b1  (N2)"))
    shown = [[float(x) for x in row.split("│")[1].split()] for row in page[line : line + 4]]
    np.testing.assert_allclose(shown, trace["Z1"], atol=5e-5)
    assert len({row.index("│") for row in page if "│" in row}) == 1, "the numbers are aligned"
    assert max(map(len, page)) <= 120
    assert repr(trace) == f"Trace({', '.join(N5)})"


class Reader(html.parser.HTMLParser):
    """Collects the text of a page, and checks that its elements are balanced."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [name for name, _ in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_l1_is_in_the_formulas_of_the_gradients() -> None:
    trace = network(dn.Dense(4, "tanh"), dn.Dense(1, "sigmoid")).trace(X, Y, l1=0.05, l2=0.1)
    formulas = {event.name: event.formula for event in trace}
    assert formulas["dW1"] == "dW1_loss + 0.1 W1 + 0.05 sign(W1)"
    assert "db1_loss" not in formulas
    expected = trace["dW1_loss"] + 0.1 * trace["W1"] + 0.05 * np.sign(trace["W1"])
    np.testing.assert_allclose(trace["dW1"], expected, rtol=1e-12)
    assert "without the L1 penalty, 0.05 Σ |w| over the weights" in str(trace)
    assert "0.05 sign" in re.sub("<[^>]*>", "", trace.to_html())


def test_the_html_page_is_complete_and_loads_nothing() -> None:
    trace = network(dn.Dense(4, "relu"), dn.Dropout(0.2), dn.Dense(1, "sigmoid")).trace(X, Y, l2=0.1)
    reader = Reader()
    reader.feed(trace.to_html())
    assert reader.open == []
    assert not {"src", "href"} & set(reader.attributes)
    text = "".join(reader.text)
    assert text.count("N13") == 2
    assert f"{trace['Z1'][0, 0]:.4f}" in text
    assert "A[1]dropout = A[1] ∗ D[1] / 0.8" in text
    assert "dA[1]dropout = W[2] T dZ[2]" in text
    assert not re.search(r"\b[AZW]\d", text), "every name has its layer in brackets"
    assert trace._repr_html_() in trace.to_html()


def test_json_holds_all_values() -> None:
    trace = drawn().trace(X, Y)
    content = json.loads(trace.to_json())
    assert content == trace.as_dict()
    assert content["samples"] == 4
    steps = {step["name"]: step for step in content["steps"]}
    np.testing.assert_array_equal(steps["dW1"]["values"], trace["dW1"])
    assert steps["dW1"]["equations"] == ["N13"]
    assert steps["Z1"]["shape"] == [4, 4]
    np.testing.assert_array_equal(content["given"]["W1"], trace["W1"])
    net = drawn()
    net.set_flat(net.flat() * 1e300)
    assert None in np.ravel(json.loads(net.trace(X * 1e200, Y).to_json())["steps"][0]["values"]).tolist()


def test_large_matrices_are_cut_on_the_page() -> None:
    shown = cells(np.arange(200.0).reshape(10, 20))
    assert shown[0] == ["0", "1", "2", "3", "…", "17", "18", "19"]
    assert [row[0] for row in shown] == ["0", "20", "40", "60", "⋮", "140", "160", "180"]
    trace = network(dn.Dense(100, "tanh"), dn.Dense(1), inputs=50).trace(np.ones((50, 300)), np.ones(300))
    assert len(str(trace).splitlines()) < 250
    assert max(map(len, str(trace).splitlines())) <= 150


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ([1.0, -0.0], ["1", "0"]),
        ([0.5, -0.0], ["0.5000", "0.0000"]),
        ([0.00123], ["1.230e-03"]),
        ([123456.7], ["1.235e+05"]),
        ([np.nan, 0.5], ["nan", "0.5000"]),
        ([np.inf, 1.0], ["inf", "1"]),
        ([np.nan], ["nan"]),
    ],
)
def test_numbers_of_a_matrix_have_one_format(numbers, shown) -> None:
    assert cells(np.array([numbers])) == [shown]
