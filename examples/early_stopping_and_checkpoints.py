"""Stop early and restore the best epoch; resume an interrupted training run, with bit-identical results."""
# ruff: noqa: T201

import sys
import tempfile
from pathlib import Path

import numpy as np

import deepnotes as dn
from deepnotes.datasets import make_moons

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)

moons = make_moons(600, noise=0.3, seed=0)
X, y = moons.X.T, moons.y
train, test = slice(0, 300), slice(300, None)


def new_network():
    return dn.Network([dn.Dense(64, "relu"), dn.Dense(64, "relu"), dn.Dense(1, "sigmoid")], inputs=2, seed=0)


settings = {"optimizer": dn.Adam(0.003), "validation": (X[:, test], y[test])}

net = new_network()
history = net.fit(X[:, train], y[train], epochs=300, early_stopping=dn.EarlyStopping(patience=20), **settings)
print(f"stopped after {history.epochs} of 300 epochs; the parameters are those of epoch {history.best_epoch}")
loss = net.evaluate(X[:, test], y[test])["loss"]
print(f"validation loss: {loss:.3f}; at the last epoch it was {history.val_loss[-1]:.3f}")


class Interrupt(dn.Callback):
    """Interrupt training in the eighth epoch, as Ctrl-C would."""

    def on_epoch(self, training):
        if training.epoch == 8:
            raise KeyboardInterrupt


uninterrupted = new_network()
uninterrupted.fit(X[:, train], y[train], epochs=20, **settings)

checkpoints = folder / "checkpoints"
try:
    new_network().fit(
        X[:, train], y[train], epochs=20, callbacks=[Interrupt()], checkpoint=checkpoints, every=1, **settings
    )
except KeyboardInterrupt:
    print("interrupted; checkpoints:", *sorted(path.name for path in checkpoints.glob("*.safetensors")))

resumed = new_network()  # the same layers and seed; another process could do this as well
history = resumed.fit(X[:, train], y[train], epochs=20, checkpoint=checkpoints, every=1, resume=True, **settings)
print(f"resumed to {history.epochs} epochs; the same bits as without an interruption:", end=" ")
print(np.array_equal(resumed.flat(), uninterrupted.flat()))
