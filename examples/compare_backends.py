"""Train the same network on each backend that works on this machine, and compare times and results."""
# ruff: noqa: T201

from time import perf_counter

import numpy as np

import deepnotes as dn
from deepnotes.datasets import load_digits

digits = load_digits()
X, y = digits.X.T / 16, digits.y

print("registered:", *dn.registered_backends(), " available:", *dn.available_backends())
print(f"{'backend':8} {'seconds':>8} {'loss':>8} {'accuracy':>9}  parameters differ from NumPy's by")
reference = None
for name in sorted(dn.available_backends(), key=lambda name: name != "numpy"):  # NumPy first
    net = dn.Network([dn.Dense(64, "relu"), dn.Dense(10, "softmax")], inputs=64, backend=name, seed=0)
    net.fit(X[:, :64], y[:64], epochs=1)  # compile and set up before timing
    net = dn.Network([dn.Dense(64, "relu"), dn.Dense(10, "softmax")], inputs=64, backend=name, seed=0)
    start = perf_counter()
    history = net.fit(X, y, epochs=5, batch_size=64)
    seconds = perf_counter() - start
    accuracy = net.evaluate(X, y, metrics="accuracy")["accuracy"]
    reference = net.flat() if reference is None else reference
    difference = np.abs(net.flat() - reference).max()
    print(f"{name:8} {seconds:8.3f} {history.loss[-1]:8.4f} {accuracy:9.1%}  {difference:.1e}")
print("for accurate times, and for a network of your choice, run: deepnotes bench")
