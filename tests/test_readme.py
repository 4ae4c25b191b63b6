"""The commands, the example, the tables and the links in the README are correct."""

import re
import sys
from pathlib import Path

import pytest

from deepnotes.nn import activations, losses, optimizers

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
sys.path.insert(0, str(ROOT))  # the benchmarks are not in the package


def test_the_readme_has_one_command_to_start_and_one_to_test() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    assert [len(block.splitlines()) for block in blocks] == [1, 1]
    assert blocks[0].startswith("pip install . && deepnotes train digits")
    assert blocks[1].rstrip().endswith("pytest -n auto")


def test_the_tables_match_the_stored_results() -> None:
    from benchmarks.redraw import documents, fill

    for path in documents():
        text = path.read_text(encoding="utf-8")
        assert fill(text) == text, path.name


def test_every_marker_names_a_table() -> None:
    from benchmarks.report import TABLES

    for path in (ROOT / "README.md", ROOT / "docs" / "benchmarks.md"):
        text = path.read_text(encoding="utf-8")
        names = re.findall(r"^<!-- ([\w-]+) -->$", text, flags=re.MULTILINE)
        assert names == re.findall(r"^<!-- /([\w-]+) -->$", text, flags=re.MULTILINE), path.name
        assert set(names) <= {*TABLES, "crossover"}, path.name


def test_the_table_of_steps_is_an_excerpt_of_the_full_table() -> None:
    """The README has all rows, but not all columns, of the table in docs/benchmarks.md."""
    excerpt, full = (
        _cells(path.read_text(encoding="utf-8"), name)
        for path, name in ((ROOT / "README.md", "steps-briefly"), (ROOT / "docs" / "benchmarks.md", "steps"))
    )
    columns = [full[0].index(header) for header in excerpt[0]]
    assert excerpt == [[row[i] for i in columns] for row in full]
    assert {"numba µs", "numpy µs", "scikit-learn µs", "pytorch µs", "jax µs"} <= set(excerpt[0])


def _cells(text: str, name: str) -> list[list[str]]:
    """Return the cells of the table between two markers, without the separator line."""
    (between,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, flags=re.DOTALL)
    header, _, *rows = [line.split(" | ") for line in between.splitlines() if line.startswith("|")]
    return [[cell.strip("| ") for cell in row] for row in (header, *rows)]


def test_the_readme_names_every_activation_loss_and_optimizer() -> None:
    words = set(re.findall(r"\w+", README.lower()))
    for table in (activations.LIBRARY, losses.LIBRARY, optimizers.LIBRARY):
        assert set(table) <= words


def test_the_image_was_drawn_from_the_stored_results() -> None:
    from benchmarks.redraw import IMAGE, digest, results

    image = ROOT / IMAGE
    if results("crossover") is None:
        assert not image.exists(), f"{IMAGE} has no results"
    else:
        assert f"<!-- sweep.json {digest('crossover')} -->" in image.read_text(encoding="utf-8")
        assert f"]({IMAGE.as_posix()})" in README


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert (tmp_path / "digits.safetensors").exists()
    accuracy = names["history"].metrics["val_accuracy"][-1]  # type: ignore[attr-defined]
    stated = float(re.search(r'"val_accuracy"\]\[-1\] +# about ([0-9.]+)', README)[1])  # type: ignore[index]
    assert abs(accuracy - stated) < 0.02


def test_linked_files_exist() -> None:
    for text in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / text).read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), target
