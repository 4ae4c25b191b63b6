"""A notebook shows figures as pictures, and networks, summaries, histories, tables and estimators as HTML."""

import base64
import re
import warnings

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.utils import html

SETUP = """
import numpy as np
import deepnotes as dn
from deepnotes import plots

X = np.random.default_rng(0).normal(size=(2, 60))
y = (X[0] * X[1] > 0).astype(int)
net = dn.Network([dn.Dense(8, "tanh"), dn.Dense(2, "softmax")], inputs=2, seed=0, backend="numpy")
history = net.fit(X, y, epochs=30, validation=(X, y), metrics=["accuracy"])
table = dn.Table(["x", "<kind>"], {"x": X[0], "<kind>": np.array(["a & b", "c"])[y]})
"""
FIGURES = ["history.plot()", "plots.boundary(net, X, y)", "plots.confusion_of(net, X, y)", "plots.diagram(net)"]
TABLES = {"net": "tanh", "net.summary()": "tanh", "history": "val_loss", "table": "a &amp; b"}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Run a notebook; map the last line of each cell to the representations that it displays, by MIME type."""
    for module in ("nbclient", "ipykernel", "matplotlib", "sklearn"):
        pytest.importorskip(module, reason=f"a notebook needs {module}")
    import nbformat
    from nbclient import NotebookClient

    cells = [SETUP, *FIGURES, *TABLES, "dn.DenseClassifier(max_iter=5)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Jupyter's packages
        folder = tmp_path_factory.mktemp("notebook")
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return {cell.source: cell.outputs[-1].data if cell.outputs else {} for cell in notebook.cells}


@pytest.mark.parametrize("line", FIGURES)
def test_a_figure_is_shown_as_a_picture(line: str, outputs: dict[str, dict[str, str]]) -> None:
    picture = base64.b64decode(outputs[line]["image/png"])
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 5000


@pytest.mark.parametrize("line", TABLES)
def test_an_object_is_shown_as_a_table(line: str, outputs: dict[str, dict[str, str]]) -> None:
    shown = outputs[line]["text/html"]
    assert shown.startswith("<table>")
    assert f">{TABLES[line]}<" in shown
    assert "\\n" not in outputs["net.summary()"]["text/plain"]


def test_an_estimator_is_shown_as_scikit_learn_shows_its_own(outputs: dict[str, dict[str, str]]) -> None:
    assert "DenseClassifier" in outputs["dn.DenseClassifier(max_iter=5)"]["text/html"]


def test_a_summary_is_a_text_that_a_console_prints_as_it_is() -> None:
    net = dn.Network([dn.Dense(8, "tanh"), dn.Dense(2)], inputs=2, seed=0)
    summary = net.summary()
    assert repr(summary) == str(summary) == f"{summary}"
    assert summary.splitlines()[0].split() == ["layer", "output", "activation", "parameters"]
    rows = re.findall(r"<tr>(.*?)</tr>", net._repr_html_())
    assert len(rows) == 4
    assert "42 parameters" in net._repr_html_()


@pytest.mark.parametrize(
    ("epochs", "shown"), [(0, []), (1, [1]), (10, [*range(1, 11)]), (200, [1, 23, 45, 67, 89, 112])]
)
def test_a_history_shows_at_most_ten_epochs_with_the_last(epochs: int, shown: list[int]) -> None:
    history = dn.History(loss=[0.5] * epochs, val_loss=[], learning_rate=[0.1] * epochs, seconds=[1.0] * epochs)
    rows = re.findall(r"<tr><td[^>]*>(\d+)</td>", history._repr_html_())
    assert [int(row) for row in rows][: len(shown)] == shown
    assert len(rows) == min(epochs, 10)
    assert not epochs or int(rows[-1]) == epochs
    assert "val_loss" not in history._repr_html_() or not epochs


def test_text_from_data_is_escaped() -> None:
    name = "<script>alert(1)</script>\x1b[31m"
    table = dn.Table([name], {name: np.array([name] * 8)}, source=name)
    shown = table._repr_html_()
    assert "<script>" not in shown
    assert "\x1b" not in shown
    assert shown.count("<td") == 5
    assert html.table(["a"], [["&"]]).count("&amp;") == 1
