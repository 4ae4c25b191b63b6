"""Compare learning-rate schedules, and plot the rates and the losses."""
# ruff: noqa: T201

import sys
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

import deepnotes as dn
from deepnotes import plots
from deepnotes.datasets import make_spirals

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)

spirals = make_spirals(600, seed=0)
X, y = spirals.X.T, spirals.y
epochs, batch_size = 60, 32
steps = epochs * -(-len(y) // batch_size)  # a schedule counts updates, not epochs

schedules = {
    "constant": dn.Constant(0.02),
    "step decay": dn.StepDecay(0.02, every=steps // 3, factor=0.3),
    "exponential": dn.ExponentialDecay(0.02, every=steps // 20, factor=0.85),
    "cosine, warm-up": dn.CosineDecay(0.02, steps, warmup=steps // 10),
    "on a plateau": dn.ReduceOnPlateau(0.02, factor=0.3, patience=4),
}
figure = Figure(figsize=(8, 6), layout="constrained")
rates, losses = figure.subplots(2, sharex=True)
for name, schedule in schedules.items():
    net = dn.Network([dn.Dense(32, "tanh"), dn.Dense(len(spirals.classes), "softmax")], inputs=2, seed=0)
    history = net.fit(X, y, optimizer=dn.Adam(schedule), epochs=epochs, batch_size=batch_size)
    rates.plot(range(1, epochs + 1), history.learning_rate, label=name)
    losses.plot(range(1, epochs + 1), history.loss, label=name)
    print(f"{name:16} last rate {history.learning_rate[-1]:.6f}, last loss {history.loss[-1]:.4f}")
rates.set(ylabel="learning rate")
rates.legend()
losses.set(xlabel="epoch", ylabel="loss", yscale="log")

path = folder / "schedules.png"
plots.save(figure, path)
print(f"plotted: {path}")
