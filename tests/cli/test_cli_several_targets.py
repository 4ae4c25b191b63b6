"""Several targets: one network that predicts several columns of numbers."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import main

pytest.importorskip("pyarrow")

TRAIN = ["train", "boxes.csv", "--target", "height,depth", "--backend", "numpy", "--layers", "8", "--dropout", "0"]


@pytest.fixture
def boxes(tmp_path, monkeypatch) -> dict[str, Any]:
    """Return a table with two targets of different scales, of which the second follows from the features."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    width = rng.uniform(1, 10, 80)
    boxes = {
        "width": width,
        "kind": np.array(["a", "b"])[rng.integers(0, 2, 80)],
        "height": 1000 * width + 7,
        "depth": rng.normal(size=80),
    }
    dn.write_table("boxes.csv", list(boxes), boxes)
    return boxes


def outcome(capsys, *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_each_target_is_predicted_in_its_units(boxes, capsys):
    trained = outcome(capsys, *TRAIN, "--epochs", "100", "--batch-size", "4", "--learning-rate", "0.01", "-o", "model")
    assert trained["target"] == ["height", "depth"]
    assert trained["metrics"]["r2_height"] > 0.9
    assert trained["metrics"]["r2"] == pytest.approx(
        (trained["metrics"]["r2_height"] + trained["metrics"]["r2_depth"]) / 2
    )
    model = dn.load("model", backend="numpy")
    P = model.predict(boxes)
    assert P.shape == (80, 2)
    assert abs(P[:, 0] - boxes["height"]).mean() < 700
    assert main(["predict", "model", "boxes.csv", "--keep", "kind"]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == ["kind", "prediction_height", "prediction_depth"]
    np.testing.assert_allclose(np.array([row[1:] for row in rows[1:]], float), P)


def test_scores_are_those_of_the_targets_one_by_one(boxes, capsys):
    outcome(capsys, *TRAIN, "--epochs", "20", "-o", "model")
    scores = outcome(capsys, "evaluate", "model", "boxes.csv", "--backend", "numpy")["metrics"]
    model = dn.load("model", backend="numpy")
    P = model.predict(boxes)
    for i, name in enumerate(model.target):
        y = boxes[name]
        assert scores[f"rmse_{name}"] == pytest.approx(np.mean((P[:, i] - y) ** 2) ** 0.5)
        assert scores[f"mae_{name}"] == pytest.approx(np.mean(abs(P[:, i] - y)))
        assert scores[f"r2_{name}"] == pytest.approx(1 - np.mean((P[:, i] - y) ** 2) / np.var(y))
    assert scores["r2"] == pytest.approx(model.score(boxes))
    assert scores["r2"] == pytest.approx(model.score(boxes, np.column_stack([boxes["height"], boxes["depth"]])))
    swapped = outcome(capsys, "evaluate", "model", "boxes.csv", "--backend", "numpy", "--target", "depth,height")
    assert swapped["metrics"]["rmse_depth"] > 100


def test_folds_members_a_validation_file_and_from_work_as_for_one_target(boxes, capsys):
    first = outcome(capsys, *TRAIN, "--epochs", "2", "-o", "model", "--folds", "2")
    assert {"r2", "rmse_height", "rmse_depth"} <= set(first["folds"]["mean"])
    outcome(capsys, *TRAIN, "--epochs", "2", "-o", "two", "--members", "2")
    assert isinstance(dn.load("two").network, dn.Ensemble)
    again = outcome(
        capsys,
        "train",
        "boxes.csv",
        "--from",
        "model",
        "--validation-file",
        "boxes.csv",
        "--epochs",
        "1",
        "-o",
        "model",
    )
    assert (again["target"], again["rows"]["validation"]) == (["height", "depth"], 80)
    importance = outcome(capsys, "importance", "model", "boxes.csv", "--backend", "numpy")
    assert sorted(importance["columns"]["column"]) == ["kind", "width"]


def test_a_column_whose_name_has_a_comma_is_one_target(boxes, capsys):
    text = Path("boxes.csv").read_text(encoding="utf-8").replace("height", "h", 1).replace("depth", '"height,depth"', 1)
    Path("boxes.csv").write_text(text, encoding="utf-8")
    assert outcome(capsys, *TRAIN, "--epochs", "1")["target"] == "height,depth"


@pytest.mark.parametrize(
    ("target", "options", "status", "message"),
    [
        ("height,kind", [], 1, "the target 'kind' is text, but several targets must be numbers"),
        ("height,height", [], 2, "the column 'height' is given twice"),
        ("height,nope", [], 1, "no column 'nope'"),
        (
            "height,depth",
            ["--task", "classification"],
            2,
            "--task classification takes one target, got 2: height, depth",
        ),
        ("height,depth", ["--loss", "categorical_cross_entropy"], 2, "is for classes"),
        ("height,depth,width,kind", [], 1, "no column is left as a feature"),
    ],
)
def test_unsuitable_targets_are_refused(boxes, capsys, target, options, status, message):
    assert main(["train", "boxes.csv", "--target", target, *options]) == status
    assert message in capsys.readouterr().err


def test_commands_for_one_target_refuse_several(boxes, capsys):
    outcome(capsys, *TRAIN, "--epochs", "1", "-o", "model")
    assert main(["search", "boxes.csv", "--target", "height,depth"]) == 2
    assert "search takes one target" in capsys.readouterr().err
    assert main(["export", "model", "--python", "model.py"]) == 2
    assert "export takes one" in capsys.readouterr().err
    assert not Path("model.py").exists()
    assert main(["evaluate", "model", "boxes.csv", "--target", "height"]) == 2
    assert "--target height: wanted 2 columns, for height, depth" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change", [{"target": []}, {"target": ["a", 1]}, {"target": ["a"]}, {"target_mean": [0.0]}, {"target_scale": 2.0}]
)
def test_an_invalid_description_of_several_targets_is_refused(boxes, capsys, change):
    outcome(capsys, *TRAIN, "--epochs", "1", "-o", "model")
    model = dn.load("model")
    model.metadata |= change
    model.save("changed")
    with pytest.raises(dn.ModelFileError, match="changed has no valid description"):
        dn.load("changed")
    assert main(["predict", "changed", "boxes.csv"]) == 1
    assert "changed has no valid description" in capsys.readouterr().err
