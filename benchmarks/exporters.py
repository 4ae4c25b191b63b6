"""Check which ONNX files of five exporters ``deepnotes.from_onnx`` can read, and why it refuses the others.

``python -m benchmarks.exporters --json benchmarks/results/exporters.json`` builds small models, exports them to files,
reads the files, and compares predictions with those of the original library for batches of 1 and 7 samples. An exporter
that is not installed is listed as not run. ``python -m benchmarks.redraw`` writes the table into docs/exchange.md.
"""

import logging
import os
import re
import tempfile
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import deepnotes as dn

from .report import publish

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

FEATURES, CLASSES = 6, 4
TOLERANCE = 1e-4
"""The largest allowed error of a prediction, relative to the largest prediction of the original model."""

HALF_TOLERANCE = 1e-2
"""The largest allowed error if the original model computes in half precision."""


class Exported(NamedTuple):
    """An exported model."""

    path: Path
    rows: np.ndarray
    """Inputs, shape (samples, features)."""
    outputs: np.ndarray
    """Predictions of the original model for these inputs, one row per sample."""


Case = Callable[[Path, np.ndarray], Exported]
"""A function that exports a model, given a directory and random inputs of shape (samples, features)."""


# --- PyTorch ----------------------------------------------------------------------------------------------------------


Model = tuple[Any, tuple[int, ...]]
"""A PyTorch module, and the shape of one sample."""


def custom_torch_models() -> dict[str, Model]:
    """Return PyTorch models that are not plain sequences of modules, by name."""
    import torch
    from torch import nn

    class View(nn.Module):
        """Flattens an image by ``view``."""

        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(FEATURES, CLASSES)

        def forward(self, x: Any) -> Any:
            return self.dense(x.view(x.size(0), -1)).relu()

    class BatchSoftmax(nn.Module):
        """A softmax over the batch: the output for a sample depends on the other samples."""

        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(FEATURES, 1)

        def forward(self, x: Any) -> Any:
            return torch.softmax(self.dense(x).squeeze(-1), dim=-1)

    class Regression(nn.Module):
        """A single output of shape (samples,)."""

        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 1))

        def forward(self, x: Any) -> Any:
            return self.dense(x).squeeze(-1)

    class Residual(nn.Module):
        """Adds the inputs of a layer to its outputs."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(FEATURES, 8), nn.Linear(8, 8)

        def forward(self, x: Any) -> Any:
            x = self.first(x)
            return x + self.second(x).relu()

    return {
        "an image, view(x.size(0), -1)": (View(), (1, 2, 3)),
        "squeeze(-1) of one output": (Regression(), (FEATURES,)),
        "softmax over the batch": (BatchSoftmax(), (FEATURES,)),
        "a residual connection": (Residual(), (FEATURES,)),
    }


def torch_models() -> dict[str, Model]:
    """Return all PyTorch models, by name."""
    import torch
    from torch import nn

    def mlp(*between: Any, head: Any = None) -> Any:
        parts = [nn.Linear(FEATURES, 8), *between, nn.Linear(8, CLASSES)]
        return nn.Sequential(*parts, *([] if head is None else [head]))

    def with_statistics(*parts: Any) -> Any:
        """Return a sequence of modules after three batches in training mode, which set the running statistics."""
        net = nn.Sequential(*parts).train()
        for _ in range(3):
            net(torch.randn(32, FEATURES) * 3 + 1)
        return net

    batch = with_statistics(
        nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.BatchNorm1d(8),
        nn.Linear(8, CLASSES), nn.Softmax(-1),
    )  # fmt: skip
    activations: dict[str, Any] = {
        "ReLU": nn.ReLU(), "Sigmoid": nn.Sigmoid(), "Tanh": nn.Tanh(), "GELU": nn.GELU(),
        "GELU (tanh)": nn.GELU(approximate="tanh"), "SiLU": nn.SiLU(), "ELU": nn.ELU(0.7), "SELU": nn.SELU(),
        "CELU": nn.CELU(), "Leaky ReLU": nn.LeakyReLU(0.2), "PReLU, one slope": nn.PReLU(),
        "PReLU, one slope per unit": nn.PReLU(8), "Softplus": nn.Softplus(), "ReLU6": nn.ReLU6(), "Mish": nn.Mish(),
        "Hardswish": nn.Hardswish(), "Softsign": nn.Softsign(),
    }  # fmt: skip
    with torch.no_grad():
        activations["PReLU, one slope per unit"].weight.copy_(torch.linspace(0.1, 0.5, 8))
    vector = (FEATURES,)
    models: dict[str, Model] = {name: (mlp(g, head=nn.Softmax(-1)), vector) for name, g in activations.items()}
    return models | custom_torch_models() | {
        "a wide layer (data in a second file)": (
            nn.Sequential(nn.Linear(FEATURES, 512), nn.ReLU(), nn.Linear(512, CLASSES)), vector),
        "dropout": (mlp(nn.ReLU(), nn.Dropout(0.5)), vector),
        "batch normalization before, between and after": (batch, vector),
        "an image, Flatten": (nn.Sequential(nn.Flatten(), mlp(nn.ReLU())), (1, 2, 3)),
        "log-softmax": (mlp(nn.ReLU(), head=nn.LogSoftmax(-1)), vector),
        "layer normalization": (mlp(nn.LayerNorm(8), nn.ReLU()), vector),
        "half precision": (mlp(nn.ReLU()).half(), vector),
    }  # fmt: skip


def torch_cases(dynamo: bool) -> dict[str, Case]:
    """Return the cases for one of PyTorch's two exporters.

    Parameters
    ----------
    dynamo : bool
        Whether to use the exporter based on ``torch.export`` instead of the one based on TorchScript.
    """
    import torch

    torch.manual_seed(0)

    def case(net: Any, shape: tuple[int, ...]) -> Case:
        def export(folder: Path, rows: np.ndarray) -> Exported:
            dtype = next(net.parameters()).dtype
            x = torch.tensor(rows).reshape(-1, *shape).to(dtype)
            if dynamo:
                dynamic: Any = {"dynamic_shapes": ({0: torch.export.Dim("samples")},), "verbose": False}
            else:
                dynamic = {"input_names": ["x"], "dynamic_axes": {"x": {0: "samples"}}}
            path = folder / "model.onnx"
            torch.onnx.export(net.eval(), (x,), str(path), dynamo=dynamo, **dynamic)
            with torch.no_grad():
                return Exported(path, rows, net(x).numpy())

        return export

    return {name: case(*model) for name, model in torch_models().items()}


# --- scikit-learn -----------------------------------------------------------------------------------------------------


def skl2onnx_cases() -> dict[str, Case]:
    """Return the cases for skl2onnx: pipelines of scikit-learn, some of them with deepnotes' estimators."""
    import skl2onnx
    from sklearn import linear_model, preprocessing
    from sklearn.decomposition import PCA
    from sklearn.impute import SimpleImputer
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline

    dn.register_skl2onnx()
    rng = np.random.default_rng(0)
    training_rows = rng.normal(2, 3, (120, FEATURES)).astype("float32")
    targets = {
        "two classes": np.arange(120) % 2, "classes": np.arange(120) % CLASSES,
        "labels": rng.integers(0, 2, (120, 3)),
        "number": training_rows[:, 0], "numbers": training_rows[:, :2].astype(np.float64),
    }  # fmt: skip
    mlp_options: dict[str, Any] = {"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0}
    scaled = preprocessing.StandardScaler

    def case(target: str, *steps: Any) -> Case:
        def export(folder: Path, rows: np.ndarray) -> Exported:
            fitted = make_pipeline(*steps).fit(training_rows, targets[target])
            regression = target.startswith("number")
            options = {} if regression or target == "labels" else {id(fitted): {"zipmap": False}}
            path = folder / "model.onnx"
            path.write_bytes(skl2onnx.to_onnx(fitted, training_rows[:1], options=options).SerializeToString())
            outputs = fitted.predict(rows) if regression else fitted.predict_proba(rows)
            return Exported(path, rows, np.asarray(outputs).reshape(len(rows), -1))

        return export

    return {
        "StandardScaler, MLPClassifier with two classes": case("two classes", scaled(), MLPClassifier(**mlp_options)),
        "StandardScaler, MLPClassifier": case("classes", scaled(), MLPClassifier(**mlp_options)),
        "MLPClassifier with several labels": case("labels", MLPClassifier(**mlp_options)),
        "MLPRegressor": case("number", scaled(), MLPRegressor(**mlp_options)),
        "MLPRegressor with two outputs": case("numbers", MLPRegressor(**mlp_options)),
        "MinMaxScaler": case("classes", preprocessing.MinMaxScaler(), MLPClassifier(**mlp_options)),
        "MaxAbsScaler": case("classes", preprocessing.MaxAbsScaler(), MLPClassifier(**mlp_options)),
        "RobustScaler": case("classes", preprocessing.RobustScaler(), MLPClassifier(**mlp_options)),
        "PCA": case("classes", scaled(), PCA(3, whiten=True), MLPClassifier(**mlp_options)),
        "SimpleImputer": case("classes", SimpleImputer(), MLPClassifier(**mlp_options)),
        "Normalizer": case("classes", preprocessing.Normalizer(), MLPClassifier(**mlp_options)),
        "LogisticRegression": case("classes", scaled(), linear_model.LogisticRegression()),
        "LogisticRegression with two classes": case("two classes", linear_model.LogisticRegression()),
        "LinearRegression": case("numbers", linear_model.LinearRegression()),
        "StandardScaler, DenseClassifier (ours)": case(
            "classes", scaled(), dn.DenseClassifier(activation="gelu", backend="numpy", **mlp_options)),
        "StandardScaler, DenseClassifier with two classes (ours)": case(
            "two classes", scaled(), dn.DenseClassifier(backend="numpy", **mlp_options)),
        "DenseRegressor (ours)": case("numbers", dn.DenseRegressor(backend="numpy", **mlp_options)),
    }  # fmt: skip


# --- Keras ------------------------------------------------------------------------------------------------------------


def keras_cases() -> dict[str, Case]:
    """Return the cases for ``keras.Model.export(format="onnx")``."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)

    def case(shape: tuple[int, ...], *parts: Any) -> Case:
        def export(folder: Path, rows: np.ndarray) -> Exported:
            net = keras.Sequential([keras.Input(shape), *parts])
            for layer in net.layers:
                if isinstance(layer, layers.BatchNormalization):
                    layer.set_weights([np.linspace(0.5, 2, w.size).reshape(w.shape) for w in layer.get_weights()])
            x = rows.reshape(-1, *shape)
            path, outputs = folder / "model.onnx", np.asarray(net.predict(x, verbose=0))
            net.export(str(path), format="onnx", verbose=False)
            return Exported(path, rows, outputs)

        return export

    activations = [
        "relu", "sigmoid", "tanh", "gelu", "silu", "elu", "selu", "leaky_relu", "softplus", "relu6", "mish",
        "hard_sigmoid", "exponential", "softsign",
    ]  # fmt: skip
    vector = (FEATURES,)
    models = {
        name: case(
            vector, layers.Dense(8, activation=name), layers.Dense(CLASSES, activation="softmax"))
        for name in activations
    }  # fmt: skip
    normalization = layers.Normalization(mean=np.arange(FEATURES), variance=np.arange(1, FEATURES + 1))
    return models | {
        "Rescaling, Flatten": case(
            (2, 3), layers.Rescaling(1 / 255, -0.5), layers.Flatten(), layers.Dense(CLASSES, activation="softmax")),
        "Normalization": case(vector, normalization, layers.Dense(CLASSES)),
        "BatchNormalization": case(
            vector, layers.BatchNormalization(), layers.Dense(8, use_bias=False), layers.BatchNormalization(),
            layers.ReLU(), layers.BatchNormalization(), layers.Dense(CLASSES)),
        "ReLU layer": case(vector, layers.Dense(8), layers.ReLU(), layers.Dense(CLASSES)),
        "LeakyReLU layer": case(vector, layers.Dense(8), layers.LeakyReLU(0.1), layers.Dense(CLASSES)),
        "Dropout": case(vector, layers.Dense(8, activation="relu"), layers.Dropout(0.5), layers.Dense(1)),
        "log_softmax": case(vector, layers.Dense(CLASSES, activation="log_softmax")),
        "Reshape": case((2, 3), layers.Reshape(vector), layers.Dense(CLASSES)),
        "LayerNormalization": case(vector, layers.Dense(8), layers.LayerNormalization(), layers.Dense(CLASSES)),
    }  # fmt: skip


# --- JAX --------------------------------------------------------------------------------------------------------------


def jax_cases() -> dict[str, Case]:
    """Return the cases for jax2onnx."""
    import jax
    from jax2onnx import to_onnx

    rng = np.random.default_rng(0)
    W1, b1 = rng.normal(size=(FEATURES, 8)).astype("float32"), rng.normal(size=8).astype("float32")
    W2, b2 = rng.normal(size=(8, CLASSES)).astype("float32"), rng.normal(size=CLASSES).astype("float32")
    nn = jax.nn

    def case(function: Callable[[Any], Any], shape: tuple[int, ...] = (FEATURES,)) -> Case:
        def export(folder: Path, rows: np.ndarray) -> Exported:
            path = folder / "model.onnx"
            to_onnx(function, [("B", *shape)], return_mode="file", output_path=str(path))
            return Exported(path, rows, np.asarray(function(rows.reshape(-1, *shape))))

        return export

    def mlp(g: Callable[[Any], Any], head: Callable[[Any], Any] = nn.softmax) -> Callable[[Any], Any]:
        return lambda x: head(g(x @ W1 + b1) @ W2 + b2)

    activations: dict[str, Callable[[Any], Any]] = {
        "relu": nn.relu, "sigmoid": nn.sigmoid, "tanh": jax.numpy.tanh, "gelu (tanh)": nn.gelu,
        "gelu": lambda x: nn.gelu(x, approximate=False), "silu": nn.silu, "elu": nn.elu, "selu": nn.selu,
        "leaky_relu": nn.leaky_relu, "softplus": nn.softplus, "relu6": nn.relu6, "mish": nn.mish,
        "maximum(x, 0)": lambda x: jax.numpy.maximum(x, 0),
    }  # fmt: skip
    return {name: case(mlp(g)) for name, g in activations.items()} | {
        "scaled inputs": case(lambda x: mlp(nn.relu)((x - 0.5) / 2)),
        "an image, reshape": case(lambda x: mlp(nn.relu)(x.reshape(x.shape[0], -1)), (2, 3)),
        "log_softmax": case(mlp(nn.relu, nn.log_softmax)),
        "outputs of tanh, scaled": case(mlp(nn.relu, lambda z: 2.5 * jax.numpy.tanh(z))),
    }


EXPORTERS: dict[str, tuple[str, Callable[[], dict[str, Case]]]] = {
    "PyTorch, torch.export": ("torch", lambda: torch_cases(dynamo=True)),
    "PyTorch, TorchScript": ("torch", lambda: torch_cases(dynamo=False)),
    "skl2onnx": ("skl2onnx", skl2onnx_cases),
    "Keras": ("keras", keras_cases),
    "jax2onnx": ("jax2onnx", jax_cases),
}
"""For each exporter, its package and a function that returns its cases."""


def outcome(case: Case, seed: int) -> dict[str, Any]:
    """Export a model, read it and compare its predictions.

    Returns
    -------
    dict
        The ``"outcome"``: "read", "refused", "wrong" or "not exported". If the model was read, the dict also has its
        ``"layers"`` and the error of its predictions, ``"off"``; otherwise, it has the reason, ``"why"``.
    """
    rows = np.random.default_rng(seed).normal(1, 2, (7, FEATURES)).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        try:
            exported = case(Path(folder), rows)
        except Exception as error:  # any error of the exporter
            message = " ".join(f"{type(error).__name__}: {error}".split()).partition(", scope")[0]
            return {"outcome": "not exported", "why": re.sub(r"/\S+", "...", message)[:100]}
        try:
            net = dn.from_onnx(exported.path, backend="numpy")
        except dn.ModelFileError as error:
            return {"outcome": "refused", "why": reason(str(error), folder)}
        expected = np.asarray(exported.outputs, np.float64).reshape(len(rows), -1)
        for batch in (rows, rows[:1]):
            deviation = np.abs(net.predict(batch.T).T - expected[: len(batch)]).max() / np.abs(expected).max()
            if not deviation <= (HALF_TOLERANCE if exported.outputs.dtype == np.float16 else TOLERANCE):
                return {"outcome": "wrong", "why": f"predictions are off by {deviation:.2g}"}
        layers = ", ".join(
            f"{layer.units} {layer.g.name}" if isinstance(layer, dn.Dense) else repr(layer)  # type: ignore[attr-defined]
            for layer in net.layers
        )
        return {"outcome": "read", "layers": layers, "off": float(f"{deviation:.1g}")}


def reason(message: str, folder: str) -> str:
    """Shorten an error message: leave out the path, the node's name and the list of supported operators."""
    message = re.sub(r"^\S+: ", "", message.replace(folder, "")).partition("; supported: ")[0]
    return re.sub(r"node '.*?' \((\S+?)\)", r"\1", message)


def run() -> Iterator[tuple[str, dict[str, Any]]]:
    """Try every case of every installed exporter; yield the name of each exporter and its results."""
    for name, (package, cases) in EXPORTERS.items():
        try:
            release, models = version(package), cases()
        except (PackageNotFoundError, ImportError) as error:
            yield name, {"version": None, "why": str(error), "cases": {}}
            continue
        yield name, {
            "version": release, "cases": {name: outcome(case, i) for i, (name, case) in enumerate(models.items())}
        }  # fmt: skip


def main() -> None:
    """Try all cases, print a table, and write the results if requested."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file for the results; by default only a table is printed")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    results = dict(run())
    publish("exporters", "models from five exporters, as read by from_onnx", results, options.json)


if __name__ == "__main__":
    main()
