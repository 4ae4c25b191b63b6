"""The examples of searches run: with Optuna, on a local Dask cluster and with Ray. No extra has these libraries."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run_example(name: str) -> str:
    """Return what an example prints."""
    process = subprocess.run(
        [sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_optuna_finds_a_network_by_ask_and_tell() -> None:
    pytest.importorskip("optuna", reason="needs Optuna: pip install optuna")
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    printed = run_example("optuna_search.py")
    losses = [float(loss) for loss in re.findall(r"best validation loss ([\d.]+)", printed)]
    assert len(losses) == 4
    assert losses == sorted(losses, reverse=True)
    accuracy = re.search(r"accuracy on held-out samples: ([\d.]+)%", printed)
    assert accuracy is not None
    assert float(accuracy[1]) > 90


def test_a_search_on_a_dask_cluster_has_the_same_scores() -> None:
    pytest.importorskip("distributed", reason='needs Dask: pip install "dask[distributed]"')
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    printed = run_example("dask_search.py")
    assert "best of 4:" in printed
    assert "the same scores without the cluster: True" in printed


def test_a_search_with_ray_has_the_same_scores() -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install ray")
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    printed = run_example("ray_search.py")
    assert "best of 4:" in printed
    assert "the same scores without Ray: True" in printed
