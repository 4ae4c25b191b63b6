"""Each script in examples/ runs in any folder, writes only to the given folder, and prints the expected result."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
SCRIPTS = {
    "train_and_save": ((), r"epoch 15: loss 0\.\d+, accuracy on held-out digits [89]\d\.\d%"),
    "regression_from_csv": (("pyarrow",), r"mean absolute error on held-out rows: [1-4]\d;"),
    "early_stopping_and_checkpoints": ((), r"the same bits as without an interruption: True"),
    "sklearn_pipeline": (("sklearn",), r"accuracy on held-out wines: (9\d\.\d|100\.0)%"),
    "export": (("onnx", "onnxruntime"), r"--check: passed"),
    "compare_backends": ((), r"numpy +\d+\.\d+ +0\.\d+ +[89]\d\.\d%  0\.0e\+00"),
    "learning_rate_schedule": (("matplotlib",), r"cosine, warm-up +last rate 0\.0000"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_runs_and_prints_its_result(name: str, tmp_path: Path) -> None:
    modules, pattern = SCRIPTS[name]
    for module in modules:
        pytest.importorskip(module, reason=f"examples/{name}.py needs {module}")
    output, current, temporary = (tmp_path / name for name in ("output", "current", "temporary"))
    for folder in (current, temporary):  # the script creates the output folder
        folder.mkdir()
    before = sorted(path for path in FOLDER.rglob("*") if "__pycache__" not in path.parts)
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.run(
        [sys.executable, "-W", "error", str(FOLDER / f"{name}.py"), str(output)],
        cwd=current, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert re.search(pattern, process.stdout), process.stdout
    assert not list(current.iterdir())
    assert not [path for path in temporary.iterdir() if path.name != ".ses"]  # ONNX Runtime creates .ses
    assert before == sorted(path for path in FOLDER.rglob("*") if "__pycache__" not in path.parts)


@pytest.mark.slow
def test_a_script_writes_to_a_temporary_folder_by_default(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, str(FOLDER / "train_and_save.py")],
        cwd=tmp_path, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    (path,) = tmp_path.rglob("*.safetensors")
    assert str(path) in process.stdout


@pytest.mark.slow
def test_the_readme_lists_each_script() -> None:
    scripts = {path.stem for path in FOLDER.glob("*.py")}
    others = {"optuna_search", "dask_search", "ray_search", "dask_training", "ray_training"}  # test_search_examples.py
    assert scripts == {*SCRIPTS, *others}
    assert set(re.findall(r"\| \[(\w+)\.py\]\(\1\.py\) \|", README)) == scripts
