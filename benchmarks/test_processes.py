"""Benchmarks that need a process of their own: import, cold start, and the memory of a training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import cold_start, memory
from deepnotes.backends.base import Backend


def test_import(benchmark: Any, tmp_path: Path) -> None:
    code = cold_start.IMPORTS["import deepnotes alone"]
    benchmark.pedantic(cold_start.start_to_end, (code, str(tmp_path)), rounds=5, warmup_rounds=1)


def test_cold_start(benchmark: Any, backend: Backend, tmp_path: Path) -> None:
    """From the start of Python to a trained network, compiled before and read from the cache."""
    code = cold_start.TRAIN.format(backend=backend.name)
    benchmark.extra_info["first ever"] = cold_start.start_to_end(code, str(tmp_path))
    benchmark.pedantic(cold_start.start_to_end, (code, str(tmp_path)), rounds=5)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is reset by Linux only")
@pytest.mark.parametrize("form", memory.FORMS)
def test_memory(benchmark: Any, backend: Backend, form: str, tmp_path: Path) -> None:
    """The growth in bytes of the peak resident size while a network is trained."""
    path = tmp_path / "rows.npy"
    np.save(path, memory.CASE.data(memory.SAMPLES)[0])
    code = memory.GROWTH.format(backend=backend.name, form=form, path=str(path))
    grown = benchmark.pedantic(memory.said_by, (code,), rounds=1)
    benchmark.extra_info["growth"] = grown
    assert grown / memory.MB <= memory.allowed()
