"""A process of ``benchmarks.compare`` that trains with one checkout.

It reads requests from its standard input and prints an answer to each; every request and every answer is one line of
JSON. A request with ``sizes`` has the arguments of :func:`prepare` and prepares a network; later requests with
``epochs`` train it. An answer has ``seconds`` or ``error``. Only the public interface of deepnotes is used, so that
checkouts of different ages can be compared.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import deepnotes as dn


def prepare(sizes: list[int], batch: int, batches: int, backend: str, dtype: str) -> Callable[[int], object]:
    """Return a function that trains a network for a number of epochs.

    Parameters
    ----------
    sizes : list of int
        The number of inputs, then the number of neurons in each layer.
    batch : int
        The batch size.
    batches : int
        The number of batches in an epoch.
    backend : str
    dtype : str
    """
    rng = np.random.default_rng(0)
    X = rng.normal(size=(sizes[0], batch * batches)).astype(dtype)
    y = rng.integers(0, max(2, sizes[-1]), batch * batches)
    output = dn.Dense(sizes[-1], "softmax") if sizes[-1] > 1 else dn.Dense(1, "sigmoid")
    layers = [*(dn.Dense(n, "relu") for n in sizes[1:-1]), output]
    net = dn.Network(layers, inputs=sizes[0], backend=backend, dtype=dtype, seed=0)
    return lambda epochs: net.fit(X, y, optimizer=dn.Adam(1e-4), epochs=epochs, batch_size=batch)


def main() -> None:
    """Answer requests until the standard input ends."""
    if not Path(dn.__file__).is_relative_to(Path.cwd()):
        sys.exit(f"deepnotes was imported from {dn.__file__}, wanted the checkout {Path.cwd()}")
    train: Callable[[int], object] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any]
        began = time.perf_counter()
        try:
            if "sizes" in request:
                train = prepare(**request)
            elif train is not None:
                train(request["epochs"])
            answer = {"seconds": time.perf_counter() - began}
        except Exception as error:  # the other cases are still compared
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
