"""Read a CSV file with text and missing values, train a regression and predict new rows."""
# ruff: noqa: T201

import csv
import sys
import tempfile
from pathlib import Path

import numpy as np

import deepnotes as dn

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)

# The rent of a flat depends on its area, age and town. Some ages are missing.
rng = np.random.default_rng(0)
per_m2 = {"Aub": 8.0, "Hof": 11.0, "Ulm": 14.0}
path = folder / "flats.csv"
with path.open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(["area", "age", "town", "rent"])
    for _ in range(1000):
        area, age, town = rng.uniform(20, 120), rng.integers(0, 80), rng.choice(list(per_m2))
        price = per_m2[town] * area * (1 - 0.004 * age) + 100 + rng.normal(0, 20)
        writer.writerow([f"{area:.1f}", age if rng.random() > 0.05 else "", town, f"{price:.2f}"])

table = dn.read_table(path, missing="keep")
encoder = dn.Encoder.fit(table, ["area", "age", "town"], impute="median")
X, rent = encoder(table), table.column("rent")
print(f"{path}: {table.n_rows} rows, inputs {', '.join(encoder.inputs)}")

# Training works best with mean 0 and standard deviation 1: here, the network's standardizer scales the inputs, and the
# target is scaled by hand.
train, test = slice(0, 800), slice(800, None)
mean, deviation = rent[train].mean(), rent[train].std()
net = dn.Network(
    [dn.Dense(32, "tanh"), dn.Dense(1)], inputs=len(X), standardizer=dn.Standardizer.fit(X[:, train]), seed=0
)
net.fit(X[:, train], (rent[train] - mean) / deviation, optimizer=dn.Adam(0.005), epochs=60)

predicted = net.predict(X[:, test])[0] * deviation + mean
error = np.abs(predicted - rent[test]).mean()
baseline = np.abs(rent[train].mean() - rent[test]).mean()
print(f"mean absolute error on held-out rows: {error:.0f}; when always predicting the mean rent: {baseline:.0f}")

new_path = folder / "new.csv"
new_path.write_text("area,age,town\n50,10,Ulm\n50,10,Aub\n80,,Hof\n", encoding="utf-8")
new = dn.read_table(new_path, missing="keep")
new_rent = net.predict(encoder(new))[0] * deviation + mean
for area, town, value in zip(new.column("area"), new.column("town"), new_rent, strict=True):
    print(f"{area:.0f} m² in {town}: {value:.0f}")
