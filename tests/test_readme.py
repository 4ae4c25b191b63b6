"""The README: its commands, its example, its tables and its links are correct."""

import re
import sys
from pathlib import Path

import pytest

from deepnotes.nn import activations, losses, optimizers

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
sys.path.insert(0, str(ROOT))  # the benchmarks are not in the package


def test_two_commands_do_everything() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    assert [len(block.splitlines()) for block in blocks] == [1, 1]
    assert blocks[0].startswith("pip install . && deepnotes train digits")
    assert blocks[1].rstrip().endswith("pytest -n auto")


def test_the_tables_are_what_the_results_say() -> None:
    from benchmarks.redraw import documents, fill

    for path in documents():
        text = path.read_text(encoding="utf-8")
        assert fill(text) == text, path.name


def test_every_marker_is_that_of_a_table() -> None:
    from benchmarks.report import TABLES

    for path in (ROOT / "README.md", ROOT / "docs" / "benchmarks.md"):
        text = path.read_text(encoding="utf-8")
        opened = re.findall(r"^<!-- ([\w-]+) -->$", text, flags=re.MULTILINE)
        assert opened == re.findall(r"^<!-- /([\w-]+) -->$", text, flags=re.MULTILINE), path.name
        assert set(opened) <= {*TABLES, "crossover"}, path.name


def test_the_table_of_steps_is_an_excerpt_of_the_whole_one() -> None:
    """The table has a subset of the columns of the table in docs/benchmarks.md."""
    brief, whole = (
        _cells(path.read_text(encoding="utf-8"), name)
        for path, name in ((ROOT / "README.md", "steps-briefly"), (ROOT / "docs" / "benchmarks.md", "steps"))
    )
    columns = [whole[0].index(head) for head in brief[0]]
    assert brief == [[row[i] for i in columns] for row in whole]
    assert {"numba µs", "numpy µs", "scikit-learn µs", "pytorch µs", "jax µs"} <= set(brief[0])


def _cells(text: str, name: str) -> list[list[str]]:
    """Return the cells of the table between two markers, without the separator line."""
    (between,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, flags=re.DOTALL)
    head, _, *rows = [line.split(" | ") for line in between.splitlines() if line.startswith("|")]
    return [[cell.strip("| ") for cell in row] for row in (head, *rows)]


def test_it_names_every_part_of_the_library() -> None:
    words = set(re.findall(r"\w+", README.lower()))
    for table in (activations.LIBRARY, losses.LIBRARY, optimizers.LIBRARY):
        assert set(table) <= words


def test_the_picture_was_drawn_from_the_results() -> None:
    from benchmarks.redraw import IMAGE, digest, results

    drawn = ROOT / IMAGE
    if results("crossover") is None:
        assert not drawn.exists(), f"{IMAGE} has no results"
    else:
        assert f"<!-- sweep.json {digest('crossover')} -->" in drawn.read_text(encoding="utf-8")
        assert f"]({IMAGE.as_posix()})" in README


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert (tmp_path / "digits.safetensors").exists()
    accuracy = names["history"].metrics["val_accuracy"][-1]  # type: ignore[attr-defined]
    claimed = float(re.search(r'"val_accuracy"\]\[-1\] +# about ([0-9.]+)', README)[1])  # type: ignore[index]
    assert abs(accuracy - claimed) < 0.02


def test_every_file_it_links_to_exists() -> None:
    for text in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / text).read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), target
