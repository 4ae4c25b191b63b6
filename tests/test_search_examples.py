"""The examples with Optuna, Dask and Ray: searches, and training on several workers. No extra has these libraries."""

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
    pytest.importorskip("dask.distributed", reason='needs Dask: pip install "dask[distributed]"')
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


@pytest.mark.parametrize(("library", "example"), [("dask.distributed", "dask_training.py"), ("ray", "ray_training.py")])
def test_training_on_two_workers_has_the_bits_of_one_process(library: str, example: str) -> None:
    pytest.importorskip(library, reason='needs Dask or Ray: pip install "dask[distributed]" ray')
    printed = run_example(example)
    assert "on 2 workers" in printed
    assert "the same bits on one process: True" in printed
