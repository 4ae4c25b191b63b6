"""The examples in docs/data.md: they run unchanged, one after another."""

import re
from pathlib import Path
from typing import Any


def test_the_examples_in_docs_data_run(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(block, namespace)
    assert namespace["encoder"].inputs == ["area", "town=Aub", "town=Ulm"]
    assert namespace["X"].shape == (20, 5000)
    assert namespace["moons"].X.shape == (500, 2)
