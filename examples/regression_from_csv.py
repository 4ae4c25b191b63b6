"""Read a CSV with text and missing values, train a regression and predict new rows."""
# ruff: noqa: T201

import csv
import sys
import tempfile
from pathlib import Path

import numpy as np

import deepnotes as dn

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())

# Flats: the rent depends on the area, the age and the town; some ages are missing.
rng = np.random.default_rng(0)
per_m2 = {"Aub": 8.0, "Hof": 11.0, "Ulm": 14.0}
path = folder / "flats.csv"
with path.open("w", newline="", encoding="utf-8") as file:
    rows = csv.writer(file)
    rows.writerow(["area", "age", "town", "rent"])
    for _ in range(1000):
        area, age, town = rng.uniform(20, 120), rng.integers(0, 80), rng.choice(list(per_m2))
        price = per_m2[town] * area * (1 - 0.004 * age) + 100 + rng.normal(0, 20)
        rows.writerow([f"{area:.1f}", age if rng.random() > 0.05 else "", town, f"{price:.2f}"])

table = dn.read_table(path, missing="keep")
encoder = dn.Encoder.fit(table, ["area", "age", "town"], impute="median")
X, rent = encoder(table), table.column("rent")
print(f"{path}: {table.n_rows} rows, inputs {', '.join(encoder.inputs)}")

# A network learns best what has mean 0 and deviation 1: the inputs by a standardizer, the target by hand.
train, test = slice(0, 800), slice(800, None)
mean, deviation = rent[train].mean(), rent[train].std()
net = dn.Network(
    [dn.Dense(32, "tanh"), dn.Dense(1)], inputs=len(X), standardizer=dn.Standardizer.fit(X[:, train]), seed=0
)
net.fit(X[:, train], (rent[train] - mean) / deviation, optimizer=dn.Adam(0.005), epochs=60)

predicted = net.predict(X[:, test])[0] * deviation + mean
error = np.abs(predicted - rent[test]).mean()
baseline = np.abs(rent[train].mean() - rent[test]).mean()
print(f"mean absolute error on held-out rows: {error:.0f}, by always predicting the mean: {baseline:.0f}")

new = folder / "new.csv"
new.write_text("area,age,town\n50,10,Ulm\n50,10,Aub\n80,,Hof\n", encoding="utf-8")
rows_to_predict = dn.read_table(new, missing="keep")
for area, town, value in zip(
    rows_to_predict.column("area"),
    rows_to_predict.column("town"),
    net.predict(encoder(rows_to_predict))[0] * deviation + mean,
    strict=True,
):
    print(f"{area:.0f} m² in {town}: {value:.0f}")
