"""Compare the C file that ``deepnotes export`` writes with the Numba backend: time, accuracy and size.

    python -m benchmarks.c_export --json benchmarks/results/c-export.json

A network with 64-256-128-10 neurons is trained on the digits, and written with its weights as they are and in 8 bits.
Both files are compiled by ``cc -std=c99 -O2`` and ``-O3``. Each contender predicts one image after the other, on one
thread: the C functions are called from a loop in C, and the Numba backend from one in Python.
"""

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import deepnotes as dn
from benchmarks.options import Options, parser
from benchmarks.report import publish
from deepnotes.datasets import load_digits
from deepnotes.testing.bench.timing import seconds, summarize_ratios, turns

IMAGES = 359
"""The number of images that were not used for training; each is predicted once in a measurement."""
LOOP = """
#include "digits.c"
void predict_all(int rows, const float *X, float *Y)
{
    int row;
    for (row = 0; row < rows; row++)
        digits_predict(X + row * 64, Y + row * 10);
}
"""


def main() -> None:
    """Run all contenders, print a table, and write the results if requested."""
    options = Options(parser(__doc__, rounds=15))
    data = load_digits()
    X, y = data.X.T.astype(np.float32), data.y
    net = dn.Network(
        [dn.Dense(256, "relu"), dn.Dense(128, "relu"), dn.Dense(10, "softmax")], inputs=64, seed=0,
        backend=dn.get_backend("numba", threads=1),
    )  # fmt: skip
    net.standardizer = dn.Standardizer.fit(X[:, IMAGES:])
    net.fit(X[:, IMAGES:], y[IMAGES:], epochs=20)
    images, labels = np.ascontiguousarray(X[:, :IMAGES].T), y[:IMAGES]

    with tempfile.TemporaryDirectory() as folder:
        contenders: dict[str, Callable[[], Any]] = {"numba": partial(one_by_one, net, images)}
        sizes, accuracy = {}, {}
        for weights in ("exact", "int8"):
            for level in ("-O2", "-O3"):
                library, size = compiled(net, Path(folder, weights + level), weights, level)
                outputs = np.zeros((IMAGES, 10), np.float32)
                pointers = (a.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) for a in (images, outputs))
                contenders[f"C, {weights}, {level}"] = partial(library.predict_all, IMAGES, *pointers)
                contenders[f"C, {weights}, {level}"]()
                accuracy[weights] = float((outputs.argmax(axis=1) == labels).mean())
                sizes[weights] = size
        accuracy["numba"] = float((one_by_one(net, images).argmax(axis=1) == labels).mean())
        times = turns({name: partial(seconds, contender) for name, contender in contenders.items()}, options.rounds)
    per_image = {name: [t / IMAGES for t in measured] for name, measured in times.items()}
    results = summarize_ratios(per_image, list(contenders)[1:])
    publish(
        "c-export", "one digit at a time, one thread", {"digits": results | {"accuracy": accuracy, "bytes": sizes}},
        options.json,
    )  # fmt: skip


def one_by_one(net: dn.Network, images: np.ndarray) -> np.ndarray:
    """Return the predictions of a network for images, predicted one at a time, one row per image."""
    return np.stack([np.asarray(net.predict(image[:, None]))[:, 0] for image in images])


def compiled(net: dn.Network, folder: Path, weights: str, level: str) -> tuple[Any, dict[str, int]]:
    """Return a library compiled from a network's C file; and the sizes of the file, and of its parameters in bytes."""
    folder.mkdir()
    net.to_c(folder / "digits.c", weights=weights)
    Path(folder, "loop.c").write_text(LOOP)
    library = folder / "digits.so"
    flags = ["-std=c99", level, "-shared", "-fPIC", "-o", str(library), "loop.c", "-lm"]
    subprocess.run(["cc", *flags], check=True, cwd=folder)
    theta, dense = net.flat(), [layer for layer in net.layers if isinstance(layer, dn.Dense)]
    neurons = sum(layer.units for layer in dense)
    of_weights = 1 if weights == "int8" else theta.itemsize
    of_others = theta.itemsize * neurons * (2 if weights == "int8" else 1)  # biases and scales
    parameters = (theta.size - neurons) * of_weights + of_others
    return ctypes.CDLL(str(library)), {"file": (folder / "digits.c").stat().st_size, "parameters": parameters}


if __name__ == "__main__":
    main()
