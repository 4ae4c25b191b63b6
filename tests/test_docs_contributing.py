"""The package of a backend that CONTRIBUTING.md prints can be installed, trains, and passes conformance, as printed."""

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_docs_examples import make_programs

PAGE = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("A package of these two files is complete:")[2]


@pytest.mark.slow
def test_the_printed_package_installs_trains_and_passes_conformance(tmp_path: Path) -> None:
    pytest.importorskip("array_api_strict")
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    for language, comment in (("python", r"# (mylib_backend\.py)"), ("toml", r"# (pyproject\.toml)")):
        block = re.search(rf"```{language}\n({comment}\n.*?)```", SECTION, flags=re.DOTALL)
        assert block is not None
        (source / block[2]).write_text(block[1], encoding="utf-8")
    commands = re.findall(r"^\$ (.*)$", SECTION.partition("```console")[2].partition("```")[0], flags=re.MULTILINE)
    assert commands[0] == "pip install ."
    options = ["--no-build-isolation"] if find_spec("setuptools") else []
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *options, "--target", str(site), "."]
    subprocess.run(pip, cwd=source, check=True, timeout=300)
    path = os.pathsep.join([str(make_programs(tmp_path)), os.environ["PATH"]])
    environment = os.environ | {
        "PATH": path,
        "PYTHONPATH": os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    for command in commands[1:]:
        process = subprocess.run(
            shlex.split(command),
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=550,
            check=False,
        )
        assert process.returncode == 0, process.stdout + process.stderr
        assert "mylib" in process.stdout
