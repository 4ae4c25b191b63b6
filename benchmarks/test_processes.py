"""Benchmarks that start new processes: imports, cold starts, and the memory that training takes."""

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
    """Measure the time from the start of Python to a trained network, with the compiled code in the cache."""
    code = cold_start.TRAIN.format(backend=backend.name)
    benchmark.extra_info["first ever"] = cold_start.start_to_end(code, str(tmp_path))
    benchmark.pedantic(cold_start.start_to_end, (code, str(tmp_path)), rounds=5)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset the peak of the memory")
@pytest.mark.parametrize("layout", memory.LAYOUTS)
def test_memory(benchmark: Any, backend: Backend, layout: str, tmp_path: Path) -> None:
    """Measure the growth of the peak resident size during training, in bytes, and check that it is allowed."""
    path = tmp_path / "rows.npy"
    np.save(path, memory.CASE.data(memory.SAMPLES)[0])
    code = memory.GROWTH.format(backend=backend.name, layout=layout, path=str(path))
    growth = benchmark.pedantic(memory.run_and_parse, (code,), rounds=1)
    benchmark.extra_info["growth"] = growth
    assert growth / memory.MB <= memory.allowed()
