"""Export a network as an ONNX file and as a Python file, and compare their predictions."""
# ruff: noqa: T201

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

import deepnotes as dn
from deepnotes.datasets import load_digits

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)

digits = load_digits()
X, y = digits.X.T, digits.y
net = dn.Network(
    [dn.Dense(32, "gelu"), dn.Dense(10, "softmax")], inputs=64, seed=0, standardizer=dn.Standardizer.fit(X)
)
net.fit(X, y, epochs=5)
expected = net.predict(X[:, :100]).T
rows = np.ascontiguousarray(X[:, :100].T, dtype=np.float32)  # in both files, samples are rows

onnx_file = folder / "digits.onnx"
net.to_onnx(onnx_file)
session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
(outputs,) = session.run(["A"], {"X": rows})
print(f"{onnx_file}: {onnx_file.stat().st_size:,} bytes")
print(f"  ONNX Runtime's outputs differ by at most {np.abs(outputs - expected).max():.1e}")

python_file = folder / "digits.py"
net.to_python(python_file)
print(f"{python_file}: {python_file.stat().st_size:,} bytes, needs only NumPy")
check = subprocess.run([sys.executable, python_file, "--check"], capture_output=True, text=True, check=True)
print("  --check:", check.stdout.strip())

imported = dn.from_onnx(onnx_file)
agreement = np.mean(imported.predict(X).argmax(axis=0) == net.predict(X).argmax(axis=0))
print(f"imported from ONNX: the same classes for {agreement:.1%} of the digits")
