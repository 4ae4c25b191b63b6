"""The notebooks of the lectures: each runs from top to bottom, and is stored with the outputs of such a run."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_docs_examples import matches

FOLDER = Path(__file__).parent.parent / "examples"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells_of(path: Path, kind: str) -> list[dict[str, Any]]:
    """Return the cells of a notebook of one kind, "code" or "markdown"."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell, and return the value of its last line if it is an expression, as Jupyter does."""
    tree = ast.parse(source)
    *first, last = tree.body
    exec(compile(ast.Module(first, []), "cell", "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    exec(compile(ast.Module([last], []), "cell", "exec"), names)
    return None


def test_there_is_a_notebook_for_each_lecture() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "lecture_1_forward",
        "lecture_2_activations",
        "lecture_3_backward",
        "lecture_4_digits",
    ]
    text = "\n".join("".join(cell["source"]) for path in NOTEBOOKS for cell in cells_of(path, "markdown"))
    ranges = re.findall(r"\bN(\d+)(?: to N(\d+))?", text)
    cited = {n for first, last in ranges for n in range(int(first), int(last or first) + 1)}
    assert cited == set(range(1, 17)), "the lectures name every equation of the notes"
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"]({path.name})" in readme for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_notebook_runs_and_shows_what_is_stored(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="the notebooks draw pictures")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPNOTES_BACKEND", "numpy")
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells_of(path, "code"):
        value = run_cell("".join(cell["source"]), names)
        printed = capsys.readouterr().out
        stored = {output["output_type"]: output for output in cell["outputs"]}
        if path.stem != "lecture_4_digits":  # its results depend on the last digits of many updates
            lines = "".join(stored.get("stream", {"text": ""})["text"]).splitlines()
            assert len(lines) == len(printed.splitlines())
            assert all(map(matches, lines, printed.splitlines())), f"{printed}\ninstead of\n{lines}"
        kinds = stored["execute_result"]["data"] if "execute_result" in stored else {}
        assert ("text/plain" in kinds) == (value is not None)
        assert ("image/png" in kinds) == hasattr(value, "_repr_png_")
        assert ("text/html" in kinds) == (getattr(value, "_repr_html_", lambda: None)() is not None)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_stored_notebook_is_small_and_complete(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text) < 100_000, "no outputs over 100 kB"
    assert not re.search(r"/(home|tmp|work|Users)/", text), "no path of a machine"
    counts = [cell["execution_count"] for cell in cells_of(path, "code")]
    assert counts == list(range(1, len(counts) + 1)), "executed from top to bottom"
    assert '"output_type": "error"' not in text
    assert '"name": "stderr"' not in text
