"""Train a classifier of handwritten digits, save it, load it and predict."""
# ruff: noqa: T201

import sys
import tempfile
from pathlib import Path

import deepnotes as dn
from deepnotes.datasets import load_digits

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)

digits = load_digits()
X, y = digits.X.T / 16, digits.y  # samples are columns: X has shape (64, 1797)
X_train, y_train, X_test, y_test = X[:, :1500], y[:1500], X[:, 1500:], y[1500:]

net = dn.Network([dn.Dense(64, "relu"), dn.Dropout(0.2), dn.Dense(10, "softmax")], inputs=64, seed=0)
print(net.summary())
history = net.fit(X_train, y_train, epochs=15, validation=(X_test, y_test), metrics="accuracy")
for epoch in (1, 5, 15):
    loss, accuracy = history.loss[epoch - 1], history.metrics["val_accuracy"][epoch - 1]
    print(f"epoch {epoch:2}: loss {loss:.3f}, accuracy on held-out digits {accuracy:.1%}")

path = folder / "digits.safetensors"
net.save(path)
loaded = dn.load(path)
A = loaded.predict(X_test[:, :5])  # probabilities, shape (10, 5)
print(f"loaded from {path}")
print("predicted:", *A.argmax(axis=0), " true:", *y_test[:5])
