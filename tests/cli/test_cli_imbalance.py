"""Scores of rare classes, class weights, the guessed task, and notes about columns that teach nothing."""

import json
from argparse import Namespace

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import train_defaults
from deepnotes.cli.column_notes import describe_classes
from deepnotes.cli.tasks import Classification
from deepnotes.datasets.splits import train_validation_split
from deepnotes.datasets.tables import read_table, write_table
from deepnotes.utils.errors import ArgumentError

QUICK = ("--layers", "8", "--epochs", "3", "--backend", "numpy")
CLASSES = Classification(("no", "yes", "a, b=c"), "categorical_cross_entropy")

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def cards():
    """Write cards.csv, in which one class has 10 of 400 rows; return the arguments to train on it."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3, 400))
    kind = np.where(X[0] > np.sort(X[0])[-11], "fraud", "fine")
    write_table("cards.csv", ["a", "b", "c", "kind"], [*X, kind])
    return ("cards.csv", "--target", "kind")


def parse_json(out):
    return json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} in JSON"))


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_class_that_is_never_predicted_is_reported(run, cards, command):
    out, err = run("train", *cards, *QUICK, "--epochs", 20, "--class-weight", "fraud=0")
    if command == "evaluate":
        out, err = run("evaluate", "cards.safetensors", "cards.csv")
    assert "balanced  50.00%, the mean of the classes" in out
    assert "average precision" in out
    assert "class 'fraud' is never predicted, although" in err
    assert "fraud" in out.partition("precision  recall")[2]


def test_json_has_the_scores_of_each_class(run, cards):
    trained = parse_json(run("train", *cards, *QUICK, "--epochs", "30", "--class-weight", "balanced", "--json")[0])
    assert {row["class"]: row["rows"] for row in trained["per_class"]} == {"fine": 78, "fraud": 2}
    assert trained["class_weight"] == "balanced"
    result = parse_json(run("evaluate", "cards.safetensors", "cards.csv", "--json")[0])
    fine, fraud = result["per_class"]
    scores = result["metrics"]
    assert scores["balanced_accuracy"] == pytest.approx((fine["recall"] + fraud["recall"]) / 2)
    assert scores["f1"] == pytest.approx((fine["f1"] + fraud["f1"]) / 2)
    assert fine["predicted"] + fraud["predicted"] == 400
    assert result["never_predicted"] == []
    assert scores["balanced_accuracy"] > 0.8
    assert scores["roc_auc"] > 0.9
    metadata = dn.load("cards.safetensors").metadata["validation"]
    assert metadata["balanced_accuracy"] == trained["metrics"]["balanced_accuracy"]


def test_the_scores_of_a_class_without_rows_are_null(run, cards):
    run("train", *cards, *QUICK, "--quiet")
    table = read_table("cards.csv")
    rows = table.column("kind") == "fine"
    write_table("fine.csv", table.names, [column[rows] for column in table.columns.values()])
    out, err = run("evaluate", "cards.safetensors", "fine.csv", "--json")
    result = parse_json(out)
    assert result["metrics"]["roc_auc"] is result["metrics"]["average_precision"] is None
    assert result["per_class"][1]["recall"] is None
    assert "never predicted" not in err
    assert "AUC" not in run("evaluate", "cards.safetensors", "fine.csv")[0]


def test_class_weights_are_those_of_fit(run, cards):
    """The model is that of ``fit`` with the same class weights, as in scikit-learn."""
    run("train", *cards, *QUICK, "--class-weight", "fraud=7", "--validation", 0, "--quiet")
    net, table = dn.load("cards.safetensors").network, read_table("cards.csv")
    X, y = np.array([table.column(name) for name in "abc"]), (table.column("kind") == "fraud").astype(int)
    alone = dn.Network(net.layers, 3, seed=0, standardizer=dn.Standardizer.fit(X.T.copy().T), backend="numpy")
    schedule = dn.CosineDecay(3e-3, 39, warmup=1)
    alone.fit(X, y, epochs=3, l2=0.013, optimizer=dn.Adam(schedule), class_weight={1: 7.0})
    np.testing.assert_allclose(net.flat(), alone.flat(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (("--l1", 0.02), {"l1": 0.02, "optimizer": dn.Adam(dn.CosineDecay(3e-3, 39, warmup=1))}),
        (("--optimizer", "muon"), {"optimizer": dn.Muon(dn.CosineDecay(0.02, 39, warmup=1))}),
        (("--optimizer", "lbfgs"), {"optimizer": dn.LBFGS()}),
        (("--optimizer", "lbfgs", "--learning-rate", 0.01), {"optimizer": dn.LBFGS(0.01)}),
    ],
)
def test_penalties_and_optimizers_are_those_of_fit(run, cards, options, settings):
    result = parse_json(run("train", *cards, *QUICK, *options, "--validation", 0, "--json")[0])
    assert result["l1"] == settings.get("l1", 0)
    net, table = dn.load("cards.safetensors").network, read_table("cards.csv")
    X, y = np.array([table.column(name) for name in "abc"]), (table.column("kind") == "fraud").astype(int)
    alone = dn.Network(net.layers, 3, seed=0, standardizer=dn.Standardizer.fit(X.T.copy().T), backend="numpy")
    alone.fit(X, y, epochs=3, l2=0.013, **settings)
    np.testing.assert_allclose(net.flat(), alone.flat(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", ["--folds", "--members"])
def test_many_networks_are_trained_by_lbfgs_and_l1(run, cards, option):
    flat = {}
    for name, options in {"lbfgs": ("--optimizer", "lbfgs"), "l1": ("--l1", 0.05), "plain": ()}.items():
        run("train", *cards, *QUICK, option, 2, *options, "--quiet", "-o", f"{name}.safetensors")
        flat[name] = np.concatenate([net.flat() for net in networks_of(dn.load(f"{name}.safetensors"))])
    assert abs(flat["l1"]).sum() < abs(flat["plain"]).sum()
    assert not np.allclose(flat["lbfgs"], flat["plain"])


def networks_of(model):
    """Return the networks of a model: one, or the members of an ensemble."""
    return [model.network] if isinstance(model.network, dn.Network) else model.network.networks


def test_search_has_lbfgs_and_l1(run, cards):
    quick = ("search", *cards, "--epochs", 2, "--trials", 3, "--force", "--json")
    result = parse_json(run(*quick, "--optimizer", "lbfgs")[0])
    assert [trial["settings"]["dropout"] for trial in result["trials"]] == [0.0] * 3
    sizes = []
    for l1 in (0, 0.1):
        run(*quick, "--l1", l1, "-o", "found.safetensors")
        sizes.append(abs(dn.load("found.safetensors").network.flat()).mean())
    assert sizes[1] < sizes[0]


def test_the_scores_of_each_class_are_those_of_the_folds(run, cards):
    result = parse_json(run("train", *cards, *QUICK, "--folds", 4, "--json")[0])
    assert [row["rows"] for row in result["per_class"]] == [390, 10]
    correct = sum(row["recall"] * row["rows"] for row in result["per_class"])
    assert correct / 400 == pytest.approx(result["folds"]["mean"]["accuracy"])


@pytest.mark.parametrize("option", ["--folds", "--members"])
def test_class_weights_apply_to_many_networks(run, cards, option):
    for weights in ("fine=1", "fraud=50"):
        command = ("train", *cards, *QUICK, option, 2, "--early-stopping-share", 0.2, "--class-weight", weights)
        run(*command, "--quiet", "-o", f"{weights[:5]}.safetensors")
    X = np.array([read_table("cards.csv").column(name) for name in "abc"])
    plain, weighted = (dn.load(f"{name}.safetensors").network.predict(X)[1].mean() for name in ("fine=", "fraud"))
    assert weighted > plain


def test_search_takes_class_weights(run, cards):
    options = ("--trials", 2, "--epochs", 3, "--class-weight", "balanced", "--backend", "numpy", "--json", "--quiet")
    result = parse_json(run("search", *cards, *options)[0])
    assert result["metrics"]["balanced_accuracy"] > 0.5


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("yes=2", [1, 2, 1]),
        ("no=0.5, yes=1e1", [0.5, 10, 1]),
        ("a, b=c=3,no=0", [0, 1, 3]),
        ("balanced", [0.5, 1, 2]),
    ],
)
def test_class_weights_are_parsed(text, weights):
    column = np.array(["no"] * 4 + ["yes"] * 2 + ["a, b=c"])
    scale = 7 / 6 if text == "balanced" else 1
    np.testing.assert_allclose(CLASSES.class_weights(text, column), np.array(weights) * scale)


def test_balanced_weights_are_those_of_scikit_learn():
    compute = pytest.importorskip("sklearn.utils.class_weight").compute_class_weight
    column = np.array(["yes"] * 30 + ["no"] * 4 + ["a, b=c"])
    expected = compute("balanced", classes=np.array(CLASSES.classes), y=column)
    np.testing.assert_allclose(CLASSES.class_weights("balanced", column), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("maybe=1", "there is no class 'maybe'; the classes are no, yes"),
        ("yes=-1", "wanted CLASS=WEIGHT"),
        ("yes=x", "wanted CLASS=WEIGHT"),
        ("yes=1e999", "wanted CLASS=WEIGHT"),
        ("yes=1,yes=2", "the class 'yes' has two weights"),
        ("heavy", "wanted balanced, or CLASS=WEIGHT"),
        ("", "wanted balanced, or CLASS=WEIGHT"),
        ("no=0,yes=0,a, b=c=0", "all classes have the weight 0"),
    ],
)
def test_wrong_class_weights_are_refused(text, message):
    with pytest.raises(ArgumentError, match=message):
        CLASSES.class_weights(text, np.array(["no", "yes"]))


def test_class_weights_of_a_regression_are_refused(fails, cards):
    message = fails(
        2, "train", "cards.csv", "--target", "a", "--exclude", "kind", "--class-weight", "balanced", "--quiet"
    )
    assert "--class-weight is for classes" in message


# --- the task, and notes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "task", "other"),
    [
        (np.arange(15) * 2, "regression", "--task classification"),
        (np.arange(60) % 3, "classification", "--task regression"),
    ],
)
def test_the_guessed_task_names_the_option_that_changes_it(run, target, task, other):
    write_table("small.csv", ["x", "n"], [np.arange(len(target)) * 1.5, target])
    _, err = run("train", "small.csv", "--target", "n", *QUICK)
    assert f"task: {task}, since the target 'n' has" in err
    assert other in err


def test_columns_that_teach_nothing_are_reported(run):
    rng = np.random.default_rng(0)
    columns = [
        np.arange(60) + 7,
        rng.permutation(60),
        np.full(60, 7),
        ["x"] * 60,
        rng.normal(size=60),
        rng.normal(size=60),
    ]
    write_table("t.csv", ["id", "shuffled", "const", "word", "x", "y"], columns)
    _, err = run("train", "t.csv", "--target", "y", *QUICK)
    for name in ("id", "shuffled"):
        assert f"column '{name}' has a different whole number in each row" in err
    assert "2 columns have the same value in all rows, so they say nothing about the target: const, word; " in err
    assert "column 'x'" not in err
    _, err = run("train", "t.csv", "--target", "y", *QUICK, "--exclude", "word")
    assert "column 'const' has the same value in all rows, 7, so it says nothing" in err
    assert "--exclude const leaves it out" in err


def test_a_class_with_one_row_is_reported(run):
    kind = np.array(["a", "b"] * 20 + ["c"])
    write_table("t.csv", ["x", "kind"], [np.arange(41) % 5, kind])
    _, err = run("train", "t.csv", "--target", "kind", *QUICK)
    assert "note: one class has a single row" in err
    assert "'c'" in err
    assert list(describe_classes(np.array(["a", "a"]))) == []


def test_a_target_with_one_value_is_reported(run):
    write_table("t.csv", ["x", "y"], [np.arange(40) % 7, np.full(40, 1.5)])
    _, err = run("train", "t.csv", "--target", "y", *QUICK)
    assert "note: the target has the same value in all rows, 1.5, so there is nothing to learn" in err


def test_classes_and_categories_that_differ_in_case_only_are_reported(run):
    kind, town = np.array(["yes", "no", "Yes", "maybe"] * 10), np.array(["Ulm", "Aub", "ULM", "aub", "Hof"] * 8)
    write_table("t.csv", ["x", "town", "code", "kind"], [np.arange(40) % 7, town, np.arange(40) % 3, kind])
    _, err = run("train", "t.csv", "--target", "kind", "--categorical", "code", *QUICK)
    assert "note: classes that differ in upper and lower case only: 'Yes' and 'yes'; if they mean the same" in err
    assert (
        "note: categories of column 'town' that differ in upper and lower case only: 'Aub' and 'aub', 'ULM' and" in err
    )
    assert err.count("upper and lower case only") == 2


# --- the recipe -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "layers", "dropout", "l2", "stopping"),
    [
        (20, (128,), 0.2, 0.25, 0),
        (499, (128,), 0.2, 0.01, 0),
        (500, (128, 64), 0.1, 0.01, 0),
        (1000, (128, 64), 0.1, 0.005, 100),
        (10_000, (256, 128), 0.1, 0.0005, 1000),
        (1_000_000, (256, 128), 0.1, 5e-6, 10_000),
    ],
)
def test_the_settings_follow_the_rows(rows, layers, dropout, l2, stopping):
    recipe = train_defaults.Recipe.of(Namespace(optimizer="adam", layers=None, dropout=None, l2=None), rows)
    assert recipe == (layers, dropout, pytest.approx(l2))
    assert train_defaults.stopping_rows(rows, None, None) == stopping
    assert train_defaults.stopping_rows(rows, "none", None) == 0
    assert train_defaults.stopping_rows(rows, None, 0.5) == round(rows / 2)
    given = Namespace(optimizer="adam", layers=(3,), dropout=0.0, l2=0.0)
    assert train_defaults.Recipe.of(given, rows) == ((3,), 0.0, 0.0)


def test_early_stopping_options_that_contradict_each_other_are_refused(fails, cards):
    assert "--early-stopping is none" in fails(
        2, "train", *cards, "--early-stopping", "none", "--early-stopping-share", "0.2"
    )
    assert "--early-stopping" in fails(2, "train", *cards, "--early-stopping", "never")
    assert "--early-stopping none" in fails(1, "train", *cards, "--early-stopping-share", "0.999", "--quiet")


def test_early_stopping_on_request_takes_at_least_one_row():
    assert train_defaults.stopping_rows(4, 5, None) == 1
    assert train_defaults.stopping_rows(4, None, 0.1) == 1


def test_the_held_out_rows_do_not_choose_the_epoch(run):
    """Other targets of the held-out rows change the scores, but not the model, its history or its best epoch."""
    rng = np.random.default_rng(3)
    x, noise = rng.normal(size=(2, 1300))
    write_table("a.csv", ["x", "y"], [x, x + noise])
    command = ("--target", "y", "--layers", 4, "--epochs", 4, "--backend", "numpy", "--json", "--quiet")
    first = parse_json(run("train", "a.csv", *command)[0])
    assert first["rows"] == {"training": 936, "early_stopping": 104, "validation": 260}
    _, held_out = train_validation_split(1300, 0.2, np.random.default_rng(0))
    y = x + noise
    y[held_out] *= -1
    write_table("b.csv", ["x", "y"], [x, y])
    second = parse_json(run("train", "b.csv", *command)[0])
    assert first["history"] == second["history"]
    assert first["best_epoch"] == second["best_epoch"]
    assert np.array_equal(dn.load("a.safetensors").network.flat(), dn.load("b.safetensors").network.flat())
    assert first["metrics"]["r2"] > second["metrics"]["r2"]
