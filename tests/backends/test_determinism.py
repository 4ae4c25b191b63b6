"""Backends keep the promise of ``Backend.determinism``: separate processes give the same bits."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_concurrency import data, wide_network

import deepnotes as dn
from deepnotes.backends.base import PROMISES

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
from test_determinism import digests
print(*digests(sys.argv[1], *map(int, sys.argv[2:])))
"""


def digests(name: str, *threads: int) -> list[str]:
    """Train a small and a large network; return digests of parameters with slots, of losses, and of predictions."""
    import hashlib

    backend: Any = dn.get_backend(name, **({"threads": threads[0]} if threads else {}))
    X, y = data()
    results = []
    for dtype in ("float32", "float64"):
        small = dn.Network([dn.Dense(9, "tanh"), dn.Dense(5, "softmax")], 96, backend=backend, dtype=dtype, seed=3)
        for net, batch in ((small, 16), (wide_network(backend, dtype=dtype), 300)):
            history = net.fit(X, y, epochs=2, batch_size=batch, validation=(X[:, :99], y[:99]), clip_norm=1.0)
            assert net._training is not None
            _, _, state = net._training
            arrays = [net.flat(), *(net.backend.to_numpy(slot) for slot in state.slots)]
            predicted = [net.predict(X), net.predict(X[:, :1])]
            for group in (arrays, [np.array(history.loss + history.val_loss)], predicted):
                results.append(hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in group)).hexdigest())
    return results


def run_in_processes(name: str, runs: list[tuple[list[str], dict[str, str]]]) -> list[list[str]]:
    """Call `digests` in new processes, two at a time, with the arguments and the environment of each run."""
    path = os.pathsep.join(filter(None, [*map(str, Path(__file__).parents[:2]), os.environ.get("PYTHONPATH")]))
    results = []
    for pair in (runs[i : i + 2] for i in range(0, len(runs), 2)):
        running = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, name, *arguments],
                env=os.environ | {"PYTHONPATH": path} | environment,
                stdout=subprocess.PIPE,
                text=True,
            )
            for arguments, environment in pair
        ]
        for process in running:
            out, _ = process.communicate(timeout=120)
            assert process.returncode == 0
            results.append(out.split())
    return results


@pytest.mark.parametrize("name", ["numpy", "numba", "cupy"])
def test_separate_processes_compute_the_same_bits(name: str) -> None:
    try:
        backend = dn.get_backend(name)
    except dn.DeepnotesError as error:
        pytest.skip(f"{name}: {error}")
    if backend.determinism == "none":
        pytest.skip(f"{name}: {PROMISES['none']}")
    digests(name)  # compiles before the processes start
    if backend.determinism == "any threads":
        groups: list[list[Any]] = [[(["1"], {}), (["2"], {}), (["3"], {})]]
    else:
        groups = [[([], dict.fromkeys(THREAD_VARIABLES, threads))] * 2 for threads in ("1", "2")]
    for runs in groups:
        results = run_in_processes(name, runs)
        assert len(results[0]) == len(set(results[0])) == 12
        assert results == [results[0]] * len(runs)


THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""The environment variables that set the number of threads of a BLAS."""


def test_every_backend_declares_its_determinism() -> None:
    declared = {name: dn.get_backend(name).determinism for name in dn.available_backends()}
    assert set(declared.values()) <= set(PROMISES)
    assert declared["numpy"] == "same threads"
    assert dn.Backend("custom", np).determinism == "none"
