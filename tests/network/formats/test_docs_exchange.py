"""The examples in docs/exchange.md."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

PAGE = (Path(__file__).parents[3] / "docs" / "exchange.md").read_text(encoding="utf-8")


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx", reason='the extra "onnx" is not installed')
    pytest.importorskip("sklearn", reason='the extra "sklearn" is not installed')
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns that training has not converged
        for code in re.findall(r"```python\n(.*?)```", PAGE.replace("max_iter=300", "max_iter=5"), flags=re.DOTALL):
            exec(compile(code, "exchange.md", "exec"), names)
    assert (tmp_path / "digits.onnx").exists()
    assert (tmp_path / "digits.py").exists()
    ours, theirs, X = names["ours"], names["theirs"], names["X"]
    np.testing.assert_array_equal(
        ours.predict(X).argmax(axis=0),  # type: ignore[attr-defined]
        theirs.predict_proba(X.T).argmax(axis=1),  # type: ignore[attr-defined]
    )
